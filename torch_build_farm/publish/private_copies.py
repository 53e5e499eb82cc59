"""What is published is read once, into a folder of this user's alone: those bytes are hashed, checked and uploaded.

A wheel in the work folder may be exchanged at any time: by a build that left a process behind, or by another farm.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import PublishError

_FOLDER = "publishing"  # in the work folder
_PIECE = 1 << 20  # bytes that are read at a time


@dataclass(frozen=True)
class PrivateCopy:
    """A wheel that was copied. `original` is where it lies for people; SHA-256 and size (bytes) are the copy's."""

    original: Path
    path: Path
    sha256: str
    size: int

    def check(self) -> None:
        """Raise PublishError where the wheel or its copy is no longer what was checked."""
        for path in (self.path, self.original):
            try:
                digest = _digest(path)
            except OSError as error:
                digest = f"of none: {error.strerror}"
            if digest != self.sha256:
                raise PublishError(
                    f"{path.name} was exchanged after it had been checked",
                    where=f"{path}: sha256 {self.sha256} before, {digest} now",
                    next_step="find out what writes into the work folder, build it again, and publish",
                )


@dataclass(frozen=True)
class PrivateFolder:
    """A folder that only this user may enter."""

    path: Path

    def copy(self, original: Path) -> PrivateCopy:
        """Copy a wheel, once. Raises PublishError where it is a link or no file."""
        copy = self.path / original.name
        digest = hashlib.sha256()
        with _readable(original), foreign_files.opened(original) as source, _created(copy) as target:
            while piece := source.read(_PIECE):
                digest.update(piece)
                _write(target, piece)
        return PrivateCopy(original, copy, digest.hexdigest(), copy.stat().st_size)

    def made(self, path: Path, original: Path) -> PrivateCopy:
        """A wheel that the farm has just written here, and that is to lie at `original` for people."""
        return PrivateCopy(original, path, _digest(path), path.stat().st_size)


@contextmanager
def private_folder(work: Path) -> Iterator[PrivateFolder]:
    """A new private folder in the work folder, removed afterwards. Needs the work folder's lock.

    Raises PublishError where something else has its place.
    """
    path = work / _FOLDER
    _remove(path)  # what a killed farm left
    try:
        path.mkdir(mode=0o700)
        status = path.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:  # a link in its place has mode 0777
            raise OSError(errno.EPERM, "somebody else owns it or may enter it")
    except OSError as error:
        raise PublishError(
            f"the folder for what is published cannot be made: {error.strerror}",
            where=str(path),
            next_step="remove it, and see that the work folder is this user's",
        ) from None
    try:
        yield PrivateFolder(path)
    finally:
        _remove(path)


def digest_of(wheel: Path) -> str:
    """SHA-256 of a wheel that is not copied. Raises PublishError where it is a link or no file."""
    with _readable(wheel):
        return _digest(wheel)


@contextmanager
def _readable(wheel: Path) -> Iterator[None]:
    """What is raised while a wheel of work/dist is read becomes a PublishError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the copy
            raise
        raise PublishError(
            f"{wheel.name} cannot be read: {error.strerror}",
            where=str(wheel),
            next_step="work/dist must hold the wheels themselves",
        ) from None


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _digest(path: Path) -> str:
    """SHA-256 of a file that is no link. Raises OSError."""
    with foreign_files.opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _created(path: Path) -> Iterator[int]:
    """A descriptor of a new file for this user alone. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
