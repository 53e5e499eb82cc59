"""The verdict on a library with a torch release. Pure: it takes wheel, index and layouts, and returns findings.

Two questions make a verdict. Does the loader find every name and library (`link_finding`)? Do the types that the
library touches inline have the layout it was compiled with (`layout_finding`)? `worst` puts findings together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cached_property

from torch_build_farm.audit.built_against import Built
from torch_build_farm.audit.layout_rules import TypesByName, harmless, types_of
from torch_build_farm.audit.loader import Contents, TorchRelease, policy, required
from torch_build_farm.releases.symbol_table import SymbolIndex, Unit, mask_of
from torch_build_farm.releases.type_layouts import Layouts
from torch_build_farm.wheels.elf.library import Elf, Undefined


class Verdict(StrEnum):
    """Ordered from good to bad; UNKNOWN counts as BROKEN wherever a yes or no is needed."""

    OK = "OK"
    ENV = "ENV"
    UNKNOWN = "UNKNOWN"
    BROKEN = "BROKEN"

    @property
    def works(self) -> bool:
        """Whether the wheel can be used. ENV counts as yes: the system has to bring the libraries that are named."""
        return self in (Verdict.OK, Verdict.ENV)


_ORDER = list(Verdict)

# Such a name makes a library depend on the layout of tensors even if it needs no name of torch: it passes tensors to
# other libraries of its wheel.
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

    - `missing`: mangled names that the release does not export.
    - `libraries`: sonames that the release does not bring (BROKEN), or that neither wheel nor torch brings (ENV).
    - `layout`: full names of types that differ from those the library was built with.
    - `unknown`: mangled names that no table has.
    - `newer_cxx`: mangled names that only a C++ library newer than manylinux promises has (ENV).
    - `note`: what the lists do not explain.
    """

    verdict: Verdict
    missing: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    newer_cxx: tuple[str, ...] = ()
    note: str = ""


def worst(findings: Iterable[Finding]) -> Finding:
    """Findings taken together: the worst verdict, and the reasons of all. OK if there are no findings.

    Where the wheel does not work, what the system would have to bring is no reason.
    """
    findings = list(findings)
    verdict = max((finding.verdict for finding in findings), key=_ORDER.index, default=Verdict.OK)
    missing, libraries, layout, unknown, newer_cxx = set[str](), set[str](), set[str](), set[str](), set[str]()
    notes: dict[str, None] = {}  # an ordered set
    for finding in findings:
        if finding.verdict.works and not verdict.works:
            continue
        missing.update(finding.missing)
        libraries.update(finding.libraries)
        layout.update(finding.layout)
        unknown.update(finding.unknown)
        newer_cxx.update(finding.newer_cxx)
        if finding.note:
            notes[finding.note] = None
    return Finding(
        verdict,
        missing=tuple(sorted(missing)),
        libraries=tuple(sorted(libraries)),
        layout=tuple(sorted(layout)),
        unknown=tuple(sorted(unknown)),
        newer_cxx=tuple(sorted(newer_cxx)),
        note="; ".join(notes),
    )


@dataclass(frozen=True)
class Names:
    """Who exports each name that a wheel's libraries leave undefined.

    `masks` maps a name to the bits of the units in `index` that export it; a name that none exports is not in it.
    """

    index: SymbolIndex
    masks: Mapping[str, int]

    @classmethod
    def of(cls, index: SymbolIndex, libraries: Iterable[Elf]) -> Names:
        """Look up the undefined names of these libraries."""
        undefined: set[str] = set()
        for elf in libraries:
            undefined |= elf.undefined_names
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

    @cached_property
    def _bits(self) -> Mapping[Unit, int]:
        """The bit of each unit."""
        return {unit: 1 << number for number, unit in enumerate(self.index.units)}

    def bits_of(self, units: Iterable[Unit]) -> int:
        """The bits of these units."""
        bits = 0
        for unit in units:
            bits |= self._bits[unit]
        return bits

    def is_torchs(self, name: str, *, beside_strangers: bool = False) -> bool:
        """Whether a name is torch's: some release exports it, or it mentions a namespace of torch.

        Other libraries built on torch export functions that mention torch's types. Where one of them may be loaded
        (`beside_strangers`), a mention is not enough: the name has to lie in a namespace of torch.
        """
        mask = self.masks.get(name, 0)
        only_torch_has_it = mask & self.torchs and not mask & self.system
        if only_torch_has_it and not policy().cxx.fullmatch(name):
            return True
        pattern = policy().in_torch if beside_strangers else policy().mentions_torch
        return bool(pattern.fullmatch(name))


@dataclass(frozen=True)
class Library:
    """A library of a wheel: the facts that are the same for every release.

    - `users`: paths of the wheel's libraries that it is loaded with, its own first.
    - `open`: the undefined names that the wheel itself does not define.
    - `types`: full names of the types whose layout it depends on.
    """

    path: str
    elf: Elf
    users: tuple[str, ...]
    open: tuple[Undefined, ...]
    kind: LibraryKind
    types: frozenset[str]


