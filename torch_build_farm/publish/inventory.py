"""Which variants of a project exist, built here and on the package index, and the table that shows them to users."""

from __future__ import annotations

import calendar
import re
import shlex
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.text import markdown
from torch_build_farm.core.versions import Minor
from torch_build_farm.core.wheel_archive import dist_info
from torch_build_farm.project.external_libraries import matches_any, policy
from torch_build_farm.project.settings import Project, Settings
from torch_build_farm.project.variant import StableVariant
from torch_build_farm.publish import published_list
from torch_build_farm.publish.names import IndexFile, IndexNames, distribution_of
from torch_build_farm.wheels import plain_files, platforms
from torch_build_farm.wheels.one_name import Family, Model, lowest_python, read_model
from torch_build_farm.wheels.wheel import opened, read_wheel


@dataclass(frozen=True)
class VariantFile:
    """A wheel of a variant.

    - `name`: its file name.
    - `python`: its Python tag, such as cp312.
    - `requires_python`: METADATA's or the index's specifier; empty if there is none.
    - `path`: None for a wheel that only the index has.
    - `needs_cuda`: whether it loads beside a torch with CUDA alone; None where its libraries were not read.
    """

    minor: Minor
    version: str
    name: str
    python: str
    requires_python: str
    path: Path | None = None
    needs_cuda: bool | None = None

    @property
    def is_abi3(self) -> bool:
        """Whether it is for its CPython and all later ones (PEP 384)."""
        return "-abi3-" in self.name


def _minor_by_name(project: Project) -> dict[str, Minor]:
    """The torch minor of each variant's distribution, by its normalized name (PEP 503), oldest minor first.

    The stable ABI's variant has its oldest minor.
    """
    minors: dict[str, Minor] = {}
    for minor, by_platform in project.by_minor.items():
        for variant in by_platform.values():
            minors[canonicalize_name(project.distribution(variant))] = minor
    return minors


def all_names(project: Project) -> list[str]:
    """The normalized names of every distribution that this project publishes."""
    others = [project.select_name, project.auto_name, project.settings.name]
    if project.settings.core:
        others.append(project.settings.core.name)
    return [*_minor_by_name(project), *(canonicalize_name(name) for name in others)]


def python_tag(wheel: str) -> str:
    """The Python tag in a wheel's file name: NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl."""
    return wheel.split("-")[-3]


