"""The one place that unpacks archives of others: sdists as tar (plain, gzip, bzip2, xz) and zip.

tarfile and zipfile read headers and inflate; what is written, and where, is decided here. tarfile's own way to unpack
safely (the filter "data", PEP 706) has holes in the CPythons that people run: a chain of links longer than PATH_MAX
leads out of the folder (CPython 3.11.7), and a header of digits takes it minutes (CVE-2024-6232). Here

- names and links are judged by text alone, and anything unusual is refused;
- links are made last, so that while files are written no link exists that could lead anywhere;
- a file never replaces another;
- members, bytes and links are counted while the archive is read, against what an archive of its size can need.
"""

from __future__ import annotations

import bz2
import calendar
import errno
import gzip
import lzma
import os
import posixpath
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path

from torch_build_farm.core import paths
from torch_build_farm.core.errors import SourceError, out_of_reach
from torch_build_farm.core.paths import shown
from torch_build_farm.core.tar_members import (
    PIECE,
    Content,
    CountedStream,
    Member,
    UnsafeArchiveError,
    XzStream,
    tar_members,
)

# Unix seconds: 1980-01-01 and the last second of 2107, between which a zip archive can hold a date.
EARLIEST = 315532800
_LATEST = 4354819199


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to. Above the free amount, what counts is how much it is of the archive's own size."""

    members: int = 200_000
    free_members: int = 5_000
    bytes_per_member: int = 96
    """Of the archive. Members of real sdists take 120 and more; headers alone, which differ in a digit, 25."""

    size: int = 8 << 30
    """Bytes, headers included."""

    free_size: int = 32 << 20
    ratio: int = 200
    """DEFLATE shrinks zeros to a thousandth, and sources to a tenth."""

    links: int = 10_000

    def members_of(self, archive_size: int) -> int:
        """How many members an archive of this size (bytes) may have."""
        return min(self.members, max(self.free_members, archive_size // self.bytes_per_member))

    def size_of(self, archive_size: int) -> int:
        """How many bytes an archive of this size (bytes) may unpack to."""
        return min(self.size, max(self.free_size, archive_size * self.ratio))


LIMITS = Limits()


def unpack(archive: Path, folder: Path, limits: Limits = LIMITS) -> None:
    """Unpack an archive into `folder`, which must not exist: all of it, or nothing.

    Files keep their date. From tar they keep their permissions, except those to write for others, setuid and setgid;
    from zip only the permission to execute. Hard links become copies. Raises SourceError for an archive that is
    damaged, leads out of the folder or unpacks to more than an archive of its size can need; DiskError where the disk
    is full.
    """
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise out_of_reach(error) from None
    try:
        size = archive.stat().st_size
        tree = _Tree(folder, limits, size)
        with ExitStack() as stack:
            for member in _members(archive, size, limits, stack):
                tree.add(member)
        tree.finish()
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise out_of_reach(error) from None
        if isinstance(error, _DAMAGE):
            raise SourceError(f"the archive cannot be unpacked: {error}", where=archive.name) from None
        raise


# What reading a damaged archive raises. RuntimeError and NotImplementedError are zipfile's, for a member that is
# encrypted or compressed in a rare way; OverflowError is of dates and sizes that no file has.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError, EOFError, RuntimeError, ValueError,
    NotImplementedError, OverflowError,
)  # fmt: skip


def _members(archive: Path, size: int, limits: Limits, stack: ExitStack) -> Iterator[Member]:
    """The members of an archive, in their order. A member's content has to be read before the next one is asked for."""
    file = stack.enter_context(archive.open("rb"))
    magic = file.read(6)
    file.seek(0)
    # By how the file begins. zipfile looks at the end, and would take a tar archive with another one inside for it.
    if magic.startswith((b"PK\3\4", b"PK\5\6")):
        return _zip_members(stack.enter_context(zipfile.ZipFile(file)))
    stream: Content = file
    if magic.startswith(b"\x1f\x8b"):
        stream = stack.enter_context(gzip.GzipFile(fileobj=file))
    elif magic.startswith(b"BZh"):
        stream = stack.enter_context(bz2.BZ2File(file))
    elif magic.startswith(b"\xfd7zXZ\0"):
        stream = XzStream(file)
    return tar_members(CountedStream(stream, limits.size_of(size)))


# ---- zip


def zip_entries(archive: zipfile.ZipFile, size: int, limits: Limits = LIMITS) -> list[zipfile.ZipInfo]:
    """The entries of a zip archive of `size` bytes, once they are known to be harmless to read.

    Raises UnsafeArchiveError for names that lead out or have more than one spelling, for two entries of the same name,
    for links and devices, for entries that the archive is too short for, and for more entries or bytes than an archive
    of its size can need.
    """
    entries = archive.infolist()
    if len(entries) > limits.members_of(size):
        raise UnsafeArchiveError(f"it has {len(entries)} members, more than an archive of its size can need")
    names: set[str] = set()
    total = 0
    for entry in entries:
        check_entry(entry)
        name = entry.filename.removesuffix("/")
        # Installers take "a//b" and "a/./b" for "a/b", which may be there too.
        if any(part in ("", ".") for part in name.split("/")):
            raise UnsafeArchiveError(f"the name {shown(name)} has an empty part")
        # zipfile asks for so much memory before it reads.
        if entry.compress_size > size:
            raise UnsafeArchiveError(f"{shown(name)} is longer than the archive")
        if name in names:
            raise UnsafeArchiveError(f"it has {shown(name)} twice")
        names.add(name)
        total += entry.file_size
    if total > limits.size_of(size):
        raise UnsafeArchiveError(f"it unpacks to {total} bytes, more than an archive of its size can need")
    return entries


def check_entry(entry: zipfile.ZipInfo) -> None:
    """Raise UnsafeArchiveError for a zip entry whose name leads out, that is a link or device, or needs much memory."""
    # zipfile cuts a name at a NUL byte, so only `orig_filename` still shows it.
    name = entry.orig_filename
    reason = paths.fault(name.removesuffix("/")) or ("has a backslash" if "\\" in name else "")
    if reason:
        raise UnsafeArchiveError(f"the name {shown(name)} {reason}")
    kind = entry.external_attr >> 28  # the upper bits of the mode of a file, in an archive made on Unix (stat.h)
    if kind not in (0, 0o4, 0o10):
        raise UnsafeArchiveError(f"{shown(name)} is neither a file nor a folder")
    if entry.flag_bits & 1:
        raise UnsafeArchiveError(f"{shown(name)} is encrypted")
    # The others are not of sdists or wheels, and LZMA takes as much memory as the archive asks for.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeArchiveError(f"{shown(name)} is not compressed by DEFLATE")


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for entry in archive.infolist():
        check_entry(entry)
        if entry.is_dir():
            yield Member(entry.filename, "folder", _zip_date(entry))
            continue
        mode = 0o755 if entry.external_attr >> 16 & 0o100 else None
        with archive.open(entry) as content:
            yield Member(entry.filename, "file", _zip_date(entry), mode, content)


def _zip_date(entry: zipfile.ZipInfo) -> int:
    """A zip member's date, Unix seconds; the earliest one where the date is invalid."""
    try:
        return calendar.timegm((*entry.date_time, 0, 0, 0))
    except ValueError:
        return EARLIEST


# ---- what becomes of it


@dataclass
class _Tree:
    """The tree that an archive unpacks to. What lies where is known from here, not from the file system."""

    folder: Path
    limits: Limits
    archive_size: int
    _kinds: dict[str, str] = field(default_factory=dict)  # what the archive has, by path
    _links: dict[str, str] = field(default_factory=dict)  # the targets, by path
    _dates: dict[str, float] = field(default_factory=dict)  # of folders
    _size: int = 0  # bytes
    _members: int = 0

    def add(self, member: Member) -> None:
        """Unpack a member; a symbolic link waits for `finish`. Raises UnsafeArchiveError, OSError."""
        self._count()
        path = self._path(member.name)
        if member.kind == "folder":
            self._make_folder(path)
            self._dates[path] = _possible(member.date)
            return
        if path in self._kinds or not path:
            raise UnsafeArchiveError(f"{shown(path)} is there twice")
        self._make_folder(posixpath.dirname(path))
        self._kinds[path] = member.kind
        if member.kind == "symbolic link":
            self._links[path] = self._target(path, member.target)
            if len(self._links) > self.limits.links:
                raise UnsafeArchiveError(f"it has more than {self.limits.links} links")
        elif member.kind == "hard link":
            self._copy(path, self._path(member.target), member.date)
        elif member.content:
            self._write(path, member.content, member.mode, member.date)

    def finish(self) -> None:
        """Make the links, and give folders their dates."""
        for path, target in self._links.items():
            (self.folder / path).symlink_to(target)
        for path, date in self._dates.items():
            os.utime(self.folder / path, (date, date))

    def _count(self) -> None:
        """Count a member, or a folder that only a member's name mentions."""
        self._members += 1
        if self._members > self.limits.members_of(self.archive_size):
            raise UnsafeArchiveError("it has more members than an archive of its size can need")

    def _path(self, name: str) -> str:
        """A member's path, "." and double slashes left out. Raises UnsafeArchiveError for one that leads out."""
        # A folder's name may end in a slash.
        reason = paths.fault(name.removesuffix("/"))
        if reason:
            raise UnsafeArchiveError(f"the name {shown(name)} {reason}")
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def _make_folder(self, path: str) -> None:
        """Make a folder and those around it. Raises UnsafeArchiveError where the archive has something else there."""
        kind = self._kinds.get(path)
        if kind == "folder" or not path:
            return
        if kind:
            raise UnsafeArchiveError(f"{shown(path)} is a {kind} and a folder")
        self._make_folder(posixpath.dirname(path))
        self._count()
        # On a file system where Readme and README are one name, this fails for the second, and so does `_write`.
        (self.folder / path).mkdir()
        self._kinds[path] = "folder"

    def _write(self, path: str, content: Content, mode: int | None, date: float) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(self.folder / path, flags, 0o666), "wb") as file:
            piece = content.read(PIECE)
            while piece:
                self._size += len(piece)
                if self._size > self.limits.size_of(self.archive_size):
                    raise UnsafeArchiveError("it unpacks to more than an archive of its size can need")
                file.write(piece)
                piece = content.read(PIECE)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.utime(file.fileno(), (_possible(date), _possible(date)))

    def _copy(self, path: str, original: str, date: float) -> None:
        """A copy of a file that was unpacked before, in place of a hard link to it."""
        if self._kinds.get(original) not in ("file", "hard link"):
            raise UnsafeArchiveError(f"{shown(path)} is a link to {shown(original)}, which is not a file before it")
        with (self.folder / original).open("rb") as file:
            self._write(path, file, os.fstat(file.fileno()).st_mode & 0o777, date)

    def _target(self, path: str, target: str) -> str:
        """A symbolic link's target. Raises UnsafeArchiveError for one that leads out of the tree.

        Since no parent of `path` is a link, its first ".." lead up through real folders. A ".." behind a name could
        lead up from wherever a link of that name leads, so it is taken out by text (`a/../b` is `b`).
        """
        reason = paths.fault(target, may_lead_up=True)
        if not reason:
            parts = [part for part in target.split("/") if part not in ("", ".")]
            if ".." in dropwhile(lambda part: part == "..", parts):
                target = posixpath.normpath(target)
            destination = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            reason = "leads out of the archive" if destination.split("/")[0] == ".." else ""
        if reason:
            raise UnsafeArchiveError(f"the target {shown(target)} of the link {shown(path)} {reason}")
        return target


def _possible(date: float) -> float:
    """A date that files can have: the nearest one, for a member with another."""
    return min(max(date, 0), _LATEST)
