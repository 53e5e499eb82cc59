"""The name, version and requirements that a source tree states, read without running any of it.

The first of these sources that has a value wins: [project] in pyproject.toml (PEP 621), PKG-INFO (an unpacked sdist),
the build back end's settings for a dynamic version, setup.cfg, and what setup.py passes to setup() as plain values.
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
    """What the source states; a field is empty if the source does not state it.

    `version_from_scm` means that no file of the tree has the version: git tags, or the farm's settings, give it.
    `requires_python` and `requires` are written as Requires-Python and Requires-Dist are in METADATA.
    """

    name: str
    version: str
    version_from_scm: bool
    requires_python: str
    requires: tuple[str, ...]


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


# The default of scikit-build-core's regex provider.
_PROVIDERS_REGEX = r'(?i)^(__version__|VERSION)(?: ?\: ?str)? *= *([\'"])v?(?P<value>.+?)\2'


def document(root: Path) -> dict[str, Any]:
    """The tree's pyproject.toml, empty for a tree that has a setup.py alone.

    Raises SourceError if the tree holds no Python project, or if its pyproject.toml cannot be used.
    """
    path = root / "pyproject.toml"
    if not path.is_file() and not (root / "setup.py").is_file():
        what = "has neither pyproject.toml nor setup.py" if root.is_dir() else "does not exist"
        raise SourceError(
            f"the source tree {what}", where=str(root), next_step="set source in [tool.torch-build-farm] to its folder"
        )
    try:
        pyproject = tomllib.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError("the source's pyproject.toml is not valid TOML", where=f"{path}: {error}") from None
    _check_shape(pyproject, root)
    return pyproject


def _check_shape(pyproject: Mapping[str, Any], root: Path) -> None:
    """Raise SourceError if a key that the farm needs is missing or has the wrong type."""
    problems = []
    try:
        TypeAdapter(_Document).validate_python(pyproject)
        SpecifierSet(pyproject.get("project", {}).get("requires-python", ""))
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            problems.append(f"{key}: {problem['msg']}")
    except InvalidSpecifier as error:
        problems.append(f"project.requires-python: {error}")

    # [project] may be missing where another file states name and version.
    other_files = [name for name in ("setup.py", "setup.cfg", "PKG-INFO") if (root / name).is_file()]
    if "project" not in pyproject and not other_files:
        problems.append("project: Field required")
    if problems:
        raise SourceError(
            "the source's pyproject.toml cannot be rendered: " + "; ".join(problems),
            where=str(root / "pyproject.toml"),
            next_step="describe the project in [project] (PEP 621) and [build-system] (PEP 518)",
        )


def read(root: Path, pyproject: Mapping[str, Any], version: str = "") -> Metadata:
    """The metadata of the tree at `root`, whose pyproject.toml is `pyproject`; `version` replaces the source's own.

    Raises VersionError for a tree without a version or with an invalid one, SourceError for an invalid
    requires-python.
    """
    project, info = pyproject.get("project", {}), _package_info(root)
    setup = {**_setup_cfg(root), **setup_arguments(root / "setup.py")}  # setup.py wins, as with setuptools

    # A version from the settings counts like one from git: no file of the tree states it.
    stated, from_scm = (version, True) if version else _version(root, pyproject, setup)
    if not stated:
        raise VersionError(
            "the source does not state its version",
            where=str(root / "pyproject.toml"),
            next_step='write version = "1.2.3" in [project], use setuptools-scm ([tool.setuptools_scm] and a git tag), '
            "or set version in [tool.torch-build-farm] to what the source computes",
        )
    try:
        normalized = str(Version(stated))  # as back ends write it
    except InvalidVersion:
        raise VersionError(
            f"{stated!r} is not a valid version", where=str(root), next_step="write one by PEP 440, such as 1.2.3"
        ) from None

    # The order is the module's: [project], PKG-INFO, setup.cfg and setup.py.
    requires_python = project.get("requires-python") or info["Requires-Python"] or setup.get("python_requires", "")
    requires = project.get("dependencies") or info.get_all("Requires-Dist") or setup.get("install_requires", ())
    if isinstance(requires, str):  # setup() also accepts a single requirement as a string
        requires = (requires,)
    return Metadata(
        name=str(project.get("name") or info["Name"] or setup.get("name", "")),
        version=normalized,
        version_from_scm=from_scm,
        requires_python=_requires_python(str(requires_python), root),
        requires=tuple(map(str, requires)),
    )


def _version(root: Path, pyproject: Mapping[str, Any], setup: Mapping[str, Any]) -> tuple[str, bool]:
    """The version that the source states, and whether it comes from git; "" where there is none."""
    project, tool = pyproject.get("project", {}), pyproject.get("tool", {})
    # PKG-INFO before git: an sdist states its version, and has no history to count it from.
    version = project.get("version") or _package_info(root)["Version"]
    if version:
        return str(version), False
    provider = _table(tool, "scikit-build", "metadata", "version")
    provider_name = str(provider.get("provider", ""))
    if "setuptools_scm" in tool or provider_name.endswith("setuptools_scm"):
        return _scm_version(root, _table(tool, "setuptools_scm")), True
    if provider_name.endswith("regex"):
        matched = _regex_version(root, provider)
        if matched:
            return matched, False
    # A table with one key, such as {attr = "package.__version__"} or {file = ["VERSION"]}.
    for way, value in _table(tool, "setuptools", "dynamic", "version").items():
        first = value[0] if isinstance(value, list) else value
        return _directed(root, way, str(first)), False
    return str(setup.get("version", "")), False


def _requires_python(requires_python: str, root: Path) -> str:
    """The specifiers of requires-python, as PEP 440 writes them. Raises SourceError if they are not valid."""
    specifiers = without_stars(requires_python)
    try:
        SpecifierSet(specifiers)
    except InvalidSpecifier as error:
        raise SourceError(f"requires-python is not valid: {error}", where=str(root)) from None
    return specifiers


def _scm_version(root: Path, table: Mapping[str, Any]) -> str:
    """Version from git tags, by the project's own [tool.setuptools_scm]; never writes a version file."""
    import setuptools_scm  # noqa: PLC0415 (slow to import, rarely needed)

    settings: dict[str, Any] = {"relative_to": root / "pyproject.toml", **table}
    # Two of these write a file into the source tree. The third stands in for missing tags, which are an error here:
    # wheels of two commits would get the same version.
    for key in ("write_to", "version_file", "fallback_version"):
        settings.pop(key, None)
    try:
        return str(setuptools_scm.get_version(**settings))
    except (LookupError, TypeError, ValueError) as error:
        raise VersionError(
            "git tags give no version",
            where=f"{root}: {str(error).strip().splitlines()[0]}",
            next_step="tag a commit, such as `git tag v1.2.3`, or fetch the tags: `git fetch --tags --unshallow`",
        ) from None


