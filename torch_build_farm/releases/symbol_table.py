"""The symbol index: which library of which torch release exports which names, as one compressed table.

A *unit* is one library of one release, of one CPython where it differs between them. A name's mask has a bit for each
unit that exports it. Names with one mask stand together, sorted, so that the table is small and its bytes depend on its
content alone. The shipped table has every release up to the farm's own; later ones are added, a table a release, in
the user's cache.
"""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from packaging.version import Version

_SCHEMA = 1
FILTER = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 25}]
# Every torch needs them, so their names are there whichever library of a release exports them too.
CXX_LIBRARY = "libstdc++.so.6"
SYSTEM_LIBRARIES = (CXX_LIBRARY, "libc.so.6", "libm.so.6", "libgcc_s.so.1")


@dataclass(frozen=True)
class Unit:
    """A library of a release: `python` is a CPython's tag such as cp312, empty where the library is the same for all.

    `needed` are the sonames that it needs. Libraries of the system have no release.
    """

    release: str
    library: str
    python: str
    needed: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """A torch release: its wheels by the tag of their CPython."""

    name: str
    files: Mapping[str, str]

    @property
    def version(self) -> Version:
        return Version(self.name)


@dataclass(frozen=True)
class Table:
    """Releases, their units, and the exported names: one line of `groups` has a mask and all names that have it."""

    releases: tuple[Release, ...]
    units: tuple[Unit, ...]
    groups: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, releases: Iterable[Release], exported: Mapping[Unit, Iterable[str]]) -> Self:
        """The table of what each unit exports."""
        units = tuple(sorted(exported, key=lambda unit: (unit.release, unit.library, unit.python)))
        masks: defaultdict[str, int] = defaultdict(int)
        for number, unit in enumerate(units):
            for name in set(exported[unit]):
                masks[name] |= 1 << number
        groups: defaultdict[int, list[str]] = defaultdict(list)
        for name in sorted(masks):
            groups[masks[name]].append(name)
        ordered = sorted(releases, key=lambda release: release.version)
        return cls(tuple(ordered), units, {mask: tuple(groups[mask]) for mask in sorted(groups)})

    def names(self, unit: Unit) -> frozenset[str]:
        """What a unit exports."""
        bit = 1 << self.units.index(unit)
        return frozenset(name for mask, names in self.groups.items() if mask & bit for name in names)

    def packed(self) -> bytes:
        """The table as a file; the same bytes for the same content."""
        head = {
            "schema": _SCHEMA,
            "releases": {release.name: dict(sorted(release.files.items())) for release in self.releases},
            "units": [[unit.release, unit.library, unit.python, list(unit.needed)] for unit in self.units],
        }
        blocks = [f"{mask:x}\n" + "\n".join(names) for mask, names in self.groups.items()]
        text = "\n\n".join([json.dumps(head, sort_keys=True), *blocks])
        return lzma.compress(text.encode(), format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=FILTER)


@dataclass(frozen=True)
class Packed:
    """A table as it was read: names are looked up in its text, most of which no wheel asks for."""

    releases: tuple[Release, ...]
    units: tuple[Unit, ...]
    blocks: tuple[str, ...]

    @cached_property
    def _sets(self) -> list[tuple[int, frozenset[str]]]:
        split = (block.partition("\n") for block in self.blocks)
        return [(int(mask, 16), frozenset(names.split("\n"))) for mask, _, names in split]

    def masks(self, wanted: frozenset[str]) -> dict[str, int]:
        return {name: mask for mask, names in self._sets for name in wanted & names}

    def without(self, releases: Container[str]) -> Self:
        """The table less these releases; what they export keeps its place in it, under no release's name."""
        left = tuple(one for one in self.releases if one.name not in releases)
        units = (replace(one, release=f"not {one.release}") if one.release in releases else one for one in self.units)
        return replace(self, releases=left, units=tuple(units))

    def names(self, unit: Unit) -> frozenset[str]:
        """All that a unit exports."""
        bit = 1 << self.units.index(unit)
        return frozenset().union(*(names for mask, names in self._sets if mask & bit))


def read(path: Path) -> Packed:
    """The table in a file. Raises OSError, lzma.LZMAError, ValueError or KeyError where it is none."""
    return unpacked(path.read_bytes())


def unpacked(content: bytes) -> Packed:
    head, *blocks = lzma.decompress(content).decode().split("\n\n")
    facts: dict[str, Any] = json.loads(head)
    if facts["schema"] != _SCHEMA:
        raise ValueError(f"schema {facts['schema']}")
    releases = [Release(name, files) for name, files in facts["releases"].items()]
    units = tuple(Unit(release, library, python, tuple(needed)) for release, library, python, needed in facts["units"])
    return Packed(tuple(sorted(releases, key=lambda one: one.version)), units, tuple(blocks))


def unpack(content: bytes) -> Table:
    """The table in a file's content."""
    packed = unpacked(content)
    groups = {}
    for block in packed.blocks:
        mask, _, names = block.partition("\n")
        groups[int(mask, 16)] = tuple(names.split("\n"))
    return Table(packed.releases, packed.units, groups)


@dataclass(frozen=True)
class SymbolIndex:
    """All tables together; a release that two of them have is the first one's."""

    tables: tuple[Packed, ...]

    @cached_property
    def releases(self) -> tuple[Release, ...]:
        """Every release, oldest first."""
        found: dict[str, Release] = {}
        for table in self.tables:
            for release in table.releases:
                found.setdefault(release.name, release)
        return tuple(sorted(found.values(), key=lambda one: one.version))

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of all tables, in the order of the masks' bits."""
        return tuple(unit for table in self.tables for unit in table.units)

    def _table(self, release: str) -> Packed:
        """The table that a release is taken from. Raises KeyError for one that none has."""
        for table in self.tables:
            if any(known.name == release for known in table.releases):
                return table
        raise KeyError(release)

    def pythons(self, release: str) -> frozenset[str]:
        """The CPythons whose libtorch_python was read, as tags."""
        return frozenset(unit.python for unit in self._table(release).units if unit.release == release and unit.python)

    def exported(self, release: str, pythons: Container[str]) -> dict[str, frozenset[str]]:
        """What each library of a release exports; of libtorch_python, those of these CPythons."""
        table = self._table(release)
        found: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
        for unit in table.units:
            if unit.release == release and (not unit.python or unit.python in pythons):
                found[unit.library] |= table.names(unit)
        return dict(found)

    def masks(self, names: Iterable[str]) -> dict[str, int]:
        """For each of the names that some unit exports, a bit for each such unit."""
        wanted, found, shift = frozenset(names), defaultdict[str, int](int), 0
        for table in self.tables:
            for name, mask in table.masks(wanted).items():
                found[name] |= mask << shift
            shift += len(table.units)
        return dict(found)


def mask_of(units: Sequence[Unit], chosen: Iterable[Unit]) -> int:
    """The bits of the chosen units."""
    wanted = set(chosen)
    return sum(1 << number for number, unit in enumerate(units) if unit in wanted)
