"""A wheel against torch's releases: verdicts on libraries and on the wheel, and METADATA's claim beside the truth."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from packaging.version import Version

from torch_build_farm.audit import built_against
from torch_build_farm.audit.built_against import Built, Evidence
from torch_build_farm.audit.claim import Claim, claim_of, true_range
from torch_build_farm.audit.loader import Contents, TorchRelease, policy
from torch_build_farm.audit.pybind11 import strangers
from torch_build_farm.audit.read_wheel import AuditedWheel
from torch_build_farm.audit.symbol_versions import floors
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.torch_use import TorchUse, most_dependent, torch_use
from torch_build_farm.audit.verdict import (
    Finding,
    Library,
    LibraryKind,
    Names,
    Verdict,
    describe_library,
    layout_finding,
    link_finding,
    worst,
)
from torch_build_farm.core.machine import named

# A library in such a folder, or with such a file name, is for one torch minor or one release.
_FOR_TORCH = re.compile(r"(?:^|[/_-])(?:py|lib)?torch[_-]?v?(\d+)\.(\d+)(?:\.(\d+))?(?=[/_.-]|$)")
_FOR_TORCH_SHORT = re.compile(r"[/_-]torch(\d)(\d{1,2})(?=[_.-])")
_TOOLKIT = re.compile(r"(?<=cu|hi|oc)(?:da|p|m)?[_-]?\d+")  # the number in cu12, cuda128, rocm63, hip6
# What a library asks of a torch with CUDA: functions of its namespaces for CUDA, and libraries that come with it.
_CUDA_NAME = re.compile(r"_Z(N[VK]*)?(3c10|2at|5torch)4cuda")
_CUDA_LIBRARY = re.compile(r"lib(c10_cuda|torch_cuda|cu|nv)")
_OF_FLAVOUR = re.compile(r"/_torch\d+_cu\d+/")  # where relocation puts a variant for another CUDA
_EXTENSION = re.compile(r"\.cpython-(\d)(\d+)(t?)-")


@dataclass(frozen=True)
class LibraryReport:
    """A library of a wheel, with a finding for each release.

    - `kind`: how it depends on torch, itself or through libraries of the wheel that it needs.
    - `built`: what it was built against, and how that is known.
    - `meant`: the torch minor or release that its path names, and the only one that the wheel uses it with; empty if
      the path names none.
    - `needs`: paths of the libraries of the wheel that it needs, directly or not, in the order of the loader's search.
    - `own`: the findings without those of the libraries that it needs.
    - `releases`: the findings with them.
    - `companions`: sonames that it needs and that another distribution brings, which the wheel requires: those of its
      own and of the libraries that it loads, each with the distribution's name.
    """

    path: str
    kind: LibraryKind
    built: Built
    meant: str
    needs: tuple[str, ...]
    own: Mapping[str, Finding]
    releases: Mapping[str, Finding]
    companions: Mapping[str, str]


@dataclass(frozen=True)
class WheelReport:
    """A wheel's findings.

    - `platform`: that of the torch that it was judged against, "x86_64" or "aarch64".
    - `other_machines`: its libraries for another machine, by path, each with what people call that one; without those
      that it has for its own machine too, by the same file name.
    - `declared`: METADATA's requirement on torch, such as "torch>=2.8"; empty without one.
    - `true_range`: a version specifier for the known releases that work, its stretches joined by "or"; "any" or "none".
    - `claim`: how `declared` differs from `true_range`; "nothing to judge" for a wheel without a library.
    - `ok`: false if METADATA promises more than is true.
    - `releases`: the wheel's finding for each release.
    - `left_out`: releases that have no build for any CPython of the wheel.
    - `floors`: the symbol versions that the wheel needs from glibc and the C++ library, such as "GLIBC_2.34".
    - `use`: what the wheel uses of torch, and from which release on it is there.
    - `pybind11`: ids of pybind11's internals in libraries that use torch's C++ interface, each with the releases that
      the wheel works with and whose torch has another one: they do not see the types that torch binds by pybind11.
    """

    file: str
    platform: str
    other_machines: Mapping[str, str]
    declared: str
    true_range: str
    claim: Claim
    libraries: tuple[LibraryReport, ...]
    ok: bool
    releases: Mapping[str, Finding]
    left_out: tuple[str, ...]
    floors: tuple[str, ...]
    use: TorchUse
    pybind11: Mapping[str, tuple[str, ...]]

    @property
    def fewer_variants(self) -> str:
        """What the wheel uses of torch, if its project needs fewer variants than one for each minor; else empty."""
        if self.use.kind is LibraryKind.TORCH or not self.use.since or self.true_range == "none":
            return ""
        # Of a wheel for one CUDA, say, not every torch brings the libraries.
        if self.use.kind is LibraryKind.NEUTRAL and self.true_range != "any":
            return f"nothing of torch's C++: one wheel serves torch {self.true_range}"
        if self.use.kind is LibraryKind.STABLE_ABI and self.true_range not in ("any", f">={self.use.since}"):
            return f"torch's stable ABI alone, and libraries that bound it: one wheel serves torch {self.true_range}"
        return self.use.words

    def works(self, release: str) -> bool:
        """Whether the wheel can be used with a release. Raises KeyError for a release that was not judged."""
        return self.releases[release].verdict.works


def _has_any(release: str, attributes: Collection[str]) -> bool:
    """Whether a release has one of these attributes of torch's, as data/loader.toml knows; true for none of them."""
    since = [policy().attributes.get(name, "") for name in attributes]
    return not attributes or any(first and Version(first) <= Version(release) for first in since)


