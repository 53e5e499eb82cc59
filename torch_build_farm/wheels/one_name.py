"""The wheels behind the one name: the plain wheel, the middle wheel, and one rung for each torch minor.

Pure, except for the functions that read or write a wheel.

    NAME V                  torch>=2.8, NAME-auto==V; extra torch29: torch==2.9.*, NAME-torch29==(last built)
    NAME-auto V             NAME-select==R.P.*
    NAME-select R.P.N       torch==2.9.*, NAME-torch29==(last built)

A resolver that gets NAME and some torch picks the rung of that torch; with NAME alone it picks the newest rung. R is
V's release in four segments, P is 0, or N + 1 for .postN, and the last segment is 100 * major + minor of torch. So a
new minor needs one new variant and one new rung, and no published file changes. Measured with pip 23 to 26 and uv:
without the middle wheel uv does not keep an installed torch; torch comes first because uv decides in this order.

From the oldest minor of a stable-ABI wheel on there is one rung for all minors, also those to come; every extra of
theirs leads to the same wheel:

    NAME V                  extra torch212: torch==2.12.*, NAME-torch-stable==(last built)
    NAME-select R.P.N       torch>=2.10, NAME-torch-stable==(last built); N is the number of torch 2.10

A resolver cannot tell flavours of torch (CUDA 12.6 where the default index has 12.8), so that only the user's word can
choose one. The rung of a flavour is below all others, where no resolver looks for it by itself; its extra requires it.
Without that rung NAME would bring the minor's own variant too.

    NAME V                      extra torch29-cu126: torch==2.9.*, NAME-torch29-cu126==(last built), that rung
    NAME-select R.P.0.209.126   torch==2.9.*, NAME-torch29-cu126==(last built)
"""

from __future__ import annotations

import itertools
import re
import time
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import jinja2
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from torch_build_farm import __version__
from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.requirements import read_requirement, read_specifiers
from torch_build_farm.core.versions import Minor
from torch_build_farm.core.wheel_archive import dist_info, split_metadata, write_wheel
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant
from torch_build_farm.project.variant_metadata import rename_own
from torch_build_farm.wheels import plain_files, platforms
from torch_build_farm.wheels.platforms import Platform
from torch_build_farm.wheels.relocate import ENTRY_POINTS, MARKER, outermost
from torch_build_farm.wheels.type_stubs import as_stub
from torch_build_farm.wheels.wheel import opened

_DISPATCHER = "dispatcher.py.j2"
# These stand for a wheel's .dist-info and .data folders.
INFO, DATA = "*.dist-info/", "*.data/"
_SEGMENTS = 4  # the longest release that a rung's version has room for
# Extras declared ahead of torch's releases: pip only warns of an extra that a published wheel lacks, and then installs
# the wrong thing.
_AHEAD, _AHEAD_OF_NEXT_MAJOR = 8, 4

# Plain tuples, which the template of the dispatcher writes into Python code.
# Major, minor, flavour (empty for the default index's torch), CUDA, and the version of the variant.
_Flavour = tuple[int, int, str, str, str]
# The known minors, their flavours, and the minor from which the wheel of the stable ABI serves all.
_Served = tuple[tuple[tuple[int, int], ...], tuple[_Flavour, ...], tuple[int, int] | None]


@dataclass(frozen=True)
class Model:
    """What the plain wheel has in common with a variant of the same version, read from the variant's wheel."""

    distribution: str
    version: str
    requires_python: str
    metadata: str
    entry_points: str
    files: Mapping[str, bytes]  # stubs, py.typed and licences, by their paths in the plain wheel (see INFO)
    plain_files: Mapping[str, bytes]  # what the setting `plain-files` names, by `plain_files.scheme_path`


