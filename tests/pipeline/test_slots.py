import threading

import pytest

from tests.until import DEADLINE_S
from torch_build_farm.core.errors import Interrupted
from torch_build_farm.core.process import Runner
from torch_build_farm.pipeline.slots import Slots


class NoticingRunner(Runner):
    """Notices when something that waits asks whether the run is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def check(self) -> None:
        self.asked.set()
        super().check()


def test_slots_are_given_in_the_order_of_the_plan() -> None:
    slots = Slots(1)
    order: list[int] = []

    def wait(rank: int, runner: Runner) -> None:
        with slots.hold(rank, runner):
            order.append(rank)

    threads = []
    with slots.hold(9, Runner()):
        for rank in (3, 1, 2):
            runner = NoticingRunner()
            threads.append(threading.Thread(target=wait, args=(rank, runner), daemon=True))
            threads[-1].start()
            assert runner.asked.wait(DEADLINE_S), "it does not wait"
    for thread in threads:
        thread.join(DEADLINE_S)
    assert order == [1, 2, 3]


def test_waiting_ends_when_the_run_is_cancelled() -> None:
    slots, runner = Slots(1), Runner()
    with slots.hold(0, runner):
        runner.cancel(15)
        with pytest.raises(Interrupted), slots.hold(1, runner):
            pass
    with slots.hold(2, Runner()):
        pass
