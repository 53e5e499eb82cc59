"""A value that several jobs of a run need, made once by the first that asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What `make` returns, called at the first `get` and never again. Thread-safe: others wait for the first.

    Where `make` raises, the next `get` calls it again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._values: list[T] = []  # none yet, or the one; a None in its place could be a value

    def get(self) -> T:
        """The value."""
        with self._lock:
            if not self._values:
                self._values.append(self._make())
            return self._values[0]
