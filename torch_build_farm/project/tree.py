"""The project's source tree: its files, and the metadata that it states."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pathspec import PathSpec

from torch_build_farm.core.errors import ConfigError, SourceError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.paths import fault, shown
from torch_build_farm.project import metadata, source_files, version_control
from torch_build_farm.project.changes import NONE, ChangedCopy, Changes, changed_copy
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.ignored import Ignores, ignores
from torch_build_farm.project.metadata import Metadata
from torch_build_farm.project.subdirectories import no_such_tree, project_folder

_VERSION_CONTROL = {".git", ".hg", ".svn"}
_LIBRARIES = "*.so"
_MODULE = re.compile(r"\.(?:cpython-|pypy|abi3\.)[^/]*$")  # the suffix of an extension module (PEP 3149, PEP 384)
# Never part of a source tree, in gitignore's syntax: version control, caches, environments, and what builds leave.
_NEVER = [
    ".git",  # a file in a submodule
    ".hg/",
    ".svn/",
    "__pycache__/",
    "*.py[cod]",
    _LIBRARIES,
    ".venv/",
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
    """A file of the source tree, by its path relative to the root. A link to a folder keeps its target instead.

    `content` is what a change makes of the file; None for one that is as it lies in the root.
    """

    path: str
    sha256: str
    executable: bool
    link: str = ""
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Source:
    """A source tree as it was when the run began."""

    origin: Origin
    files: tuple[SourceFile, ...]
    metadata: Metadata
    pyproject: Mapping[str, Any]  # as the project wrote it: foreign metadata, passed through
    # Files that stand in for what version control says (version_control.py), by their paths in the project's folder.
    substitutes: Mapping[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder of the tree."""
        return self.origin.root

    @property
    def project(self) -> Path:
        """The folder of the Python project."""
        return self.origin.project

    @property
    def version(self) -> str:
        """The version that the source states."""
        return self.metadata.version

    def has(self, name: str) -> bool:
        """Whether the folder of the Python project has a file of that name."""
        path = str(PurePosixPath(self.origin.subdirectory) / name)
        return any(file.path == path for file in self.files)

    def digest(self, without: Container[str] = ()) -> str:
        """SHA-256 over the version, which may be git's, and names, modes and contents of the files except `without`."""
        total = hashlib.sha256(self.version.encode())
        for file in self.files:
            if file.path in without:
                continue
            total.update(f"{file.path}\0{file.sha256}\0{file.executable}\0{file.link}\n".encode())
        return total.hexdigest()


def read(origin: Origin, exclude: tuple[str, ...] = (), version: str = "", changes: Changes = NONE) -> Source:
    """The source tree of `origin`, with `changes`; `exclude` holds further patterns in gitignore's syntax.

    `version` is for a source that does not state its own. Raises SourceError for a tree that is missing or not a Python
    project and for a change that cannot be made, VersionError for one without a version, ConfigError for an invalid
    pattern.
    """
    if not origin.root.is_dir():
        raise no_such_tree(origin.root)
    is_excluded = excluded(origin, exclude)
    if not changes:
        # What is no project is not read file by file: its metadata first.
        document, stated = _metadata(origin, origin.root, version)
        files = tuple(_walk(origin.root, is_excluded))
        return _source(origin, origin.root, files, document, stated)

    files = tuple(_walk(origin.root, is_excluded))
    # What a repository keeps for itself is never changed, even where a sealed source has brought it.
    plain = [file.path for file in files if not file.link and not _VERSION_CONTROL & set(file.path.split("/"))]
    links = [file.path for file in files if file.link]
    with changed_copy(origin.root, origin.project, plain, links, changes) as copy:
        document, stated = _metadata(origin, copy.folder, version)
        return _source(origin, copy.folder, _with_changes(files, copy), document, stated)


def _source(
    origin: Origin, root: Path, files: tuple[SourceFile, ...], document: Mapping[str, Any], stated: Metadata
) -> Source:
    """The source of `files`, which are to be read in `root`."""
    paths = {file.path for file in files}
    manifest = source_files.text(root / origin.subdirectory, "MANIFEST.in")
    said = version_control.substitutes(origin, document, stated, paths, manifest)
    return Source(origin, files, stated, document, said)


def _metadata(origin: Origin, root: Path, version: str) -> tuple[dict[str, Any], Metadata]:
    """The pyproject.toml of the project in the tree `root`, and what the tree states."""
    project = project_folder(root, origin.subdirectory)
    document = metadata.document(project)
    return document, metadata.read(project, document, version, origin.answer)


def _with_changes(files: Sequence[SourceFile], copy: ChangedCopy) -> tuple[SourceFile, ...]:
    """`files` as a copy has them after its changes; those that it lacks are as they were."""
    before = {file.path: file for file in files}
    result = [file for file in files if file.path not in copy.names]
    for file in _walk(copy.folder, _nothing):
        if file == before.get(file.path):
            result.append(file)
        else:
            content = None if file.link else (copy.folder / file.path).read_bytes()
            result.append(replace(file, content=content))
    return tuple(sorted(result, key=lambda file: file.path))


