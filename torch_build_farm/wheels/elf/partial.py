"""What an ELF library exports if only parts of it are there: the loader's view, from its dynamic table on."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch_build_farm.wheels.elf.gnu_hash import HashTable, gnu_table, sysv_table
from torch_build_farm.wheels.elf.headers import SYMBOL, ElfError, Headers, Tag, entries, read_headers

_ERRORS = "surrogateescape"  # names may be any bytes; all of torch's are ASCII
_NAMES_OF_SMALL = 1 << 20  # bytes of names that any file may have
_LOCAL = 0  # STB_
_DEFAULT, _PROTECTED = 0, 3  # STV_


class Missing(Exception):  # noqa: N818 (a request)
    """Bytes `start` to before `end` of the library are needed, but are not there or not known for sure."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__(f"bytes {start} to {end}")
        self.start, self.end = start, end


class Symbol(NamedTuple):
    """A symbol that others may bind to. `kind` and `binding` are STT_ and STB_ numbers; `size` in bytes."""

    name: str
    kind: int
    binding: int
    size: int


@dataclass(frozen=True)
class Exported:
    """What the loader knows of a library: its DT_SONAME (may be empty), its DT_NEEDED, and what it exports.

    A symbol with several versions is there once for each of them, without the version.
    """

    soname: str
    needed: tuple[str, ...]
    symbols: tuple[Symbol, ...]

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(symbol.name for symbol in self.symbols)


class Parts:
    """Parts of a file of `size` bytes. Where the two inflations of a part differ, its bytes are not known."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._parts: list[tuple[int, bytes, bytes]] = []

    def add(self, offset: int, data: bytes, other: bytes = b"") -> None:
        """Add `data` at `offset`; `other` is the result of the second inflation, if there was one."""
        self._parts.append((offset, data, other or data))

    def both(self, offset: int, size: int) -> tuple[bytes, bytes]:
        """The bytes as each inflation has them, alike where they are known.

        Raises Missing where they are not there, ElfError where they are not in the file.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ElfError(f"it refers to bytes {offset} to {offset + size} of {self.size}")
        # Parts are not joined: one of them must have all of the bytes.
        for start, data, other in self._parts:
            position = offset - start
            if position >= 0 and position + size <= len(data):
                return data[position : position + size], other[position : position + size]
        raise Missing(offset, offset + size)

    def read(self, offset: int, size: int) -> bytes:
        """Raises Missing where the bytes are not all known, ElfError where they are not in the file."""
        data, other = self.both(offset, size)
        if data != other:
            raise Missing(offset, offset + size)
        return data

    def headers(self) -> Headers:
        """The library's headers. Raises Missing, or ElfError for anything but a 64-bit little-endian ELF file."""
        return read_headers(self.read, self.size)


def _hash_table(parts: Parts, headers: Headers, tags: Mapping[int, int]) -> HashTable:
    try:
        # The loader prefers the GNU table too.
        if Tag.GNU_HASH in tags:
            return gnu_table(parts.read, headers.offset(tags[Tag.GNU_HASH]), parts.size // SYMBOL.size)
        if Tag.HASH in tags:
            return sysv_table(parts.read, headers.offset(tags[Tag.HASH]), parts.size // SYMBOL.size)
    except (ValueError, struct.error) as error:
        raise ElfError(str(error)) from None
    raise ElfError("it has no hash table of its symbols")


def exported(parts: Parts) -> Exported:
    """What the library exports, every name of it confirmed by the table that the loader looks it up in.

    Raises Missing for parts that it takes, and ElfError where names and table disagree: then the parts are not what
    they were taken for.
    """
    headers = parts.headers()
    dynamic = list(entries(parts.read(headers.dynamic.offset, headers.dynamic.size)))
    tags = dict(dynamic)
    if not {Tag.STRTAB, Tag.STRSZ, Tag.SYMTAB} <= tags.keys():
        raise ElfError("its dynamic table names no symbols")
    strings = (headers.offset(tags[Tag.STRTAB]), tags[Tag.STRSZ])
    sonames, needed = [], []
    for tag, position in dynamic:
        if tag == Tag.SONAME:
            sonames.append(position)
        elif tag == Tag.NEEDED:
            needed.append(position)
    library_names = [name.decode(errors=_ERRORS) for name in _names(parts, [*sonames, *needed], *strings)]
    table = _hash_table(parts, headers, tags)
    symbols: tuple[Symbol, ...] = ()
    if table.count:
        symbols = _symbols(parts, table, headers.offset(tags[Tag.SYMTAB]), strings)
    return Exported(
        soname=library_names[0] if sonames else "",
        needed=tuple(library_names[len(sonames) :]),
        symbols=symbols,
    )


def _is_exported(row: tuple[int, ...]) -> bool:
    """Defined, not local, and of default or protected visibility."""
    _name, info, other, section, _value, _size = row
    return section != 0 and info >> 4 != _LOCAL and other & 3 in (_DEFAULT, _PROTECTED)


def _symbols(parts: Parts, table: HashTable, offset: int, strings: tuple[int, int]) -> tuple[Symbol, ...]:
    rows = list(SYMBOL.iter_unpack(parts.read(offset, table.count * SYMBOL.size)))
    unhashed, hashed = rows[: table.first], rows[table.first :]
    exported_rows = []  # with their numbers among the hashed rows
    for number, row in enumerate(hashed):
        if _is_exported(row):
            exported_rows.append((number, row))
    # Linkers put exported symbols behind all others, and the GNU table begins with the first of them.
    all_exported = table.mixed or len(exported_rows) == len(hashed)
    if not all_exported or any(map(_is_exported, unhashed)):
        raise ElfError("its hash table has other symbols than those that it exports")
    names = _names(parts, [row[0] for _, row in exported_rows], *strings)
    symbols = []
    wrong = 0
    for (number, row), name in zip(exported_rows, names, strict=True):
        if not table.matches(number, name):
            wrong += 1
        _name, info, _other, _section, _value, size = row
        symbols.append(Symbol(name.decode(errors=_ERRORS), info & 15, info >> 4, size))
    if wrong:
        raise ElfError(f"{wrong} of its {len(names)} names are not those of its hash table")
    return tuple(symbols)


def _names(parts: Parts, positions: Sequence[int], start: int, size: int) -> list[bytes]:
    """The names at `positions` of the string table at `start`; the bytes between them need not be known."""
    if not positions:
        return []
    # All names at once: one by one, each might be missing, and take a request of its own.
    lowest = min(positions)
    if max(positions) >= size:
        raise ElfError("a name is outside of the table of strings")
    table, other = parts.both(start + lowest, size - lowest)
    all_known = table == other
    names = []
    total = 0
    for position in positions:
        begin = position - lowest
        end = table.find(b"\0", begin)
        if end < 0:
            raise ElfError("a name does not end")
        # A thousand names may be the ends of one long string.
        total += end - begin
        if total > _NAMES_OF_SMALL + 2 * size:
            raise ElfError("its names together are much longer than its table of strings")
        name = table[begin:end]
        # The zero behind the name must be known too, or the name might be longer.
        if not all_known and other[begin : end + 1] != table[begin : end + 1]:
            raise Missing(start + position, start + lowest + end + 1)
        names.append(name)
    return names