def describe_library(path: str, contents: Contents, names: Names, types: TypesByName) -> Library:
    """Collect what does not depend on the release; `types` are all types whose layouts are known."""
    elf = contents.libraries[path]
    # A library that others load is resolved in their scope too: what they bring, it finds.
    users = (path, *sorted(contents.users[path] - {path}))
    in_scope: set[str] = set()
    for user in users:
        in_scope.update(contents.closure(user))
    inside: set[str] = set()
    for library_path in in_scope:
        inside |= contents.libraries[library_path].exported

    open_names = []
    for symbol in elf.undefined:
        if symbol.name in inside or policy().interpreter.fullmatch(symbol.name):
            continue
        # A version names the library that has it. If that is not in the wheel it is the system's or torch's, whose
        # versions no table lists.
        if symbol.file and not contents.find(path, symbol.file):
            continue
        open_names.append(symbol)

    torchs_names = [symbol.name for symbol in open_names if names.is_torchs(symbol.name)]
    kind = _kind(elf, torchs_names)
    # Types are torch's C++ interface: whoever uses the C shim or nothing of torch depends on no layout.
    touched = types_of(elf, types) if kind is LibraryKind.TORCH else frozenset[str]()
    return Library(path, elf, users, tuple(open_names), kind, touched)


def _kind(elf: Elf, torchs_names: Sequence[str]) -> LibraryKind:
    """How a library depends on torch; `torchs_names` are the names of torch that it needs."""
    if not all(policy().shim.fullmatch(name) for name in torchs_names):
        return LibraryKind.TORCH
    if any(_TENSOR.search(name) for name in elf.exported | elf.undefined_names):
        return LibraryKind.TORCH
    return LibraryKind.STABLE_ABI if torchs_names else LibraryKind.NEUTRAL


# ---- whether the loader finds everything


class _Missing(Enum):
    """What it means for a wheel that the loader does not find a name."""

    TORCH = "it is torch's, and this release lacks it: the library does not load"
    WEAK_TORCH = "the same for a weak name: the library loads, and may check the name before it calls it"
    CXX = "a newer C++ library has it"
    UNKNOWN = "no table lists who has it"


@dataclass(frozen=True)
class _Reached:
    """What a library reaches outside its wheel in one release.

    - `exporters`: bits of the units whose names it finds, the system's among them.
    - `unlisted`: sonames of libraries that it needs and whose names no table lists: CUDA's and some of the system's.
    - `beyond_system`: whether some of the unlisted libraries are CUDA's.
    - `absent`: sonames of libraries that it needs and that neither wheel, torch nor system brings.
    - `strangers`: whether it needs libraries that are absent or come with another distribution; any name may be theirs.
    """

    exporters: int
    unlisted: frozenset[str]
    beyond_system: bool
    absent: frozenset[str]
    strangers: bool


def _reached(library: Library, contents: Contents, release: TorchRelease, names: Names) -> _Reached:
    # Names are found in the scope of every library that it is loaded with; for the rest its own needs count.
    units: frozenset[Unit] = frozenset().union(*(release.reach(contents, user).units for user in library.users))
    itself = release.reach(contents, library.path)
    return _Reached(
        exporters=names.bits_of(units) | names.system,
        unlisted=itself.others,
        beyond_system=bool(itself.others - release.system),
        absent=itself.missing,
        strangers=bool(itself.missing or itself.companions),
    )


def _classified(library: Library, reached: _Reached, names: Names) -> Mapping[_Missing, list[str]]:
    """The names that the loader does not find, by what that means; names that need not be found are left out."""
    # Of some of the system's libraries no table lists the names, but a pattern describes them.
    patterns_of_unlisted = []
    for soname in reached.unlisted & policy().functions.keys():
        patterns_of_unlisted.append(policy().functions[soname])

    by_meaning = defaultdict[_Missing, list[str]](list)
    for symbol in library.open:
        name = symbol.name
        if names.masks.get(name, 0) & reached.exporters:
            continue
        if symbol.weak and policy().optional.fullmatch(name):  # compilers make sure that it is checked before a call
            continue
        # Torch's names come first: no other library can have them, whatever else is loaded.
        if names.is_torchs(name, beside_strangers=reached.strangers):
            by_meaning[_Missing.WEAK_TORCH if symbol.weak else _Missing.TORCH].append(name)
        elif policy().cxx.fullmatch(name):
            by_meaning[_Missing.CXX].append(name)
        elif symbol.weak or reached.strangers:
            continue  # it may stay unresolved, or be in a library that no table lists
        elif reached.beyond_system and policy().cuda.fullmatch(name):
            continue  # no table lists CUDA's names: a pattern recognizes them
        elif not any(pattern.fullmatch(name) for pattern in patterns_of_unlisted):
            by_meaning[_Missing.UNKNOWN].append(name)
    return by_meaning