def _regex_version(root: Path, provider: Mapping[str, Any]) -> str | None:
    """Version by scikit-build-core's regex provider: https://scikit-build-core.readthedocs.io, dynamic metadata."""
    path = root / str(provider.get("input", ""))
    if not path.is_file():
        return None
    pattern = str(provider.get("regex", _PROVIDERS_REGEX))
    match = re.search(pattern, path.read_text("utf-8", "replace"), re.MULTILINE)
    return match.groupdict().get("value") if match else None


def _directed(root: Path, way: str, value: str) -> str:
    """The version that a directive of setuptools points to; empty if it is not there.

    `way` is `file`, with a path such as VERSION, or `attr`, with a name such as package.__version__ and a plain value.
    """
    if way == "file":
        path = root / value
        return path.read_text("utf-8", "replace").strip() if path.is_file() else ""
    # Parsed and not imported, which is what setuptools tries first too: an import may need torch or the compiled part.
    module, _, name = value.rpartition(".")
    stem = module.replace(".", "/")
    for base in ("", "src"):
        for file in (f"{stem}/__init__.py", f"{stem}.py"):
            _, values = _parsed(root / base / file)
            if values.get(name):
                return str(values[name])
    return ""


def _package_info(root: Path) -> Message:
    path = root / "PKG-INFO"
    return HeaderParser().parsestr(path.read_text("utf-8", "replace") if path.is_file() else "")


def _setup_cfg(root: Path) -> dict[str, Any]:
    """The values of setup.cfg, under the names of setup()'s arguments."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(root / "setup.cfg", "utf-8")
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
        arguments["version"] = _directed(root, way.strip(), value.strip())
    if "install_requires" in options:
        lines = [line.strip() for line in options["install_requires"].splitlines()]
        arguments["install_requires"] = [line for line in lines if line]
    return arguments


def setup_arguments(path: Path) -> dict[str, Any]:
    """The keyword arguments that a setup.py passes to setup(), as far as their values are plain.

    Plain are literals, names of plain values, f-strings and sums of them.
    """
    tree, values = _parsed(path)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        # setup(...), or setuptools.setup(...)
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function != "setup":
            continue
        arguments = {}
        for keyword in node.keywords:
            value = _value(keyword.value, values)
            if keyword.arg and value is not None:
                arguments[keyword.arg] = value
        return arguments
    return {}


def _parsed(path: Path) -> tuple[ast.Module, dict[str, Any]]:
    """The syntax tree of a Python file, and the plain values that it assigns to names.

    Both are empty for a file that is missing or cannot be parsed. The first assignment to a name counts.
    """
    try:
        tree = ast.parse(path.read_bytes())  # bytes: the parser obeys a coding comment and a byte order mark
    except (OSError, SyntaxError, ValueError):
        return ast.Module([], []), {}
    values: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target: ast.expr = node.targets[0]
        elif isinstance(node, ast.AnnAssign) and node.value:
            target = node.target
        else:
            continue
        if isinstance(target, ast.Name) and node.value:
            values.setdefault(target.id, _value(node.value, values))
    return tree, values


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a plain expression; None for any other."""
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.JoinedStr(values=parts):
            texts = []
            for part in parts:
                expression = part.value if isinstance(part, ast.FormattedValue) else part
                texts.append(_value(expression, names))
            return None if None in texts else "".join(map(str, texts))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_value(left, names), _value(right, names))
        case ast.List(elts=elements):
            items = [_value(element, names) for element in elements]
            return None if None in items else items
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _sum(left: Any, right: Any) -> str | list[Any] | None:
    """`left` + `right` for two strings or two lists; None for anything else."""
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    return None


def _table(value: object, *names: str) -> dict[str, Any]:
    """The table under `names` in another one; empty where something else, or nothing, is there."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
