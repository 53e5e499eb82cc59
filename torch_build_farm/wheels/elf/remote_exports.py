"""What the libraries of a remote wheel export, read from a few of their bytes.

A large library of torch has some 100 MB compressed. Its symbols (.dynsym) are near its start; their names and hashes
are at its end, where patchelf puts them. So only both ends are read: 11 to 16 MB of a release's libraries, in 37 to 46
requests and 5 to 10 s (torch 2.12 to 2.15), where they have 494 to 526 MB compressed. Every name has to agree with
the library's own hash table. Where one does not, more is read, and in the end the whole library with its CRC.

Nothing confirms the few bytes of .dynamic (DT_NEEDED, DT_SONAME) and the types and sizes of symbols, unless the library
is read whole: for them the connection (TLS) has to be trusted.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from zipfile import ZipInfo

from torch_build_farm.core.remote_wheel import RemoteWheel
from torch_build_farm.wheels.elf import partial
from torch_build_farm.wheels.elf.deflate import resync
from torch_build_farm.wheels.elf.dynamic_search import DynamicSearch
from torch_build_farm.wheels.elf.headers import ElfError, Headers, Segment
from torch_build_farm.wheels.elf.partial import Exported, Missing, Parts

_HEAD = 16 << 10  # bytes of a library with its program headers
_START = 64 << 20  # bytes of a library's start that are held in memory at most
_MOST_KEPT = 256 << 20  # bytes of a library that are kept while it is read whole
_PASSES = 5  # through a whole library; torch's take one
_START_OF_ANY = 1 << 20  # bytes of a library whose headers are not known yet
_AROUND = 4 << 20  # bytes around what a pass lacked that the next pass keeps too
_STORED_READS = 16  # places of a stored library that are read one after another
_THREADS = 4  # requests at once: most of the time passes waiting for answers

_LIBRARIES = re.compile(r"(torch/lib|torch\.libs)/[^/]+\.so(\.[^/]*)?|torch/_C[^/]*\.so")
_OF_PYTHON = re.compile(r"torch/lib/libtorch_python\.so|torch/_C[^/]*\.so")


@dataclass(frozen=True)
class Limits:
    """Compressed bytes of a library that decide how it is read."""

    whole: int = 3 << 19
    """A library up to this size is read whole: its parts would be nearly as many bytes."""

    near: int = 3 << 20
    """From .dynamic to the end: up to this it costs less to read all of it than to search."""

    tail: int = 16 << 20
    """Of the end, before the whole library is read instead."""


DEFAULT_LIMITS = Limits()


class _Start:
    """A deflated member from its first byte on, inflated as far as needed."""

    def __init__(self, wheel: RemoteWheel, member: ZipInfo) -> None:
        self._wheel, self._member = wheel, member
        self._inflater = zlib.decompressobj(-15)
        self.data = bytearray()
        self.compressed_read = 0  # bytes

    def inflate_to(self, end: int) -> None:
        """Inflate at least `end` bytes. Raises ElfError where that is not possible."""
        while len(self.data) < end:
            estimate = max(_HEAD, int((end - len(self.data)) * 0.45))  # .dynsym deflates to some 40%
            start = self.compressed_read
            packed = self._wheel.raw(self._member.filename, start, start + estimate)
            self.compressed_read += len(packed)
            try:
                # In pieces, since a damaged stream may inflate to a thousand times its size.
                while packed and len(self.data) < _START:
                    self.data += self._inflater.decompress(packed, 1 << 20)
                    packed = self._inflater.unconsumed_tail
            except zlib.error as error:
                raise ElfError(f"it does not inflate: {error}") from None
            exhausted = packed or self.compressed_read >= self._member.compress_size
            if len(self.data) < end and exhausted:
                raise ElfError("it ends too early")


class _Ends:
    """A deflated library: both its ends, and .dynamic, which is between them."""

    def __init__(self, wheel: RemoteWheel, member: ZipInfo, limits: Limits) -> None:
        self._wheel, self._member, self._limits = wheel, member, limits
        self._start = _Start(wheel, member)
        self._compressed_tail = b""
        self._tail, self._tail_start = (b"", b""), member.file_size  # inflated twice, see deflate.Inflated
        self._dynamic, self._searched = b"", False

    def exported(self) -> Exported:
        """Raises Missing or ElfError where the ends are not enough."""
        self._start.inflate_to(min(_HEAD, self._member.file_size))
        section_headers = self._parts().headers().section_headers
        # What is behind the section headers, names and hashes, deflates to about a fifth.
        self._grow_tail((128 << 10) + (self._member.file_size - section_headers) // 5)
        while True:
            try:
                return partial.exported(self._parts())
            except Missing as missing:
                self._supply(missing)

    def _parts(self) -> Parts:
        parts = Parts(self._member.file_size)
        # The first part that has some bytes gives them, and the start is known for sure.
        parts.add(0, bytes(self._start.data))
        parts.add(self._tail_start, *self._tail)
        if self._dynamic:
            parts.add(parts.headers().dynamic.offset, self._dynamic)
        return parts

    def _supply(self, missing: Missing) -> None:
        """Read what is missing, from the end that is nearer to it. Raises `missing` where neither end has it."""
        dynamic = self._parts().headers().dynamic
        nearer_to_start = missing.end <= min(self._member.file_size - missing.start, _START)
        # .dynamic is far from both ends. A second search would find the same.
        if missing.start == dynamic.offset and not self._searched:
            self._find_dynamic(dynamic)
        elif nearer_to_start:
            # Reading on would not help: the start has these bytes already.
            if missing.end <= len(self._start.data):
                raise missing
            self._start.inflate_to(missing.end)
        else:
            self._grow_tail(len(self._compressed_tail) * 5 // 4)

    def _find_dynamic(self, dynamic: Segment) -> None:
        """Read .dynamic: with the tail where it is near, else by a search.

        Between its segment and the section headers are the bulky sections that only linkers read.
        """
        headers = self._parts().headers()
        section_headers = headers.section_headers
        ends = [segment.offset + segment.size for segment in headers.loaded]
        loaded_end = max((end for end in ends if end <= section_headers), default=section_headers)
        bulk = section_headers - loaded_end
        tail_size = len(self._compressed_tail)
        near = tail_size + bulk // 5  # with .debug_info; without it, it deflates to 1/8
        self._searched = True
        if near <= self._limits.near:
            self._grow_tail(max(near, tail_size * 3 // 2))
        else:
            path, compressed = self._member.filename, self._member.compress_size
            search = DynamicSearch(lambda start, end: self._wheel.raw(path, start, end), dynamic)
            self._dynamic = search.find(self._start.compressed_read, compressed - tail_size, bulk) or b""

    def _grow_tail(self, size: int) -> None:
        """Read at least `size` compressed bytes of the end, and as many as it takes to find a block's start."""
        compressed = self._member.compress_size
        while True:
            size = min(size, compressed)
            have = len(self._compressed_tail)
            # Nothing is left to read, or so much that the whole library is the better choice.
            if size <= have or size > self._limits.tail:
                raise Missing(0, self._tail_start)
            more = self._wheel.raw(self._member.filename, compressed - size, compressed - have)
            self._compressed_tail = more + self._compressed_tail
            inflated = resync(self._compressed_tail, to_end=True, whole=size == compressed)
            if inflated:
                self._tail = (inflated.data, inflated.other)
                self._tail_start = self._member.file_size - len(inflated.data)
                return
            size *= 2


