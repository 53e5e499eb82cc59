"""What the libraries of a remote wheel export, from a few of their bytes.

A library of torch is some 100 MB compressed, and its symbols (.dynsym) are near its start, their names and hashes at
its end, where patchelf put them. So only both ends are read. Every name has to agree with the library's own hash table,
and where it does not, more is read, and at last the whole library with its CRC.

Not confirmed by anything but themselves are the few bytes of .dynamic (DT_NEEDED, DT_SONAME) and the types and sizes of
symbols, unless the library was read whole: there the connection (TLS) has to be trusted.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from torch_build_farm.core.remote_wheel import Member, RemoteWheel
from torch_build_farm.wheels.elf import partial
from torch_build_farm.wheels.elf.deflate import resync
from torch_build_farm.wheels.elf.dynamic_search import Hunt
from torch_build_farm.wheels.elf.partial import Exported, Missing, Parts, WrongError

_WHOLE = 3 << 19  # compressed bytes of a library that is read whole: its parts would be nearly as many
_HEAD = 16 << 10  # bytes of a library with its program headers
_START = 64 << 20  # bytes of a library's start that are held in memory at most
_TAIL = 16 << 20  # compressed bytes of a library's end that are read before all of it is
_NEAR = 3 << 20  # compressed bytes between .dynamic and the end that are cheaper read than searched
_PASSES = 5  # through a whole library; one does for torch's
_AROUND = 4 << 20  # bytes around what was missing in a pass that may be missing next
_THREADS = 4  # requests at once: most of the time goes into waiting for answers

_LIBRARIES = re.compile(r"torch/lib/[^/]+\.so(\.[^/]*)?|torch/_C[^/]*\.so")
_OF_PYTHON = re.compile(r"torch/lib/libtorch_python\.so|torch/_C[^/]*\.so")


class _Start:
    """A deflated member from its first byte on, inflated as far as asked for."""

    def __init__(self, wheel: RemoteWheel, member: Member) -> None:
        self._wheel, self._member = wheel, member
        self._inflater = zlib.decompressobj(-15)
        self.data = bytearray()
        self.read = 0  # compressed bytes

    def until(self, end: int) -> None:
        """Raises WrongError where that is not possible."""
        while len(self.data) < end:
            more = max(_HEAD, int((end - len(self.data)) * 0.45))  # .dynsym deflates to some 40%
            packed = self._wheel.raw(self._member.path, self.read, self.read + more)
            self.read += len(packed)
            try:
                while packed and len(self.data) < _START:
                    self.data += self._inflater.decompress(packed, 1 << 20)
                    packed = self._inflater.unconsumed_tail
            except zlib.error as error:
                raise WrongError(f"it does not inflate: {error}") from None
            if len(self.data) < end and (packed or self.read >= self._member.compressed):
                raise WrongError("it ends too early")


class _Ends:
    """A deflated library, both ends of it, and .dynamic."""

    def __init__(self, wheel: RemoteWheel, member: Member) -> None:
        self._wheel, self._member = wheel, member
        self._start = _Start(wheel, member)
        self._end, self._tail_at = b"", member.size  # compressed bytes of the end; where what they hold starts
        self._tail = (b"", b"")
        self._dynamic, self._hunted = b"", False

    def exported(self) -> Exported:
        """Raises Missing or WrongError where this way leads nowhere."""
        self._start.until(min(_HEAD, self._member.size))
        first = partial.section_headers(self._parts())
        self._grow_tail((128 << 10) + (self._member.size - first) // 5)
        while True:
            try:
                return partial.exported(self._parts())
            except Missing as missing:
                self._fill(missing)

    def _parts(self) -> Parts:
        parts = Parts(self._member.size)
        parts.add(0, bytes(self._start.data))
        parts.add(self._tail_at, *self._tail)
        if self._dynamic:
            parts.add(partial.dynamic_segment(partial.segments(parts)).offset, self._dynamic)
        return parts

    def _fill(self, missing: Missing) -> None:
        dynamic = partial.dynamic_segment(partial.segments(self._parts()))
        if missing.start == dynamic.offset and not self._hunted:
            self._find(dynamic)
        elif missing.end <= min(self._member.size - missing.start, _START):  # nearer to the start
            if missing.end <= len(self._start.data):
                raise missing
            self._start.until(missing.end)
        else:
            self._grow_tail(len(self._end) * 5 // 4)

    def _find(self, dynamic: partial.Segment) -> None:
        """Between the segment that has .dynamic, and the section headers, are the bulky sections for linkers."""
        parts = self._parts()
        last = partial.section_headers(parts)
        segments = partial.loaded(partial.segments(parts))
        ends = (segment.offset + segment.size for segment in segments)
        first = max((end for end in ends if end <= last), default=last)
        near = len(self._end) + (last - first) // 5  # with .debug_info; without it is 1/8
        self._hunted = True
        if near <= _NEAR:
            self._grow_tail(max(near, len(self._end) * 3 // 2))
        else:
            path, compressed = self._member.path, self._member.compressed
            hunt = Hunt(lambda start, end: self._wheel.raw(path, start, end), dynamic)
            self._dynamic = hunt.find(self._start.read, compressed - len(self._end), last - first) or b""

    def _grow_tail(self, size: int) -> None:
        """At least `size` compressed bytes of the end, and as many as it takes to find a block's start."""
        compressed = self._member.compressed
        while True:
            size = min(size, compressed)
            if size <= len(self._end) or size > _TAIL:
                raise Missing(0, self._tail_at)
            self._end = self._wheel.raw(self._member.path, compressed - size, compressed - len(self._end)) + self._end
            if found := resync(self._end, to_end=True, whole=size == compressed):
                self._tail = (found.data, found.other)
                self._tail_at = self._member.size - len(found.data)
                return
            size *= 2


