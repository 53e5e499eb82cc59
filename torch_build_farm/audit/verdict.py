"""The verdict on each library and torch release, and on the wheel. Pure: wheel, index and layouts in, findings out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from torch_build_farm.audit.built_against import Built
from torch_build_farm.audit.layout_rules import harmless, types_of
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
        return self in (Verdict.OK, Verdict.ENV)


_ORDER = list(Verdict)


class Kind(StrEnum):
    """How a library depends on torch: on its C++ interface, on its C shim alone, or not at all."""

    TORCH = "torch"
    STABLE_ABI = "stable-abi"
    NEUTRAL = "neutral"


@dataclass(frozen=True)
class Finding:
    """A verdict and its reasons.

    `missing` are mangled names that the release does not export, `libraries` sonames that it does not bring (BROKEN) or
    that neither wheel nor torch brings (ENV), `layout` types that differ from those it was built with, `unknown` names
    that nobody here knows; `note` says what the lists do not.
    """

    verdict: Verdict
    missing: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    note: str = ""


def worst(findings: Iterable[Finding]) -> Finding:
    """Findings taken together: the worst verdict, and all reasons."""
    found = list(findings)
    if not found:
        return Finding(Verdict.OK)
    joined = {
        name: tuple(sorted({entry for one in found for entry in getattr(one, name)}))
        for name in ("missing", "libraries", "layout", "unknown")
    }
    notes = dict.fromkeys(one.note for one in found if one.note)
    return Finding(max((one.verdict for one in found), key=_ORDER.index), **joined, note="; ".join(notes))


@dataclass(frozen=True)
class Names:
    """What the index says of every name that a wheel's libraries leave undefined."""

    index: SymbolIndex
    masks: Mapping[str, int]

    @classmethod
    def of(cls, index: SymbolIndex, libraries: Iterable[Elf]) -> Names:
        return cls(index, index.masks({one.name for elf in libraries for one in elf.undefined}))

    @cached_property
    def system(self) -> int:
        """The bits of the system's libraries."""
        return mask_of(self.index.units, [unit for unit in self.index.units if not unit.release])

    @cached_property
    def torchs(self) -> int:
        """The bits of torch's own libraries, without those that come with it, such as libgomp."""
        own = ("libtorch", "libc10", "libcaffe2", "libshm")
        return mask_of(self.index.units, [unit for unit in self.index.units if unit.library.startswith(own)])

    def is_torchs(self, name: str, *, others: bool = False) -> bool:
        """Whether a name is torch's: some release exports it, or it mentions a namespace of torch's.

        With `others`, libraries that are built upon torch and not here, it has to lie in such a namespace itself.
        """
        mask = self.masks.get(name, 0)
        if mask & self.torchs and not mask & self.system and not policy().cxx.fullmatch(name):
            return True
        return bool((policy().own if others else policy().torch).fullmatch(name))


@dataclass(frozen=True)
class Library:
    """A library of a wheel, and what is the same for every release.

    `open` are the names that the wheel itself does not have, `users` the libraries of the wheel that it is loaded with.
    `types` are those whose layout it depends on.
    """

    path: str
    elf: Elf
    users: tuple[str, ...]
    open: tuple[Undefined, ...]
    kind: Kind
    types: frozenset[str]


def library(path: str, contents: Contents, names: Names, types: Mapping[str, tuple[tuple[str, str], ...]]) -> Library:
    """Read off a library what does not depend on the release; `types` as rules.by_component has them."""
    elf = contents.libraries[path]
    users = (path, *sorted(contents.users[path] - {path}))
    reached = {inner for user in users for inner in contents.closure(user)}
    inside = frozenset().union(*(contents.libraries[one].exported for one in reached))
    # A version names its library: one outside of the wheel is not looked into.
    left = [
        one for one in elf.undefined if one.name not in inside and not (one.file and not contents.find(path, one.file))
    ]
    found = tuple(one for one in left if not policy().interpreter.fullmatch(one.name))
    kind = _kind(elf, [one.name for one in found if names.is_torchs(one.name)])
    return Library(path, elf, users, found, kind, types_of(elf, types) if kind is Kind.TORCH else frozenset())


def _kind(elf: Elf, torchs: Sequence[str]) -> Kind:
    if all(policy().shim.fullmatch(name) for name in torchs):
        mentions = any(_TENSOR.search(name) for name in (*elf.exported, *(one.name for one in elf.undefined)))
        return Kind.TORCH if mentions else Kind.STABLE_ABI if torchs else Kind.NEUTRAL
    return Kind.TORCH


