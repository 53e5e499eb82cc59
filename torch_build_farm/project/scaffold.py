"""Writes a project file for a source tree: what the tree states without being run, with marks where it is silent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from torch_build_farm.core import toml
from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.core.requirements import check_name
from torch_build_farm.core.text import printable
from torch_build_farm.project import metadata, source_files
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.settings import TABLE, Settings
from torch_build_farm.project.subdirectories import is_project, project_folder, projects_below
from torch_build_farm.project.tables import adapter
from torch_build_farm.project.variant import Variant

MARK = "CHECK:"
# Folders with an __init__.py that are seldom installed.
_BESIDE = {"benchmark", "benchmarks", "build", "cmake", "conda", "dist", "doc", "docs", "example", "examples",
           "scripts", "test", "testing", "tests", "tools"}  # fmt: skip
_VARIABLE = re.compile(r"""(?:getenv\(|environ\.get\(|environ\[)\s*["'](\w+)["']""")


@dataclass(frozen=True)
class SourceFacts:
    """What a source tree states; empty where it states nothing."""

    name: str
    version: str
    backend: str
    packages: tuple[str, ...]
    torch: str  # the requirement on torch
    cuda_sources: tuple[str, ...]
    variables: tuple[str, ...]  # environment variables that setup.py reads
    subdirectory: str  # the folder of the Python project; empty for the top
    other_projects: tuple[str, ...]  # folders that hold a Python project too


def look(origin: Origin) -> SourceFacts:
    """The facts of a source tree. Raises SourceError where there is no Python project.

    Where there is none at the top, the facts are those of the likeliest one below.
    """
    projects = () if is_project(origin.root) else projects_below(origin.root)
    if projects:
        origin = replace(origin, subdirectory=projects[0])
    root = project_folder(origin.root, origin.subdirectory)
    document = metadata.document(root)
    try:
        stated = metadata.read(root, document, answers=origin.answer)
        version = stated.version
    except (VersionError, SourceError):  # the latter of git, else it comes again
        # Everything else is still worth knowing; the file gets the version to be filled in.
        stated = metadata.read(root, document, "0")
        version = ""
    build_system = document.get("build-system", {})
    requirements = [*stated.requires, *map(str, build_system.get("requires", ()))]
    try:
        cuda_sources = [str(path.relative_to(origin.root)) for path in origin.root.rglob("*.cu")]
    except RecursionError:
        raise SourceError("folders of the source lie too deep in one another", where=str(origin.root)) from None
    variables = set(_VARIABLE.findall(source_files.text(root, "setup.py")))
    return SourceFacts(
        name=_valid_name(stated.name),
        version=version,
        backend=str(build_system.get("build-backend", "setuptools")),
        packages=_packages(root, document),
        torch=_torch(requirements),
        cuda_sources=tuple(sorted(cuda_sources)),
        variables=tuple(sorted(variables)),
        subdirectory=origin.subdirectory,
        other_projects=projects[1:],
    )


def _torch(requirements: Iterable[str]) -> str:
    """The first requirement on torch; empty if there is none."""
    for text in requirements:
        try:
            if canonicalize_name(Requirement(text).name) == "torch":
                return text
        except InvalidRequirement:
            continue
    return ""


def _packages(root: Path, document: Mapping[str, Any]) -> tuple[str, ...]:
    """Import names of packages: those that scikit-build-core or an sdist of setuptools lists, else likely folders."""
    listed = toml.table_in(document, "tool", "scikit-build", "wheel").get("packages")
    if isinstance(listed, (list, dict)):
        return _import_names(Path(str(name)).name for name in listed)
    likely = set()
    for base in ("", "src", "python"):  # where setuptools, and scikit-build-core too, look for packages
        for path in (root / base).glob("*/__init__.py"):
            if path.parent.name not in _BESIDE:
                likely.add(path.parent.name)
    for path in root.glob("*.egg-info/top_level.txt"):
        # The list has modules too; where folders are known, those are the packages.
        names = set(source_files.text(root, path.relative_to(root).as_posix()).split())
        packages = names & likely if likely else names
        return _import_names(packages or likely)
    return _import_names(likely)


def _import_names(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that can be imported, in order: the settings take no others."""
    return tuple(sorted(name for name in set(names) if name.isidentifier()))


def _valid_name(name: str) -> str:
    """A distribution's name, which becomes that of a folder; empty for one that is not valid."""
    try:
        check_name(name)
    except InvalidName:
        return ""
    return name


def project_file(facts: SourceFacts, origin: Mapping[str, str], variants: Sequence[Variant]) -> str:
    """The table [tool.torch-build-farm]; `origin` holds those of its keys that state where the source is."""
    # The file is complete if the source states everything, and loads in any case: what is not known gets a guess as its
    # value, with a mark beside it.
    name = canonicalize_name(facts.name) or "name-it"
    requirement = f"requires {facts.torch!r}" if facts.torch else "names no torch"
    lines = [
        _comment(
            f"By `init` from {facts.name or 'a source'} {facts.version}: {facts.backend}, {requirement}. "
            f"{MARK} marks what it could not determine."
        ),
        f"[tool.{TABLE}]",
        _line("name", name, "" if facts.name else "the source does not state its name"),
    ]
    for key, value in origin.items():
        lines.append(_line(key, value))
    if facts.subdirectory:
        others = ", ".join(facts.other_projects)
        lines.append(_line("subdirectory", facts.subdirectory, f"or is it {others}?" if others else ""))
    if not facts.version:
        lines.append(_line("version", "0", "the source does not state its version without being run"))
    packages = facts.packages or (name.replace("-", "_"),)
    mark = "" if len(facts.packages) == 1 else "which packages does the wheel install?"
    lines.append(_line("packages", packages, mark))
    lines.append(_torch_line(facts, variants))

    # Hints at keys that only some projects need.
    if facts.cuda_sources:
        lines.append(
            _comment(
                f"{MARK} {facts.cuda_sources[0]} and {len(facts.cuda_sources) - 1} more need nvcc. "
                'cuda-arch-list = ["8.0", "9.0"] compiles them; without it the build has no CUDA toolkit.'
            )
        )
    if facts.variables:
        lines.append(_comment(f"setup.py reads {', '.join(facts.variables)}; the table environment sets them."))

    # With this, setup.py of torch-scatter and its kin leaves the CUDA sources out.
    if facts.cuda_sources and "FORCE_ONLY_CPU" in facts.variables:
        lines.append(f'environment = {{ FORCE_ONLY_CPU = "1" }}  # {MARK} builds what needs no CUDA')
    lines.append('# smoke-script = "smoke.py" beside this file: compute something, compare it with what you know.')
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """A comment, which ends with its line: names and files of the source may hold a line break, and then settings."""
    return f"# {printable(text)}"


def _torch_line(facts: SourceFacts, variants: Sequence[Variant]) -> str:
    """The minors to build for: those that the source's requirement admits, else all of them, marked."""
    admitted = [variant for variant in variants if _admits(facts.torch, variant)]
    minors = [str(variant.torch) for variant in admitted or variants]
    if not facts.torch:
        mark = "the source names no torch: which minors does it compile for?"
    elif not admitted:
        mark = "no known minor is admitted: which does it compile for?"
    else:
        mark = ""
    return _line("torch", minors, mark)


def _line(key: str, value: str | Sequence[str], mark: str = "") -> str:
    """A line of TOML below a comment with the key's meaning; with `mark`, one that asks to be checked."""
    description = adapter(Settings).json_schema()["properties"][key]["description"]
    sentence = " ".join(description.split()).partition(". ")[0].removesuffix(".")
    item = tomlkit.item(value if isinstance(value, str) else list(value)).as_string()
    line = f"{key} = {item}  # {MARK} {mark}" if mark else f"{key} = {item}"
    return f"{_comment(sentence)}.\n{line}"


def _admits(requirement: str, variant: Variant) -> bool:
    """Whether a requirement on torch admits a release of the minor; every minor where there is no requirement."""
    if not requirement:
        return True
    specifier = Requirement(requirement).specifier
    return any(specifier.contains(release) for release in variant.releases)
