"""The one place that opens a file of a tree that others wrote: only a regular file, and only so much of it.

A name there can be a FIFO, whose opening waits for a writer for ever, a device, or a file of terabytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # ValueError: a NUL, or a lone surrogate, in the name
        return False


@contextlib.contextmanager
def opened(path: Path, *, follow_links: bool = False) -> Iterator[BufferedReader]:
    """A regular file, to be read. Raises OSError for anything else, and for a link unless it `follow_links`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Whatever it is, opening it does not wait; what was opened is looked at, not what the name means by then.
        descriptor = os.open(path, flags if follow_links else flags | os.O_NOFOLLOW)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def content(path: Path, limit: int, *, follow_links: bool = True) -> bytes:
    """The bytes of a regular file, at most `limit`. Raises OSError as `opened` does, and for a longer one (EFBIG)."""
    with opened(path, follow_links=follow_links) as stream:
        read = stream.read(limit + 1)
    if len(read) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", str(path))
    return read
