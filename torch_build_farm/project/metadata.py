"""What a source tree says of itself, told without running any of it.

Sources, the first that says something wins: [project] in pyproject.toml (PEP 621), PKG-INFO (an unpacked sdist), the
build back end's settings for a dynamic version, setup.cfg, and what setup.py passes to setup() as plain values.
"""

from __future__ import annotations

import ast
import configparser
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Required

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing.TypedDict would need Python 3.12 for pydantic

from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.project.variant_metadata import without_stars


@dataclass(frozen=True)
class Metadata:
    """What the source says; empty where it does not. `requires` is as Requires-Dist in METADATA."""

    name: str
    version: str
    version_from_scm: bool
    requires_python: str
    requires: tuple[str, ...]


# What the farm reads of [project] and [build-system], and its types (PEP 621, PEP 518); all else is passed through.
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


def _table(value: object, *names: str) -> dict[str, Any]:
    """The table under `names` in another; empty where there is none, whatever stands there instead."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def document(root: Path) -> dict[str, Any]:
    """The tree's pyproject.toml, empty where a setup.py does without. Raises SourceError where there is no project."""
    path = root / "pyproject.toml"
    if not path.is_file() and not (root / "setup.py").is_file():
        what = "has neither pyproject.toml nor setup.py" if root.is_dir() else "does not exist"
        raise SourceError(
            f"the source tree {what}", where=str(root), next_step="set source in [tool.torch-build-farm] to its folder"
        )
    try:
        found = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError("the source's pyproject.toml is not valid TOML", where=f"{path}: {error}") from None
    _check_shape(found, root)
    return found


def _check_shape(found: Mapping[str, Any], root: Path) -> None:
    """Raise SourceError where what the farm needs of pyproject.toml is missing or of a wrong type."""
    problems = []
    try:
        TypeAdapter(_Document).validate_python(found)
        SpecifierSet(found.get("project", {}).get("requires-python", ""))
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    except InvalidSpecifier as error:
        problems.append(f"project.requires-python: {error}")
    if "project" not in found and not any((root / name).is_file() for name in ("setup.py", "setup.cfg", "PKG-INFO")):
        problems.append("project: Field required")
    if problems:
        raise SourceError(
            "the source's pyproject.toml cannot be rendered: " + "; ".join(problems),
            where=str(root / "pyproject.toml"),
            next_step="describe the project in [project] (PEP 621) and [build-system] (PEP 518)",
        )


def _scm_version(root: Path, table: Mapping[str, Any]) -> str:
    """Version from git tags, by the project's own [tool.setuptools_scm]; never writes a version file."""
    import setuptools_scm  # noqa: PLC0415 (slow to import, rarely needed)

    settings = {k: v for k, v in table.items() if k not in ("write_to", "version_file", "fallback_version")}
    try:
        return str(setuptools_scm.get_version(**{"relative_to": root / "pyproject.toml", **settings}))
    except (LookupError, TypeError, ValueError) as error:
        raise VersionError(
            "git tags give no version",
            where=f"{root}: {str(error).strip().splitlines()[0]}",
            next_step="tag a commit, such as `git tag v1.2.3`, or fetch the tags: `git fetch --tags --unshallow`",
        ) from None


def _regex_version(root: Path, provider: Mapping[str, Any]) -> str | None:
    """Version by scikit-build-core's regex provider: https://scikit-build-core.readthedocs.io, dynamic metadata."""
    path = root / str(provider.get("input", ""))
    pattern = str(provider.get("regex", r'(?i)^(__version__|VERSION)(?: ?\: ?str)? *= *([\'"])v?(?P<value>.+?)\2'))
    match = re.search(pattern, path.read_text("utf-8", "replace"), re.MULTILINE) if path.is_file() else None
    return match.groupdict().get("value") if match else None


def _parsed(path: Path) -> tuple[ast.Module, dict[str, Any]]:
    """A Python file, not run, and the names that it gives plain values to; both empty where there is none to parse."""
    try:
        tree = ast.parse(path.read_bytes())  # by its own coding, and with a byte order mark
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], []), {}
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and node.value:
            names.setdefault(target.id, _value(node.value, names))
    return tree, names


