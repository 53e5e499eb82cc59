"""All that the audit knows of torch's releases: shipped with the farm, and added since in the user's cache."""

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
from torch_build_farm.releases import header_lines as marks
from torch_build_farm.releases import symbol_table as index
from torch_build_farm.releases import type_layouts
from torch_build_farm.releases.header_lines import Marks
from torch_build_farm.releases.symbol_table import Packed, SymbolIndex
from torch_build_farm.releases.type_layouts import Layouts

SHIPPED = DATA / "torch"
SYMBOLS, KINDS, MARKS, LAYOUTS = "symbols.xz", "kinds.xz", "marks.xz", "layouts.xz"


def added_folder() -> Path:
    """Where `index add` keeps what it has read: with the farm's other caches."""
    return default_folder() / "index"


def folders(added: Path) -> list[Path]:
    """Every folder with tables, what was added first: it may be a newer upload's."""
    return [*sorted(path for path in added.glob("*") if path.is_dir() and not path.name.startswith(".")), SHIPPED]


@dataclass(frozen=True)
class Knowledge:
    """Symbols, marks and layouts of torch's releases."""

    index: SymbolIndex
    marks: Marks
    layouts: Layouts

    @classmethod
    def load(cls, added: Path) -> Self:
        """What is shipped, and each release's folder in `added`.

        Raises AuditError for one that cannot be read.
        """
        tables: list[Packed] = []
        lines: dict[str, Mapping[str, frozenset[int]]] = {}
        layouts = Layouts({})
        for folder in folders(added):
            try:
                seen = {release.name for table in tables for release in table.releases}
                tables.append(index.read(folder / SYMBOLS).without(seen))
                lines |= {**marks.unpack((folder / MARKS).read_bytes()).lines, **lines}
                layouts = layouts.with_those_of(type_layouts.unpack((folder / LAYOUTS).read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, lzma.LZMAError) as error:
                raise AuditError(
                    f"what the farm knows of torch cannot be read: {error}",
                    where=str(folder),
                    next_step="remove the folder, then: index add RELEASE",
                ) from None
        return cls(SymbolIndex(tuple(tables)), Marks(lines), layouts)

    @staticmethod
    def files(added: Path) -> list[Path]:
        """All files that `load` reads."""
        found = [*sorted(SHIPPED.glob("*")), *sorted(added.glob("[!.]*/*"))]
        return [path for path in found if path.name in (SYMBOLS, MARKS, LAYOUTS)]

    @cached_property
    def releases(self) -> tuple[str, ...]:
        """Every release, oldest first."""
        return tuple(release.name for release in self.index.releases)
