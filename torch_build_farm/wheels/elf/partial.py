"""What an ELF library exports, of which only parts are there: the loader's view, from its dynamic segment on.

Sections are for linkers and may be stripped; the loader goes by PT_DYNAMIC, and so does this (gABI, "Dynamic Linking").
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch_build_farm.wheels.elf.gnu_hash import HashTable, gnu_table, sysv_table

NULL, NEEDED, HASH, STRTAB, SYMTAB, STRSZ, SONAME = 0, 1, 4, 5, 6, 10, 14  # tags of .dynamic
GNU_HASH = 0x6FFFFEF5
_LOAD, _DYNAMIC = 1, 2  # types of segments
_SYMBOL = struct.Struct("<IBBHQQ")  # st_name, st_info, st_other, st_shndx, st_value, st_size
_ERRORS = "surrogateescape"  # names may be any bytes; all of torch's are ASCII
_LOCAL, _DEFAULT, _PROTECTED = 0, 0, 3


class Missing(Exception):  # noqa: N818 (a request)
    """Bytes `start` to before `end` of the library are wanted: they are not there, or not known for sure."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(f"bytes {start} to {end}")
        self.start, self.end = start, end


class WrongError(ValueError):
    """The library contradicts itself, or is none."""


class Symbol(NamedTuple):
    """A symbol that others may bind to. `kind` and `binding` are STT_ and STB_ numbers; `size` in bytes."""

    name: str
    kind: int
    binding: int
    size: int


