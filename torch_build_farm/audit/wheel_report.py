"""A wheel against torch's releases: every library's verdicts, the wheel's, and METADATA's claim beside the truth."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from torch_build_farm.audit import built_against
from torch_build_farm.audit.built_against import Built, Evidence
from torch_build_farm.audit.loader import Contents, TorchRelease
from torch_build_farm.audit.read_wheel import AuditedWheel
from torch_build_farm.audit.symbol_versions import floors
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import (
    Finding,
    LibraryKind,
    Names,
    Verdict,
    describe_library,
    layout_finding,
    link_finding,
    worst,
)

# A library in such a folder, or of such a file name, is for one torch minor, or one release.
_FOR_TORCH = re.compile(r"(?:^|[/_-])(?:py|lib)?torch[_-]?v?(\d+)\.(\d+)(?:\.(\d+))?(?=[/_.-]|$)")
_NUMBER = re.compile(r"(?<=cu|hi|oc)(?:da|p|m)?[_-]?\d+")  # of cu12, cuda128, rocm63, hip6
_FOR_TORCH_SHORT = re.compile(r"[/_-]torch(\d)(\d{1,2})(?=[_.-])")
_EXTENSION = re.compile(r"\.cpython-(\d)(\d+)(t?)-")
Claim = Literal["true", "wider", "narrower", "wider and narrower", "unknown"]


@dataclass(frozen=True)
class LibraryReport:
    """A library's kind, what it was built against and how that is known, and a finding for each release.

    `meant`: the torch minor or release that it is for by its path, empty for all; the wheel uses it with no other.
    """

    path: str
    kind: LibraryKind
    built: Built
    meant: str
    releases: Mapping[str, Finding]


@dataclass(frozen=True)
class WheelReport:
    """A wheel's findings; releases without a build for the wheel's CPython are in `left_out`.

    `true_range` is a version specifier for those of the known releases that work, and `claim` says how METADATA's,
    `declared`, differs from that; `ok` is false where METADATA promises more than is true. `floors` are the symbol
    versions that the wheel asks of glibc and the C++ library.
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
        """Whether the wheel can be used with a release that was judged."""
        return self.releases[release].verdict.works


def _meant(paths: Iterable[str]) -> dict[str, str]:
    """The torch minor or release that each library is for by its path; empty for all.

    "torch28" without a point may be a part of any name: it counts where libraries for several such lie together.
    """
    with_point, without_point = {}, {}
    for path in paths:
        with_point[path] = _last_number(_FOR_TORCH, path)
        without_point[path] = _last_number(_FOR_TORCH_SHORT, path)
    if any(with_point.values()):
        return with_point
    several = len(set(without_point.values()) - {""}) > 1
    return without_point if several else with_point


def _last_number(pattern: re.Pattern[str], path: str) -> str:
    """The last torch version in a path; empty where there is none."""
    matches = list(pattern.finditer(path))
    if not matches:
        return ""
    return ".".join(number for number in matches[-1].groups() if number)


def meant_for(meant: str, release: str) -> bool:
    """Whether a library that is for `meant` by its path is used with a release."""
    if not meant or release == meant:
        return True
    is_minor = meant.count(".") == 1
    return is_minor and release.startswith(f"{meant}.")


