"""Builds that go first: what they compile, the builds after them get from ccache."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from torch_build_farm.core.machine import Machine
from torch_build_farm.core.process import Runner
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.project.plan import Job

_Kind = tuple[Machine, bool, CPython, int]


class FirstBuilds:
    """Lets one build of each kind end before the others of its kind begin, if that is `worthwhile`.

    Builds compile their sources in the same order, and ccache has a result once it is complete: side by side, each of
    them would compile what the others compile at that moment. A kind is what has the same machine, headers of
    Python and C++ standard, with torch or, as a core, without it.
    """

    def __init__(self, worthwhile: Callable[[], bool]) -> None:
        self._worthwhile = Once(worthwhile)
        self._lock = threading.Lock()
        self._places: dict[_Kind, Slots] = {}
        self._ended: set[_Kind] = set()

    @contextlib.contextmanager
    def turn(self, job: Job, rank: int, runner: Runner) -> Iterator[None]:
        """Hold the first build's place if none has ended yet; waits for it. Raises Interrupted."""
        kind = (job.platform, job.variant.needs_torch, job.python, job.variant.cxx_standard)
        if not self._worthwhile.get():
            yield
            return
        with self._lock:
            place = self._places.setdefault(kind, Slots(1))
        with contextlib.ExitStack() as stack:
            stack.enter_context(place.hold(rank, runner))
            if kind in self._ended:
                stack.close()
            try:
                yield
            finally:
                # Also where it failed: it has compiled what it could.
                self._ended.add(kind)
