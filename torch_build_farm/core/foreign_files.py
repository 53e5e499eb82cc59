"""The one place that opens a file of a tree that others wrote: only a regular file, and only so much of it.

A name there can be a FIFO, whose opening waits for a writer for ever, a device, or a file of terabytes.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL, or a lone surrogate, in the name
        return False


def content(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, at most `limit`. Raises OSError for any other, for a longer one, and for none."""
    try:
        # Whatever it is, opening it does not wait; what was opened is looked at, not what the name means by then.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        read = stream.read(limit + 1)
    if len(read) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(path))
    return read
