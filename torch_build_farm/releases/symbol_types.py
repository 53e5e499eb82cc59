"""What the symbol index leaves out and a linker goes by: each exported name's type, binding and size.

A second file beside a table of names, in the order of its groups, since only link stubs take it. Most names have one
kind in all releases, and most kinds follow from the name, so that it is small: one row number a name, and the few
different rows once.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch_build_farm.releases.symbol_table import FILTER, Packed, Table, Unit
from torch_build_farm.wheels.elf.symbol import Kind

_SCHEMA = 1
_TYPE_NAME = "_ZTS"  # a typeinfo's name: as long as the rest of its symbol, and a NUL (Itanium C++ ABI 2.9.5)
_AS_NAMED = -1


def _short(name: str, kind: Kind) -> Kind:
    known = name.startswith(_TYPE_NAME) and kind.size == len(name) - len(_TYPE_NAME) + 1
    return kind._replace(size=_AS_NAMED) if known else kind


def _long(name: str, kind: Kind) -> Kind:
    return kind._replace(size=len(name) - len(_TYPE_NAME) + 1) if kind.size == _AS_NAMED else kind


def _places(mask: int, units: tuple[Unit, ...]) -> list[int]:
    """The units of a mask that are a release's: those of the system are nobody's stubs."""
    return [number for number, unit in enumerate(units) if mask >> number & 1 and unit.release]


def _in_column(runs: list[list[int]], column: int) -> Kind:
    for kind, binding, size, count in runs:
        if column < count:
            return Kind(kind, binding, size)
        column -= count
    raise ValueError("a name has fewer kinds than libraries that export it")


def packed(table: Table, kinds: Mapping[Unit, Mapping[str, Kind]], wheels: Mapping[str, Mapping[str, str]]) -> bytes:
    """The file that belongs to the table's; the same bytes for the same content.

    `wheels`: of each release, SHA-256 of its wheels by their CPython's tag, as the package index states them.
    """
    rows: dict[str, int] = {}
    numbers = []
    for mask, names in table.groups.items():
        owners = [kinds[table.units[place]] for place in _places(mask, table.units)]
        for name in names:
            found = [_short(name, owner[name]) for owner in owners]
            runs = [[*kind, sum(1 for _ in same)] for kind, same in groupby(found)]
            numbers.append(rows.setdefault(json.dumps(runs), len(rows)))
    head = {
        "schema": _SCHEMA,
        "of": hashlib.sha256(table.packed()).hexdigest(),
        "wheels": {release: dict(sorted(wheels[release].items())) for release in sorted(wheels)},
        "rows": list(map(json.loads, rows)),
    }
    columns = [bytes(number >> shift & 255 for number in numbers) for shift in (0, 8, 16)]
    text = json.dumps(head, separators=(",", ":")).encode()
    content = struct.pack("<2I", len(text), len(numbers)) + text + b"".join(columns)
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=FILTER)


@dataclass(frozen=True)
class Kinds:
    """A file as it was read: the wheels that its names are of, different rows, and each name's row by its number."""

    wheels: Mapping[str, Mapping[str, str]]
    rows: Sequence[list[list[int]]]
    numbers: Sequence[int]

    def of(self, names: Packed, wanted: Iterable[Unit]) -> dict[Unit, dict[str, Kind]]:
        """The wanted units' names with their kinds; `names` is the table that this belongs to."""
        places = {names.units.index(unit): unit for unit in wanted}
        found: dict[Unit, dict[str, Kind]] = {unit: {} for unit in places.values()}
        numbers = iter(self.numbers)
        for block in names.blocks:
            text, _, lines = block.partition("\n")
            owners = _places(int(text, 16), names.units)
            chosen = [(column, found[places[place]]) for column, place in enumerate(owners) if place in places]
            for name in lines.split("\n"):
                number = next(numbers)
                for column, unit in chosen:
                    unit[name] = _long(name, _in_column(self.rows[number], column))
        return found


def unpacked(content: bytes, of_file: bytes) -> Kinds:
    """From the file's content; `of_file` is the content of the table's own file.

    Raises ValueError where the two do not belong together, KeyError or lzma.LZMAError where it is no such file.
    """
    data = lzma.decompress(content)
    size, count = struct.unpack_from("<2I", data)
    head = json.loads(data[8 : 8 + size])
    if head["schema"] != _SCHEMA or head["of"] != hashlib.sha256(of_file).hexdigest():
        raise ValueError("the kinds are not those of these names")
    low, middle, high = (data[8 + size + count * column :][:count] for column in range(3))
    numbers = [a | b << 8 | c << 16 for a, b, c in zip(low, middle, high, strict=True)]
    return Kinds(head["wheels"], head["rows"], numbers)