def variant_wheels(project: Project, dist: Path) -> list[VariantFile]:
    """The variants of this project among the wheels in a folder, by file name alone; other files are ignored."""
    minors = _minor_by_name(project)
    files = []
    for path in sorted(dist.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:  # somebody else's file
            continue
        minor = minors.get(name)
        if minor:
            files.append(VariantFile(minor, str(version), path.name, python_tag(path.name), "", path))
    return files


def with_metadata(file: VariantFile, path: Path) -> VariantFile:
    """The variant with what the wheel at `path` says, which becomes its path."""
    wheel = read_wheel(path)
    needed = {name for library in wheel.libraries for name in library.needed}
    cuda_only = (*policy().cuda, *policy().cuda_torch_only)
    needs_cuda = any(matches_any(name, cuda_only) for name in needed)
    return replace(file, path=path, requires_python=wheel.metadata["Requires-Python"] or "", needs_cuda=needs_cuda)


def built(project: Project, dist: Path) -> list[VariantFile]:
    """The variants of this project among the wheels in a folder, by file name; other files are ignored."""
    return [with_metadata(file, dist / file.name) for file in variant_wheels(project, dist)]


@dataclass(frozen=True)
class Published:
    """The variants that an index has: this project's files, and the names that only strangers have files of."""

    files: tuple[VariantFile, ...]
    strangers: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """What the maintainer should know about the strangers' names, one sentence each."""
        return [
            f"{name} on the index is not this project's, as far as {published_list.NAME} knows: it gets no rung and no "
            "extra; if it is yours, merge the list of the publication that uploaded it, or `adopt` it"
            for name in self.strangers
        ]


def published(project: Project, names: IndexNames, built_names: Collection[str], target: str) -> Published:
    """The variants of this project that an index has, without yanked files (PEP 592).

    Files of strangers do not count. `built_names` are the distributions that are to be published: there, and among
    files of the project's own, a stranger's file raises PublishError, whose message names `target`. Raises
    PackageIndexError if the index cannot be read.
    """
    minors = _minor_by_name(project)
    on_index: list[IndexFile] = []
    strangers = []
    for name in minors:
        files_of_name = names.files(name)
        if files_of_name and name not in built_names and not any(file.is_own for file in files_of_name):
            strangers.append(name)
        else:
            on_index += files_of_name
    names.require_own(on_index, target)

    files = []
    for file in on_index:
        # An sdist, or a wheel that is not named as wheels are now, is from before the farm.
        is_variant = file.file_name.endswith(".whl") and distribution_of(file.file_name) == file.name
        if not is_variant or file.file.is_yanked:
            continue
        _, version, _, _ = parse_wheel_filename(file.file_name)
        requires = file.file.requires_python or ""
        files.append(VariantFile(minors[file.name], str(version), file.file_name, python_tag(file.file_name), requires))
    return Published(tuple(files), tuple(strangers))


def last_built(files: Iterable[VariantFile], version: str) -> dict[Minor, str]:
    """The newest version of each minor's variant that a family of `version` may depend on, oldest minor first.

    Those are `version` itself and final versions before it: a final version must not depend on a pre-release, nor on a
    local version, which public indexes refuse (PEP 440, "Local version identifiers").
    """
    limit = Version(version)
    newest: dict[Minor, VariantFile] = {}
    for file in files:
        candidate = Version(file.version)
        is_final = not candidate.is_prerelease and not candidate.local
        allowed = candidate == limit or (candidate < limit and is_final)
        if not allowed:
            continue
        if file.minor not in newest or Version(newest[file.minor].version) < candidate:
            newest[file.minor] = file

    last = {}
    for minor, file in sorted(newest.items()):
        last[minor] = file.version
    return last


def _date(wheel: Path) -> int:
    """The date of a wheel's METADATA in Unix seconds, which the farm set: the SOURCE_DATE_EPOCH of its build."""
    # Zip members have no time zone; what writes a wheel from SOURCE_DATE_EPOCH writes UTC.
    with zipfile.ZipFile(wheel) as archive:
        info = archive.getinfo(f"{dist_info(archive)}/METADATA")
        return calendar.timegm((*info.date_time, 0, 0, 0))


def newest_version(project: Project, built_files: Sequence[VariantFile]) -> str:
    """The newest version among the variants that are built here. Raises MetaError if there is none."""
    if not built_files:
        raise MetaError(
            f"no variant of {project.settings.name} is built", where="work/dist", next_step="build some first: --torch"
        )
    return str(max(Version(file.version) for file in built_files))


def family(project: Project, built_files: Sequence[VariantFile], published_files: Sequence[VariantFile]) -> Family:
    """The newest version that is built here, with the last variants of retired minors from the index.

    Raises MetaError if no variant is built.
    """
    version = newest_version(project, built_files)
    # A wheel that is both here and on the index counts once, as it is here: an index need not repeat what a wheel
    # requires (PEP 503 leaves data-requires-python to it), and the same family must give the same bytes again.
    names_built = {file.name for file in built_files}
    files = [file for file in published_files if file.name not in names_built]
    files += built_files

    last = last_built(files, version)
    requires_python = []
    wheel_names = defaultdict(list)
    for file in files:
        if last.get(file.minor) == file.version:
            requires_python.append(file.requires_python)
            wheel_names[file.minor].append(file.name)
    of_minors = {minor: platforms.of_wheels(names) for minor, names in wheel_names.items()}

    # The newest minor's wheel is the model: its METADATA becomes that of the wheels behind the one name.
    of_version = [file for file in built_files if file.version == version]
    newest = max(of_version, key=lambda file: (file.minor.of_default_index, not file.minor.flavour, file.name))
    assert newest.path is not None  # only files on the index have none
    model = read_model(newest.path, project.settings.packages)
    for file in of_version:
        _require_same_plain_files(model, newest, file)
    return Family(project, model, last, of_minors, lowest_python(requires_python), _date(newest.path))


def _require_same_plain_files(model: Model, newest: VariantFile, other: VariantFile) -> None:
    """Raise MetaError where another variant has other files for the plain wheel than the model, which is `newest`."""
    assert other.path is not None  # it is built here
    with opened(other.path) as archive:
        difference = plain_files.first_difference(model.plain_files, plain_files.read(archive))
    if difference:
        raise MetaError(
            f"plain-files: {newest.name} and {other.name} differ in {difference}",
            where=str(other.path),
            next_step="the plain wheel has one file for all variants: make it the same, or install it inside a package",
        )


def compatibility(family: Family, files: Sequence[VariantFile]) -> str:
    """The text of COMPATIBILITY.md: which version and which CPythons users can install for which torch."""
    name, settings = family.project.settings.name, family.project.settings
    # Who builds for x86-64 alone need not read of platforms.
    with_platforms = family.machines != (X86_64,)
    columns = ["torch", "distribution", "version", "CPython", "CUDA of its torch", "with a CPU torch", "install"]
    if with_platforms:
        columns.insert(1, "platform")
    lines = [
        f"# Which {name} for which torch",
        "",
        f"{name} {family.version}. Written by torch-build-farm; do not edit.",
        "",
        *_cpu_note(settings.cpu_baseline, "On x86-64 it" if with_platforms else "It"),
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for oldest in sorted(family.last, reverse=True):
        for machine in family.machines:
            if family.is_for(oldest, platforms.of_machine(machine)):
                for row in _rows(family, oldest, machine, files):
                    if with_platforms:
                        row.insert(1, machine.words)
                    lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _rows(family: Family, oldest: Minor, machine: Machine, files: Iterable[VariantFile]) -> Iterator[list[str]]:
    """The cells of a variant on a machine, in a row for each torch minor that it serves, newest first.

    The wheel of the stable ABI has several, since users look up their torch. None where no variants file describes the
    minor for the machine any more.
    """
    variant = family.project.by_minor[oldest].get(machine)
    if variant is None:
        return
    name, version = family.project.settings.name, family.last[oldest]
    of_variant = [file for file in files if (file.minor, file.version) == (oldest, version)]
    of_machine = [file for file in of_variant if platforms.installs_on(file.name, machine)]
    pythons, with_cpu_torch = markdown(_pythons(of_machine)), _with_cpu_torch(of_machine, family.project.settings)
    for facts in reversed(variant.minors):
        and_later = " and later" if isinstance(variant, StableVariant) and facts is variant.minors[-1] else ""
        index = f" --extra-index-url {shlex.quote(variant.index)}" if variant.index else ""
        yield [
            f"{facts.torch}{and_later}",
            f"{name}-{variant.tag}",
            markdown(version),
            pythons,
            facts.cuda or "none",
            with_cpu_torch,
            f'`pip install "{name}[{facts.tag}]"{index}`',
        ]


def _cpu_note(level: str, subject: str) -> list[str]:
    """The lines about the CPU that `subject` needs; none for a CPU that everybody has."""
    if level == "x86-64":
        return []
    return [
        f"{subject} needs a CPU of level {level}; an older one ends the process with SIGILL. "
        "`/lib64/ld-linux-x86-64.so.2 --help` lists the levels of a machine.",
        "",
    ]


def _with_cpu_torch(files: Iterable[VariantFile], settings: Settings) -> str:
    """Whether a variant's wheels work beside a CPU torch, for people; "-" where no library of theirs was read."""
    if settings.torch_flavours == "any":  # repair has refused every other wheel
        return "works"
    needs = {file.needs_cuda for file in files} - {None}
    if not needs:
        return "-"
    return "no" if True in needs else "works"


def _pythons(files: Iterable[VariantFile]) -> str:
    """The CPythons of wheels as people write them, sorted: "3.9, 3.11 and later"; "-" for none."""
    versions = set()
    others = set()
    for file in files:
        if re.fullmatch(r"cp[0-9]{2,9}", file.python):
            later = " and later" if file.is_abi3 else ""
            versions.add((int(file.python[2:3]), int(file.python[3:]), later))
        else:  # such as py3
            others.add(file.python)
    numbers = [f"{major}.{minor}{later}" for major, minor, later in sorted(versions)]
    return ", ".join([*numbers, *sorted(others)]) or "-"