@dataclass(frozen=True)
class Family:
    """One version of the one name.

    `last` has the version of each minor's last built variant, including retired minors, and `platforms` what its wheels
    are for: none stands for all. The variant of the stable ABI stands at its oldest minor. `epoch` (Unix seconds) dates
    every file.
    """

    project: Project
    model: Model
    last: Mapping[Minor, str]
    platforms: Mapping[Minor, Collection[Platform]]
    requires_python: str
    epoch: int

    @classmethod
    def of(cls, project: Project, wheel: Path, last: Mapping[Minor, str], epoch: int) -> Self:
        """The family of a relocated variant's wheel."""
        model = read_model(wheel, project.settings.packages)
        of_all = dict.fromkeys(last, platforms.of_wheel(wheel.name))
        return cls(project, model, last, of_all, lowest_python([model.requires_python]), epoch)

    @property
    def version(self) -> str:
        return self.model.version

    @property
    def all_platforms(self) -> list[Platform]:
        """The platforms that a variant is for, sorted; none where one of them is for all."""
        if not all(self.platforms.values()):
            return []
        return sorted(set().union(*self.platforms.values()))

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The Linux machines that a variant is for, x86-64 first; x86-64 alone where no wheel names one."""
        served = [machine for machine in MACHINES if platforms.of_machine(machine) in self.all_platforms]
        return tuple(served) or (X86_64,)

    def is_for(self, minor: Minor, platform: Platform) -> bool:
        """Whether the minor's last variant has wheels for a platform."""
        return not self.platforms[minor] or platform in self.platforms[minor]

    @property
    def stable_from(self) -> Minor | None:
        """The oldest minor of the stable ABI's wheel; None for a family without one."""
        floor = self.project.settings.stable_abi
        return floor if floor in self.last else None

    @property
    def stable_variant(self) -> Variant:
        """The variant of the stable ABI, whose name and pin no platform changes; the family must have one."""
        assert self.stable_from is not None
        return next(iter(self.project.by_minor[self.stable_from].values()))

    @property
    def with_rungs(self) -> list[Minor]:
        """The minors and flavours that rungs lead to, oldest first; none for a version that has no rungs."""
        return sorted(self.last) if rung_prefix(self.version) else []

    @property
    def minors(self) -> list[Minor]:
        """The known torch minors that have a variant, and flavours, oldest first."""
        known = set(self.last)
        if self.stable_from:
            for machine in MACHINES:
                known.update(minor for minor in self.project.on(machine).torch_minors if minor >= self.stable_from)
        return sorted(known)

    def variant_requirement(self, minor: Minor, extra: str = "") -> str:
        """The requirement on the last variant that serves a minor, on the platforms that it has wheels for.

        Elsewhere the plain wheel installs without a variant, and its dispatcher says why; a resolver would only say
        that it finds no file of that name. With `extra` it is a requirement of that extra. Empty for a minor that no
        variant serves.
        """
        serving: Minor | Variant = minor
        if self.stable_from and minor >= self.stable_from:
            minor = self.stable_from
            serving = self.stable_variant
        if minor not in self.last:
            return ""
        conditions = [platforms.marker(self.platforms[minor])]
        if extra:
            conditions = [f"({conditions[0]})" if " or " in conditions[0] else conditions[0], f'extra == "{extra}"']
        marker = " and ".join(filter(None, conditions))
        variant = f"{self.project.distribution(serving)}=={self.last[minor]}"
        return f"{variant} ; {marker}" if marker else variant


def rung_prefix(version: str) -> str:
    """The first five segments of the rungs' versions for V, such as 0.1.115.0.1 for 0.1.115.post0.

    Empty for a version that has no rungs: with a dev, pre-release, local or epoch part, or more than four numbers.
    """
    parsed = Version(version)
    if parsed.is_prerelease or parsed.local or parsed.epoch or len(parsed.release) > _SEGMENTS:
        return ""
    zeros = [0] * (_SEGMENTS - len(parsed.release))
    # .post0 is a later version than the one without .post, so it takes another number.
    post = 0 if parsed.post is None else parsed.post + 1
    return ".".join(map(str, [*parsed.release, *zeros, post]))


def without_rungs(family: Family) -> str:
    """What the maintainer should know about a version without rungs; empty for a version with rungs."""
    if rung_prefix(family.version):
        return ""
    name, tag = family.project.settings.name, family.minors[-1].tag
    return (
        f"version {family.version} has no rungs; only final versions and post-releases of up to four numbers have "
        f'them: {name} alone brings no variant, so users name the extra: pip install "{name}[{tag}]=={family.version}"'
    )


def rung_version(version: str, minor: Minor) -> str:
    """The version of a torch minor's rung, such as 0.1.115.0.1.208, or of a flavour's: 0.1.115.0.1.0.208.126.

    `version` must have rungs.
    """
    number = 100 * minor.major + minor.minor
    if minor.flavour:
        return f"{rung_prefix(version)}.0.{number}.{minor.flavour.removeprefix('cu')}"
    return f"{rung_prefix(version)}.{number}"


