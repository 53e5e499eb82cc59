"""The members of a tar archive, read from front to end: ustar, GNU's long names and links, pax.

tarfile parses headers; extended headers and the way from one member to the next are read here. tarfile takes time for
an extended header that grows with the square of its length (CVE-2024-6232), and memory as the archive asks for.
"""

from __future__ import annotations

import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Literal, Protocol

from torch_build_farm.core.paths import shown

PIECE = 1 << 18  # bytes of a member that are in memory at once
_BLOCK = 512  # bytes of a header; members' data are padded to blocks (POSIX, pax)
_EXTENDED_LIMIT = 1 << 14  # bytes of an extended header: a name, a link's target and a few more
_EXTENDED_IN_A_ROW = 8  # GNU's tar writes two at most, pax one of each kind
_XZ_PIECE = 1 << 13  # bytes of an xz file that are read at once
_XZ_MEMORY = 128 << 20  # bytes that an xz archive may ask for; `xz -9` asks for 65 MiB

_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX_RECORD = re.compile(rb"([0-9]{1,5}) ([^=\n]{1,100})=")
_PAX_DATE = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,12})?")


class UnsafeArchiveError(ValueError):
    """An archive that is not unpacked, or not read; the message is the end of a sentence that begins with its name."""


class Content(Protocol):
    """A member's content, read from front to end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none only at the end."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive. `target` is a link's, `mode` None where the default is meant, `date` in Unix seconds."""

    name: str
    kind: Literal["file", "folder", "symbolic link", "hard link"]
    date: float
    mode: int | None = None
    content: Content | None = None
    target: str = ""


class XzStream:
    """The content of an xz file, with a bound on memory, which lzma.LZMAFile has not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while True:
            rest = b""
            if self._decompressor.eof:
                # The streams of several xz files, one behind another, are one file's (xz's manual).
                rest = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(_XZ_PIECE).lstrip(b"\0")
                if not rest:
                    return b""
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                rest = self._file.read(_XZ_PIECE)
                if not rest:
                    raise EOFError("it ends too early")
            piece = self._decompressor.decompress(rest, size)
            if piece:
                return piece


class CountedStream:
    """A stream of which no more than `limit` bytes are read, whatever it unpacks to."""

    def __init__(self, stream: Content, limit: int) -> None:
        self._stream = stream
        self._left = limit

    def read(self, size: int, /) -> bytes:
        """Exactly `size` bytes, at most 256 KiB; fewer only at the end. Raises UnsafeArchiveError over the limit."""
        pieces = []
        while size:
            piece = self._stream.read(size)
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
            self._left -= len(piece)
            if self._left < 0:
                raise UnsafeArchiveError("it unpacks to more than an archive of its size can need")
        return b"".join(pieces)

    def exactly(self, size: int) -> bytes:
        """The same; raises EOFError where the stream ends before."""
        content = self.read(size)
        if len(content) != size:
            raise EOFError("it ends too early")
        return content


class _TarContent:
    """The content of a tar member, as part of the archive's stream."""

    def __init__(self, stream: CountedStream, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % _BLOCK

    def read(self, size: int, /) -> bytes:
        piece = self._stream.exactly(min(size, self._left, PIECE))
        self._left -= len(piece)
        return piece

    def skip(self) -> None:
        """Read what is left, and the padding, up to the next header."""
        while self._left:
            self.read(PIECE)
        self._stream.read(self._padding)  # some tools leave it out at the end of an archive


def tar_members(stream: CountedStream) -> Iterator[Member]:
    """The members of a tar archive: ustar, GNU's names and links, pax. Sparse files, which no sdist has, are refused.

    Extended headers are read here, since tarfile takes time for them that grows with the square of their length.
    """
    for_all: dict[str, str] = {}
    for_next: dict[str, str] = {}
    first = True
    extended_in_a_row = 0
    while True:
        block = stream.read(_BLOCK)
        # Two blocks of zeros end an archive, and some end without.
        if not first and not block.strip(b"\0"):
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        first = False
        if header.size < 0:
            raise UnsafeArchiveError("a size is negative")
        extended_in_a_row += 1
        if extended_in_a_row > _EXTENDED_IN_A_ROW:
            raise UnsafeArchiveError("it has many extended headers for one member")
        if header.type in (*_EXTENDED, tarfile.XGLTYPE):
            records = _pax_records(_extended(stream, header))
            if header.type == tarfile.XGLTYPE:
                for_all |= {key: value for key, value in records.items() if key == "mtime"}
            else:
                for_next |= records
            continue
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            key = "path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
            for_next[key] = _extended(stream, header).partition(b"\0")[0].decode("utf-8", "surrogateescape")
            continue
        extended = {**for_all, **for_next}
        for_next = {}
        extended_in_a_row = 0
        size = int(extended["size"]) if "size" in extended else header.size
        content = _TarContent(stream, size if header.type in _FILES else 0)
        yield _member(header, extended, content)
        content.skip()


def _extended(stream: CountedStream, header: tarfile.TarInfo) -> bytes:
    """The content of an extended header, without its padding."""
    if header.size > _EXTENDED_LIMIT:
        raise UnsafeArchiveError(f"an extended header has {header.size} bytes")
    return stream.exactly(header.size + -header.size % _BLOCK)[: header.size]


def _pax_records(content: bytes) -> dict[str, str]:
    """The records of an extended header (POSIX, "pax Extended Header"): LENGTH KEY=VALUE and a line end each."""
    records = {}
    position = 0
    while position < len(content):
        match = _PAX_RECORD.match(content, position)
        end = position + int(match[1]) if match else 0
        if not match or end <= match.end() or content[end - 1 : end] != b"\n":
            raise UnsafeArchiveError("an extended header is damaged")
        key = match[2].decode("utf-8", "replace")
        if key.startswith("GNU.sparse."):
            raise UnsafeArchiveError("it has a sparse file")
        if key in ("path", "linkpath", "size", "mtime"):
            records[key] = content[match.end() : end - 1].decode("utf-8", "surrogateescape")
        position = end
    if not re.fullmatch("[0-9]{1,15}", records.get("size", "0")):
        raise UnsafeArchiveError("an extended header has a size that is none")
    return records


def _member(header: tarfile.TarInfo, extended: Mapping[str, str], content: _TarContent) -> Member:
    name = extended.get("path", header.name)
    date: float = header.mtime
    if "mtime" in extended:
        if not _PAX_DATE.fullmatch(extended["mtime"]):
            raise UnsafeArchiveError("an extended header has a date that is none")
        date = float(extended["mtime"])
    target = extended.get("linkpath", header.linkname)
    if header.type in _FILES:
        mode = header.mode & 0o755 | 0o600
        if not mode & 0o100:  # as the filter "data": who owns a file may do all that others may
            mode &= ~0o011
        return Member(name, "file", date, mode, content)
    if header.type == tarfile.DIRTYPE:
        return Member(name, "folder", date)
    if header.type == tarfile.SYMTYPE:
        return Member(name, "symbolic link", date, target=target)
    if header.type == tarfile.LNKTYPE:
        return Member(name, "hard link", date, target=target)
    raise UnsafeArchiveError(f"{shown(name)} is neither a file, a folder nor a link")
