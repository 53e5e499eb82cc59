"""Locks between processes: a file that one process at a time holds (flock(2)).

The kernel releases a lock when the process that holds it ends, for whatever reason.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from torch_build_farm.core.errors import DiskError

# What flock(2) and network file systems answer where there are no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.EPROTO}


@contextlib.contextmanager
def hold(path: Path, *, shared: bool = False, busy: Callable[[], None] | None = None) -> Iterator[TextIO]:
    """Hold the lock file at `path`, which is made; yields it, open to be read and appended to.

    With `shared`, others may hold it at the same time if they share it too. While somebody else has the lock, `busy` is
    called before each new try: it pauses, or raises. Without `busy`, BlockingIOError is raised at once. Raises
    DiskError where the file system has no locks, OSError for a link in place of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays when the lock is given back. If it were removed, one process could hold the old file and another
    # process a new one of the same name.
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    # Neither empties the file, which says who holds it, nor fails where it is not there, nor follows a link elsewhere.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "a+", encoding="utf-8") as stream:
        while True:
            # Without waiting in the kernel, where an interrupt of the run would not reach it.
            try:
                fcntl.flock(stream, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if busy is None:
                    raise
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                raise DiskError(
                    f"the file system has no locks (flock): {error.strerror}",
                    where=str(path),
                    next_step="name folders on a local disk: --work DIR, TORCH_BUILD_FARM_STORE=DIR",
                ) from None
            busy()
        yield stream


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file at `path`."""
    if not path.exists():
        return False
    try:
        with hold(path):
            return False
    except BlockingIOError:
        return True
