"""The project's source tree: which files it has, what its metadata says, and its one version."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Required

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pathspec import PathSpec
from pydantic import StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing.TypedDict would need Python 3.12 for pydantic

from torch_build_farm.errors import ConfigError, SourceError, VersionError

# Never part of a source tree, in gitignore's syntax: version control, caches, environments, what builds leave behind.
_NEVER = [
    ".git/",
    ".hg/",
    ".svn/",
    "__pycache__/",
    "*.py[cod]",
    "*.so",
    ".venv/",
    "venv/",
    ".tox/",
    ".nox/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".pytest_cache/",
    ".hypothesis/",
    "*.egg-info/",
    "/build/",
    "/dist/",
    "/wheelhouse/",
]


@dataclass(frozen=True)
class SourceFile:
    """A file of the source tree, by its path relative to the root. A link to a folder keeps its target instead."""

    path: str
    sha256: str
    executable: bool
    link: str = ""


@dataclass(frozen=True)
class Source:
    """A source tree as it was when the run began."""

    root: Path
    files: tuple[SourceFile, ...]
    version: str
    version_from_scm: bool
    pyproject: Mapping[str, Any]  # as the project wrote it: foreign metadata, passed through

    def digest(self, without: Container[str] = ()) -> str:
        """SHA-256 over the files' names, modes and contents (but for some) and the version, which may be git's."""
        total = hashlib.sha256(self.version.encode())
        for file in self.files:
            if file.path in without:
                continue
            total.update(f"{file.path}\0{file.sha256}\0{file.executable}\0{file.link}\n".encode())
        return total.hexdigest()

    @property
    def requires_python(self) -> str:
        return str(self.pyproject["project"].get("requires-python", ""))


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _walk(root: Path, excluded: PathSpec[Any]) -> Iterator[SourceFile]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        relative = here.relative_to(root)
        for name in sorted(names):
            path = here / name
            if path.is_symlink() and not excluded.match_file(f"{relative / name}/"):
                target = path.readlink()
                if target.is_absolute() or not path.resolve().is_relative_to(root.resolve()):
                    raise SourceError(
                        "a link to a folder leads out of the source tree, where the farm would not see changes",
                        where=f"{path} -> {target}",
                        next_step="put the folder itself there, or name the link in exclude",
                    )
                yield SourceFile((relative / name).as_posix(), "", False, str(target))
        names[:] = sorted(n for n in names if not excluded.match_file(f"{relative / n}/"))
        for name in sorted(files):
            path = here / name
            if excluded.match_file(str(relative / name)) or not path.is_file():
                continue
            yield SourceFile((relative / name).as_posix(), sha256(path), os.access(path, os.X_OK))


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
    match = re.search(pattern, path.read_text("utf-8"), re.MULTILINE) if path.is_file() else None
    return match["value"] if match else None


def _version(root: Path, document: Mapping[str, Any]) -> tuple[str, bool]:
    project, tool = document["project"], document.get("tool", {})
    if "version" in project:
        return str(project["version"]), False
    if (root / "PKG-INFO").is_file():
        return str(HeaderParser().parsestr((root / "PKG-INFO").read_text("utf-8"))["Version"]), False
    provider = tool.get("scikit-build", {}).get("metadata", {}).get("version", {})
    if "setuptools_scm" in tool or str(provider.get("provider", "")).endswith("setuptools_scm"):
        return _scm_version(root, tool.get("setuptools_scm", {})), True
    if str(provider.get("provider", "")).endswith("regex") and (found := _regex_version(root, provider)):
        return found, False
    raise VersionError(
        "the source does not say its version",
        where=f"{root / 'pyproject.toml'}: [project]",
        next_step='write version = "1.2.3" there, or use setuptools-scm ([tool.setuptools_scm] and a git tag)',
    )


# What the farm reads of the project's metadata, and its types (PEP 621, PEP 518); everything else is passed through.
_Metadata = TypedDict(
    "_Metadata",
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
    "_BuildSystem", {"requires": Required[list[StrictStr]], "build-backend": StrictStr}, total=False
)
_Document = TypedDict(
    "_Document",
    {"project": Required[_Metadata], "build-system": _BuildSystem, "tool": dict[str, dict[str, object]]},
    total=False,
)


def _check_shape(document: Mapping[str, Any], path: Path) -> None:
    """Raise SourceError where what the farm needs of [project] and [build-system] is missing or of a wrong type."""
    problems = []
    try:
        TypeAdapter(_Document).validate_python(document)
        SpecifierSet(document["project"].get("requires-python", ""))
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    except InvalidSpecifier as error:
        problems.append(f"project.requires-python: {error}")
    if problems:
        raise SourceError(
            "the source's pyproject.toml cannot be rendered: " + "; ".join(problems),
            where=str(path),
            next_step="describe the project in [project] (PEP 621) and [build-system] (PEP 518)",
        )


def read(root: Path, exclude: tuple[str, ...] = ()) -> Source:
    """The source tree at `root`; `exclude` holds further patterns in gitignore's syntax.

    Raises SourceError for a tree that is missing or no Python project, VersionError for one without a version.
    """
    path = root / "pyproject.toml"
    if not path.is_file():
        what = "has no pyproject.toml" if root.is_dir() else "does not exist"
        raise SourceError(
            f"the source tree {what}", where=str(root), next_step="set source in [tool.torch-build-farm] to its folder"
        )
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError("the source's pyproject.toml is not valid TOML", where=f"{path}: {error}") from None
    _check_shape(document, path)
    version, from_scm = _version(root, document)
    try:
        Version(version)
    except InvalidVersion:
        raise VersionError(
            f"{version!r} is no valid version", where=str(path), next_step="write one as PEP 440 has it, such as 1.2.3"
        ) from None
    try:
        excluded = PathSpec.from_lines("gitignore", [*_NEVER, *exclude])
    except ValueError as error:
        raise ConfigError(f"exclude holds a pattern that is none: {error}", where="[tool.torch-build-farm]") from None
    files = tuple(_walk(root, excluded))
    return Source(root, files, version, from_scm, document)