def ahead(minors: Iterable[Minor]) -> list[Minor]:
    """Torch minors without a variant whose extras are declared now: gaps between the known minors, and future ones."""
    known = sorted({minor.of_default_index for minor in minors})
    newest = known[-1]
    undeclared = []
    for lower, higher in itertools.pairwise(known):
        # How many minors an older major has is not known, so between two majors there is no gap to fill.
        if lower.major == higher.major:
            undeclared += [Minor(lower.major, number) for number in range(lower.minor + 1, higher.minor)]
    undeclared += [Minor(newest.major, newest.minor + step) for step in range(1, _AHEAD + 1)]
    undeclared += [Minor(newest.major + 1, number) for number in range(_AHEAD_OF_NEXT_MAJOR)]
    return undeclared


def read_model(wheel: Path, packages: Sequence[str]) -> Model:
    """Read what the plain wheel takes over from a relocated variant.

    Raises RepairError for a file that is not a wheel.
    """
    with opened(wheel) as archive:
        info = dist_info(archive)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        metadata = archive.read(f"{info}/METADATA").decode("utf-8")
        pairs = _pairs(metadata)
        fields = dict(reversed(pairs))  # of a repeated field the first counts
        new_paths = {}
        for name in names:
            typing_path = _typing_path(name, names, packages)
            if typing_path:
                new_paths[name] = typing_path
        for field, licence in pairs:
            if field != "License-File":
                continue
            # PEP 639 puts them into licenses/; older setuptools puts them beside METADATA.
            for file in (f"licenses/{licence}", licence):
                if f"{info}/{file}" in names:
                    new_paths[f"{info}/{file}"] = f"{INFO}{file}"
        files = {}
        for name, new_path in sorted(new_paths.items()):
            content = archive.read(name)
            files[new_path] = as_stub(content) if name.endswith(".py") else content
        entry_points = f"{info}/{ENTRY_POINTS}"
        return Model(
            fields["Name"],
            fields["Version"],
            fields.get("Requires-Python", ""),
            metadata,
            archive.read(entry_points).decode("utf-8") if entry_points in names else "",
            files,
            plain_files.read(archive),
        )


def _pairs(metadata: str) -> list[tuple[str, str]]:
    """METADATA's fields as names and values, in their order."""
    fields, _newline, _rest = split_metadata(metadata)
    return [_pair(field) for field in fields]


def _pair(field: str) -> tuple[str, str]:
    name, _, value = field.partition(":")
    return name, value.strip()


def _typing_path(name: str, names: Sequence[str], packages: Sequence[str]) -> str:
    """Where type checkers and editors look for a variant's file: beside the dispatcher, sources as stubs.

    Empty for a file that they do not read.
    """
    for package in packages:
        match = re.fullmatch(rf"({re.escape(package.replace('.', '/'))}/)_torch(?:\d+(?:_cu\d+)?|_stable)/(.+)", name)
        if not match:
            continue
        folder, path = match.groups()
        if name.endswith(".pyi") or path.split("/")[-1] == "py.typed":
            return f"{folder}{path}"
        # A stub of the project's own takes precedence.
        if name.endswith(".py") and f"{name}i" not in names:
            return f"{folder}{path}i"
    return ""


def lowest_python(requirements: Iterable[str]) -> str:
    """A requires-python that admits every Python that one of `requirements` admits, and all later ones.

    One that is not valid, as an index may state it, admits every Python, as for pip.
    """
    lowest_versions = []
    for text in requirements:
        try:
            specifiers = read_specifiers(text)
        except InvalidSpecifier:
            specifiers = SpecifierSet()
        bounds = [Version(specifier.version) for specifier in specifiers if specifier.operator == ">="]
        lowest_versions.append(max(bounds, default=Version("3.9")))
    return f">={min(lowest_versions)}"


def dispatcher_template(project: Project) -> str:
    """The dispatcher's template: the project's own if it has one, otherwise the farm's."""
    folder = next(folder for folder in project.template_folders if (folder / _DISPATCHER).is_file())
    return (folder / _DISPATCHER).read_text("utf-8")


