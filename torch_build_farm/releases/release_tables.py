"""The tables of torch's releases: those that the farm ships, and those that `index add` puts into the user's cache."""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from torch_build_farm.core.errors import AuditError
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.store import default_folder
from torch_build_farm.releases.header_lines import HeaderLines
from torch_build_farm.releases.symbol_table import StoredTable, SymbolIndex
from torch_build_farm.releases.type_layouts import Layouts

SHIPPED = DATA / "torch"
# The files of a folder of tables. KINDS_FILE, which the SDK's stubs are made of, is not loaded here.
SYMBOLS_FILE, KINDS_FILE, HEADER_LINES_FILE, LAYOUTS_FILE = "symbols.xz", "kinds.xz", "marks.xz", "layouts.xz"


def added_folder() -> Path:
    """The folder that `index add` writes to, beside the farm's other caches: a folder of tables per release."""
    return default_folder() / "index"


def table_folders(added: Path) -> list[Path]:
    """Every folder with tables. Added ones come first, since they may be of a newer upload than the shipped ones."""
    # A name with a dot in front is a folder that is being written.
    folders = [path for path in added.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [*sorted(folders), SHIPPED]


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

    @staticmethod
    def files(added: Path) -> list[Path]:
        """All files that `load` reads."""
        paths = [*sorted(SHIPPED.glob("*")), *sorted(added.glob("[!.]*/*"))]
        return [path for path in paths if path.name in (SYMBOLS_FILE, HEADER_LINES_FILE, LAYOUTS_FILE)]

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Every release, oldest first."""
        return tuple(release.name for release in self.symbols.releases)
