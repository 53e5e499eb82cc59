"""Files and folders: hashes, sizes, and writing atomically."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import BuildError

_DEEP = 1000  # characters of a path below a folder that is removed
_LEFT_BEHIND_S = 3600.0  # since the last write to a scratch file; writing a wheel takes seconds


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every entry below a folder that is no folder itself. Links are not followed; what cannot be listed is left out.

    Without recursion: foreign code may nest folders deeper than Python's stack.
    """
    folders = [str(folder)]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry


def size_of(folder: Path) -> int:
    """Bytes in a folder, hard links within it counted once."""
    # Two names with the same device and inode are one file.
    seen: dict[tuple[int, int], int] = {}
    for entry in walk(folder):
        with contextlib.suppress(OSError):  # removed by a job that runs meanwhile
            status = entry.stat(follow_symlinks=False)
            seen[status.st_dev, status.st_ino] = status.st_size
    return sum(seen.values())


def remove(folder: Path) -> int:
    """Remove a folder with all in it; returns the bytes that were in it."""
    size = size_of(folder) if folder.is_dir() and not folder.is_symlink() else 0
    remove_tree(folder)
    return size


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, as far as the system allows; a link or a file in its place goes too.

    Nothing outside is touched: links are removed and not followed. Builds may leave folders that their owner may not
    write, and more folders within one another than Python's stack or a path can hold; they go as well.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        # Safe against links that are planted meanwhile (shutil.rmtree.avoids_symlink_attacks, on Linux).
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            with contextlib.suppress(OSError):
                _make_removable(path)
            shutil.rmtree(path, ignore_errors=True)


def _make_removable(path: Path) -> None:
    """Let the owner write each folder below `path`, and move what lies deep up into it. Raises OSError."""
    path.chmod(0o700)
    folders = [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            inner = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in inner:
            folder = Path(name)
            folder.chmod(0o700)
            # A name has a character and a slash at least: that many folders fit Python's stack.
            if len(name) - len(str(path)) > _DEEP:
                folder = folder.rename(path / f".{os.urandom(8).hex()}")
            folders.append(str(folder))


def clear(folder: Path) -> None:
    """An empty folder in place of whatever was there."""
    remove_tree(folder)
    folder.mkdir(parents=True)


# ---- files that foreign code wrote


def read_foreign(path: Path, limit: int) -> bytes:
    """The content of a file that a build or a test wrote, of at most `limit` bytes.

    The folder of `path` is the farm's own. Raises FileNotFoundError where there is nothing, BuildError for a link, a
    device, a FIFO or anything else but a regular file, and for one that is larger.
    """
    # A device is not even opened, which may already do something.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _not_a_file(path)
    try:
        return foreign_files.content(path, limit, follow_links=False)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise _not_a_file(path) from error
        raise BuildError(
            f"a file that the build left is larger than {size_text(limit)}",
            where=str(path),
            next_step="nothing of that name in the build's folder is the build's to write",
        ) from None


def read_foreign_text(path: Path, limit: int) -> str:
    """Like `read_foreign`, as text; what is not UTF-8 is replaced."""
    return read_foreign(path, limit).decode("utf-8", "replace")


def copy_foreign(source: Path, path: Path, limit: int) -> None:
    """Copy a file that a build or a test wrote to `path`, atomically. Raises OSError, and what `read_foreign` does."""
    replace_bytes(path, read_foreign(source, limit))


def check_regular(path: Path) -> Path:
    """`path`, which foreign code wrote. Raises BuildError unless it is a regular file, FileNotFoundError without it."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise _not_a_file(path)
    return path


def _not_a_file(path: Path) -> BuildError:
    return BuildError(
        f"{path.name!r} is not a regular file but a link, a folder or a device",
        where=str(path),
        next_step="the build puts it where the farm reads a file; see what in the source does so",
    )


def _new_name_beside(path: Path) -> Path:
    """A random name in the folder of `path`, which is made: several farms may write the same file at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new name beside `path`, to write a file of; it replaces `path` if the block ends without an error.

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
    with replace_file(path) as scratch:
        scratch.write_bytes(content)
        if mode is not None:
            scratch.chmod(mode)


def replace_text(path: Path, text: str, mode: int | None = None) -> None:
    """Write a file in UTF-8 atomically, its line ends as they are in `text`. Raises OSError."""
    replace_bytes(path, text.encode(), mode)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file's content to `path` atomically. Raises OSError."""
    with replace_file(path) as scratch:
        shutil.copyfile(source, scratch)


def link_or_copy(source: Path, path: Path) -> None:
    """A second name for a file that nobody changes; a copy where the file system has no hard links. Raises OSError."""
    try:
        path.hardlink_to(source)
    except OSError:
        copy_whole(source, path)


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
        remove_tree(path)
        scratch.rename(path)
    finally:
        remove_tree(scratch)


def size_text(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
