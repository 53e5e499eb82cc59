"""What there is of a project's variants: wheels built here, and files on the package index; and the table for users."""

from __future__ import annotations

import calendar
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.project.settings import Project
from torch_build_farm.wheels import wheel as wheels
from torch_build_farm.wheels.one_name import Family, lowest_python, read_model


@dataclass(frozen=True)
class VariantFile:
    """A wheel of a variant: `python` is its Python tag; `path` is None for one that is on the index alone."""

    minor: Minor
    version: str
    name: str
    python: str
    requires_python: str
    path: Path | None = None


def _names(project: Project) -> dict[str, Minor]:
    return {
        canonicalize_name(project.distribution(variant)): minor for minor, variant in sorted(project.variants.items())
    }


def built(project: Project, dist: Path) -> list[VariantFile]:
    """The variants of this project among the wheels in a folder."""
    found = []
    for path in sorted(dist.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:  # no wheel of the farm's
            continue
        if minor := _names(project).get(name):
            requires = wheels.metadata(path)["Requires-Python"] or ""
            found.append(VariantFile(minor, str(version), path.name, path.name.split("-")[-3], requires, path))
    return found


def published(project: Project, index: PackageIndex) -> list[VariantFile]:
    """The variants of this project that an index has, yanked files left out."""
    found = []
    for name, minor in _names(project).items():
        for file in index.files(name):
            if file.package_type == "wheel" and not file.is_yanked:
                python = file.filename.split("-")[-3]
                version = str(parse_wheel_filename(file.filename)[1])
                found.append(VariantFile(minor, version, file.filename, python, file.requires_python or ""))
    return found


def last_built(files: Iterable[VariantFile], version: str) -> dict[Minor, str]:
    """The newest version of each minor's variant, none newer than `version`; a pre-release only of `version` itself.

    The same for local versions, which public indexes refuse: no final version may depend on either.
    """
    last: dict[Minor, str] = {}
    for file in files:
        known, found = last.get(file.minor), Version(file.version)
        if found != Version(version) and (found.is_prerelease or found.local or found > Version(version)):
            continue
        if known is None or Version(known) < found:
            last[file.minor] = file.version
    return dict(sorted(last.items()))


def _date(wheel: Path) -> int:
    """The date (Unix seconds) of a wheel's METADATA, which the farm set: SOURCE_DATE_EPOCH of its build."""
    with zipfile.ZipFile(wheel) as archive:
        (info,) = [one for one in archive.infolist() if one.filename.endswith(".dist-info/METADATA")]
        return calendar.timegm((*info.date_time, 0, 0, 0))


def family(project: Project, here: Sequence[VariantFile], there: Sequence[VariantFile]) -> Family:
    """The newest version that is built `here`, with retired minors' last variants from `there`, the index.

    Raises MetaError where no variant is built.
    """
    if not here:
        raise MetaError(
            f"no variant of {project.settings.name} is built", where="work/dist", next_step="build some first: --torch"
        )
    version = str(max(Version(file.version) for file in here))
    files = [*there, *here]
    last = last_built(files, version)
    counted = [file.requires_python for file in files if last.get(file.minor) == file.version]
    newest = max((file for file in here if file.version == version), key=lambda file: (file.minor, file.name))
    assert newest.path is not None
    model = read_model(newest.path, project.settings.packages)
    return Family(project, model, last, lowest_python(counted), _date(newest.path))


def compatibility(family: Family, files: Sequence[VariantFile]) -> str:
    """COMPATIBILITY.md: what users can have for which torch."""
    name, settings = family.project.settings.name, family.project.settings
    lines = [
        f"# Which {name} for which torch",
        "",
        f"{name} {family.version}. Written by torch-build-farm; do not edit.",
        "",
        "| torch | distribution | version | CPython | CUDA of its torch | with a CPU torch | install |",
        "|---|---|---|---|---|---|---|",
    ]
    works = "works" if settings.torch_flavours == "any" else "no"
    for minor, version in sorted(family.last.items(), reverse=True):
        variant = family.project.variants[minor]
        tags = _pythons({file.python for file in files if (file.minor, file.version) == (minor, version)})
        lines.append(
            f"| {minor} | {name}-{variant.tag} | {version} | {tags} | {variant.cuda} | {works} "
            f'| `pip install "{name}[{variant.tag}]"` |'
        )
    return "\n".join(lines) + "\n"


def _pythons(tags: Iterable[str]) -> str:
    """Python tags as people write them: cp311 -> 3.11."""
    found: Mapping[str, tuple[int, ...]] = {
        tag: (int(tag[2:3]), int(tag[3:])) for tag in tags if tag.startswith("cp") and tag[3:].isdigit()
    }
    numbers = [f"{major}.{minor}" for major, minor in sorted(found.values())]
    return ", ".join([*numbers, *sorted(set(tags) - set(found))]) or "-"
