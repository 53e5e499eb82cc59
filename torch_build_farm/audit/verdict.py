"""The verdict on each library and torch release, and on the wheel. Pure: wheel, index and layouts in, findings out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property

from torch_build_farm.audit.built_against import Built
from torch_build_farm.audit.layout_rules import TypesByName, harmless, types_of
from torch_build_farm.audit.loader import Contents, TorchRelease, policy
from torch_build_farm.releases.symbol_table import CXX_LIBRARY, SymbolIndex, mask_of
from torch_build_farm.releases.type_layouts import Layouts
from torch_build_farm.wheels.elf.library import Elf, Undefined


class Verdict(StrEnum):
    """From good to bad; UNKNOWN counts as BROKEN wherever a yes or no is needed."""

    OK = "OK"
    ENV = "ENV"
    UNKNOWN = "UNKNOWN"
    BROKEN = "BROKEN"

    @property
    def works(self) -> bool:
        """Whether the wheel can be used. ENV counts: the system has to bring what is named."""
        return self in (Verdict.OK, Verdict.ENV)


_ORDER = list(Verdict)


# A library without a name of torch's own that still hands tensors about, to others of its wheel.
_TENSOR = re.compile(r"^_Z.*(2at6Tensor|2at10TensorBase)")
_TORCHS_LIBRARIES = ("libtorch", "libc10", "libcaffe2", "libshm")


class LibraryKind(StrEnum):
    """How a library depends on torch: on its C++ interface, on its C shim alone, or not at all."""

    TORCH = "torch"
    STABLE_ABI = "stable-abi"
    NEUTRAL = "neutral"


@dataclass(frozen=True)
class Finding:
    """A verdict and its reasons.

    `missing` are mangled names that the release does not export, `libraries` sonames that it does not bring (BROKEN) or
    that neither wheel nor torch brings (ENV), `layout` types that differ from those it was built with, `unknown` names
    that no table here has; `note` explains what the lists do not.
    """

    verdict: Verdict
    missing: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    note: str = ""


def worst(findings: Iterable[Finding]) -> Finding:
    """Findings taken together: the worst verdict, and all reasons. OK where there are none."""
    verdict = Verdict.OK
    reasons: dict[str, set[str]] = {"missing": set(), "libraries": set(), "layout": set(), "unknown": set()}
    notes: dict[str, None] = {}  # an ordered set
    for finding in findings:
        verdict = max(verdict, finding.verdict, key=_ORDER.index)
        for name, entries in reasons.items():
            entries.update(getattr(finding, name))
        if finding.note:
            notes[finding.note] = None
    joined = {name: tuple(sorted(entries)) for name, entries in reasons.items()}
    return Finding(verdict, **joined, note="; ".join(notes))


@dataclass(frozen=True)
class Names:
    """What the index knows of every name that a wheel's libraries leave undefined: who exports it, as bits of units."""

    index: SymbolIndex
    masks: Mapping[str, int]

    @classmethod
    def of(cls, index: SymbolIndex, libraries: Iterable[Elf]) -> Names:
        """Look up the undefined names of these libraries."""
        undefined = {symbol.name for elf in libraries for symbol in elf.undefined}
        return cls(index, index.masks(undefined))

    @cached_property
    def system(self) -> int:
        """The bits of the system's libraries."""
        return mask_of(self.index.units, [unit for unit in self.index.units if not unit.release])

    @cached_property
    def torchs(self) -> int:
        """The bits of torch's own libraries, without those that come with it, such as libgomp."""
        units = self.index.units
        return mask_of(units, [unit for unit in units if unit.library.startswith(_TORCHS_LIBRARIES)])

    def is_torchs(self, name: str, *, beside_strangers: bool = False) -> bool:
        """Whether a name is torch's: some release exports it, or it mentions a namespace of torch.

        A library built upon torch has functions that mention torch's types. `beside_strangers`, where such a library
        may be loaded, a name has to lie in a namespace of torch itself.
        """
        mask = self.masks.get(name, 0)
        only_torch_has_it = mask & self.torchs and not mask & self.system
        if only_torch_has_it and not policy().cxx.fullmatch(name):
            return True
        pattern = policy().in_torch if beside_strangers else policy().mentions_torch
        return bool(pattern.fullmatch(name))