def wrong_machines(other_machines: Mapping[str, str], machine: str) -> str:
    """A sentence about the libraries of a wheel for `machine` that are for others, which are given by path."""
    path, other = min(other_machines.items())
    more = len(other_machines) - 1
    also = f"; so are {more} more of its libraries" if more else ""
    return f"{path} is a library for {other}, in a wheel for {named(machine).words}{also}"


def _meant(paths: Iterable[str]) -> dict[str, str]:
    """The torch minor or release that each library's path names; empty for a path that names none.

    "torch28" without a point may be part of any name: it counts only if the wheel has libraries for several of them.
    """
    with_point, without_point = {}, {}
    for path in paths:
        with_point[path] = _last_number(_FOR_TORCH, path)
        without_point[path] = _last_number(_FOR_TORCH_SHORT, path)
    if any(with_point.values()):
        return with_point
    minors = set(without_point.values()) - {""}
    return without_point if len(minors) > 1 else with_point


def _last_number(pattern: re.Pattern[str], path: str) -> str:
    """The last torch version in a path; empty if there is none."""
    version = ""
    for match in pattern.finditer(path):
        version = ".".join(filter(None, match.groups()))
    return version


def meant_for(meant: str, release: str) -> bool:
    """Whether a library whose path names `meant`, a torch minor or release, is used with a release."""
    if not meant or release == meant:
        return True
    is_minor = meant.count(".") == 1
    return is_minor and release.startswith(f"{meant}.")


