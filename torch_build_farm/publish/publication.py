"""What is published, or would be: the answers of a publication, without what it takes to make them.

A run without `--publish` only needs these to say what its document looks like.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_PENDING = 3  # publishers that an account may have waiting for names that do not exist yet (measured)
State = Literal["new", "there", "kept"]  # see Item


@dataclass(frozen=True)
class Item:
    """A wheel to be published.

    - `sha256`: of the file that the index has afterwards.
    - `size`: of the file here, in bytes.
    - `state`: "new" if the index does not have it; "there" if the index has the same bytes; "kept" if the index has an
      older wheel behind the one name, which stays.
    """

    path: Path
    name: str
    version: str
    sha256: str
    size: int
    state: State


@dataclass(frozen=True)
class PublishPlan:
    """The items in their order, names that are new to the index, and warnings for the maintainer."""

    items: tuple[Item, ...]
    new_names: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def due(self) -> tuple[Item, ...]:
        """The items to upload."""
        return tuple(item for item in self.items if item.state == "new")

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """The new names, in groups of those that may have a pending publisher at the same time."""
        groups = []
        for start in range(0, len(self.new_names), _PENDING):
            groups.append(self.new_names[start : start + _PENDING])
        return tuple(groups)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was published, or would be. `waves` groups the names that are new to the index, in the order of uploads."""

    target: str
    version: str
    dry_run: bool
    files: tuple[Item, ...]
    waves: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
