"""The symbol index: which library of which torch release exports which names, as one compressed table.

A *unit* is one library of one release, of one CPython where it differs between them. A name's mask has a bit for each
unit that exports it. Names with the same mask stand together, sorted, so that the table is small and its bytes depend
on its content alone. The shipped table has every release up to the farm's own; later ones are added to the user's
cache, one table per release.

The file is LZMA-compressed text of blocks between empty lines. The first is a JSON document: the schema's number, the
releases, the units. Each other one is a mask in hexadecimal on a line, and below it the names, one a line.
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
# A dictionary of 32 MiB, as the text of the shipped table has 21.5 MB: every repetition in it counts.
FILTER = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 25}]
# Every torch needs them, so their names can be used whichever library of a release exports them too.
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
class ReleaseFiles:
    """A torch release, and its wheels' file names by the tag of their CPython."""

    name: str
    files: Mapping[str, str]

    @property
    def version(self) -> Version:
        return Version(self.name)


def _bit_of(unit: Unit, units: Sequence[Unit]) -> int:
    """A mask that has the unit's bit alone. Raises ValueError for a unit that is not among `units`."""
    return 1 << units.index(unit)


def _parse_block(block: str) -> tuple[int, list[str]]:
    """A block's mask, and the names that have it. Raises ValueError for a mask that is not hexadecimal."""
    mask, _, names = block.partition("\n")
    return int(mask, 16), names.split("\n")