def _dispatcher(family: Family) -> bytes:
    template = jinja2.Template(
        dispatcher_template(family.project), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    everywhere = _served(family, sorted(family.last), family.machines[0])
    on_platforms = {}
    for platform in family.all_platforms:
        minors = [minor for minor in sorted(family.last) if family.is_for(minor, platform)]
        on_platforms[platform] = _served(family, minors, platforms.machine_of(platform))
    by_platform = {}
    if any(served != everywhere for served in on_platforms.values()):
        by_platform = {(one.system, one.machine): (*served, str(one)) for one, served in on_platforms.items()}
    known, flavours, stable_from = everywhere
    facts = {
        "distribution": family.project.settings.name,
        "version": family.version,
        "known": known,
        "flavours": flavours,
        "stable_from": stable_from,
        "by_platform": by_platform,
        "marker": MARKER,
        "platforms": tuple((platform.system, platform.machine) for platform in family.all_platforms),
        "platform_names": ", ".join(map(str, family.all_platforms)),
    }
    return str(template.render(facts)).encode()


def _served(family: Family, minors: Sequence[Minor], machine: Machine) -> _Served:
    """What the dispatcher knows on a machine whose variants are these, oldest first."""
    known = tuple(sorted({(minor.major, minor.minor) for minor in minors}))
    floor = family.stable_from if family.stable_from in minors else None
    return known, tuple(_flavours(family, minors, machine)), (floor.major, floor.minor) if floor else None


def _flavours(family: Family, minors: Sequence[Minor], machine: Machine) -> Iterator[_Flavour]:
    """The flavours among `minors`, and the variants for the default index's torch beside them, which come first."""
    having_flavours = {minor.of_default_index for minor in minors if minor.flavour}
    for minor in minors:
        if minor.of_default_index in having_flavours:
            variant = family.project.by_minor.get(minor, {}).get(machine)
            # A retired one is described no more; a flavour has its CUDA in its name: cu126 is 12.6.
            cuda = variant.cuda if variant else f"{minor.flavour[2:-1]}.{minor.flavour[-1:]}".strip(".")
            yield minor.major, minor.minor, minor.flavour, cuda, family.last[minor]


def _extras(family: Family) -> list[str]:
    """An extra for each torch minor and flavour: torch's pin, and the last variant if there is one."""
    fields = []
    for minor in sorted([*family.minors, *ahead(family.minors)]):
        # An extra without a variant pins torch all the same: once that torch has a rung, the rung brings the variant.
        fields.append(f"Provides-Extra: {minor.tag}")
        fields.append(f'Requires-Dist: torch{minor.pin} ; extra == "{minor.tag}"')
        variant = family.variant_requirement(minor, minor.tag)
        if variant:
            fields.append(f"Requires-Dist: {variant}")
        if minor.flavour and minor in family.with_rungs:
            rung = f"{family.project.select_name}=={rung_version(family.version, minor)}"
            fields.append(f'Requires-Dist: {rung} ; extra == "{minor.tag}"')
    return fields


def _own_extras(family: Family, fields: Sequence[str]) -> list[str]:
    """The project's own extras, with the one name in place of the variant's; the variant decides on torch's version.

    Raises MetaError for an extra that has the name of a variant's extra.
    """
    extras = []
    for field in fields:
        name, extra = _pair(field)
        if name != "Provides-Extra":
            continue
        if re.fullmatch(r"torch\d+(-cu\d+)?", canonicalize_name(extra)):
            raise MetaError(
                f"the project has an extra of its own named {extra}",
                where=f"METADATA of {family.model.distribution}",
                next_step="rename it: these names are for the variants",
            )
        extras.append(field)
    requirements = []
    for field in fields:
        name, value = _pair(field)
        if name != "Requires-Dist":
            continue
        requirement = read_requirement(value)
        if "extra" not in str(requirement.marker):
            continue
        if canonicalize_name(requirement.name) != "torch":
            renamed = rename_own(value, family.model.distribution, family.project.settings.name)
            requirements.append(f"Requires-Dist: {renamed}")
        elif requirement.extras:  # such as torch[opt-einsum], which stays, but without a pin
            requirement.specifier = SpecifierSet()
            requirements.append(f"Requires-Dist: {requirement}")
    return [*extras, *requirements]


def _plain_metadata(family: Family) -> str:
    """The model's METADATA with the one name, its requirements, and an extra for each torch minor."""
    model_fields, newline, rest = split_metadata(family.model.metadata)
    # The variant's torch pin and CPythons are not the plain wheel's, and nothing in it is dynamic any more.
    replaced = {"Requires-Dist", "Requires-Python", "Provides-Extra", "Dynamic"}
    fields = []
    for field in model_fields:
        field_name, _ = _pair(field)
        if field_name == "Name":
            fields.append(f"Name: {family.project.settings.name}")
        elif field_name not in replaced:
            fields.append(field)
    fields.append(f"Requires-Python: {family.requires_python}")
    fields.append(f"Requires-Dist: torch>={min(family.last).number}")
    # Without rungs there is no middle wheel to require: then only the extras bring a variant.
    if family.with_rungs:
        fields.append(f"Requires-Dist: {family.project.auto_name}=={family.version}")
    return newline.join([*fields, *_extras(family), *_own_extras(family, model_fields)]) + rest


def _metadata(name: str, version: str, summary: str, family: Family, requires: Sequence[str]) -> str:
    fields = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {summary}",
        f"Requires-Python: {family.requires_python}",
    ]
    fields += [f"Requires-Dist: {requirement}" for requirement in requires]
    return "\n".join(fields) + "\n"


