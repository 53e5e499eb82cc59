"""What the audit derives from the tables of torch's releases. Load them once per run: they take 150 MB of memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

from torch_build_farm.audit.layout_rules import TypesByName, by_component
from torch_build_farm.audit.loader import TorchRelease
from torch_build_farm.core.errors import UnknownTorchError, nearest
from torch_build_farm.core.machine import X86_64
from torch_build_farm.releases.release_tables import ReleaseTables


class AuditTables(ReleaseTables):
    """Symbols, header lines and layouts of torch's releases, in the forms that verdicts need."""

    def select(self, words: Sequence[str]) -> list[str]:
        """The known releases that 2.8 (a minor), 2.9.1 (a release) or all select, oldest first; all for no word.

        Raises UnknownTorchError for a word that selects none.
        """
        selected: set[str] = set()
        for word in words or ["all"]:
            if word == "all":
                matches = list(self.releases)
            else:
                matches = [name for name in self.releases if name == word or name.startswith(f"{word}.")]
            if not matches:
                raise self._unknown_release(word)
            selected.update(matches)
        return [release for release in self.releases if release in selected]

    def _unknown_release(self, word: str) -> UnknownTorchError:
        of_machine, option = "", ""
        if self.machine != X86_64:
            of_machine, option = f" for {self.machine.words}", f" --platform {self.machine.name}"
        if re.fullmatch(r"\d+\.\d+(\.\d+)?", word):
            release = word if word.count(".") == 2 else f"{word}.0"
            next_step = f"index add {release}{option} reads it from the package index"
        else:
            next_step = "releases such as 2.9.1, minors such as 2.9, or all"
        return UnknownTorchError(
            f"nothing is known of torch {word}{of_machine}; {nearest(word, self.releases)}",
            where="--torch",
            next_step=next_step,
        )

    @cached_property
    def types(self) -> TypesByName:
        """The types whose layouts are known, indexed as mangled names mention them."""
        return by_component(self.layouts.names)

    @cached_property
    def ever(self) -> frozenset[str]:
        """The sonames of libraries that come with at least one release, for any of its CPythons."""
        libraries: set[str] = set()
        for release in self.symbols.releases:
            for python in release.files:
                libraries |= TorchRelease(self.symbols, release.name, python, self.machine).brought
        return frozenset(libraries)