def setup_arguments(path: Path) -> dict[str, Any]:
    """What a setup.py passes to setup() by keyword, as far as it is plain: values, names of them, f-strings, sums."""
    tree, names = _parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "setup":
            values = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
            return {name: value for name, value in values.items() if value is not None}
    return {}


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a plain expression; None for any other."""
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.JoinedStr(values=parts):
            texts = [_value(part.value if isinstance(part, ast.FormattedValue) else part, names) for part in parts]
            return None if None in texts else "".join(map(str, texts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = _value(left, names), _value(right, names)
            return sides[0] + sides[1] if type(sides[0]) is type(sides[1]) in (str, list) else None
        case ast.List(elts=elements):
            items = [_value(element, names) for element in elements]
            return None if None in items else items
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _directed(root: Path, way: str, value: str) -> str:
    """A version that setuptools is directed to: `file` VERSION, or `attr` package.__version__ where that is plain."""
    if way == "file":
        path = root / value
        return path.read_text("utf-8", "replace").strip() if path.is_file() else ""
    module, _, name = value.rpartition(".")
    stem = module.replace(".", "/")
    paths = [root / base / file for base in ("", "src") for file in (f"{stem}/__init__.py", f"{stem}.py")]
    return str(next((found for path in paths if (found := _parsed(path)[1].get(name))), ""))


def _setup_cfg(root: Path) -> dict[str, Any]:
    """What setup.cfg says, by setup()'s own names."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(root / "setup.cfg", "utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    both = {name: value for part in ("metadata", "options") if part in parser for name, value in parser[part].items()}
    found: dict[str, Any] = {name: both[name] for name in ("name", "version", "python_requires") if name in both}
    way, colon, value = str(found.get("version", "")).partition(":")
    if colon:
        found["version"] = _directed(root, way.strip(), value.strip())
    if "install_requires" in both:
        found["install_requires"] = [line.strip() for line in both["install_requires"].splitlines() if line.strip()]
    return found


def _package_info(root: Path) -> Message:
    path = root / "PKG-INFO"
    return HeaderParser().parsestr(path.read_text("utf-8", "replace") if path.is_file() else "")


def _version(root: Path, found: Mapping[str, Any], setup: Mapping[str, Any]) -> tuple[str, bool]:
    project, tool = found.get("project", {}), found.get("tool", {})
    if said := project.get("version") or _package_info(root)["Version"]:
        return str(said), False
    provider = _table(tool, "scikit-build", "metadata", "version")
    if "setuptools_scm" in tool or str(provider.get("provider", "")).endswith("setuptools_scm"):
        return _scm_version(root, _table(tool, "setuptools_scm")), True
    if str(provider.get("provider", "")).endswith("regex") and (by_regex := _regex_version(root, provider)):
        return by_regex, False
    for way, value in _table(tool, "setuptools", "dynamic", "version").items():
        return _directed(root, way, str(value[0] if isinstance(value, list) else value)), False
    return str(setup.get("version", "")), False


def _requires_python(said: str, root: Path) -> str:
    try:
        SpecifierSet(without_stars(said))
    except InvalidSpecifier as error:
        raise SourceError(f"requires-python makes no sense: {error}", where=str(root)) from None
    return without_stars(said)


def read(root: Path, found: Mapping[str, Any], version: str = "") -> Metadata:
    """What the tree at `root` with pyproject.toml `found` says; `version` is for one that does not say its own.

    Raises VersionError for a tree without a version, or with one that is none.
    """
    project, info = found.get("project", {}), _package_info(root)
    setup = {**_setup_cfg(root), **setup_arguments(root / "setup.py")}  # setup.py wins, as with setuptools
    said, from_scm = (version, True) if version else _version(root, found, setup)
    if not said:
        raise VersionError(
            "the source does not say its version",
            where=str(root / "pyproject.toml"),
            next_step='write version = "1.2.3" in [project], use setuptools-scm ([tool.setuptools_scm] and a git tag), '
            "or set version in [tool.torch-build-farm] to what the source computes",
        )
    try:
        said = str(Version(said))  # as back ends write it
    except InvalidVersion:
        raise VersionError(
            f"{said!r} is no valid version", where=str(root), next_step="write one as PEP 440 has it, such as 1.2.3"
        ) from None
    requires = project.get("dependencies") or info.get_all("Requires-Dist") or setup.get("install_requires", ())
    return Metadata(
        name=str(project.get("name") or info["Name"] or setup.get("name", "")),
        version=said,
        version_from_scm=from_scm,
        requires_python=_requires_python(
            str(project.get("requires-python") or info["Requires-Python"] or setup.get("python_requires", "")), root
        ),
        requires=(requires,) if isinstance(requires, str) else tuple(map(str, requires)),
    )