@dataclass(frozen=True)
class Exported:
    """What the loader knows of a library: its DT_SONAME (may be empty), its DT_NEEDED, and what it exports.

    One symbol stands here once for each of its versions, without them.
    """

    soname: str
    needed: tuple[str, ...]
    symbols: tuple[Symbol, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(symbol.name for symbol in self.symbols)


class Segment(NamedTuple):
    """A program header: type, and in bytes the offset in the file, the address and the size in the file."""

    kind: int
    offset: int
    address: int
    size: int


class Parts:
    """Parts of a file of `size` bytes. A part inflated twice says by its differences which bytes are not known."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[tuple[int, bytes, bytes]] = []

    def add(self, offset: int, data: bytes, other: bytes = b"") -> None:
        """`data` stand at `offset`; `other`, if given, is what the second inflation made of them."""
        self._parts.append((offset, data, other or data))

    def both(self, offset: int, size: int) -> tuple[bytes, bytes]:
        """The bytes as each inflation has them; alike where they are known. Raises Missing where they are not there."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise WrongError(f"it refers to bytes {offset} to {offset + size} of {self.size}")
        for start, data, other in self._parts:
            at = offset - start
            if at >= 0 and at + size <= len(data):
                return data[at : at + size], other[at : at + size]
        raise Missing(offset, offset + size)

    def read(self, offset: int, size: int) -> bytes:
        """Raises Missing where the bytes are not all known, WrongError where they are not in the file."""
        data, other = self.both(offset, size)
        if data != other:
            raise Missing(offset, offset + size)
        return data


def segments(parts: Parts) -> list[Segment]:
    """The program headers. Raises WrongError for anything but a 64-bit little-endian ELF file."""
    header = parts.read(0, min(64, parts.size))
    if header[:6] != b"\x7fELF\2\1" or len(header) < 64:
        raise WrongError("it is no 64-bit little-endian ELF file")
    offset, (size, count) = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<2H", header, 54)
    found = []
    for index in range(count):
        kind, _, at, address, _, in_file = struct.unpack("<2I4Q", parts.read(offset + size * index, 40))
        found.append(Segment(kind, at, address, in_file))
    return found


def section_headers(parts: Parts) -> int:
    """Offset of the section headers: after what the linker wrote, before what patchelf appends; 0 if stripped."""
    return int(struct.unpack_from("<Q", parts.read(0, 64), 40)[0])


def dynamic_segment(headers: Sequence[Segment]) -> Segment:
    """PT_DYNAMIC. Raises WrongError where there is none."""
    for segment in headers:
        if segment.kind == _DYNAMIC:
            return segment
    raise WrongError("it is no shared library: it has no dynamic segment")


def loaded(headers: Iterable[Segment]) -> list[Segment]:
    """The segments that are in memory later, in the file's order."""
    return sorted((header for header in headers if header.kind == _LOAD), key=lambda header: header.offset)


def entries(table: bytes) -> Iterator[tuple[int, int]]:
    """Tags and values of .dynamic, up to DT_NULL."""
    for tag, value in struct.iter_unpack("<qQ", table[: len(table) // 16 * 16]):
        if tag == NULL:
            return
        yield tag, value


def _offset(headers: Sequence[Segment], address: int) -> int:
    for segment in headers:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return address - segment.address + segment.offset
    raise WrongError(f"its dynamic segment refers to {address:#x}, which is not loaded")


def _hash_table(parts: Parts, headers: Sequence[Segment], tags: Mapping[int, int]) -> HashTable | None:
    try:
        if GNU_HASH in tags:
            return gnu_table(parts.read, _offset(headers, tags[GNU_HASH]))
        if HASH in tags:
            return sysv_table(parts.read, _offset(headers, tags[HASH]))
    except (ValueError, struct.error) as error:
        raise WrongError(str(error)) from None
    return None


def exported(parts: Parts) -> Exported:
    """What the library exports, every name of it confirmed by the table that the loader looks it up in.

    Raises Missing for parts that it takes, and WrongError where names and table do not agree: then the parts are not
    what they were taken for.
    """
    headers = segments(parts)
    dynamic = dynamic_segment(headers)
    pairs = list(entries(parts.read(dynamic.offset, dynamic.size)))
    tags = dict(pairs)
    if not {STRTAB, STRSZ, SYMTAB} <= tags.keys():
        raise WrongError("its dynamic segment names no symbols")
    strings, size = _offset(headers, tags[STRTAB]), tags[STRSZ]
    chosen = [(tag, at) for tag, at in pairs if tag in (NEEDED, SONAME)]
    texts = [name.decode(errors=_ERRORS) for name in _names(parts, [at for _, at in chosen], strings, size)]
    table = _hash_table(parts, headers, tags)
    if table is None:
        raise WrongError("it has no hash table of its symbols")
    symbols = _symbols(parts, table, _offset(headers, tags[SYMTAB]), (strings, size)) if table.count else ()
    named = [(tag, text) for (tag, _), text in zip(chosen, texts, strict=True)]
    return Exported(
        next((text for tag, text in named if tag == SONAME), ""),
        tuple(text for tag, text in named if tag == NEEDED),
        symbols,
    )


def _exports(row: tuple[int, ...]) -> bool:
    """Defined, not local, and of default or protected visibility."""
    return row[3] != 0 and row[1] >> 4 != _LOCAL and row[2] & 3 in (_DEFAULT, _PROTECTED)


def _symbols(parts: Parts, table: HashTable, offset: int, strings: tuple[int, int]) -> tuple[Symbol, ...]:
    rows = list(_SYMBOL.iter_unpack(parts.read(offset, table.count * _SYMBOL.size)))
    if any(map(_exports, rows[: table.first])) or not (table.mixed or all(map(_exports, rows[table.first :]))):
        raise WrongError("its hash table has other symbols than those that it exports")
    chosen = [(index, row) for index, row in enumerate(rows[table.first :]) if _exports(row)]
    names = _names(parts, [row[0] for _, row in chosen], *strings)
    wrong = sum(not table.matches(index, name) for (index, _), name in zip(chosen, names, strict=True))
    if wrong:
        raise WrongError(f"{wrong} of its {len(names)} names are not those of its hash table")
    return tuple(
        Symbol(name.decode(errors=_ERRORS), row[1] & 15, row[1] >> 4, row[5])
        for (_, row), name in zip(chosen, names, strict=True)
    )


def _names(parts: Parts, places: Sequence[int], start: int, size: int) -> list[bytes]:
    """The names at `places` in the table of strings; bytes between them need not be known."""
    if not places:
        return []
    low = min(places)
    if max(places) >= size:
        raise WrongError("a name is outside of the table of strings")
    table, other = parts.both(start + low, size - low)
    known = table == other
    found = []
    for place in places:
        at = place - low
        end = table.find(b"\0", at)
        if end < 0:
            raise WrongError("a name does not end")
        name = table[at:end]
        if not known and other[at : end + 1] != table[at : end + 1]:
            raise Missing(start + place, start + low + end + 1)
        found.append(name)
    return found