class _Audit:
    """One wheel's audit at work."""

    def __init__(self, wheel: AuditedWheel, known: AuditTables, recorded: str) -> None:
        self.wheel, self.known, self.recorded = wheel, known, recorded
        self.contents = Contents(wheel.libraries, wheel.requires)
        self.names = Names.of(known.index, wheel.libraries.values())
        self.libraries = {
            path: describe_library(path, self.contents, self.names, known.types) for path in wheel.libraries
        }
        self.meant = _meant(list(wheel.libraries))
        self._releases: dict[tuple[str, str], TorchRelease] = {}
        self._link_findings: dict[tuple[str, str], Finding] = {}

    @cached_property
    def every(self) -> list[str]:
        """Every known release, oldest first."""
        return [release.name for release in self.known.index.releases]

    def pythons(self, path: str, release: str) -> list[str]:
        """Tags of the CPythons that load a library and that a release has builds for."""
        (torchs_tags,) = (known.files for known in self.known.index.releases if known.name == release)
        # The file's own suffix is the most precise statement: .cpython-312-x86_64-linux-gnu.so.
        extension = _EXTENSION.search(path)
        if extension:
            tag = f"cp{''.join(extension.groups())}"
            return [tag] if tag in torchs_tags else []
        return self._pythons_by_tags(torchs_tags)

    def _pythons_by_tags(self, torchs_tags: Collection[str]) -> list[str]:
        """Those of torch's CPythons that the wheel's tags allow."""
        tags = self.wheel.tags
        abis = {tag.abi for tag in tags if tag.abi.startswith("cp")}
        if abis:
            return sorted(abis & set(torchs_tags))
        # py3-none: every CPython. For PyPy and others torch has no wheels.
        if any(re.fullmatch(r"py\d+", tag.interpreter) and tag.abi in ("none", "abi3") for tag in tags):
            return sorted(torchs_tags)
        # cp312-none is one CPython, cp39-abi3 is 3.9 and every later one that has the GIL.
        single, oldest_stable = set(), []
        for tag in tags:
            if not re.fullmatch(r"cp\d{2,}", tag.interpreter):
                continue
            if tag.abi == "none":
                single.add(tag.interpreter)
            elif tag.abi == "abi3":
                oldest_stable.append(int(tag.interpreter[3:]))
        allowed = []
        for torchs_tag in torchs_tags:
            has_gil = not torchs_tag.endswith("t")
            stable = bool(oldest_stable) and has_gil and int(torchs_tag[3:]) >= min(oldest_stable)
            if torchs_tag in single or stable:
                allowed.append(torchs_tag)
        return sorted(allowed)

    def link_finding(self, path: str, release: str) -> Finding:
        """Whether the loader finds all that a library asks for, with every CPython that may load it."""
        key = (path, release)
        if key not in self._link_findings:
            findings = []
            for python in self.pythons(path, release):
                if (release, python) not in self._releases:
                    self._releases[release, python] = TorchRelease(self.known.index, release, python)
                torch = self._releases[release, python]
                library = self.libraries[path]
                findings.append(link_finding(library, self.contents, torch, self.names, self.known.ever))
            self._link_findings[key] = worst(findings)
        return self._link_findings[key]

    # ---- what it was built against

    def built_together(self, paths: Sequence[str], meant: str) -> Built:
        """What these libraries were built against, taken together."""
        by_header_lines, by_names = set(self.every), set(self.every)
        for path in paths:
            by_header_lines &= self.known.marks.releases(self.wheel.marks[path])
            for release in self.every:
                if self.link_finding(path, release).verdict is Verdict.BROKEN:
                    by_names.discard(release)
        by_path = frozenset(release for release in self.every if meant and meant_for(meant, release))
        evidence = Evidence(
            marked=frozenset(by_header_lines),
            linked=frozenset(by_names),
            meant=by_path,
            declared=self.wheel.declared,
            recorded=self.recorded,
        )
        return built_against.infer(self.every, evidence)

    def builds(self) -> dict[str, Built]:
        """What each library that uses torch's C++ interface was built against.

        Those for one torch were built together, unless their bytes contradict each other.
        """
        groups = defaultdict[str, list[str]](list)
        for path, library in self.libraries.items():
            if library.kind is LibraryKind.TORCH:
                groups[self.meant[path]].append(path)
        builds = {}
        for meant, paths in groups.items():
            together = self.built_together(paths, meant)
            for path in paths:
                builds[path] = together if together.releases else self.built_together([path], meant)
        return builds

    # ---- findings

    def own_finding(self, path: str, built: Built | None, release: str) -> Finding:
        """A library's finding, without those of the libraries that it needs."""
        linked = self.link_finding(path, release)
        if built is None:
            return linked
        return worst([linked, layout_finding(self.libraries[path].types, built, release, self.known.layouts)])

    def findings(self, builds: Mapping[str, Built], release: str) -> dict[str, Finding]:
        """The findings of all libraries that some CPython loads with a release; by path."""
        alone = {}
        for path in self.libraries:
            if self.pythons(path, release):
                alone[path] = self.own_finding(path, builds.get(path), release)
        # A library fails with those that it needs.
        with_needed = {}
        for path in alone:
            with_needed[path] = worst(alone[inner] for inner in self.contents.closure(path) if inner in alone)
        return with_needed

    def whole(self, release: str, libraries: Sequence[LibraryReport]) -> Finding:
        """The wheel's finding for a release: those of all libraries that it uses with it, taken together."""
        minors = set(self.meant.values()) - {""}
        if minors and not any(meant_for(minor, release) for minor in minors):
            return Finding(Verdict.BROKEN, note=f"it has libraries for torch {', '.join(sorted(minors))} alone")
        used = [library for library in libraries if meant_for(library.meant, release) and release in library.releases]
        # Of several builds of one library, for different CUDAs say, the wheel takes the one that fits.
        working = {_NUMBER.sub("#", library.path) for library in used if library.releases[release].verdict.works}
        findings = []
        for library in used:
            finding = library.releases[release]
            replaced = library.kind is LibraryKind.NEUTRAL and _NUMBER.sub("#", library.path) in working
            if not (replaced and finding.verdict is Verdict.BROKEN):
                findings.append(finding)
        return worst(findings)

    def report(self, releases: Sequence[str]) -> WheelReport:
        """The wheel's report for these releases, oldest first."""
        left_out = [release for release in releases if not self.pythons("", release)]
        judged = [release for release in releases if release not in left_out]
        builds = self.builds()
        findings = {release: self.findings(builds, release) for release in judged}
        libraries = []
        for path, library in sorted(self.libraries.items()):
            of_library = {release: findings[release][path] for release in judged if path in findings[release]}
            built = builds.get(path, Built((), ""))
            libraries.append(LibraryReport(path, library.kind, built, self.meant[path], of_library))
        wheel = {release: self.whole(release, libraries) for release in judged}
        verdicts = {release: finding.verdict for release, finding in wheel.items()}
        claim = claim_of(self.wheel.declared, verdicts)
        # Nothing is known of releases after the last: only what does not use torch's C++ interface works with them too.
        open_ended = not builds and self.every[-1:] == judged[-1:]
        return WheelReport(
            file=self.wheel.path.name,
            declared="" if self.wheel.declared is None else f"torch{self.wheel.declared}",
            true_range=true_range(
                judged,
                {release: verdict.works for release, verdict in verdicts.items()},
                open_ended=open_ended,
                whole=list(releases) == self.every,
            ),
            claim=claim,
            ok=claim in ("true", "narrower"),
            libraries=tuple(libraries),
            releases=wheel,
            left_out=tuple(left_out),
            floors=floors(self.wheel),
        )