def _stored(wheel: RemoteWheel, member: ZipInfo) -> Exported:
    """What a library exports that is not compressed: each part is read where it stands."""
    parts = Parts(member.file_size)
    parts.add(0, wheel.raw(member.filename, 0, _HEAD))
    for _ in range(_STORED_READS):
        try:
            return partial.exported(parts)
        except Missing as missing:
            # At least 16 KiB: what is missing next is mostly near, and a request costs more than the bytes.
            end = min(member.file_size, max(missing.end, missing.start + _HEAD))
            parts.add(missing.start, wheel.raw(member.filename, missing.start, end))
    raise ElfError("it refers to too many places")


def _read_ranges(wheel: RemoteWheel, member: ZipInfo, ranges: Iterable[tuple[int, int]]) -> Parts:
    """Read the whole library and keep these byte ranges. Raises PackageIndexError where its CRC is wrong."""
    buffers = [(start, end, bytearray()) for start, end in ranges]
    position = 0
    for chunk in wheel.chunks(member.filename):
        for start, end, buffer in buffers:
            buffer.extend(chunk[max(0, start - position) : max(0, end - position)])
        position += len(chunk)
    parts = Parts(member.file_size)
    for start, _, buffer in buffers:
        parts.add(start, bytes(buffer))
    return parts


def _ranges_to_keep(headers: Headers) -> list[tuple[int, int]]:
    """The byte ranges worth keeping of a library with these headers: its first segment, .dynamic, and all after it."""
    dynamic = headers.dynamic
    ranges = []
    for segment in [dynamic, *headers.loaded]:
        # In between are code and data, most of the library.
        if segment == dynamic or segment.offset == 0 or segment.offset > dynamic.offset:
            ranges.append((segment.offset, segment.offset + min(segment.size, _START)))
    if sum(end - start for start, end in ranges) > _MOST_KEPT:
        raise ElfError("its segments behind the code are larger than any library's")
    return ranges


