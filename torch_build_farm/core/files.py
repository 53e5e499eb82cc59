"""Files and folders: hashes, sizes, and writing whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """Bytes in a folder, hard links within it counted once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def remove(folder: Path) -> int:
    """Remove a folder with all in it; returns the bytes that were in it."""
    size = size_of(folder) if folder.exists() else 0
    shutil.rmtree(folder, ignore_errors=True)
    return size


def clear(folder: Path) -> None:
    """An empty folder in place of whatever was there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def size_text(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