def true_range(known: Sequence[str], works: Mapping[str, bool], open_ended: bool, whole: bool = True) -> str:
    """A version specifier for the releases that work, of all that are `known`, oldest first; "none" where none does.

    Stretches are joined by "or". Releases that are not known do not count: a stretch has no upper end only where
    `open_ended`, and only a `whole` list of releases can be "any".
    """
    stretches: list[list[str]] = []
    before_works = False
    for release in known:
        release_works = works.get(release, False)
        if release_works and not before_works:
            stretches.append([])
        if release_works:
            stretches[-1].append(release)
        before_works = release_works
    if not stretches:
        return "none"
    if len(stretches[0]) == len(known) and open_ended and whole:
        return "any"
    return " or ".join(_stretch(stretch, open_ended and stretch[-1] == known[-1]) for stretch in stretches)


def _stretch(releases: Sequence[str], open_ended: bool) -> str:
    if open_ended:
        return f">={releases[0]}"
    if len(releases) == 1:
        return f"=={releases[0]}"
    return f">={releases[0]},<={releases[-1]}"


def claim_of(declared: SpecifierSet | None, verdicts: Mapping[str, Verdict]) -> Claim:
    """How the range that METADATA declares differs from the truth. Without a requirement on torch it is every release.

    Unknown where it covers none of these releases.
    """
    claimed, working = set(), set()
    for release, verdict in verdicts.items():
        if declared is None or declared.contains(Version(release), prereleases=True):
            claimed.add(release)
        if verdict.works:
            working.add(release)
    if not claimed:
        return "unknown"
    if claimed - working:
        return "wider and narrower" if working - claimed else "wider"
    return "narrower" if working - claimed else "true"


def audit(wheel: AuditedWheel, known: AuditTables, releases: Sequence[str], recorded: str = "") -> WheelReport:
    """Judge a wheel by `releases`, oldest first; `recorded`: what the farm built it against, if it did."""
    return _Audit(wheel, known, recorded).report(releases)