def _write(out: Path, name: str, version: str, files: Mapping[str, bytes], epoch: int) -> Path:
    """Write a pure wheel (for every Python and platform) of `files`, by their paths in it (see INFO)."""
    stem = f"{re.sub(r'[-_.]+', '_', name).lower()}-{Version(version)}"
    info = f"{stem}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: torch-build-farm {__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {**files, f"{INFO}WHEEL": wheel.encode(), f"{INFO}RECORD": b""}
    path = out / f"{stem}-py3-none-any.whl"
    date = time.gmtime(epoch)[:6]
    entries = []
    for member, content in members.items():
        entry = zipfile.ZipInfo(member.replace(INFO, f"{info}/", 1).replace(DATA, f"{stem}.data/", 1), date)
        entry.external_attr = 0o100644 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        entries.append((entry, content))
    write_wheel(path, entries)
    return path


def write_plain(family: Family, out: Path) -> Path:
    """Write the wheel that users name: dispatcher and guard, entry points, stubs, and the files of `plain-files`.

    The rungs bring a variant.
    """
    dispatcher = _dispatcher(family)
    folders = outermost(family.project.settings.packages)
    files: dict[str, bytes] = {}
    for path, content in family.model.plain_files.items():
        files[path.removeprefix("purelib/") if path.startswith("purelib/") else f"{DATA}{path}"] = content
    files.update(dict.fromkeys((f"{folder}/__init__.py" for folder in folders), dispatcher))
    files.update(family.model.files)
    files[f"{INFO}METADATA"] = _plain_metadata(family).encode()
    if family.model.entry_points:
        files[f"{INFO}entry_points.txt"] = family.model.entry_points.encode()
    return _write(out, family.project.settings.name, family.version, files, family.epoch)


def write_auto(family: Family, out: Path) -> Path:
    """Write the middle wheel, which keeps uv from deciding on a rung before it has decided on torch."""
    requires = [f"{family.project.select_name}=={rung_prefix(family.version)}.*"]
    summary = f"Part of {family.project.settings.name}: it brings the build for your torch"
    text = _metadata(family.project.auto_name, family.version, summary, family, requires)
    return _write(out, family.project.auto_name, family.version, {f"{INFO}METADATA": text.encode()}, family.epoch)


def write_rung(family: Family, minor: Minor, out: Path) -> Path:
    """Write the rung of a torch minor, which requires that torch and the minor's last built variant.

    The rung of the stable ABI's oldest minor serves all later ones too.
    """
    name, version = family.project.select_name, rung_version(family.version, minor)
    is_stable = minor == family.stable_from
    pin = family.stable_variant.pin if is_stable else minor.pin
    requires = [f"torch{pin}", family.variant_requirement(minor)]
    summary = f"Part of {family.project.settings.name}: it brings the build for torch {minor}"
    if is_stable:
        summary += " and later"
    text = _metadata(name, version, summary, family, requires)
    return _write(out, name, version, {f"{INFO}METADATA": text.encode()}, family.epoch)


def write(family: Family, out: Path) -> list[Path]:
    """Write all wheels behind the one name; returns them in publishing order: rungs, middle, plain.

    A version without rungs has the plain wheel alone: its users name the extra, which brings the variant.
    """
    if not family.with_rungs:
        return [write_plain(family, out)]
    rungs = [write_rung(family, minor, out) for minor in family.with_rungs]
    return [*rungs, write_auto(family, out), write_plain(family, out)]
