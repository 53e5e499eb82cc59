"""The tables of torch's releases: those that the farm ships, and those that `index add` puts into the user's cache."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from torch_build_farm.core.errors import AuditError
from torch_build_farm.releases.header_lines import HeaderLines
from torch_build_farm.releases.symbol_table import StoredTable, SymbolIndex
from torch_build_farm.releases.table_files import HEADER_LINES_FILE, LAYOUTS_FILE, SYMBOLS_FILE, table_folders
from torch_build_farm.releases.type_layouts import Layouts


@dataclass(frozen=True)
class ReleaseTables:
    """Exported names, lines of headers and layouts of types, release by release."""

    symbols: SymbolIndex
    header_lines: HeaderLines
    layouts: Layouts

    @classmethod
    def load(cls, added: Path) -> Self:
        """The shipped tables together with those in the folders of `added`.

        Raises AuditError for a table that cannot be read.
        """
        symbol_tables: list[StoredTable] = []
        lines_by_release: dict[str, Mapping[str, frozenset[int]]] = {}
        layouts = Layouts({})
        releases_so_far: set[str] = set()
        # What an earlier folder has of a release counts, here and in the two tables below.
        for folder in table_folders(added):
            try:
                table = StoredTable.read(folder / SYMBOLS_FILE).without(releases_so_far)
                symbol_tables.append(table)
                releases_so_far.update(release.name for release in table.releases)
                header_lines = HeaderLines.from_bytes((folder / HEADER_LINES_FILE).read_bytes())
                for release, lines in header_lines.by_release.items():
                    lines_by_release.setdefault(release, lines)
                layouts = layouts.extended_by(Layouts.from_bytes((folder / LAYOUTS_FILE).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, lzma.LZMAError) as error:
                raise AuditError(
                    f"the tables of torch's releases cannot be read: {error}",
                    where=str(folder),
                    next_step="remove the folder, then: index add RELEASE",
                ) from None
        return cls(SymbolIndex(tuple(symbol_tables)), HeaderLines(lines_by_release), layouts)

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Every release, oldest first."""
        return tuple(release.name for release in self.symbols.releases)