# A library without a name of torch's own that still hands tensors about, to others of its wheel.
_TENSOR = re.compile(r"^_Z.*(2at6Tensor|2at10TensorBase)")


@dataclass
class _Lacking:
    """Names that were not found, by what that means."""

    torchs: list[str] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)
    cxx: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _lacking(own: Library, found: int, names: Names, *, unlisted: bool, others: bool) -> _Lacking:
    """What a library asks for that is not in the units of the mask `found`.

    `unlisted`: it reaches CUDA's libraries, whose names are known by their looks alone.
    `others`: it needs libraries that are neither torch's nor the wheel's.
    """
    lacking = _Lacking()
    for one in own.open:
        if names.masks.get(one.name, 0) & found or (one.weak and policy().optional.fullmatch(one.name)):
            continue
        if names.is_torchs(one.name, others=others):
            (lacking.weak if one.weak else lacking.torchs).append(one.name)
        elif policy().cxx.fullmatch(one.name):
            lacking.cxx.append(one.name)
        elif not (one.weak or (unlisted and policy().cuda.fullmatch(one.name))):
            lacking.unknown.append(one.name)
    return lacking


def stem(library: str) -> str:
    """A library's name without its version."""
    return library.partition(".so")[0]


def _lost_versions(own: Library, contents: Contents) -> tuple[str, ...]:
    """Versions that a library asks of another of the wheel, which has versions, but not these (glibc, dl-version.c)."""
    asked = ((version, contents.find(own.path, file)) for file, version in own.elf.versions)
    return tuple(
        f"{version} of {path}"
        for version, path in asked
        if path and contents.libraries[path].defines and version not in contents.libraries[path].defines
    )


def links(own: Library, contents: Contents, release: TorchRelease, names: Names, ever: frozenset[str]) -> Finding:
    """Whether the loader finds all that a library asks for in a release; `ever`: what any release of torch brings."""
    reaches = [release.reach(contents, user) for user in own.users]
    units = {unit for reach in reaches for unit in reach.units}
    outside = reaches[0].missing
    unlisted = bool(reaches[0].others - policy().system)
    theirs = bool(outside or reaches[0].companions)  # any other name may be of such a library
    lacking = _lacking(own, mask_of(names.index.units, units) | names.system, names, unlisted=unlisted, others=theirs)
    stems = {stem(name) for name in ever}
    broken = {name for name in outside if stem(name) in stems}
    functions = [policy().functions[name] for name in reaches[0].others if name in policy().functions]
    left = (
        () if theirs else (one for one in lacking.unknown if not any(pattern.fullmatch(one) for pattern in functions))
    )
    unknown = tuple(sorted(left))
    if lost := _lost_versions(own, contents):
        return Finding(Verdict.BROKEN, unknown=lost, note="the wheel's own library has no such version")
    if broken or lacking.torchs:
        return Finding(Verdict.BROKEN, tuple(sorted(lacking.torchs)), tuple(sorted(broken)), unknown=unknown)
    if unknown:
        note = "names that neither the wheel nor any torch release exports"
        return Finding(Verdict.UNKNOWN, unknown=unknown, note=note)
    if lacking.weak:
        note = "weak names that this release lacks: it works only if the library asks before it calls"
        return Finding(Verdict.UNKNOWN, tuple(sorted(lacking.weak)), note=note)
    if lacking.cxx or outside:
        note = "a newer C++ library than manylinux promises" if lacking.cxx else ""
        libraries = [CXX_LIBRARY, *outside] if lacking.cxx else outside
        return Finding(Verdict.ENV, libraries=tuple(sorted(libraries)), note=note)
    return Finding(Verdict.OK)


def layout(types: frozenset[str], built: Built, release: str, layouts: Layouts) -> Finding:
    """Whether the types that a library touches inline are in `release` as they were where it was built."""
    if built.releases == (release,) or not types:
        return Finding(Verdict.OK)
    if not built.releases:
        return Finding(Verdict.UNKNOWN, note=f"what it was built against is not known: {built.how}")
    if unknown := sorted({one for one in (*built.releases, release) if one not in layouts.releases}):
        return Finding(Verdict.UNKNOWN, note=f"no layouts are known of torch {', '.join(unknown)}")
    changed = [types & layouts.differences(one, release, harmless).keys() for one in built.releases]
    every = tuple(sorted(frozenset().union(*changed)))
    if not every:
        return Finding(Verdict.OK)
    if all(changed):
        return Finding(Verdict.BROKEN, layout=every)
    note = f"it depends on the torch that it was built against, {built.words} ({built.how})"
    return Finding(Verdict.UNKNOWN, layout=every, note=note)
