"""A wheel against torch's releases: every library's verdicts, the wheel's, and METADATA's claim beside the truth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from torch_build_farm.audit import built_against
from torch_build_farm.audit import verdict as judging
from torch_build_farm.audit.built_against import Built, Evidence
from torch_build_farm.audit.loader import Contents, TorchRelease
from torch_build_farm.audit.read_wheel import AuditedWheel
from torch_build_farm.audit.symbol_versions import floors
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import Finding, Kind, Names, Verdict, worst

# A library in such a folder, or of such a file name, is for one torch minor, or one release.
_FOR_TORCH = re.compile(r"(?:^|[/_-])(?:py|lib)?torch[_-]?v?(\d+)\.(\d+)(?:\.(\d+))?(?=[/_.-]|$)")
_NUMBER = re.compile(r"(?<=cu|hi|oc)(?:da|p|m)?[_-]?\d+")  # of cu12, cuda128, rocm63, hip6
_FOR_TORCH_SHORT = re.compile(r"[/_-]torch(\d)(\d{1,2})(?=[_.-])")
_EXTENSION = re.compile(r"\.cpython-(\d)(\d+)(t?)-")
Claim = Literal["true", "wider", "narrower", "wider and narrower", "unknown"]


@dataclass(frozen=True)
class LibraryReport:
    """A library's kind, what it was built against and how that is known, and a finding for each release.

    `meant`: the torch minor or release that it is for by its path, empty for all; for others the wheel does not use it.
    """

    path: str
    kind: Kind
    built: Built
    meant: str
    releases: Mapping[str, Finding]


@dataclass(frozen=True)
class WheelReport:
    """A wheel's findings; releases without a build for the wheel's CPython are in `left_out`.

    `true_range` is a version specifier for what works of the releases that are known, and `claim` says how METADATA's,
    `declared`, differs from that; `ok` is false where it promises what is not so. `floors` are the symbol versions that
    it asks for of glibc and the C++ library.
    """

    file: str
    declared: str
    true_range: str
    claim: Claim
    libraries: tuple[LibraryReport, ...]
    ok: bool
    releases: Mapping[str, Finding]
    left_out: tuple[str, ...]
    floors: tuple[str, ...]

    def works(self, release: str) -> bool:
        return self.releases[release].verdict.works


def _meant(paths: Iterable[str]) -> dict[str, str]:
    """The torch minor or release that each library is for by its path; empty for all.

    "torch28" without a point may be a part of any name: it counts where libraries for several such lie together.
    """
    with_point, without = ({path: _last(pattern, path) for path in paths} for pattern in (_FOR_TORCH, _FOR_TORCH_SHORT))
    return without if not any(with_point.values()) and len({*without.values()} - {""}) > 1 else with_point


def _last(pattern: re.Pattern[str], path: str) -> str:
    found = list(pattern.finditer(path))
    return ".".join(number for number in found[-1].groups() if number) if found else ""


def meant_for(meant: str, release: str) -> bool:
    """Whether a library with such a path is used with a release."""
    return not meant or release == meant or (meant.count(".") == 1 and release.startswith(f"{meant}."))


class _Audit:
    """One wheel's audit at work."""

    def __init__(self, wheel: AuditedWheel, known: AuditTables, recorded: str) -> None:
        self.wheel, self.known, self.recorded = wheel, known, recorded
        self.contents = Contents(wheel.libraries, wheel.requires)
        self.names = Names.of(known.index, wheel.libraries.values())
        self.libraries = {
            path: judging.library(path, self.contents, self.names, known.types) for path in wheel.libraries
        }
        self.meant = _meant(list(wheel.libraries))
        self.torchs = [path for path, library in self.libraries.items() if library.kind is Kind.TORCH]
        self._releases: dict[tuple[str, str], TorchRelease] = {}
        self._links: dict[tuple[str, str], Finding] = {}

    @cached_property
    def every(self) -> list[str]:
        return [release.name for release in self.known.index.releases]

    def pythons(self, path: str, release: str) -> list[str]:
        """Tags of the CPythons that load a library and that a release has builds for."""
        files = next(one.files for one in self.known.index.releases if one.name == release)
        if found := _EXTENSION.search(path):
            return [tag for tag in [f"cp{''.join(found.groups())}"] if tag in files]
        exact = {tag.abi for tag in self.wheel.tags if tag.abi.startswith("cp")}
        if exact:
            return sorted(exact & set(files))
        if any(re.fullmatch(r"py\d+", tag.interpreter) and tag.abi in ("none", "abi3") for tag in self.wheel.tags):
            return sorted(files)
        # cp39-abi3 and such; for PyPy and others torch has no wheels.
        own = [tag for tag in self.wheel.tags if re.fullmatch(r"cp\d{2,}", tag.interpreter)]
        stable = [int(tag.interpreter[3:]) for tag in own if tag.abi == "abi3"]
        alone = {tag.interpreter for tag in own if tag.abi == "none"}
        return sorted(
            tag for tag in files if tag in alone or (stable and not tag.endswith("t") and int(tag[3:]) >= min(stable))
        )

    def links(self, path: str, release: str) -> Finding:
        """Whether the loader finds all that a library asks for, with every CPython that may load it."""
        if (path, release) not in self._links:
            findings = []
            for python in self.pythons(path, release):
                if (release, python) not in self._releases:
                    self._releases[release, python] = TorchRelease(self.known.index, release, python)
                torch = self._releases[release, python]
                findings.append(judging.links(self.libraries[path], self.contents, torch, self.names, self.known.ever))
            self._links[path, release] = worst(findings)
        return self._links[path, release]

    def built(self, paths: Sequence[str], meant: str) -> Built:
        """What these libraries were built against, taken together."""
        marked, linked = set(self.every), set(self.every)
        for path in paths:
            marked &= self.known.marks.releases(self.wheel.marks[path])
            linked &= {one for one in self.every if self.links(path, one).verdict is not Verdict.BROKEN}
        own = frozenset(one for one in self.every if meant and meant_for(meant, one))
        return built_against.infer(
            self.every, Evidence(frozenset(marked), frozenset(linked), own, self.wheel.declared, self.recorded)
        )

    def builds(self, meant: str) -> dict[str, Built]:
        """What each library was built against: those for one torch were built together, unless their bytes differ."""
        group = [path for path in self.torchs if self.meant[path] == meant]
        together = self.built(group, meant)
        return {path: together if together.releases else self.built([path], meant) for path in group}

    def report(self, releases: Sequence[str]) -> WheelReport:
        builds = {path: built for one in set(self.meant.values()) for path, built in self.builds(one).items()}
        left_out = [one for one in releases if not self.pythons("", one)]
        judged = [one for one in releases if one not in left_out]
        own = {
            (path, release): self.finding(path, builds.get(path), release)
            for path in self.libraries
            for release in judged
            if self.pythons(path, release)
        }
        # A library fails with those that it needs.
        found = {
            key: worst(own[inner, key[1]] for inner in self.contents.closure(key[0]) if (inner, key[1]) in own)
            for key in own
        }
        libraries = tuple(
            LibraryReport(
                path,
                library.kind,
                builds.get(path, Built((), "")),
                self.meant[path],
                {release: found[path, release] for release in judged if (path, release) in found},
            )
            for path, library in sorted(self.libraries.items())
        )
        wheel = {release: self.whole(release, libraries) for release in judged}
        verdicts = {one: wheel[one].verdict for one in judged}
        claim = claim_of(self.wheel.declared, verdicts)
        return WheelReport(
            file=self.wheel.path.name,
            declared="" if self.wheel.declared is None else f"torch{self.wheel.declared}",
            true_range=true_range(
                judged,
                {one: found.works for one, found in verdicts.items()},
                open_ended=not self.torchs and self.every[-1:] == judged[-1:],
                whole=list(releases) == self.every,
            ),
            claim=claim,
            ok=claim in ("true", "narrower"),
            libraries=libraries,
            releases=wheel,
            left_out=tuple(left_out),
            floors=floors(self.wheel),
        )

    def finding(self, path: str, built: Built | None, release: str) -> Finding:
        """A library's own finding."""
        linked = self.links(path, release)
        if built is None:
            return linked
        return worst([linked, judging.layout(self.libraries[path].types, built, release, self.known.layouts)])

    def whole(self, release: str, libraries: Sequence[LibraryReport]) -> Finding:
        """The wheel's finding: that of all its libraries for a release."""
        meant = set(self.meant.values()) - {""}
        if meant and not any(meant_for(one, release) for one in meant):
            return Finding(Verdict.BROKEN, note=f"it has libraries for torch {', '.join(sorted(meant))} alone")
        used = [one for one in libraries if meant_for(one.meant, release) and release in one.releases]
        works = {_NUMBER.sub("#", one.path) for one in used if one.releases[release].verdict.works}
        # Of several builds of one library, for different CUDAs say, the wheel takes the one that fits.
        other = [one for one in used if one.kind is Kind.NEUTRAL and _NUMBER.sub("#", one.path) in works]
        return worst(
            one.releases[release]
            for one in used
            if one not in other or one.releases[release].verdict is not Verdict.BROKEN
        )


