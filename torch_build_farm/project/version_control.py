"""What version control says of a wheel's members, written down for a build that has no repository.

In a checkout some back ends ask git what belongs to the project. A rendered tree is no repository, and what only git
knows would vanish from the wheel, or come into it, without a word. So the tree gets the answer as a file that the back
end reads anyway.

- setuptools asks the file finders that build requirements bring, such as setuptools-scm's, before it reads MANIFEST.in
  (its manual, "Adding Support for Revision Control Systems"). The tree's MANIFEST.in begins with what they would list.
- An sdist has that list in SOURCES.txt, in a folder of the project's name. A variant has another name.
- Hatchling leaves out what the nearest .gitignore names, in the project's folder or above it up to the repository's
  top (its manual, "VCS"). The folders above a rendered tree are anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.core import foreign_files, git
from torch_build_farm.core.toml import table_in
from torch_build_farm.project import source_files
from torch_build_farm.project.dynamic_version import back_end
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.metadata import Metadata

_FILE_FINDERS = {"setuptools-git", "setuptools-scm", "vcs-versioning"}
_LARGEST_LIST = 16 << 20  # bytes of a SOURCES.txt
_HEADER = "# What version control, or the sdist's list of files, names to setuptools. The project's own lines follow.\n"


def substitutes(
    origin: Origin, pyproject: Mapping[str, Any], stated: Metadata, files: Container[str], manifest: str
) -> Mapping[str, str]:
    """The files that say to the source's back end what version control would, by their paths in the project's folder.

    `files` are the source's, by their paths in its tree; `manifest` is the text of its MANIFEST.in. Raises SourceError
    where git does not answer.
    """
    if back_end(pyproject) == "hatchling":
        return _gitignore(origin)
    in_tree = "backend-path" in table_in(pyproject, "build-system")  # such a back end may wrap setuptools
    if back_end(pyproject) != "setuptools" and not in_tree:
        return {}
    listed = _sdists_list(origin.project)
    if not listed and _has_file_finder(stated.build_requires):
        listed = _tracked(origin)
    prefix = f"{origin.subdirectory}/" if origin.subdirectory else ""
    lines = [f"include {_pattern(path)}\n" for path in sorted(set(listed)) if prefix + path in files]
    if not lines:
        return {}
    return {"MANIFEST.in": "".join([_HEADER, *lines, manifest])}


def _has_file_finder(build_requires: Iterable[str]) -> bool:
    for text in build_requires:
        try:
            if canonicalize_name(Requirement(text).name) in _FILE_FINDERS:
                return True
        except InvalidRequirement:
            continue
    return False


def _sdists_list(project: Path) -> list[str]:
    """The paths in the list of files that setuptools put into an unpacked sdist."""
    if not (project / "PKG-INFO").is_file():
        return []
    lists = [*project.glob("*.egg-info/SOURCES.txt"), *project.glob("*/*.egg-info/SOURCES.txt")]
    paths: list[str] = []
    for path in lists:
        paths += source_files.text(project, path.relative_to(project).as_posix(), _LARGEST_LIST).splitlines()
    return paths


def _tracked(origin: Origin) -> list[str]:
    """What git lists of the project's files, by their paths in its folder."""
    if origin.identity == "path":
        top = _repository(origin.project)
        paths = git.tracked(top) if top else ()
    elif origin.kept and not origin.sealed:
        top = origin.root
        paths = git.exported(top)
    else:
        return []
    prefix = f"{origin.project.resolve().relative_to(top.resolve()).as_posix()}/" if top else ""
    prefix = prefix.removeprefix("./")
    return [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]


def _repository(folder: Path) -> Path | None:
    """The folder, or the nearest one above it, that has a repository."""
    resolved = folder.resolve()
    for candidate in (resolved, *resolved.parents):
        if (candidate / ".git").exists():
            return candidate
    return None


def _pattern(path: str) -> str:
    """The pattern of MANIFEST.in for a path. It knows no quotes: blanks and comment signs are any character."""
    return re.sub(r"[\s#\\]", "?", re.sub(r"[\[*?]", r"[\g<0>]", path))


def _gitignore(origin: Origin) -> dict[str, str]:
    """The .gitignore that Hatchling would find above the source's tree; an empty one where it would find none."""
    within = [origin.project, *origin.project.parents]
    for folder in within[: within.index(origin.root) + 1]:
        if (folder / ".gitignore").is_file():
            return {}
    top = _repository(origin.root) if origin.identity == "path" else None
    above = origin.root.resolve()
    while top and above != top:
        above = above.parent
        if foreign_files.is_regular(above / ".gitignore"):
            return {".gitignore": source_files.text(above, ".gitignore")}
    return {".gitignore": ""}
