"""Slots that jobs wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch_build_farm.core.process import Runner


class Slots:
    """A semaphore of `slots` that serves waiting jobs by their rank, the lowest first."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: set[int] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, rank: int, runner: Runner) -> Iterator[None]:
        """Hold a slot; waits for one. Raises Interrupted when the run is cancelled."""
        with self._changed:
            self._waiting.add(rank)
            try:
                # By rank and not by who came first: the longest job must not wait behind short ones.
                while not (self._free and rank == min(self._waiting)):
                    self._changed.wait(0.2)  # not for ever: an interrupt does not notify
                    runner.check()
                self._free -= 1
            finally:
                # Whether it has a slot now or gave up, the next in line may be free to go.
                self._waiting.remove(rank)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
