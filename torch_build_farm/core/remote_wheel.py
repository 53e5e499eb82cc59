"""A wheel that stays where it is: its members, read by range requests."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch_build_farm.core.http_ranges import Ranges

if TYPE_CHECKING:
    from requests import Session

    from torch_build_farm.core.errors import PackageIndexError

_AHEAD = 3 << 19  # 1.5 MiB, more than the central directory of any torch wheel so far (1.1 to 1.4 MB)
_GAP = 1 << 16  # bytes between two members that are cheaper to read over than to ask for again (0.1 s at 50 MB/s)
_MOST = 64 << 20  # bytes of one range that is held in memory
_LOCAL = 30  # bytes of a local header, without name and extra field (APPNOTE.TXT 4.3.7)


@dataclass(frozen=True)
class Member:
    """A file in a wheel as the central directory has it; sizes and the local header's offset in bytes."""

    path: str
    size: int
    compressed: int
    crc: int
    offset: int
    method: int


class _File(io.RawIOBase):
    """The remote file as zipfile wants it. Its end is read at once, since there zipfile reads in small bits."""

    def __init__(self, ranges: Ranges, ahead: int) -> None:
        self._ranges, self._at = ranges, 0
        self._tail = ranges.tail(ahead)
        self._tail_at = ranges.size - len(self._tail)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._ranges.size}[whence] + offset
        if at < 0:
            raise OSError("before the file's start")
        self._at = at
        return at

    def read(self, size: int | None = -1) -> bytes:
        end = self._ranges.size if size is None or size < 0 else min(self._at + size, self._ranges.size)
        start, self._at = self._at, max(end, self._at)
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : end - self._tail_at]
        return self._ranges.get(start, min(end, self._tail_at)) + self._tail[: max(0, end - self._tail_at)]


class RemoteWheel:
    """The wheel behind a URL. Threads may share it.

    `members` by path, `fetched` bytes and `requests` so far. Everything raises PackageIndexError: where the server
    knows no ranges, the wheel changes between two requests, answers are cut short, or a member is not as it should be.
    """

    def __init__(self, session: Session, url: str, name: str = "", ahead: int = _AHEAD) -> None:
        """`ahead`: bytes of the wheel's end to begin with; a directory that is longer takes a second request."""
        self._ranges = Ranges(session, url, name)
        self.name = self._ranges.name
        try:
            with zipfile.ZipFile(_File(self._ranges, ahead)) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
                starts = {info.header_offset for info in archive.infolist()}
                directory = archive.start_dir
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            raise self.error(f"it is no zip file: {error}") from None
        self.members: Mapping[str, Member] = {
            i.filename: Member(i.filename, i.file_size, i.compress_size, i.CRC, i.header_offset, i.compress_type)
            for i in infos
        }
        # A member ends where the next one starts, at the latest: so one request has the local header and the data.
        self._starts = [*sorted(starts), directory]
        self._data: dict[str, int] = {}  # offsets of the members' data, as far as their local headers were read

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

    def member(self, path: str) -> Member:
        if path not in self.members:
            raise self.error(f"it has no {path}")
        return self.members[path]

    def _end(self, member: Member) -> int:
        return self._starts[bisect_right(self._starts, member.offset)]

    def _located(self, member: Member, header: bytes) -> int:
        """The offset of the member's data; `header` starts with its local header."""
        if header[:4] != b"PK\3\4" or len(header) < _LOCAL:
            raise self.error(f"{member.path} is not where the central directory says")
        name, extra = struct.unpack("<2H", header[26:30])
        start = member.offset + _LOCAL + int(name) + int(extra)
        if start + member.compressed > self._end(member):
            raise self.error(f"{member.path} is longer than there is room for")
        self._data[member.path] = start
        return start

    def raw(self, path: str, start: int, end: int) -> bytes:
        """Bytes `start` to before `end` of a member's data as stored, that is, compressed mostly."""
        member = self.member(path)
        end = min(end, member.compressed)
        if path in self._data:
            at = self._data[path]
            return self._ranges.get(at + start, at + end)
        # The local header comes along: its extra field is mostly as long as none, and seldom longer than 64 bytes.
        guess = member.offset + _LOCAL + len(path.encode()) + 64
        head = self._ranges.get(member.offset, min(guess + (end if start < _GAP else 0), self._end(member)))
        at = self._located(member, head)
        found = head[at - member.offset + start : at - member.offset + end]
        return found + self._ranges.get(at + start + len(found), at + end)

    def chunks(self, path: str) -> Iterator[bytes]:
        """A member's content piece by piece, inflated; its CRC and size are checked after the last."""
        member = self.member(path)
        self.raw(path, 0, 0)  # learns where the data are
        at, crc, size = self._data[path], 0, 0
        for out in self._inflated(member, self._ranges.pieces(at, at + member.compressed)):
            crc, size = zlib.crc32(out, crc), size + len(out)
            if size > member.size:
                break
            yield out
        self._check(member, crc, size)

    def _inflated(self, member: Member, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The content of a member, at most 1 MiB at once: what is nothing but zeros must not fill the memory."""
        if member.method == zipfile.ZIP_STORED:
            yield from pieces
        elif member.method != zipfile.ZIP_DEFLATED:
            raise self.error(f"{member.path} is compressed by an unknown method, {member.method}")
        else:
            inflater = zlib.decompressobj(-15)
            try:
                for piece in pieces:
                    yield inflater.decompress(piece, 1 << 20)
                    while inflater.unconsumed_tail:
                        yield inflater.decompress(inflater.unconsumed_tail, 1 << 20)
                yield inflater.flush()
            except zlib.error as error:
                raise self.error(f"{member.path} does not inflate: {error}") from None

    def _check(self, member: Member, crc: int, size: int) -> None:
        if size != member.size or crc != member.crc:
            raise self.error(f"{member.path} is damaged: its size or CRC is another than the central directory says")

    def _content(self, member: Member, data: bytes) -> bytes:
        """The member's content; `data` starts with its local header."""
        at = self._located(member, data) - member.offset
        content, size = [], 0
        for out in self._inflated(member, [data[at : at + member.compressed]]):
            content.append(out)
            size += len(out)
            if size > member.size:
                break
        whole = b"".join(content)
        self._check(member, zlib.crc32(whole), size)
        return whole

    def read(self, path: str) -> bytes:
        """A member's content, of which the CRC was checked."""
        member = self.member(path)
        return self._content(member, self._ranges.get(member.offset, self._end(member)))

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of members by path; neighbours, as all headers of torch are, come in one range."""
        members = sorted((self.member(path) for path in set(paths)), key=lambda member: member.offset)
        groups: list[list[Member]] = []
        for member in members:
            if (
                groups
                and member.offset - self._end(groups[-1][-1]) <= _GAP
                and self._end(member) - groups[-1][0].offset <= _MOST
            ):
                groups[-1].append(member)
            else:
                groups.append([member])
        contents = {}
        for group in groups:
            start = group[0].offset
            data = memoryview(self._ranges.get(start, self._end(group[-1])))
            for member in group:
                contents[member.path] = self._content(
                    member, bytes(data[member.offset - start : self._end(member) - start])
                )
        return contents
