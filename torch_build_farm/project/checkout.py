"""Whether a source is complete: submodules and files of Git LFS come by commands of their own, libraries not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from torch_build_farm.core import foreign_files, git
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.paths import fault
from torch_build_farm.core.text import printable
from torch_build_farm.project import source_files, tree
from torch_build_farm.project.ignored import Ignores
from torch_build_farm.project.tree import Source

# In .gitmodules, which is written as git's configuration is (gitmodules, git-config).
_PATH = re.compile(r'^[ \t]*path[ \t]*=[ \t]*"?([^"\r\n]{1,1000}?)"?[ \t]*$', re.MULTILINE | re.IGNORECASE)
_LFS = re.compile(r"^[^#\r\n]*[ \t]filter=lfs\b", re.MULTILINE)
# A pointer's first line, and the size that it stays below (Git LFS specification, "The Pointer").
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_SIZE = 1024
_SUBMODULES_DEEP = 8
_MOST_NAMED = 5


def notes(source: Source, exclude: tuple[str, ...] = ()) -> list[str]:
    """What a source lacks, a sentence each; `exclude` as `tree.read` takes it."""
    return [*_missing(source, exclude), *_left_out(source, exclude)]


def _left_out(source: Source, exclude: tuple[str, ...]) -> list[str]:
    libraries = tree.left_out_libraries(source, exclude)
    if not libraries:
        return []
    pattern = f"!{tree.literal_pattern(libraries[0])}"
    return [
        f"compiled libraries are no part of the source: {_listed(libraries)}; where the package needs them, "
        f"exclude = [{printable(json.dumps(pattern))}] includes the first"
    ]


def _missing(source: Source, exclude: tuple[str, ...]) -> list[str]:
    """What is missing in a source folder that somebody works in."""
    if source.origin.identity != "path" or source.origin.sealed:
        return []
    missing = []
    excluded = tree.excluded(source.origin, exclude)
    empty = [path for path in sorted(_empty_submodules(source.root)) if not _is_excluded(path, excluded)]
    if empty:
        missing.append(f"submodules are empty: {_listed(empty)}; `git submodule update --init --recursive` fills them")
    pointers = _pointers(source)
    if pointers:
        missing.append(f"files only point at Git LFS: {_listed(pointers)}; `git lfs pull` fetches them")
    return missing


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return printable(", ".join(paths[:_MOST_NAMED])) + more


def _is_excluded(path: str, excluded: Ignores) -> bool:
    """Whether a folder, or one above it, is no part of the source."""
    folders = [path, *map(str, PurePosixPath(path).parents)][:-1]
    return any(excluded(f"{folder}/") for folder in folders)


# ---- submodules


def has_submodules(top: Path) -> bool:
    """Whether a repository has submodules, by its .gitmodules."""
    return bool(_submodules(top))


def _submodules(top: Path) -> list[str]:
    """The submodules of a repository by their paths in it; those that lead out of it are left out."""
    try:
        text = source_files.text(top, ".gitmodules")
    except SourceError:
        return []
    paths = [path.rstrip("/") for path in _PATH.findall(text)]
    return [path for path in dict.fromkeys(paths) if not fault(path)]


def _empty_submodules(root: Path) -> set[str]:
    """The empty ones by their paths in the tree `root`, which may lie within a repository."""
    resolved = root.resolve()
    empty = set(_empty_below(resolved, _SUBMODULES_DEEP))
    for top in resolved.parents:
        if (top / ".git").exists() and not (resolved / ".git").exists():
            empty |= set(_empty_below(top, _SUBMODULES_DEEP))
            break
    return {path.relative_to(resolved).as_posix() for path in empty if path.is_relative_to(resolved)}


def _empty_below(top: Path, deep: int) -> Iterator[Path]:
    for name in _submodules(top):
        folder = top / name
        if folder.is_symlink():
            continue
        if not folder.is_dir() or not any(folder.iterdir()):
            yield folder
        elif deep:
            yield from _empty_below(folder, deep - 1)


# ---- Git LFS


def uses_lfs(top: Path) -> bool:
    """Whether a file that the repository at `top` knows is kept by Git LFS, by its .gitattributes."""
    try:
        known = git.tracked(top)
    except SourceError:
        known = ()
    names = {".gitattributes", *(name for name in known if PurePosixPath(name).name == ".gitattributes")}
    return any(_says_lfs(top, name) for name in names)


def _says_lfs(root: Path, name: str) -> bool:
    try:
        return bool(_LFS.search(source_files.text(root, name)))
    except SourceError:
        return False


def _pointers(source: Source) -> list[str]:
    """The files of a source that are pointers of Git LFS in place of their content."""
    if not _lfs_in_source(source):
        return []
    unchanged = [file.path for file in source.files if not file.link and file.content is None]
    return [path for path in unchanged if _is_pointer(source.root / path)]


def _lfs_in_source(source: Source) -> bool:
    """Whether a .gitattributes of the source, or at the top of the repository above it, names Git LFS."""
    for file in source.files:
        if PurePosixPath(file.path).name == ".gitattributes" and _says_lfs(source.root, file.path):
            return True
    for above in source.root.resolve().parents:
        if (above / ".git").exists():
            return _says_lfs(above, ".gitattributes")
    return False


def _is_pointer(path: Path) -> bool:
    try:
        return foreign_files.content(path, _POINTER_SIZE).startswith(_POINTER)
    except OSError:  # a longer file, among others
        return False
