"""What a wheel uses of torch, and so how many variants its project needs: one for each minor, fewer, or none.

The C++ interface changes with every minor. Functions of the C shim, which the headers of `torch::stable` call, keep
their meaning once they are there (torch/csrc/stable/README.md): one wheel serves every release that has them all. What
uses neither is the same for every torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch_build_farm.audit.verdict import Library, LibraryKind, Names
from torch_build_farm.releases.symbol_table import SymbolIndex, mask_of

# From what depends least on torch to what depends most.
_BY_DEPENDENCE = (LibraryKind.NEUTRAL, LibraryKind.STABLE_ABI, LibraryKind.TORCH)


@dataclass(frozen=True)
class TorchUse:
    """What the libraries of a wheel use of torch, taken together.

    - `kind`: that of the library that depends on torch most; neutral for a wheel without libraries.
    - `since`: the oldest known release that, with every later one, has all functions that the libraries use; empty for
      users of the C++ interface, and where the newest known release lacks a function.
    """

    kind: LibraryKind
    since: str

    @property
    def words(self) -> str:
        """What it means for the project's variants."""
        if self.kind is LibraryKind.NEUTRAL:
            return "nothing of torch's C++: no variant for each torch is needed"
        if self.kind is LibraryKind.TORCH:
            return "torch's C++ interface: a variant for each minor"
        if not self.since:
            return "torch's stable ABI alone, with functions that the newest known torch lacks"
        return f"torch's stable ABI alone: one wheel serves torch {self.since.removesuffix('.0')} and later"


def most_dependent(kinds: Iterable[LibraryKind]) -> LibraryKind:
    """The kind that depends on torch most; neutral for none."""
    return max(kinds, key=_BY_DEPENDENCE.index, default=LibraryKind.NEUTRAL)


def torch_use(libraries: Collection[Library], names: Names) -> TorchUse:
    """What these libraries of a wheel use of torch; `names` has who exports what they leave undefined."""
    releases = [release.name for release in names.index.releases]
    kind = most_dependent(library.kind for library in libraries)
    if kind is LibraryKind.TORCH:
        return TorchUse(kind, "")
    functions: set[str] = set()
    for library in libraries:
        functions.update(symbol.name for symbol in library.open if names.is_torchs(symbol.name))
    has_all = {}
    for release in releases:
        has_all[release] = _exports_all(names.index, release, functions, names.masks)
    return TorchUse(kind, oldest_with_all(has_all))


def _exports_all(index: SymbolIndex, release: str, functions: Collection[str], masks: Mapping[str, int]) -> bool:
    of_release = mask_of(index.units, [unit for unit in index.units if unit.release == release])
    return all(masks.get(function, 0) & of_release for function in functions)


def oldest_with_all(has_all: Mapping[str, bool]) -> str:
    """The oldest release that, with every later one, has all functions; empty if the newest has not.

    `has_all` is by release, oldest first.
    """
    oldest = ""
    for release, complete in reversed(list(has_all.items())):
        if not complete:
            break
        oldest = release
    return oldest
