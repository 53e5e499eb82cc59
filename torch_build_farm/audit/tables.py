"""What the audit derives from the tables of torch's releases. Load them once a run: 150 MB each."""

from __future__ import annotations

from functools import cached_property

from torch_build_farm.audit.layout_rules import TypesByName, by_component
from torch_build_farm.audit.loader import TorchRelease
from torch_build_farm.releases.known import Knowledge


class AuditTables(Knowledge):
    """Symbols, header lines and layouts of torch's releases, as verdicts need them."""

    @cached_property
    def types(self) -> TypesByName:
        """The types whose layouts are known, as mangled names mention them."""
        return by_component(self.layouts.names)

    @cached_property
    def ever(self) -> frozenset[str]:
        """Libraries that at least one release brings."""
        libraries: set[str] = set()
        for release in self.index.releases:
            for python in release.files:
                libraries |= TorchRelease(self.index, release.name, python).brought
        return frozenset(libraries)
