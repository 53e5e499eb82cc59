"""The variants of a project that exist, as wheels built here and as files on the package index; the table for users."""

from __future__ import annotations

import calendar
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.core.wheel_archive import dist_info
from torch_build_farm.project.settings import Project
from torch_build_farm.wheels.one_name import Family, lowest_python, read_model
from torch_build_farm.wheels.wheel import read_metadata


@dataclass(frozen=True)
class VariantFile:
    """A wheel of a variant: `python` is its Python tag; `path` is None for a wheel that only the index has."""

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


def _python_tag(wheel: str) -> str:
    """The Python tag in a wheel's file name: NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl."""
    return wheel.split("-")[-3]


def built(project: Project, dist: Path) -> list[VariantFile]:
    """The variants of this project among the wheels in a folder."""
    minors = _names(project)
    files = []
    for path in sorted(dist.glob("*.whl")):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:  # not made by the farm
            continue
        minor = minors.get(name)
        if minor:
            requires = read_metadata(path)["Requires-Python"] or ""
            files.append(VariantFile(minor, str(version), path.name, _python_tag(path.name), requires, path))
    return files


def published(project: Project, index: PackageIndex) -> list[VariantFile]:
    """The variants of this project that an index has, yanked files left out."""
    files = []
    for name, minor in _names(project).items():
        for file in index.files(name):
            if file.package_type == "wheel" and not file.is_yanked:
                version = str(parse_wheel_filename(file.filename)[1])
                requires = file.requires_python or ""
                files.append(VariantFile(minor, version, file.filename, _python_tag(file.filename), requires))
    return files


def last_built(files: Iterable[VariantFile], version: str) -> dict[Minor, str]:
    """The newest version of each minor's variant that a family of `version` may depend on.

    Those are `version` itself and final versions before it: no final version may depend on a pre-release, or on a local
    version, which public indexes refuse.
    """
    limit = Version(version)
    last: dict[Minor, Version] = {}
    spelled: dict[Minor, str] = {}
    for file in files:
        candidate = Version(file.version)
        final = not candidate.is_prerelease and not candidate.local
        if candidate != limit and (candidate > limit or not final):
            continue
        if file.minor not in last or last[file.minor] < candidate:
            last[file.minor], spelled[file.minor] = candidate, file.version
    return dict(sorted(spelled.items()))


def _date(wheel: Path) -> int:
    """The date (Unix seconds) of a wheel's METADATA, which the farm set: SOURCE_DATE_EPOCH of its build."""
    with zipfile.ZipFile(wheel) as archive:
        info = archive.getinfo(f"{dist_info(archive)}/METADATA")
        return calendar.timegm((*info.date_time, 0, 0, 0))


def family(project: Project, built_files: Sequence[VariantFile], published_files: Sequence[VariantFile]) -> Family:
    """The newest version that is built, with the last variants of retired minors from the index.

    Raises MetaError where no variant is built.
    """
    if not built_files:
        raise MetaError(
            f"no variant of {project.settings.name} is built", where="work/dist", next_step="build some first: --torch"
        )
    version = str(max(Version(file.version) for file in built_files))
    # A wheel that is both here and on the index counts once, as it is here: an index need not repeat what a wheel
    # requires (PEP 503 leaves data-requires-python to it), and the same family must give the same bytes again.
    names_built = {file.name for file in built_files}
    files = [*(file for file in published_files if file.name not in names_built), *built_files]
    last = last_built(files, version)
    requires_python = [file.requires_python for file in files if last.get(file.minor) == file.version]
    # The newest minor's wheel is the model: its METADATA becomes that of the wheels behind the one name.
    of_version = [file for file in built_files if file.version == version]
    newest = max(of_version, key=lambda file: (file.minor, file.name))
    assert newest.path is not None
    model = read_model(newest.path, project.settings.packages)
    return Family(project, model, last, lowest_python(requires_python), _date(newest.path))


def compatibility(family: Family, files: Sequence[VariantFile]) -> str:
    """COMPATIBILITY.md: which version and CPythons users can have for which torch."""
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
    versions, others = [], []
    for tag in tags:
        if tag.startswith("cp") and tag[3:].isdigit():
            versions.append((int(tag[2:3]), int(tag[3:])))
        else:  # such as py3
            others.append(tag)
    numbers = [f"{major}.{minor}" for major, minor in sorted(versions)]
    return ", ".join([*numbers, *sorted(others)]) or "-"