@dataclass(frozen=True)
class Library:
    """A library of a wheel, and what is the same for every release.

    `open` are the names that the wheel itself does not have, `users` the libraries of the wheel that it is loaded with,
    itself first. `types` are those whose layout it depends on.
    """

    path: str
    elf: Elf
    users: tuple[str, ...]
    open: tuple[Undefined, ...]
    kind: LibraryKind
    types: frozenset[str]


def describe_library(path: str, contents: Contents, names: Names, types: TypesByName) -> Library:
    """Read off a library what does not depend on the release; `types` are all whose layouts are known."""
    elf = contents.libraries[path]
    users = (path, *sorted(contents.users[path] - {path}))
    reached = {inner for user in users for inner in contents.closure(user)}
    inside = frozenset().union(*(contents.libraries[inner].exported for inner in reached))
    open_names = []
    for symbol in elf.undefined:
        if symbol.name in inside or policy().interpreter.fullmatch(symbol.name):
            continue
        # A version names the library that has it. One outside of the wheel is the system's or torch's: not looked into.
        if symbol.file and not contents.find(path, symbol.file):
            continue
        open_names.append(symbol)
    kind = _kind(elf, [symbol.name for symbol in open_names if names.is_torchs(symbol.name)])
    touched = types_of(elf, types) if kind is LibraryKind.TORCH else frozenset[str]()
    return Library(path, elf, users, tuple(open_names), kind, touched)


def _kind(elf: Elf, torchs_names: Sequence[str]) -> LibraryKind:
    if not all(policy().shim.fullmatch(name) for name in torchs_names):
        return LibraryKind.TORCH
    names = [*elf.exported, *(symbol.name for symbol in elf.undefined)]
    if any(_TENSOR.search(name) for name in names):
        return LibraryKind.TORCH
    return LibraryKind.STABLE_ABI if torchs_names else LibraryKind.NEUTRAL


# ---- whether the loader finds everything


class _Missing(Enum):
    """What it means for a wheel that the loader does not find a name."""

    TORCH = "torch has it in other releases, or would: the library does not load"
    WEAK_TORCH = "the same, and the library may ask before it calls"
    CXX = "a newer C++ library has it"
    UNKNOWN = "nobody here knows who has it"


@dataclass(frozen=True)
class _Reached:
    """What a library reaches in one release, outside of its wheel.

    `exporters` are the bits of the units whose names it finds, the system's among them. `unlisted` are libraries that
    it needs and whose names are in no table: CUDA's and some of the system's. `absent` are libraries that it needs and
    that neither wheel, torch nor system brings. `strangers`: it needs libraries that are absent, or come with another
    distribution, so that any name may be theirs.
    """

    exporters: int
    unlisted: frozenset[str]
    absent: frozenset[str]
    strangers: bool

    @property
    def beyond_system(self) -> bool:
        """Whether some of the unlisted libraries are CUDA's."""
        return bool(self.unlisted - policy().system)


def _reached(library: Library, contents: Contents, release: TorchRelease, names: Names) -> _Reached:
    reaches = [release.reach(contents, user) for user in library.users]
    # Names are found in the scope of every library that it is loaded with; what it needs itself counts for the rest.
    units = {unit for reach in reaches for unit in reach.units}
    itself = reaches[0]
    return _Reached(
        exporters=mask_of(names.index.units, units) | names.system,
        unlisted=itself.others,
        absent=itself.missing,
        strangers=bool(itself.missing or itself.companions),
    )


