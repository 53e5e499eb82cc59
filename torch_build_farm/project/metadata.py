"""The name, version and requirements that a source tree states, read without running any of it.

The first of these sources that has a value wins: [project] in pyproject.toml (PEP 621), PKG-INFO (an unpacked sdist),
the back end's own table (own_tables.py; for a version, dynamic_version.py), setup.cfg, and what setup.py passes to
setup() as plain values.
"""

from __future__ import annotations

import configparser
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, Required

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing.TypedDict would need Python 3.12 for pydantic

from torch_build_farm.core import toml
from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.core.requirements import MOST_METADATA, parse_metadata
from torch_build_farm.project import dynamic_version, own_tables, scm_version, source_files
from torch_build_farm.project.scm_version import Answers
from torch_build_farm.project.setup_script import setup_arguments
from torch_build_farm.project.variant_metadata import without_stars


@dataclass(frozen=True)
class Metadata:
    """What the source states; a field is empty if the source does not state it.

    `version_from_scm` means that no file of the tree has the version: git tags, or the farm's settings, give it.
    `requires_python` and `requires` are written as Requires-Python and Requires-Dist are in METADATA;
    `build_requires` are of [build-system] and of setup().
    """

    name: str
    version: str
    version_from_scm: bool
    requires_python: str
    requires: tuple[str, ...]
    build_requires: tuple[str, ...] = ()


# The keys of [project] and [build-system] that the farm reads, and their types (PEP 621, PEP 518); others pass through.
_Project = TypedDict(
    "_Project",
    {
        "name": Required[StrictStr],
        "version": StrictStr,
        "dynamic": list[StrictStr],
        "dependencies": list[StrictStr],
        "requires-python": StrictStr,
        "optional-dependencies": dict[str, list[StrictStr]],
    },
    total=False,
)
_BuildSystem = TypedDict(
    "_BuildSystem",
    {"requires": Required[list[StrictStr]], "build-backend": StrictStr, "backend-path": list[StrictStr]},
    total=False,
)
_Document = TypedDict(
    "_Document", {"project": _Project, "build-system": _BuildSystem, "tool": dict[str, dict[str, object]]}, total=False
)


# Lengths that nobody writes, in characters. Longer ones would cost time, memory or the interpreter's stack.
_LONGEST_VERSION = 200
_LONGEST_REQUIREMENT = 2_000
_LONGEST_SPECIFIER = 500
_DEEPEST_REQUIREMENT = 20  # brackets


def document(root: Path) -> dict[str, Any]:
    """The pyproject.toml of the project in folder `root`, empty for one that has a setup.py alone.

    Raises SourceError if it cannot be used.
    """
    path = root / "pyproject.toml"
    try:
        pyproject = toml.loads(toml.decoded(source_files.content(root, "pyproject.toml")))
    except toml.TomlError as error:
        raise SourceError("the source's pyproject.toml is not valid TOML", where=f"{path}: {error}") from None
    _check_shape(pyproject, root)
    return pyproject


def _check_shape(pyproject: Mapping[str, Any], root: Path) -> None:
    """Raise SourceError if a key that the farm needs is missing or has the wrong type."""
    problems = []
    try:
        TypeAdapter(_Document).validate_python(pyproject)
        project = pyproject.get("project", {})
        SpecifierSet(project.get("requires-python", ""))
        lists = [project.get("dependencies", []), pyproject.get("build-system", {}).get("requires", [])]
        for requirement in itertools.chain(*lists, *project.get("optional-dependencies", {}).values()):
            problems += _excess(requirement)
        problems += _excess(project.get("requires-python", ""), limit=_LONGEST_SPECIFIER)
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            problems.append(f"{key}: {problem['msg']}")
    except InvalidSpecifier as error:
        problems.append(f"project.requires-python: {error}")

    # [project] may be missing where another file, or the back end's own table, states name and version.
    other_files = [name for name in ("setup.py", "setup.cfg", "PKG-INFO") if (root / name).is_file()]
    if "project" not in pyproject and not other_files and not own_tables.read(root, pyproject).name:
        problems.append("project: Field required")
    if problems:
        raise SourceError(
            "the source's pyproject.toml cannot be rendered: " + "; ".join(problems),
            where=str(root / "pyproject.toml"),
            next_step="describe the project in [project] (PEP 621) and [build-system] (PEP 518)",
        )


def _excess(text: str, limit: int = _LONGEST_REQUIREMENT) -> list[str]:
    """What is wrong with a requirement that nobody wrote for an installer: packaging reads one by recursion."""
    if len(text) > limit or text.count("(") > _DEEPEST_REQUIREMENT:
        return [f"a requirement is too long or nested too deeply: {text[:60]!r}..."]
    return []


