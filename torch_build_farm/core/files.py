"""Files and folders: hashes, sizes, and writing atomically."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_LEFT_BEHIND_S = 3600.0  # since the last write to a scratch file; writing a wheel takes seconds


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def size_of(folder: Path) -> int:
    """Bytes in a folder, hard links within it counted once."""
    # Two names with the same device and inode are one file.
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # removed by a job that runs meanwhile
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


def _new_name_beside(path: Path) -> Path:
    """A random name in the folder of `path`, which is made: several farms may write the same file at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")


@contextlib.contextmanager
def _scratch_for(path: Path) -> Iterator[Path]:
    """A new name beside `path`, renamed to it if the block ends without an error; else `path` stays as it was.

    Renaming within a folder is atomic (rename(2)).
    """
    _remove_leftovers(path)
    scratch = _new_name_beside(path)
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)  # where it was not renamed


def _remove_leftovers(path: Path) -> None:
    """Remove the scratch files that killed processes left beside `path`: those not written to for an hour."""
    for scratch in path.parent.glob(f".{glob.escape(path.name)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _LEFT_BEHIND_S:
                scratch.unlink()


def replace_bytes(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write a file atomically; its folder is made. `mode` is its permissions, by default those of a new file.

    Raises OSError.
    """
    with _scratch_for(path) as scratch:
        scratch.write_bytes(content)
        if mode is not None:
            scratch.chmod(mode)


def replace_text(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file in UTF-8 atomically, its line ends as they are in `text`. Raises OSError."""
    replace_bytes(path, text.encode(), mode)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file's content to `path` atomically. Raises OSError."""
    with _scratch_for(path) as scratch:
        shutil.copyfile(source, scratch)


@contextlib.contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which replaces `path` if the block ends without an error; else `path` stays as it was.

    Raises OSError.
    """
    scratch = _new_name_beside(path)
    try:
        scratch.mkdir()
        yield scratch
        # Unlike a file, a folder cannot be renamed over one that has something in it (rename(2)).
        shutil.rmtree(path, ignore_errors=True)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def size_text(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