def _classified(library: Library, reached: _Reached, names: Names) -> Mapping[_Missing, list[str]]:
    """The names that the loader does not find, by what that means; what need not be found is left out."""
    by_meaning = defaultdict[_Missing, list[str]](list)
    systems_patterns = [policy().functions[name] for name in reached.unlisted if name in policy().functions]
    for symbol in library.open:
        name = symbol.name
        if names.masks.get(name, 0) & reached.exporters:
            continue
        if symbol.weak and policy().optional.fullmatch(name):
            continue
        if names.is_torchs(name, beside_strangers=reached.strangers):
            by_meaning[_Missing.WEAK_TORCH if symbol.weak else _Missing.TORCH].append(name)
        elif policy().cxx.fullmatch(name):
            by_meaning[_Missing.CXX].append(name)
        elif symbol.weak or reached.strangers:
            continue
        elif reached.beyond_system and policy().cuda.fullmatch(name):
            continue  # CUDA's names are known by their looks alone
        elif not any(pattern.fullmatch(name) for pattern in systems_patterns):
            by_meaning[_Missing.UNKNOWN].append(name)
    return by_meaning


def stem(soname: str) -> str:
    """A library's name without its version."""
    return soname.partition(".so")[0]


def _lost_versions(library: Library, contents: Contents) -> tuple[str, ...]:
    """Versions that a library asks of another of the wheel, which has versions, but not these (glibc, dl-version.c)."""
    lost = []
    for file, version in library.elf.versions:
        path = contents.find(library.path, file)
        defined = contents.libraries[path].defines if path else frozenset[str]()
        if defined and version not in defined:
            lost.append(f"{version} of {path}")
    return tuple(lost)


def link_finding(
    library: Library, contents: Contents, release: TorchRelease, names: Names, ever: frozenset[str]
) -> Finding:
    """Whether the loader finds all that a library asks for in a release.

    `ever` are the libraries that any release of torch brings: one of another version is torch's to bring.
    """
    lost = _lost_versions(library, contents)
    reached = _reached(library, contents, release, names)
    missing = _classified(library, reached, names)
    unknown = tuple(sorted(missing[_Missing.UNKNOWN]))
    if lost:
        return Finding(Verdict.BROKEN, unknown=lost, note="the wheel's own library has no such version")
    stems = {stem(name) for name in ever}
    torchs_libraries = {name for name in reached.absent if stem(name) in stems}
    torchs_names = missing[_Missing.TORCH]
    if torchs_libraries or torchs_names:
        return Finding(
            Verdict.BROKEN,
            missing=tuple(sorted(torchs_names)),
            libraries=tuple(sorted(torchs_libraries)),
            unknown=unknown,
        )
    if unknown:
        note = "names that neither the wheel nor any torch release exports"
        return Finding(Verdict.UNKNOWN, unknown=unknown, note=note)
    if missing[_Missing.WEAK_TORCH]:
        note = "weak names that this release lacks: it works only if the library asks before it calls"
        return Finding(Verdict.UNKNOWN, missing=tuple(sorted(missing[_Missing.WEAK_TORCH])), note=note)
    # The rest is for the system to bring.
    if missing[_Missing.CXX]:
        note = "a newer C++ library than manylinux promises"
        return Finding(Verdict.ENV, libraries=tuple(sorted([CXX_LIBRARY, *reached.absent])), note=note)
    return Finding(Verdict.ENV if reached.absent else Verdict.OK, libraries=tuple(sorted(reached.absent)))


# ---- whether types have the layout that the library was compiled with


def layout_finding(types: frozenset[str], built: Built, release: str, layouts: Layouts) -> Finding:
    """Whether the types that a library touches inline are in `release` as they were where it was built."""
    if built.releases == (release,) or not types:
        return Finding(Verdict.OK)
    if not built.releases:
        return Finding(Verdict.UNKNOWN, note=f"the torch that it was built against is unknown: {built.how}")
    without_layouts = sorted({name for name in (*built.releases, release) if name not in layouts.releases})
    if without_layouts:
        return Finding(Verdict.UNKNOWN, note=f"no layouts are known of torch {', '.join(without_layouts)}")
    changed = [types & layouts.differences(old, release, harmless).keys() for old in built.releases]
    changed_from_any = tuple(sorted(frozenset().union(*changed)))
    if not changed_from_any:
        return Finding(Verdict.OK)
    # Whichever of the releases it was built against, something changed since.
    if all(changed):
        return Finding(Verdict.BROKEN, layout=changed_from_any)
    note = f"it depends on the torch that it was built against, {built.words} ({built.how})"
    return Finding(Verdict.UNKNOWN, layout=changed_from_any, note=note)
