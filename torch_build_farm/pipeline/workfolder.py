"""The work folder: one farm works in it at a time, and its dist folder holds the wheels of jobs that succeeded."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torch_build_farm.core import foreign_files, locks
from torch_build_farm.core.errors import LockedError, UnsafeNameError
from torch_build_farm.core.files import copy_whole, replace_text, sha256
from torch_build_farm.core.paths import file_in
from torch_build_farm.core.process import Runner

_POLL_S = 0.2  # between two tries to get the lock
_LONGEST_NAME = 1000  # bytes of a wheel's name in a delivery note


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


def deliver(wheel: Path, job_folder: Path, work: Path) -> Path:
    """Copy the wheel of a job that succeeded into the dist folder, atomically; returns the copy. Raises OSError."""
    delivered = work / "dist" / wheel.name
    if delivered.is_symlink() or not (delivered.exists() and sha256(delivered) == sha256(wheel)):
        copy_whole(wheel, delivered)
    if _delivered(job_folder) != wheel.name:
        replace_text(_delivery_note(job_folder), wheel.name)
    return delivered


def withdraw(job_folder: Path, work: Path) -> None:
    """Take a job's wheel out of the dist folder: a wheel that lies there has passed all its stages."""
    # Without a note the job has delivered nothing. The note goes last: as long as it is there, so may the wheel be.
    name = _delivered(job_folder)
    # Builds may write there: what the note names is removed only if it is a wheel in the dist folder.
    if name.endswith(".whl"):
        with contextlib.suppress(OSError, UnsafeNameError):
            file_in(work / "dist", name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _delivery_note(job_folder).unlink()


def _delivery_note(job_folder: Path) -> Path:
    """The file with the name of the wheel that the job has put into the dist folder."""
    return job_folder / "delivered"


def _delivered(job_folder: Path) -> str:
    """The name in the delivery note; empty where there is no note that can be read."""
    try:
        return foreign_files.content(_delivery_note(job_folder), _LONGEST_NAME, follow_links=False).decode()
    except (OSError, UnicodeDecodeError):
        return ""
