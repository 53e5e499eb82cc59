import threading
import time

import pytest

from torch_build_farm.core.errors import Interrupted
from torch_build_farm.core.process import Runner
from torch_build_farm.pipeline.slots import Slots


def test_slots_are_given_in_the_order_of_the_plan() -> None:
    slots, runner, order = Slots(1), Runner(), []
    first = slots.hold(9, runner)
    first.__enter__()

    def wait(number: int) -> None:
        with slots.hold(number, runner):
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in (3, 1, 2)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join(5)
    assert order == [1, 2, 3]


def test_waiting_ends_when_the_run_is_cancelled() -> None:
    slots, runner = Slots(1), Runner()
    with slots.hold(0, runner):
        runner.cancel(15)
        with pytest.raises(Interrupted), slots.hold(1, runner):
            pass
    with slots.hold(2, Runner()):
        pass