def _stored(wheel: RemoteWheel, member: Member) -> Exported:
    """A library that is not compressed: what it takes is where it stands."""
    parts = Parts(member.size)
    parts.add(0, wheel.raw(member.path, 0, _HEAD))
    for _ in range(16):
        try:
            return partial.exported(parts)
        except Missing as missing:
            end = min(member.size, max(missing.end, missing.start + _HEAD))
            parts.add(missing.start, wheel.raw(member.path, missing.start, end))
    raise WrongError("it refers to too many places")


def _kept(wheel: RemoteWheel, member: Member, wanted: Iterable[tuple[int, int]]) -> Parts:
    """Read the whole library, and keep what is wanted of it. Raises PackageIndexError where its CRC is wrong."""
    kept = [(start, end, bytearray()) for start, end in wanted]
    at = 0
    for piece in wheel.chunks(member.path):
        for start, end, data in kept:
            data.extend(piece[max(0, start - at) : max(0, end - at)])
        at += len(piece)
    parts = Parts(member.size)
    for start, _, data in kept:
        parts.add(start, bytes(data))
    return parts


def _wanted(headers: list[partial.Segment]) -> list[tuple[int, int]]:
    """What is worth to be kept of a library with these program headers: its first segment, .dynamic, and all after."""
    dynamic = partial.dynamic_segment(headers)
    chosen = [dynamic, *(part for part in partial.loaded(headers) if not 0 < part.offset <= dynamic.offset)]
    return [(part.offset, part.offset + min(part.size, _START)) for part in chosen]


def _streamed(wheel: RemoteWheel, member: Member) -> Exported:
    """What the whole library exports, of which only small parts are ever in memory."""
    start, parts, wanted = _Start(wheel, member), Parts(member.size), [(0, 1 << 20)]
    try:
        start.until(min(_HEAD, member.size))
        parts.add(0, bytes(start.data))
        wanted = _wanted(partial.segments(parts))
    except (Missing, WrongError):
        pass  # if the start was damaged on its way here, the headers are read again
    added: list[tuple[int, int]] = []
    for _ in range(_PASSES):
        parts = _kept(wheel, member, wanted)
        try:
            return partial.exported(parts)
        except Missing as missing:
            more = (max(0, missing.start - _AROUND), min(member.size, missing.end + _AROUND))
            added = [*added, more]
            wanted = [*_wanted(partial.segments(parts)), *added]
    raise WrongError("it refers to too many places")


def _whole(content: bytes) -> Exported:
    parts = Parts(len(content))
    parts.add(0, content)
    return partial.exported(parts)


def _is_small(member: Member) -> bool:
    return member.compressed <= _WHOLE and member.size <= _START


def _by_parts(wheel: RemoteWheel, member: Member) -> Exported:
    """Both ends of a library, or all of it where they do not do."""
    try:
        return _stored(wheel, member) if member.method == zipfile.ZIP_STORED else _Ends(wheel, member).exported()
    except (Missing, WrongError):
        return _streamed(wheel, member)


def exported(wheel: RemoteWheel, path: str) -> Exported:
    """What a library in the wheel exports.

    Raises PackageIndexError where it cannot be read, is none, or exports other names than its hash table has.
    """
    member = wheel.member(path)
    try:
        return _whole(wheel.read(path)) if _is_small(member) else _by_parts(wheel, member)
    except (Missing, WrongError) as error:
        raise wheel.error(f"{path}: {error}") from None


def torch_libraries(wheel: RemoteWheel, *, of_python: bool = False) -> dict[str, Exported]:
    """What torch's own libraries in the wheel export, by path.

    `of_python`: only those that depend on the CPython that the wheel is for. The others are alike in all wheels of one
    release but for names with a hash of nvcc's (5,000 of libtorch_cuda.so in 2.6 and 2.7, 4 of libtorch_nvshmem.so),
    and in 2.15.0 for five of libtorch_cuda.so, cp315t. Raises PackageIndexError as `exported` does.
    """
    wanted = _OF_PYTHON if of_python else _LIBRARIES
    members = [member for path, member in sorted(wheel.members.items()) if wanted.fullmatch(path)]
    small = [member for member in members if _is_small(member)]

    def together() -> dict[str, Exported]:
        contents = wheel.read_many(member.path for member in small)
        found = {}
        for path, content in contents.items():
            try:
                found[path] = _whole(content)
            except (Missing, WrongError) as error:
                raise wheel.error(f"{path}: {error}") from None
        return found

    large = sorted((member for member in members if member not in small), key=lambda member: -member.compressed)
    with ThreadPoolExecutor(_THREADS) as pool:
        others = [(member.path, pool.submit(exported, wheel, member.path)) for member in large]
        found = together()
        found.update((path, future.result()) for path, future in others)
    return dict(sorted(found.items()))
