"""What linkers use and the symbol index leaves out: each exported name's kind, which is its type, binding and size.

The second file beside a table of names, in the order of that table, since only link stubs use it. Most names have one
kind in all releases, and the size of many follows from the name. So the file is small: each different row of kinds is
stored once, and each name has the number of its row.

The file is LZMA-compressed: two 32-bit numbers, which are the header's size in bytes and the count of names; the header
in JSON; then the row numbers, all low bytes first, then all middle bytes, then all high bytes. A row is a list of runs
[type, binding, size, count]: so many of the libraries that export the name, in the order of the table's units, have it
with that kind. The shipped file has 901 rows for 175,000 names, in 15 kB.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from torch_build_farm.releases.symbol_table import FILTER, StoredTable, SymbolTable, Unit
from torch_build_farm.wheels.elf.symbol import Kind

_SCHEMA = 1
_SIZES = struct.Struct("<2I")  # of the header in bytes, of the names
_TYPE_NAME = "_ZTS"  # a typeinfo's name: as long as the rest of its symbol, and a NUL (Itanium C++ ABI 2.9.5)
_IMPLIED_SIZE = -1  # the size that follows from the name

Run = list[int]  # type, binding, size, count


def _size_of_type_name(name: str) -> int:
    """Bytes of a typeinfo's name, which a `_ZTS` symbol is."""
    return len(name) - len(_TYPE_NAME) + 1


def _without_implied_size(name: str, kind: Kind) -> Kind:
    """The kind as a row has it, so that all names of typeinfos share a few rows."""
    if name.startswith(_TYPE_NAME) and kind.size == _size_of_type_name(name):
        return kind._replace(size=_IMPLIED_SIZE)
    return kind


def _with_implied_size(name: str, kind: Kind) -> Kind:
    """The kind of a name, whose row may leave out the size."""
    return kind._replace(size=_size_of_type_name(name)) if kind.size == _IMPLIED_SIZE else kind


def _units_of_releases(mask: int, units: Sequence[Unit]) -> list[int]:
    """The numbers of the mask's units that belong to a release; no stubs are made of the system's libraries."""
    numbers = []
    for number, unit in enumerate(units):
        if mask >> number & 1 and unit.release:
            numbers.append(number)
    return numbers


def _kind_in_column(row: list[Run], column: int) -> Kind:
    """The kind that the library in a column has. Raises ValueError for a row that is too short."""
    for kind, binding, size, count in row:
        if column < count:
            return Kind(kind, binding, size)
        column -= count
    raise ValueError("a name has fewer kinds than libraries that export it")


def to_bytes(
    table: SymbolTable, kinds: Mapping[Unit, Mapping[str, Kind]], wheels: Mapping[str, Mapping[str, str]]
) -> bytes:
    """The content of the file that belongs to the table's; the same bytes for the same arguments.

    `kinds` has each unit's names. `wheels` has by release the SHA-256 of its wheels by their CPython's tag, as the
    package index states them.
    """
    row_numbers: dict[str, int] = {}  # by the row as JSON, in the order in which they first occur
    numbers = []
    for mask, names in table.groups.items():
        kinds_of_units = [kinds[table.units[number]] for number in _units_of_releases(mask, table.units)]
        for name in names:
            columns = [_without_implied_size(name, kinds_of_unit[name]) for kinds_of_unit in kinds_of_units]
            # Most names are exported by one library, and have one kind in all its releases: one run.
            row: list[Run] = []
            for kind, equal_kinds in groupby(columns):
                row.append([*kind, len(list(equal_kinds))])
            numbers.append(row_numbers.setdefault(json.dumps(row), len(row_numbers)))

    header = {
        "schema": _SCHEMA,
        "of": hashlib.sha256(table.to_bytes()).hexdigest(),
        "wheels": {release: dict(sorted(wheels[release].items())) for release in sorted(wheels)},
        "rows": list(map(json.loads, row_numbers)),
    }
    header_text = json.dumps(header, separators=(",", ":")).encode()
    content = _SIZES.pack(len(header_text), len(numbers)) + header_text
    # Three bytes are enough for 16 million different rows.
    for shift in (0, 8, 16):
        content += bytes(number >> shift & 255 for number in numbers)
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=FILTER)


@dataclass(frozen=True)
class SymbolKinds:
    """A file of kinds as it was read.

    `wheels` are those that the names were read from: by release, their SHA-256 by CPython tag. `numbers` has the row of
    each name, in the order of the table's names.
    """

    wheels: Mapping[str, Mapping[str, str]]
    rows: Sequence[list[Run]]
    numbers: Sequence[int]

    @classmethod
    def from_bytes(cls, content: bytes, table_content: bytes) -> Self:
        """The kinds in a file's content; `table_content` is that of the table's file.

        Raises ValueError where the two do not belong together, KeyError, struct.error or lzma.LZMAError for content of
        another kind.
        """
        data = lzma.decompress(content)
        header_size, count = _SIZES.unpack_from(data)
        start = _SIZES.size + header_size
        header = json.loads(data[_SIZES.size : start])
        # A name's kind is found by the name's position in the table, so both files have to be of one making.
        if header["schema"] != _SCHEMA or header["of"] != hashlib.sha256(table_content).hexdigest():
            raise ValueError("the kinds are not those of these names")
        low_bytes = data[start : start + count]
        middle_bytes = data[start + count : start + 2 * count]
        high_bytes = data[start + 2 * count : start + 3 * count]
        numbers = []
        for low, middle, high in zip(low_bytes, middle_bytes, high_bytes, strict=True):
            numbers.append(low | middle << 8 | high << 16)
        return cls(header["wheels"], header["rows"], numbers)

    def of_units(self, table: StoredTable, units: Iterable[Unit]) -> dict[Unit, dict[str, Kind]]:
        """The names of each of the units with their kinds; `table` is the one that the file belongs to.

        Raises ValueError for a unit that the table does not have.
        """
        kinds: dict[Unit, dict[str, Kind]] = {unit: {} for unit in units}
        unit_numbers = {table.units.index(unit): unit for unit in kinds}
        row_numbers = iter(self.numbers)
        for block in table.blocks:
            mask, _, lines = block.partition("\n")
            # A row has a column for each unit that exports the name, also for those that nobody asks about here.
            columns = []
            for column, number in enumerate(_units_of_releases(int(mask, 16), table.units)):
                if number in unit_numbers:
                    columns.append((column, kinds[unit_numbers[number]]))
            for name in lines.split("\n"):
                row = self.rows[next(row_numbers)]
                for column, kinds_of_unit in columns:
                    kinds_of_unit[name] = _with_implied_size(name, _kind_in_column(row, column))
        return kinds
