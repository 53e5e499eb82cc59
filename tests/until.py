"""Waiting for what a test needs to happen, so that no test depends on how fast the machine is."""

import time
from collections.abc import Callable

DEADLINE_S = 300.0  # guards against a hang, and nothing else: far longer than anything takes on a machine under load


def until(condition: Callable[[], bool], what: Callable[[], object] = lambda: "it never came") -> None:
    """Wait until the condition holds; `what` describes the state for the failure."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)
