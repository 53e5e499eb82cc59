"""The work folder, in which one farm works at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch_build_farm.core import locks
from torch_build_farm.core.errors import LockedError
from torch_build_farm.core.process import Runner

_POLL_S = 0.2  # between two tries to get the lock


@contextlib.contextmanager
def locked(work: Path, runner: Runner, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the work folder against other farms. With `wait`, wait for a farm that holds it.

    Raises LockedError where another farm holds it and `wait` is false, Interrupted when the run is cancelled meanwhile.
    """
    path = work / "lock"
    announced = False

    def busy() -> None:
        nonlocal announced
        if not wait:
            raise LockedError(
                f"another farm ({_owner(path)}) works in this folder",
                where=str(work),
                next_step="wait for it (--wait does), stop it, or use another folder with --work DIR",
            )
        if not announced:
            say(f"waiting for {_owner(path)}, which works in {work}")
            announced = True
        runner.pause(_POLL_S)

    with locks.hold(path, busy=busy) as stream:
        # For the message of a farm that finds the lock taken; the lock itself is the kernel's.
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid()}))
        stream.flush()
        yield


def _owner(path: Path) -> str:
    try:
        return f"process {json.loads(path.read_text('utf-8'))['pid']}"
    except (OSError, ValueError, KeyError):
        return "another process"
