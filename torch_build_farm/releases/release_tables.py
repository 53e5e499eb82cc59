"""The tables of torch's releases: those that the farm ships, and those that `index add` puts into the user's cache."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from torch_build_farm.core.errors import AuditError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.releases import shared_names
from torch_build_farm.releases.header_lines import HeaderLines
from torch_build_farm.releases.symbol_table import StoredTable, SymbolIndex
from torch_build_farm.releases.table_files import (
    HEADER_LINES_FILE,
    LAYOUTS_FILE,
    SHARED_NAMES_FILE,
    SHIPPED,
    SYMBOLS_FILE,
    added_beside,
    table_folders,
)
from torch_build_farm.releases.type_layouts import Layouts


@dataclass(frozen=True)
class ReleaseTables:
    """Exported names, lines of headers and layouts of types, release by release, of torch for Linux on `machine`.

    `added` is the folder of added tables for x86-64.
    """

    symbols: SymbolIndex
    header_lines: HeaderLines
    layouts: Layouts
    machine: Machine
    added: Path

    @classmethod
    def load(cls, added: Path, machine: Machine = X86_64) -> Self:
        """The shipped tables together with the added ones; `added` is the folder of those for x86-64.

        Raises AuditError for a table that cannot be read.
        """
        symbol_tables: list[StoredTable] = []
        lines_by_release: dict[str, Mapping[str, frozenset[int]]] = {}
        layouts = Layouts({})
        releases_so_far: set[str] = set()
        # What an earlier folder has of a release counts, here and in the two tables below.
        for folder in table_folders(added_beside(added, machine), machine):
            try:
                table = _symbols(folder).without(releases_so_far)
                symbol_tables.append(table)
                releases_so_far.update(release.name for release in table.releases)
                header_lines = HeaderLines.from_bytes(_header_lines_file(folder).read_bytes())
                for release, lines in header_lines.by_release.items():
                    lines_by_release.setdefault(release, lines)
                layouts = layouts.extended_by(Layouts.from_bytes((folder / LAYOUTS_FILE).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, lzma.LZMAError) as error:
                raise AuditError(
                    f"the tables of torch's releases cannot be read: {error}",
                    where=str(folder),
                    next_step="remove the folder, then: index add RELEASE",
                ) from None
        return cls(SymbolIndex(tuple(symbol_tables)), HeaderLines(lines_by_release), layouts, machine, added)

    def for_machine(self, machine: Machine) -> Self:
        """The tables for that machine, which are read when they are first asked for. Raises what `load` does."""
        if machine == self.machine:
            return self
        if machine not in self._others:
            self._others[machine] = self.load(self.added, machine)
        return self._others[machine]

    @cached_property
    def _others(self) -> dict[Machine, Self]:
        return {}

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Every release, oldest first."""
        return tuple(release.name for release in self.symbols.releases)


def _symbols(folder: Path) -> StoredTable:
    """The names in a folder of tables. Raises OSError and what the readers of the two kinds of files do."""
    shared = folder / SHARED_NAMES_FILE
    if shared.is_file():
        return shared_names.from_bytes(shared.read_bytes(), (SHIPPED / SYMBOLS_FILE).read_bytes())
    return StoredTable.read(folder / SYMBOLS_FILE)


def _header_lines_file(folder: Path) -> Path:
    """The file of header lines for a folder of tables: see `table_files.shipped_folder`."""
    own = folder / HEADER_LINES_FILE
    return own if own.is_file() or not (folder / SHARED_NAMES_FILE).is_file() else SHIPPED / HEADER_LINES_FILE
