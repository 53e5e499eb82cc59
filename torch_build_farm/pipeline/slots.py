"""Places that jobs wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch_build_farm.core.process import Runner


class Slots:
    """So many places, given to those who wait in the order of their numbers, lowest first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: set[int] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, number: int, runner: Runner) -> Iterator[None]:
        """Hold a place; waits for one. Raises Interrupted when the run is cancelled."""
        with self._changed:
            self._waiting.add(number)
            try:
                while not (self._free and number == min(self._waiting)):
                    self._changed.wait(0.2)
                    runner.check()
                self._free -= 1
            finally:
                self._waiting.remove(number)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