def read(
    root: Path, pyproject: Mapping[str, Any], version: str = "", answers: Answers = scm_version.nothing
) -> Metadata:
    """The metadata of the tree at `root`, whose pyproject.toml is `pyproject`; `version` replaces the source's own.

    `answers` says what version control knows of the tree's commit. Raises VersionError for a tree without a version or
    with an invalid one, SourceError for an invalid requires-python and for files that cannot be read.
    """
    project, info = pyproject.get("project", {}), _package_info(root)
    setup = {**_setup_cfg(root), **setup_arguments(root)}  # setup.py wins, as with setuptools

    # A version from the settings counts like one from git: no file of the tree states it.
    stated, from_scm = (version, True) if version else _version(root, pyproject, info, setup, answers)
    if not stated:
        raise VersionError(
            "the source does not state its version",
            where=str(root / "pyproject.toml"),
            next_step='write version = "1.2.3" in [project], use setuptools-scm ([tool.setuptools_scm] and a git tag), '
            "or set version in [tool.torch-build-farm] to what the source computes",
        )
    try:
        # As back ends write it. ValueError: a number of thousands of digits.
        normalized = str(Version(stated[:_LONGEST_VERSION]))
        if len(stated) > _LONGEST_VERSION:
            raise ValueError("too long")
    except ValueError:
        raise VersionError(
            f"{stated[:_LONGEST_VERSION]!r} is not a valid version",
            where=str(root),
            next_step="write one by PEP 440, such as 1.2.3",
        ) from None

    # The order is the module's: [project], PKG-INFO, the back end's table, setup.cfg and setup.py.
    own = own_tables.read(root, pyproject)
    requires_python = (
        project.get("requires-python")
        or info["Requires-Python"]
        or own.requires_python
        or setup.get("python_requires", "")
    )
    requires = (
        project.get("dependencies") or info.get_all("Requires-Dist") or own.requires or setup.get("install_requires")
    )
    requires = _requirements(requires)
    for requirement in requires:
        for problem in _excess(requirement):
            raise SourceError(problem, where=str(root))
    build_system = pyproject.get("build-system", {})
    return Metadata(
        name=str(project.get("name") or info["Name"] or own.name or setup.get("name", "")),
        version=normalized,
        version_from_scm=from_scm,
        requires_python=_requires_python(str(requires_python), root),
        requires=requires,
        build_requires=(*build_system.get("requires", ()), *_requirements(setup.get("setup_requires"))),
    )


def _requirements(value: object) -> tuple[str, ...]:
    """Requirements as setup() takes them: a list, or a single one as a string."""
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else ()


def _version(
    root: Path, pyproject: Mapping[str, Any], info: Message, setup: Mapping[str, Any], answers: Answers
) -> tuple[str, bool]:
    """The version that the source states, and whether it comes from git; "" where there is none."""
    project = pyproject.get("project", {})
    # PKG-INFO before git: an sdist states its version, and has no history to count it from.
    version = project.get("version") or info["Version"]
    if version:
        return str(version), False
    version, from_scm = dynamic_version.read(root, pyproject, answers)
    return version or str(setup.get("version", "")), from_scm


def _requires_python(requires_python: str, root: Path) -> str:
    """The specifiers of requires-python, as PEP 440 writes them. Raises SourceError if they are not valid."""
    try:
        if len(requires_python) > _LONGEST_SPECIFIER:
            raise InvalidSpecifier(f"{requires_python[:60]!r}... is too long")
        specifiers = without_stars(requires_python)
        SpecifierSet(specifiers)
    except InvalidSpecifier as error:
        raise SourceError(f"requires-python is not valid: {error}", where=str(root)) from None
    return specifiers


def _package_info(root: Path) -> Message:
    try:
        return parse_metadata(source_files.text(root, "PKG-INFO", MOST_METADATA))
    except ValueError as error:
        raise SourceError(f"the source's PKG-INFO cannot be read: {error}", where=str(root)) from None


def _setup_cfg(root: Path) -> dict[str, Any]:
    """The values of setup.cfg, under the names of setup()'s arguments."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        content = source_files.content(root, "setup.cfg").decode("utf-8")
        # ConfigParser takes time by the square of a row of blanks, which mean nothing behind other characters.
        parser.read_string(re.sub(r"(?<=\S)[^\S\n]+", " ", content))
    except (configparser.Error, UnicodeDecodeError):
        return {}
    options: dict[str, str] = {}
    for section in ("metadata", "options"):
        if section in parser:
            options.update(parser[section])
    arguments: dict[str, Any] = {}
    for name in ("name", "version", "python_requires"):
        if name in options:
            arguments[name] = options[name]
    # `version = file: VERSION` and `version = attr: package.__version__`
    way, colon, value = options.get("version", "").partition(":")
    if colon:
        arguments["version"] = dynamic_version.directed(root, way.strip(), value.strip())
    for name in ("install_requires", "setup_requires"):
        if name in options:
            lines = [line.strip() for line in options[name].splitlines()]
            arguments[name] = [line for line in lines if line]
    return arguments
