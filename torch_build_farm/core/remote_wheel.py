"""A wheel that stays on its server: its members, read by range requests.

zipfile reads the directory, inflates members and checks their CRC. The local headers are located here and not by
`ZipFile.open`: that reads one in three small pieces, each of which would be a request, and holds one lock for all
threads while it reads.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self, cast
from zipfile import ZipInfo

from torch_build_farm.core.archives import zip_entries
from torch_build_farm.core.http_ranges import DEFAULT_LIMITS, Limits, Ranges
from torch_build_farm.core.tar_members import UnsafeArchiveError

if TYPE_CHECKING:
    from requests import Session

    from torch_build_farm.core.errors import PackageIndexError

_LOCAL_HEADER = 30  # bytes of a local header, without name and extra field (APPNOTE.TXT 4.3.7)
_EXTRA = 64  # bytes of a local header's extra field that are read along: it is mostly empty and seldom longer
_INFLATED = 1 << 20  # bytes of a member's content that are in memory at once when it is read in chunks


class ByteSource(Protocol):
    """A file that is read in ranges: remote (`http_ranges.Ranges`), or a copy of it on disk (`FileRanges`)."""

    name: str
    size: int
    fetched: int
    requests: int

    def error(self, reason: str) -> PackageIndexError: ...
    def tail(self, size: int) -> bytes: ...
    def get(self, start: int, end: int) -> bytes: ...
    def pieces(self, start: int, end: int) -> Iterator[bytes]: ...


class _RemoteFile(io.RawIOBase):
    """The remote file as zipfile wants it. Its end is read at once, since zipfile reads it in small pieces."""

    def __init__(self, ranges: ByteSource, limits: Limits) -> None:
        self._ranges, self._position = ranges, 0
        self._longest_read = limits.longest_directory
        self._tail = ranges.tail(limits.directory)
        self._tail_start = ranges.size - len(self._tail)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ranges.size}[whence] + offset
        if position < 0:
            raise OSError("before the file's start")
        self._position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        end = self._ranges.size if size is None or size < 0 else min(self._position + size, self._ranges.size)
        start, self._position = self._position, max(end, self._position)
        if end - start > self._longest_read:
            raise OSError("its central directory is too long")
        if start >= self._tail_start:
            return self._tail[start - self._tail_start : end - self._tail_start]
        before_tail = self._ranges.get(start, min(end, self._tail_start))
        return before_tail + self._tail[: max(0, end - self._tail_start)]


class _PieceStream(io.RawIOBase):
    """Pieces of bytes as a file that is read once."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes, and none only at the end."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        size = len(self._rest) if size is None or size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class RemoteWheel:
    """The wheel behind a URL. Threads may share it.

    `members` by path, `fetched` bytes and `requests` so far. Every method raises PackageIndexError where the server
    does not answer range requests, the wheel changes between two requests, answers are cut short, or a member is
    damaged, and where the wheel's directory has a name that leads out of it, or the same name twice.
    """

    def __init__(self, session: Session, url: str, name: str = "", limits: Limits = DEFAULT_LIMITS) -> None:
        self._open(Ranges(session, url, name, limits), limits)

    @classmethod
    def of(cls, source: ByteSource, limits: Limits = DEFAULT_LIMITS) -> Self:
        """The wheel that a source of bytes has."""
        wheel = cls.__new__(cls)
        wheel._open(source, limits)
        return wheel

    def _open(self, source: ByteSource, limits: Limits) -> None:
        self._ranges, self._limits = source, limits
        self.name = source.name
        self._digests: Mapping[str, bytes] | None = None
        try:
            with zipfile.ZipFile(_RemoteFile(source, limits)) as archive:
                entries = zip_entries(archive, source.size)
                directory_start = archive.start_dir
        except UnsafeArchiveError as error:
            raise self.error(str(error)) from None
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            raise self.error(f"it is not a zip file: {error}") from None
        if any(entry.header_offset >= directory_start for entry in entries):
            raise self.error("it is not a zip file: a member is said to be behind the directory")
        self.members: Mapping[str, ZipInfo] = {entry.filename: entry for entry in entries if not entry.is_dir()}
        # A member ends where the next one starts, at the latest: so one request fetches local header and data.
        self._starts = [*sorted({entry.header_offset for entry in entries}), directory_start]
        self._data_starts: dict[str, int] = {}  # of the members whose local headers were read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # the session is the caller's

    @property
    def fetched(self) -> int:
        return self._ranges.fetched

    @property
    def requests(self) -> int:
        return self._ranges.requests

    def error(self, reason: str) -> PackageIndexError:
        """The error that `reason` makes of this wheel."""
        return self._ranges.error(reason)

    def expect(self, digests: Mapping[str, bytes]) -> None:
        """From now on read members only as they are listed here, by path with their SHA-256.

        `raw` and `chunks`, which return parts of a member, are not compared.
        """
        self._digests = digests

    def member(self, path: str) -> ZipInfo:
        if path not in self.members:
            raise self.error(f"it has no {path}")
        return self.members[path]

    def _end(self, member: ZipInfo) -> int:
        return self._starts[bisect_right(self._starts, member.header_offset)]

    def _data_start(self, member: ZipInfo, header: bytes) -> int:
        """The offset of the member's data in the wheel; `header` starts with its local header."""
        if header[:4] != b"PK\3\4" or len(header) < _LOCAL_HEADER:
            raise self.error(f"{member.filename} is not where the central directory places it")
        name_size, extra_size = struct.unpack("<2H", header[26:30])
        start = member.header_offset + _LOCAL_HEADER + int(name_size) + int(extra_size)
        if start + member.compress_size > self._end(member):
            raise self.error(f"{member.filename} is longer than the room it has")
        self._data_starts[member.filename] = start
        return start

    def raw(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` to before `end` of a member's data as stored, that is, mostly compressed."""
        member = self.member(path)
        end = min(end, member.compress_size)
        if path in self._data_starts:
            data_start = self._data_starts[path]
            return self._ranges.get(data_start + start, data_start + end)
        # The local header may have a longer extra field than the central directory, so only it tells where the data
        # start. It takes no request of its own: one range has it and the data near it.
        header_end = member.header_offset + _LOCAL_HEADER + len(path.encode()) + _EXTRA
        wanted_end = header_end + (end if start < self._limits.gap else 0)
        head = self._ranges.get(member.header_offset, min(wanted_end, self._end(member)))
        data_start = self._data_start(member, head)
        in_head = head[data_start - member.header_offset :][start:end]
        return in_head + self._ranges.get(data_start + start + len(in_head), data_start + end)

    def _inflated(self, member: ZipInfo, data: IO[bytes]) -> Iterator[bytes]:
        """The member's content chunk by chunk, out of its data as stored.

        Raises PackageIndexError after the last chunk if its CRC is wrong.
        """
        try:
            with zipfile.ZipExtFile(data, "r", member) as stream:
                chunk = stream.read(_INFLATED)
                while chunk:
                    yield chunk
                    chunk = stream.read(_INFLATED)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise self.error(f"{member.filename} is damaged: {error}") from None

    def chunks(self, path: str) -> Iterator[bytes]:
        """A member's content, at most 1 MiB at once. Its CRC is checked only after the last chunk."""
        member = self.member(path)
        self.raw(path, 0, 0)  # reads where the data start
        start = self._data_starts[path]
        pieces = self._ranges.pieces(start, start + member.compress_size)
        yield from self._inflated(member, cast(IO[bytes], _PieceStream(pieces)))

    def _content(self, member: ZipInfo, stored: memoryview) -> bytes:
        """The member's content; `stored` starts with its local header."""
        start = self._data_start(member, bytes(stored[:_LOCAL_HEADER])) - member.header_offset
        return b"".join(self._inflated(member, io.BytesIO(stored[start : start + member.compress_size])))

    def read(self, path: str) -> bytes:
        """A member's content; its CRC is checked."""
        return self.read_many([path])[path]

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of members by path, compared with what `expect` was told.

        Neighbours, such as torch's headers, are fetched in one range.
        """
        members = [self.member(path) for path in set(paths)]
        if sum(member.file_size for member in members) > self._limits.inflated:
            raise self.error(f"what is read of it has more than {self._limits.inflated} bytes inflated")
        members.sort(key=lambda member: member.header_offset)
        groups: list[list[ZipInfo]] = []
        for member in members:
            if groups and self._fits(groups[-1], member):
                groups[-1].append(member)
            else:
                groups.append([member])
        contents = {}
        for group in groups:
            start = group[0].header_offset
            fetched = memoryview(self._ranges.get(start, self._end(group[-1])))
            for member in group:
                stored = fetched[member.header_offset - start : self._end(member) - start]
                contents[member.filename] = self._expected(member, self._content(member, stored))
        return contents

    def _expected(self, member: ZipInfo, content: bytes) -> bytes:
        """The content, once it is compared with what `expect` was told."""
        if self._digests is not None and self._digests.get(member.filename) != hashlib.sha256(content).digest():
            raise self.error(f"{member.filename} is not what its RECORD lists")
        return content

    def _fits(self, group: list[ZipInfo], member: ZipInfo) -> bool:
        """Whether a member is near enough to the group before it to be fetched in the same range."""
        gap = member.header_offset - self._end(group[-1])
        size = self._end(member) - group[0].header_offset
        return gap <= self._limits.gap and size <= self._limits.most