def _streamed(wheel: RemoteWheel, member: ZipInfo) -> Exported:
    """What a library exports, read whole; only small parts of it are ever in memory."""
    start, ranges = _Start(wheel, member), [(0, _START_OF_ANY)]
    added: list[tuple[int, int]] = []
    try:
        start.inflate_to(min(_HEAD, member.file_size))
        head = Parts(member.file_size)
        head.add(0, bytes(start.data))
        ranges = _ranges_to_keep(head.headers())
    except Missing as missing:
        # Where there was no room for another segment, patchelf has moved the program headers: in libtorch_cuda.so of
        # 2.15.0 for arm64 to 400 MiB from the start.
        added.append(_around(missing, member))
        ranges += added
    except ElfError:
        pass  # if the start was damaged on its way here, the first pass reads the headers again
    for _ in range(_PASSES):
        parts = _read_ranges(wheel, member, ranges)
        try:
            return partial.exported(parts)
        except Missing as missing:
            added.append(_around(missing, member))
            ranges = [*_ranges_known(parts), *added]
    raise ElfError("it refers to too many places")


def _around(missing: Missing, member: ZipInfo) -> tuple[int, int]:
    """What was missing and more around it, since only the next pass shows what else is needed there."""
    return max(0, missing.start - _AROUND), min(member.file_size, missing.end + _AROUND)


def _ranges_known(parts: Parts) -> list[tuple[int, int]]:
    """The byte ranges worth keeping of a library, as far as these parts have its headers."""
    try:
        return _ranges_to_keep(parts.headers())
    except Missing:
        return [(0, _START_OF_ANY)]


def _whole(content: bytes) -> Exported:
    parts = Parts(len(content))
    parts.add(0, content)
    return partial.exported(parts)


def _is_small(member: ZipInfo, limits: Limits) -> bool:
    return member.compress_size <= limits.whole and member.file_size <= _START


def _by_parts(wheel: RemoteWheel, member: ZipInfo, limits: Limits) -> Exported:
    """Read both ends of a library, or all of it where they are not enough."""
    try:
        if member.compress_type == zipfile.ZIP_STORED:
            return _stored(wheel, member)
        return _Ends(wheel, member, limits).exported()
    except (Missing, ElfError):
        return _streamed(wheel, member)


def exported(wheel: RemoteWheel, path: str, limits: Limits = DEFAULT_LIMITS) -> Exported:
    """What a library in the wheel exports.

    Raises PackageIndexError for a file that cannot be read, is not a library, or whose names and hash table disagree.
    """
    member = wheel.member(path)
    try:
        return _whole(wheel.read(path)) if _is_small(member, limits) else _by_parts(wheel, member, limits)
    except (Missing, ElfError) as error:
        raise wheel.error(f"{path}: {error}") from None


def _all_small(wheel: RemoteWheel, members: Iterable[ZipInfo]) -> dict[str, Exported]:
    """What small libraries export, by path; neighbours share a request."""
    libraries = {}
    for path, content in wheel.read_many(member.filename for member in members).items():
        try:
            libraries[path] = _whole(content)
        except (Missing, ElfError) as error:
            raise wheel.error(f"{path}: {error}") from None
    return libraries


def torch_libraries(
    wheel: RemoteWheel, *, of_python: bool = False, limits: Limits = DEFAULT_LIMITS
) -> dict[str, Exported]:
    """What torch's own libraries in the wheel export, by path.

    `of_python`: only the libraries that depend on the wheel's CPython. The others are alike in all wheels of one
    release, except for names with a hash of nvcc's (5,000 of libtorch_cuda.so in 2.6 and 2.7, 4 of libtorch_nvshmem.so)
    and, in 2.15.0, five names of libtorch_cuda.so in the wheel for cp315t. Raises PackageIndexError as `exported` does.
    """
    pattern = _OF_PYTHON if of_python else _LIBRARIES
    small: list[ZipInfo] = []
    large: list[ZipInfo] = []
    for path, member in sorted(wheel.members.items()):
        if pattern.fullmatch(path):
            (small if _is_small(member, limits) else large).append(member)
    with ThreadPoolExecutor(_THREADS) as pool:
        # The largest takes longest, so it starts first.
        futures = {}
        for member in sorted(large, key=lambda member: -member.compress_size):
            futures[member.filename] = pool.submit(exported, wheel, member.filename, limits)
        libraries = _all_small(wheel, small)
        for path, future in futures.items():
            libraries[path] = future.result()
    return dict(sorted(libraries.items()))