@dataclass(frozen=True)
class SymbolTable:
    """Releases, their units, and the exported names: `groups` has all names of a mask by that mask."""

    releases: tuple[ReleaseFiles, ...]
    units: tuple[Unit, ...]
    groups: Mapping[int, tuple[str, ...]]

    @classmethod
    def of(cls, releases: Iterable[ReleaseFiles], exported: Mapping[Unit, Iterable[str]]) -> Self:
        """The table of the names that each unit exports."""
        units = tuple(sorted(exported, key=lambda unit: (unit.release, unit.library, unit.python)))
        masks: defaultdict[str, int] = defaultdict(int)
        for number, unit in enumerate(units):
            # A library may export a name several times, in different symbol versions.
            for name in set(exported[unit]):
                masks[name] |= 1 << number

        # Sorted, so that the file's bytes do not depend on the order in which libraries list their names.
        groups: defaultdict[int, list[str]] = defaultdict(list)
        for name in sorted(masks):
            groups[masks[name]].append(name)
        ordered_releases = tuple(sorted(releases, key=lambda release: release.version))
        return cls(ordered_releases, units, {mask: tuple(groups[mask]) for mask in sorted(groups)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The table in a file's content. Raises what `StoredTable.from_bytes` does."""
        stored = StoredTable.from_bytes(content)
        groups = {}
        for block in stored.blocks:
            mask, names = _parse_block(block)
            groups[mask] = tuple(names)
        return cls(stored.releases, stored.units, groups)

    def names(self, unit: Unit) -> frozenset[str]:
        """The names that a unit exports."""
        bit = _bit_of(unit, self.units)
        exported: set[str] = set()
        for mask, names in self.groups.items():
            if mask & bit:
                exported.update(names)
        return frozenset(exported)

    @property
    def header(self) -> dict[str, Any]:
        """The releases and units as the JSON header of a file has them; `StoredTable.of_header` reads it."""
        return {
            "releases": {release.name: release.files for release in self.releases},
            "units": [[unit.release, unit.library, unit.python, unit.needed] for unit in self.units],
        }

    def to_bytes(self) -> bytes:
        """The table as a file's content; the same bytes for the same table."""
        head = {"schema": _SCHEMA, **self.header}
        blocks = [json.dumps(head, sort_keys=True)]
        for mask, names in self.groups.items():
            blocks.append(f"{mask:x}\n" + "\n".join(names))
        text = "\n\n".join(blocks)
        # A file that is damaged in the user's cache is noticed by its SHA-256 when it is read.
        return lzma.compress(text.encode(), format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=FILTER)


@dataclass(frozen=True)
class StoredTable:
    """A table as its file has it: `blocks` are split into names only on demand, since no wheel uses most of them."""

    releases: tuple[ReleaseFiles, ...]
    units: tuple[Unit, ...]
    blocks: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The table in a file. Raises OSError, and what `from_bytes` does."""
        return cls.from_bytes(path.read_bytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The table in a file's content. Raises lzma.LZMAError, ValueError or KeyError for content of another kind."""
        text = lzma.decompress(content).decode()
        head, *blocks = text.split("\n\n")
        facts: dict[str, Any] = json.loads(head)
        if facts["schema"] != _SCHEMA:
            raise ValueError(f"schema {facts['schema']}")
        return cls.of_header(facts, blocks)

    @classmethod
    def of_header(cls, header: Mapping[str, Any], blocks: Iterable[str]) -> Self:
        """The table with the releases and units of a file's header. Raises ValueError or KeyError for another one."""
        releases = [ReleaseFiles(name, files) for name, files in header["releases"].items()]
        releases.sort(key=lambda release: release.version)
        units = []
        for release, library, python, needed in header["units"]:
            units.append(Unit(release, library, python, tuple(needed)))
        return cls(tuple(releases), tuple(units), tuple(blocks))

    @cached_property
    def _names_by_mask(self) -> dict[int, frozenset[str]]:
        # Several lookups follow each other, one for each library of a wheel: the split is done once.
        names_by_mask = {}
        for block in self.blocks:
            mask, names = _parse_block(block)
            names_by_mask[mask] = frozenset(names)
        return names_by_mask

    def masks(self, names: frozenset[str]) -> dict[str, int]:
        """The masks of those of the names that some unit exports."""
        masks = {}
        # The shipped table has 175,000 names and 835 masks: it is quicker to go through the masks.
        for mask, names_of_mask in self._names_by_mask.items():
            for name in names & names_of_mask:
                masks[name] = mask
        return masks

    def without(self, releases: Container[str]) -> Self:
        """The table without the given releases.

        Their units stay, renamed, so that the bit positions of all masks remain valid.
        """
        units = []
        for unit in self.units:
            # No release has a name with a space in it, so nobody asks for this one.
            units.append(replace(unit, release=f"not {unit.release}") if unit.release in releases else unit)
        other_releases = [release for release in self.releases if release.name not in releases]
        return replace(self, releases=tuple(other_releases), units=tuple(units))

    def names(self, unit: Unit) -> frozenset[str]:
        """The names that a unit exports."""
        bit = _bit_of(unit, self.units)
        exported: set[str] = set()
        for mask, names in self._names_by_mask.items():
            if mask & bit:
                exported |= names
        return frozenset(exported)


@dataclass(frozen=True)
class SymbolIndex:
    """All tables together. A release that several of them have is taken from the first."""

    tables: tuple[StoredTable, ...]

    @cached_property
    def releases(self) -> tuple[ReleaseFiles, ...]:
        """Every release, oldest first."""
        releases: dict[str, ReleaseFiles] = {}
        for table in self.tables:
            for release in table.releases:
                releases.setdefault(release.name, release)
        return tuple(sorted(releases.values(), key=lambda release: release.version))

    @property
    def files(self) -> dict[str, Mapping[str, str]]:
        """The file names of each release's wheels, by release and then by the tag of their CPython."""
        return {release.name: release.files for release in self.releases}

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The units of all tables, in the order of the masks' bits."""
        units: list[Unit] = []
        for table in self.tables:
            units.extend(table.units)
        return tuple(units)

    def _table(self, release: str) -> StoredTable:
        """The table that a release is taken from. Raises KeyError for a release that none has."""
        for table in self.tables:
            for release_files in table.releases:
                if release_files.name == release:
                    return table
        raise KeyError(release)

    def pythons(self, release: str) -> frozenset[str]:
        """The tags of the CPythons whose libtorch_python was read. Raises KeyError for an unknown release."""
        pythons = set()
        for unit in self._table(release).units:
            if unit.release == release and unit.python:
                pythons.add(unit.python)
        return frozenset(pythons)

    def exported(self, release: str, pythons: Container[str]) -> dict[str, frozenset[str]]:
        """The names that each library of a release exports, by its file name.

        Those of libtorch_python are the names that it exports for any of `pythons` (tags). Raises KeyError for an
        unknown release.
        """
        table = self._table(release)
        names_by_library: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
        for unit in table.units:
            if unit.release == release and (not unit.python or unit.python in pythons):
                names_by_library[unit.library] |= table.names(unit)
        return dict(names_by_library)

    def masks(self, names: Iterable[str]) -> dict[str, int]:
        """The masks of those of the names that some unit exports, with a bit for each of `units`."""
        unique_names = frozenset(names)
        masks: defaultdict[str, int] = defaultdict(int)
        units_before = 0
        for table in self.tables:
            # A table numbers its own units from 0 on.
            for name, mask in table.masks(unique_names).items():
                masks[name] |= mask << units_before
            units_before += len(table.units)
        return dict(masks)


def mask_of(units: Sequence[Unit], chosen: Iterable[Unit]) -> int:
    """The mask that has the bits of the chosen units. Bit `n` stands for `units[n]`."""
    chosen_units = set(chosen)
    mask = 0
    for number, unit in enumerate(units):
        if unit in chosen_units:
            mask |= 1 << number
    return mask
