"""Which builds wait for another one, and until when."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

import pytest

from tests.pipeline.test_slots import NoticingRunner
from tests.pipeline.test_smoke import JOB
from tests.until import DEADLINE_S, until
from torch_build_farm.core.process import Runner
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline.first_builds import FirstBuilds
from torch_build_farm.project.variant import CoreVariant

NEWER_STANDARD = replace(JOB, variant=replace(JOB.variant, cxx_standard=JOB.variant.cxx_standard + 3))
OTHER_PYTHON = replace(JOB, python=CPython(3, 14))
CORE = replace(JOB, variant=CoreVariant.of(JOB.variant, [JOB.python]))


@pytest.mark.parametrize("fails", [False, True])
def test_others_of_its_kind_begin_side_by_side_when_the_first_build_has_ended(fails: bool) -> None:
    builds = FirstBuilds(lambda: True)
    first_is_over = threading.Event()
    side_by_side = threading.Barrier(2, timeout=DEADLINE_S)
    began_early: list[bool] = []

    def build(rank: int, runner: Runner) -> None:
        with builds.turn(JOB, rank, runner):
            began_early.append(not first_is_over.is_set())
            side_by_side.wait()

    threads = []
    with contextlib.suppress(OSError), builds.turn(JOB, 0, Runner()):
        for rank in (1, 2):
            runner = NoticingRunner()
            threads.append(threading.Thread(target=build, args=(rank, runner), daemon=True))
            threads[-1].start()
            assert runner.asked.wait(DEADLINE_S), "it does not wait"
        for job in (NEWER_STANDARD, OTHER_PYTHON):
            with builds.turn(job, 3, Runner()):
                pass
        first_is_over.set()
        if fails:
            raise OSError
    for thread in threads:
        thread.join(DEADLINE_S)
    assert began_early == [False, False]
    assert not side_by_side.broken


def test_a_core_is_no_first_build_of_the_variants() -> None:
    builds = FirstBuilds(lambda: True)
    with builds.turn(CORE, 0, Runner()):
        pass
    second_has_begun = threading.Event()
    runner = NoticingRunner()

    def build() -> None:
        with builds.turn(JOB, 2, runner):
            second_has_begun.set()

    thread = threading.Thread(target=build, daemon=True)
    with builds.turn(JOB, 1, Runner()):
        thread.start()
        until(lambda: runner.asked.is_set() or second_has_begun.is_set())
        assert not second_has_begun.is_set()
    thread.join(DEADLINE_S)
    assert second_has_begun.is_set()


def test_no_build_waits_where_that_is_not_worthwhile() -> None:
    builds = FirstBuilds(lambda: False)
    with builds.turn(JOB, 0, Runner()), builds.turn(JOB, 1, Runner()):
        pass