def stem(soname: str) -> str:
    """A library's name without its version: libcudart for libcudart.so.12."""
    return soname.partition(".so")[0]


def _lost_versions(library: Library, contents: Contents) -> tuple[str, ...]:
    """Symbol versions that a library needs from another one of its wheel, which does not define them.

    The loader then ends the process; a library that defines no versions at all passes (glibc, dl-version.c).
    """
    lost = []
    for file, version in library.elf.versions:
        path = contents.find(library.path, file)
        if not path:
            continue
        defined = contents.libraries[path].defines
        if defined and version not in defined:
            lost.append(f"{version} of {path}")
    return tuple(lost)


def link_finding(
    library: Library, contents: Contents, release: TorchRelease, names: Names, ever: frozenset[str]
) -> Finding:
    """Whether the loader finds everything that a library needs in a release.

    `ever` are the sonames that come with any release of torch: a library of that name and another version is one that
    torch should bring, and this release does not.
    """
    lost = _lost_versions(library, contents)
    if lost:
        return Finding(Verdict.BROKEN, unknown=lost, note="the wheel's own library does not define this version")

    reached = _reached(library, contents, release, names)
    missing = _classified(library, reached, names)
    unknown = tuple(sorted(missing[_Missing.UNKNOWN]))

    # What only torch can bring, and this release does not, breaks the wheel whatever else is true.
    stems_ever = {stem(soname) for soname in ever}
    # What libraries of the wheel that it needs lack is their own finding.
    absent = reached.absent & required(library.elf)
    of_compilers = {stem(soname) for soname in policy().compilers}
    torchs_libraries = [soname for soname in absent if stem(soname) in stems_ever - of_compilers]
    torchs_names = missing[_Missing.TORCH]
    if torchs_libraries or torchs_names:
        return Finding(
            Verdict.BROKEN,
            missing=tuple(sorted(torchs_names)),
            libraries=tuple(sorted(torchs_libraries)),
            unknown=unknown,
        )

    # Then comes what nobody can be sure of.
    if unknown:
        note = "names that neither the wheel nor any torch release exports"
        return Finding(Verdict.UNKNOWN, unknown=unknown, note=note)
    if missing[_Missing.WEAK_TORCH]:
        note = "weak names that this release lacks: it works only if the library checks them before it calls them"
        return Finding(Verdict.UNKNOWN, missing=tuple(sorted(missing[_Missing.WEAK_TORCH])), note=note)

    # The rest is for the system to bring.
    newer_cxx = tuple(sorted(missing[_Missing.CXX]))
    return Finding(
        Verdict.ENV if absent or newer_cxx else Verdict.OK,
        libraries=tuple(sorted(absent)),
        newer_cxx=newer_cxx,
        note="; ".join(_renamed(absent, release.brought)),
    )


def _renamed(absent: Iterable[str], brought: Iterable[str]) -> list[str]:
    """Sentences for the absent libraries that torch brings under the name that auditwheel gave a copy: NAME-HASH.so."""
    sentences = []
    for soname in sorted(absent):
        pattern = re.compile(rf"{re.escape(stem(soname))}-[0-9a-f]{{8}}\.so[.0-9]*")
        for copy in filter(pattern.fullmatch, sorted(brought)):
            sentences.append(f"torch's own {soname} is named {copy}, which the loader takes for another library")
    return sentences


# ---- whether types have the layout that the library was compiled with


def layout_finding(types: frozenset[str], built: Built, release: str, layouts: Layouts) -> Finding:
    """Whether the types that a library touches inline have the same layout in `release` as where it was built."""
    if built.releases == (release,) or not types:
        return Finding(Verdict.OK)
    if not built.releases:
        return Finding(Verdict.UNKNOWN, note=f"the torch that it was built against is unknown: {built.how}")
    without_layouts = sorted({name for name in (*built.releases, release) if name not in layouts.releases})
    if without_layouts:
        return Finding(Verdict.UNKNOWN, note=f"the layouts of torch {', '.join(without_layouts)} are not known")

    # The library may have been built against any of several releases: compare each of them with this one.
    changed_since: list[frozenset[str]] = []
    for old in built.releases:
        changed_since.append(types & layouts.differences(old, release, harmless).keys())
    changed_since_any = tuple(sorted(set().union(*changed_since)))
    if not changed_since_any:
        return Finding(Verdict.OK)
    if all(changed_since):
        return Finding(Verdict.BROKEN, layout=changed_since_any)
    note = f"it depends on the torch that it was built against, {built.words} ({built.how})"
    return Finding(Verdict.UNKNOWN, layout=changed_since_any, note=note)