def true_range(known: Sequence[str], works: Mapping[str, bool], open_ended: bool, whole: bool = True) -> str:
    """A version specifier for the releases that work, of all that are `known`, oldest first; "none" where none does.

    Stretches are joined by "or". What is not known does not count: only where `open_ended` a stretch has no upper end,
    and only a `whole` list of releases can be "any".
    """
    stretches: list[list[str]] = []
    for before, release in zip([None, *known], known, strict=False):
        if works.get(release):
            if before is None or not works.get(before):
                stretches.append([])
            stretches[-1].append(release)
    if stretches and len(stretches[0]) == len(known) and open_ended and whole:
        return "any"
    return " or ".join(_stretch(one, open_ended and one[-1] == known[-1]) for one in stretches) or "none"


def _stretch(releases: Sequence[str], open_ended: bool) -> str:
    if open_ended:
        return f">={releases[0]}"
    return f"=={releases[0]}" if len(releases) == 1 else f">={releases[0]},<={releases[-1]}"


def claim_of(declared: SpecifierSet | None, verdicts: Mapping[str, Verdict]) -> Claim:
    """How the range that METADATA declares differs from the truth; no requirement on torch claims every release.

    Unknown where it names none of these releases.
    """
    claimed = {one for one in verdicts if declared is None or declared.contains(Version(one), prereleases=True)}
    true = {one for one, verdict in verdicts.items() if verdict.works}
    if not claimed:
        return "unknown"
    wider, narrower = bool(claimed - true), bool(true - claimed)
    return "wider and narrower" if wider and narrower else "wider" if wider else "narrower" if narrower else "true"


def audit(wheel: AuditedWheel, known: AuditTables, releases: Sequence[str], recorded: str = "") -> WheelReport:
    """Judge a wheel by the releases named; `recorded` is the one that the farm built it against, if it did."""
    return _Audit(wheel, known, recorded).report(releases)