def excluded(origin: Origin, exclude: tuple[str, ...], *, libraries_too: bool = True) -> Ignores:
    """What is not part of the source; without `libraries_too`, as if compiled libraries could be part of one.

    Raises ConfigError for an invalid pattern.
    """
    patterns = [] if origin.sealed else _never(origin)
    if _LIBRARIES in patterns and not libraries_too:
        patterns.remove(_LIBRARIES)
    try:
        named = PathSpec.from_lines("gitignore", [*patterns, *exclude])
    except ValueError as error:
        raise ConfigError(f"invalid pattern in exclude: {error}", where="[tool.torch-build-farm]") from None
    # An sdist and a commit are complete as they are: .gitignore is about what lies beside them in a work tree.
    ignored = ignores(origin.root) if origin.identity == "path" and not origin.sealed else _nothing

    def is_excluded(path: str) -> bool:
        answer = named.check_file(path).include
        if answer is not None:
            return answer
        return ignored(path) or (not origin.sealed and _is_environment(origin.root, path))

    return is_excluded


def _is_environment(root: Path, path: str) -> bool:
    """Whether a path is that of a virtual environment, whatever its name (PEP 405): a package may be called venv."""
    return path.endswith("/") and (root / path / "pyvenv.cfg").is_file()


def left_out_libraries(source: Source, exclude: tuple[str, ...] = ()) -> list[str]:
    """The compiled libraries that are no part of a source, though nothing of the project's own leaves them out.

    Modules that a build in place leaves behind do not count: their names say which CPython they are for.
    """
    if source.origin.sealed:
        return []
    of_source = {file.path for file in source.files}
    would_be_excluded = excluded(source.origin, exclude, libraries_too=False)
    left_out = []
    for folder, names, files in os.walk(source.root):
        relative = Path(folder).relative_to(source.root)
        names[:] = [name for name in names if not would_be_excluded(f"{relative / name}/")]
        for name in files:
            path = str(relative / name)
            is_library = name.endswith(".so") and not _MODULE.search(name) and Path(folder, name).is_file()
            if is_library and path not in of_source and not would_be_excluded(path):
                left_out.append(path)
    return sorted(left_out)


def _nothing(_: str) -> bool:
    return False


def _never(origin: Origin) -> list[str]:
    """Patterns for what is never part of a source tree."""
    patterns = list(_NEVER)
    if origin.subdirectory:
        folder = literal_pattern(origin.subdirectory)
        patterns += [f"{folder}{pattern}" for pattern in _NEVER if pattern.startswith("/")]
    # An sdist's list of files (SOURCES.txt in its .egg-info) decides what setuptools installs as package data.
    if (origin.project / "PKG-INFO").is_file():
        patterns.remove("*.egg-info/")
    return patterns


def literal_pattern(path: str) -> str:
    """The pattern, in gitignore's syntax, for that one path of the tree."""
    return "/" + re.sub(r"([\\*?\[\]])", r"\\\1", path)


def _walk(root: Path, excluded: Ignores) -> Iterator[SourceFile]:
    """The files below `root`, those that are `excluded` left out, and so is what is neither file nor folder.

    Raises SourceError for a link that leads out, and for a name that cannot be kept.
    """
    real_root = root.resolve()
    for folder, names, files in os.walk(root):
        here = Path(folder)
        relative = here.relative_to(root)
        # Changed in place: os.walk goes down into what is left, in this order. gitignore's patterns for folders match
        # only a path with a slash at its end.
        names[:] = [name for name in sorted(names) if not excluded(f"{relative / name}/")]
        for name in names:
            path = here / name
            _check_name(relative / name, root)
            # os.walk does not enter links to folders. Within the tree such a link stays a link.
            if path.is_symlink():
                target = path.readlink()
                if target.is_absolute() or not _real(path).is_relative_to(real_root):
                    raise _leads_out(path, "folder")
                _check_name(target, root, may_lead_up=True)
                yield SourceFile((relative / name).as_posix(), "", False, str(target))
        for name in sorted(files):
            path = here / name
            # Never opened: FIFOs, sockets, devices, and links to them or to nothing.
            if excluded(str(relative / name)) or not path.is_file():
                continue
            _check_name(relative / name, root)
            # A link to a file becomes the file that it leads to.
            if path.is_symlink():
                real = _real(path)
                if not real.is_relative_to(real_root) or _VERSION_CONTROL & set(real.relative_to(real_root).parts):
                    raise _leads_out(path, "file")
            yield SourceFile((relative / name).as_posix(), sha256(path), os.access(path, os.X_OK))


def _real(path: Path) -> Path:
    """The path with all links followed; of a loop, or a chain that is too long, a path outside of every tree."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        return Path(os.devnull)


def _check_name(path: Path, root: Path, *, may_lead_up: bool = False) -> None:
    """Raise SourceError for a path that cannot be written down: records and settings hold one name a line."""
    reason = fault(str(path), may_lead_up=may_lead_up)
    if reason:
        raise SourceError(
            f"the name {shown(str(path))} {reason}",
            where=str(root),
            next_step="rename it, or name it in exclude",
        )


def _leads_out(path: Path, kind: str) -> SourceError:
    """The error for a link to what is no part of the source."""
    return SourceError(
        f"a link to a {kind} leads out of the source tree, and what it leads to is no part of the source",
        where=f"{path} -> {path.readlink()}",
        next_step=f"put the {kind} itself there, or name the link in exclude",
    )
