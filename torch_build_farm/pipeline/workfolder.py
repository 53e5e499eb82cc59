"""The work folder: one farm at a time, and what `clean` removes of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch_build_farm.core.errors import LockedError
from torch_build_farm.core.process import Runner


def _owner(path: Path) -> str:
    try:
        return f"process {json.loads(path.read_text('utf-8'))['pid']}"
    except (OSError, ValueError, KeyError):
        return "another process"


@contextlib.contextmanager
def locked(work: Path, runner: Runner, wait: bool, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the work folder against other farms. The kernel lets go when the process ends, however it ends.

    Raises LockedError where another farm holds it, unless `wait`.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "lock"
    with path.open("a+", encoding="utf-8") as stream:
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    raise LockedError(
                        f"another farm ({_owner(path)}) works in this folder",
                        where=str(work),
                        next_step="wait for it (--wait does), stop it, or use another folder with --work DIR",
                    ) from None
                if not told:
                    say(f"waiting for {_owner(path)}, which works in {work}")
                    told = True
                runner.pause(0.2)
        stream.truncate(0)
        stream.write(json.dumps({"pid": os.getpid()}))
        stream.flush()
        yield
