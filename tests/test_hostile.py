"""Hostile inputs of every kind: none hangs, none takes much memory, none ends in a traceback, none writes outside."""

from __future__ import annotations

import pytest

from tests.hostile import box, slow_sources

INPUTS = 150  # of each kind; `python -m tests.hostile.box --all 10000` runs more


@pytest.mark.parametrize("kind", box.kinds())
def test_hostile_inputs(kind: str) -> None:
    outcome = box.run(kind, 0, INPUTS)
    assert outcome.inputs == INPUTS
    assert not outcome.faults, outcome.faults[:3]


def test_sources_that_are_read_once() -> None:
    outcome = box.run("slow_sources", 0, len(slow_sources.TREES))
    assert not outcome.faults


def test_the_box_sees_each_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    # A generator whose inputs are the faults themselves.
    outcome = box.run("faults_on_purpose", 0, 6)
    reasons = {fault["seed"]: fault["fault"] for fault in outcome.faults}
    assert reasons.keys() == {1, 2, 3, 4, 5}
    assert "takes over" in reasons[1]
    assert "MB" in reasons[2] or "MemoryError" in reasons[2]
    assert "ValueError" in reasons[3]
    assert "writes outside" in reasons[4]
    assert "died" in reasons[5]