class _Audit:
    """One wheel's audit at work: what is known of the wheel, and caches of what its verdicts share."""

    def __init__(
        self, wheel: AuditedWheel, known: AuditTables, recorded: str, external_libraries: Mapping[str, str]
    ) -> None:
        self.wheel = wheel
        self.known = known.for_machine(wheel.machine)
        self.recorded = recorded
        self.contents = Contents(wheel.libraries, wheel.requires, external_libraries)
        self.names = Names.of(self.known.symbols, wheel.libraries.values())
        self.libraries: dict[str, Library] = {}
        for path in wheel.libraries:
            self.libraries[path] = describe_library(path, self.contents, self.names, self.known.types)
        self.meant = _meant(list(wheel.libraries))
        # A variant of a flavour is beside a torch of another CUDA than that of the known releases.
        self.other_cuda = any(_OF_FLAVOUR.search(f"/{path}") for path in wheel.libraries)
        own_names = {PurePosixPath(path).name for path in wheel.libraries}
        self.other_machines: dict[str, str] = {}
        for path, machine in sorted(wheel.other_machines.items()):
            if PurePosixPath(path).name not in own_names:
                self.other_machines[path] = machine
        self._releases: dict[tuple[str, str], TorchRelease] = {}
        self._link_findings: dict[tuple[str, str], Finding] = {}
        self.companions: dict[str, dict[str, str]] = defaultdict(dict)  # of each library, by its path

    @cached_property
    def every(self) -> list[str]:
        """The names of all known releases, oldest first."""
        return [release.name for release in self.known.symbols.releases]

    @cached_property
    def _torchs_tags(self) -> dict[str, list[str]]:
        """The tags of the CPythons that each release has builds for."""
        return {release.name: list(release.files) for release in self.known.symbols.releases}

    def pythons(self, path: str, release: str) -> list[str]:
        """Tags, such as cp312, of the CPythons that load a library and that a release has builds for.

        An empty path stands for the wheel as a whole.
        """
        torchs_tags = self._torchs_tags[release]
        # The file's own suffix is the most precise statement: .cpython-312-x86_64-linux-gnu.so.
        extension = _EXTENSION.search(path)
        if extension:
            tag = f"cp{''.join(extension.groups())}"
            return [tag] if tag in torchs_tags else []
        return self._pythons_by_tags(torchs_tags)

    def _pythons_by_tags(self, torchs_tags: Collection[str]) -> list[str]:
        """Those of torch's CPythons that the wheel's tags allow, sorted. Tags are PEP 425's; "t" means no GIL."""
        tags = self.wheel.tags
        # cp312-cp312, the usual tag of an extension.
        abis = {tag.abi for tag in tags if tag.abi.startswith("cp")}
        if abis:
            return sorted(abis & set(torchs_tags))
        # py3-none: every CPython. For PyPy and others torch has no wheels.
        if any(re.fullmatch(r"py\d+", tag.interpreter) and tag.abi in ("none", "abi3") for tag in tags):
            return sorted(torchs_tags)
        # cp312-none is one CPython, cp39-abi3 is 3.9 and every later one that has the GIL.
        single = set()
        oldest_stable = []
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
        """Whether the loader finds everything that a library needs, with every CPython that may load it.

        The search for what a library was built against asks this for every release, and so do the verdicts: answers
        are cached.
        """
        key = (path, release)
        if key not in self._link_findings:
            findings = []
            for python in self.pythons(path, release):
                torch = self._torch(release, python)
                findings.append(link_finding(self.libraries[path], self.contents, torch, self.names, self.known.ever))
                self.companions[path].update(torch.reach(self.contents, path).companions)
            self._link_findings[key] = worst(findings)
        return self._link_findings[key]

    def _torch(self, release: str, python: str) -> TorchRelease:
        """The libraries of a release for a CPython."""
        key = (release, python)
        if key not in self._releases:
            self._releases[key] = TorchRelease(
                self.known.symbols, release, python, self.wheel.machine, other_cuda=self.other_cuda
            )
        return self._releases[key]

    # ---- what it was built against

    def built_together(self, paths: Sequence[str], meant: str) -> Built:
        """What these libraries were built against, on the assumption that it was the same torch."""
        by_header_lines = set(self.every)
        by_names = set(self.every)
        for path in paths:
            by_header_lines &= self.known.header_lines.releases_with(self.wheel.marks[path])
            for release in self.every:
                # Only BROKEN rules a release out: names that no table has (UNKNOWN) or that the system brings (ENV) may
                # have been there when the library was linked.
                if self.link_finding(path, release).verdict is Verdict.BROKEN:
                    by_names.discard(release)
        by_path = set()
        for release in self.every:
            if meant and meant_for(meant, release):
                by_path.add(release)
        evidence = Evidence(
            marked=frozenset(by_header_lines),
            linked=frozenset(by_names),
            meant=frozenset(by_path),
            declared=self.wheel.declared,
            recorded=self.recorded,
        )
        return built_against.infer(self.every, evidence)

    def builds(self) -> dict[str, Built]:
        """What each library that uses torch's C++ interface was built against, by its path.

        Libraries for the same torch were built together, unless their bytes contradict each other: more libraries are
        more evidence.
        """
        groups = defaultdict[str, list[str]](list)
        for path, library in self.libraries.items():
            if library.kind is LibraryKind.TORCH:
                groups[self.meant[path]].append(path)
        builds = {}
        for meant, paths in groups.items():
            together = self.built_together(paths, meant)
            for path in paths:
                contradictory = not together.releases
                builds[path] = self.built_together([path], meant) if contradictory else together
        return builds

    # ---- findings

    def own_finding(self, path: str, built: Built | None, release: str) -> Finding:
        """A library's finding, without those of the libraries that it needs.

        `built` is None for a library that does not use torch's C++ interface, and so depends on no layout.
        """
        linked = self.link_finding(path, release)
        if built is None:
            return linked
        laid_out = layout_finding(self.libraries[path].types, built, release, self.known.layouts)
        return worst([linked, laid_out])

    def own_findings(self, builds: Mapping[str, Built], release: str) -> dict[str, Finding]:
        """The findings, by path, of all libraries that some CPython loads with a release, each for itself."""
        own = {}
        for path in self.libraries:
            if self.pythons(path, release):
                own[path] = self.own_finding(path, builds.get(path), release)
        return own

    def with_needed(self, own: Mapping[str, Finding]) -> dict[str, Finding]:
        """A release's findings, by path, with those of the libraries that each needs: it fails if one of them fails."""
        with_needed = {}
        for path in own:
            together = []
            for inner in self.contents.closure(path):  # the library itself is part of it
                if inner in own:
                    together.append(own[inner])
            with_needed[path] = worst(together)
        return with_needed

    def _without_library(self, minors: Collection[str], release: str) -> Finding:
        """The wheel's finding for a release for which it has no library, while it has some for `minors`."""
        declared = self.wheel.declared
        promised = declared is None or declared.contains(Version(release), prereleases=True)
        load = self.wheel.optional_load
        if load.place and promised and _has_any(release, load.attributes):
            return Finding(Verdict.OK, note=f"no library of the wheel is for it, and {load.place}, goes on without one")
        return Finding(Verdict.BROKEN, note=f"it only has libraries for torch {', '.join(sorted(minors, key=Version))}")

    def _other_machines_finding(self) -> Finding:
        """The wheel's finding for its libraries for other machines, which the loader of this one refuses."""
        if not self.other_machines:
            return Finding(Verdict.OK)
        return Finding(Verdict.BROKEN, note=wrong_machines(self.other_machines, self.wheel.machine.name))

    def whole(self, release: str, libraries: Sequence[LibraryReport]) -> Finding:
        """The wheel's finding for a release: the findings of all libraries that it uses with it, taken together."""
        minors = set(self.meant.values()) - {""}
        if minors and not any(meant_for(minor, release) for minor in minors):
            return self._without_library(minors, release)
        used = []
        for library in libraries:
            if meant_for(library.meant, release) and release in library.releases:
                used.append(library)

        # Of several builds of one library, for different CUDAs for example, the wheel loads the one that fits: a broken
        # one does not count beside a build that works.
        working = set()
        for library in used:
            if library.releases[release].verdict.works:
                working.add(_TOOLKIT.sub("#", library.path))
        only_for_cuda = self._only_for_cuda(used, release)
        findings = [self._other_machines_finding()]
        for library in used:
            if library.path in only_for_cuda:
                continue
            finding = library.releases[release]
            uses_nothing_itself = self.libraries[library.path].kind is LibraryKind.NEUTRAL
            replaced = uses_nothing_itself and _TOOLKIT.sub("#", library.path) in working
            if not (replaced and finding.verdict is Verdict.BROKEN):
                findings.append(finding)
        return worst(findings)

    def _only_for_cuda(self, used: Sequence[LibraryReport], release: str) -> set[str]:
        """Paths of libraries that a package opens where torch has CUDA, if this release has none; `used` are all.

        Seen with sphericart-torch and torch 2.10 for arm64, which is for CPUs alone: such a library lies beside the one
        that works there, is named for CUDA, and nobody needs it; nor is it a module, which the package would import.
        """
        if release in self._with_cuda:
            return set()
        paths = set()
        others_work = False
        for library in used:
            finding = library.own[release]
            elf = self.contents.libraries[library.path]
            asks = any(map(_CUDA_NAME.match, finding.missing)) or any(map(_CUDA_LIBRARY.match, finding.libraries))
            named_for_cuda = "cuda" in PurePosixPath(library.path).name.lower()
            is_module = any(name.startswith("PyInit_") for name in elf.exported)
            if finding.verdict is Verdict.BROKEN and asks and named_for_cuda and not is_module:
                paths.add(library.path)
            elif library.kind is not LibraryKind.NEUTRAL and library.releases[release].verdict.works:
                others_work = True
        return paths if others_work else set()

    @cached_property
    def _with_cuda(self) -> frozenset[str]:
        """The releases that are built with CUDA."""
        units = self.known.symbols.units
        return frozenset(unit.release for unit in units if unit.library == "libtorch_cuda.so")

    def _library_report(
        self, path: str, builds: Mapping[str, Built], own: Mapping[str, Finding], findings: Mapping[str, Finding]
    ) -> LibraryReport:
        closure = self.contents.closure(path)
        built = Built((), "")
        for inner in closure:
            if inner in builds:
                built = builds[inner]
                break
        return LibraryReport(
            path=path,
            kind=most_dependent(self.libraries[inner].kind for inner in closure),
            built=built,
            meant=self.meant[path],
            needs=closure[1:],
            own=own,
            releases=findings,
            companions=dict(sorted(self.companions[path].items())),
        )

    def _strangers_of_pybind11(self, releases: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The report's `pybind11`, for these releases."""
        ids: set[str] = set()
        for path, library in self.libraries.items():
            if library.kind is LibraryKind.TORCH:
                ids |= self.wheel.pybind11[path]
        return strangers(ids, {release: self.pythons("", release) for release in releases}, self.wheel.machine)

    def report(self, releases: Sequence[str]) -> WheelReport:
        """The wheel's report for these releases, oldest first."""
        judged = []
        left_out = []
        for release in releases:
            if self.pythons("", release):
                judged.append(release)
            else:
                left_out.append(release)

        # What a library was built against follows from all known releases, whichever of them are to be judged.
        builds = self.builds()
        own: dict[str, dict[str, Finding]] = {path: {} for path in self.libraries}
        by_library: dict[str, dict[str, Finding]] = {path: {} for path in self.libraries}
        for release in judged:
            own_of_release = self.own_findings(builds, release)
            for path, finding in self.with_needed(own_of_release).items():
                own[path][release] = own_of_release[path]
                by_library[path][release] = finding
        libraries = []
        for path in sorted(self.libraries):
            libraries.append(self._library_report(path, builds, own[path], by_library[path]))

        of_wheel: dict[str, Finding] = {}
        verdicts: dict[str, Verdict] = {}
        for release in judged:
            of_wheel[release] = self.whole(release, libraries)
            verdicts[release] = of_wheel[release].verdict
        has_any = self.libraries or self.other_machines
        claim = claim_of(self.wheel.declared, verdicts) if has_any else "nothing to judge"
        # Nothing is known of releases after the last: only what does not use torch's C++ interface works with them too.
        open_ended = not builds and self.every[-1:] == judged[-1:]
        return WheelReport(
            file=self.wheel.path.name,
            platform=self.wheel.machine.name,
            other_machines=self.other_machines,
            declared="" if self.wheel.declared is None else f"torch{self.wheel.declared}",
            true_range=true_range(verdicts, open_ended=open_ended, whole=list(releases) == self.every),
            claim=claim,
            ok=claim in ("true", "narrower", "nothing to judge"),
            libraries=tuple(libraries),
            releases=of_wheel,
            left_out=tuple(left_out),
            floors=floors(self.wheel),
            use=torch_use(self.libraries.values(), self.names),
            pybind11=self._strangers_of_pybind11([release for release in judged if verdicts[release].works]),
        )


def audit(
    wheel: AuditedWheel,
    known: AuditTables,
    releases: Sequence[str],
    recorded: str = "",
    external_libraries: Mapping[str, str] | None = None,
) -> WheelReport:
    """Judge a wheel against `releases`, oldest first, of torch for the wheel's machine.

    `known` are the tables for any machine. `recorded` is the release that the farm built the wheel against; empty for a
    wheel of somebody else. So are `external_libraries`, the setting of the project that it is of. Raises
    UnknownTorchError for a release of which nothing is known for that machine, AuditError for tables that cannot be
    read.
    """
    known.for_machine(wheel.machine).select(releases)
    return _Audit(wheel, known, recorded, external_libraries or {}).report(releases)
