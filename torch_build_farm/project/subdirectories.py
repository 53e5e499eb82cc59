"""Where in a source the Python project lies: at its top, or in the folder that `subdirectory` names."""

from __future__ import annotations

import os
from pathlib import Path

from torch_build_farm.core import toml
from torch_build_farm.core.errors import SourceError, UnsafeNameError, nearest
from torch_build_farm.core.paths import inside
from torch_build_farm.project import source_files

# Other people's projects, and such as are not installed.
_NOT_THE_PROJECT = {"3rdparty", "benchmark", "benchmarks", "build", "dependencies", "deps", "dist", "doc", "docs",
                    "example", "examples", "extern", "external", "node_modules", "submodules", "test", "tests",
                    "third-party", "third_party", "thirdparty", "vendor", "venv"}  # fmt: skip
_DEEPEST = 5  # folders below the top
_MOST_FOLDERS = 5_000
_MOST_PROJECTS = 20  # a message names all of them


def project_folder(tree: Path, subdirectory: str) -> Path:
    """The folder of the Python project in a source tree, where its pyproject.toml or setup.py lies.

    Raises SourceError where there is no such tree, folder or project, with those projects that are there.
    """
    if not tree.is_dir():
        raise no_such_tree(tree)
    folder = _without_links(tree, subdirectory)
    if is_project(folder):
        return folder

    projects = projects_below(tree)
    if subdirectory:
        help_ = nearest(subdirectory, projects) if projects else "nor in another folder"
        raise SourceError(
            f"the source has no Python project in {subdirectory}; {help_}",
            where=str(tree),
            next_step="correct subdirectory in [tool.torch-build-farm]: the folder with pyproject.toml or setup.py",
        )
    if projects:
        listed = " or ".join(f'"{name}"' for name in projects)
        raise SourceError(
            "there is no Python project at the top of the source tree",
            where=str(tree),
            next_step=f"set subdirectory = {listed} in [tool.torch-build-farm]",
        )
    # What is wrong with a pyproject.toml that describes nothing is said where it is read.
    if (folder / "pyproject.toml").is_file():
        return folder
    raise SourceError(
        "the source tree has neither pyproject.toml nor setup.py",
        where=str(tree),
        next_step="set source in [tool.torch-build-farm] to its folder",
    )


def no_such_tree(tree: Path) -> SourceError:
    """The error for a source that is not there."""
    return SourceError(
        "the source tree does not exist",
        where=str(tree),
        next_step="set source in [tool.torch-build-farm] to its folder",
    )


def _without_links(tree: Path, subdirectory: str) -> Path:
    """The folder `subdirectory` of `tree`. Raises SourceError for one that is reached by a link.

    A link to a folder stays a link in each copy of the tree: what is rendered would be written through it.
    """
    try:
        folder = inside(tree, subdirectory) if subdirectory else tree
    except UnsafeNameError as error:
        raise SourceError(error.what, where=f"{tree}: subdirectory") from None
    if folder.resolve() != tree.resolve() / subdirectory:
        raise SourceError(
            f"{subdirectory} is reached by a link",
            where=str(tree),
            next_step="name the folder itself in subdirectory of [tool.torch-build-farm]",
        )
    return folder


def is_project(folder: Path) -> bool:
    """Whether a Python project is built from this folder. A pyproject.toml with tools' settings alone makes none."""
    if (folder / "setup.py").is_file() or (folder / "PKG-INFO").is_file():
        return True
    if not (folder / "pyproject.toml").is_file():
        return False
    try:
        document = toml.loads(toml.decoded(source_files.content(folder, "pyproject.toml")))
    except (toml.TomlError, SourceError):
        return True  # the error is reported where the file is read
    return "project" in document or "build-system" in document


def projects_below(tree: Path) -> tuple[str, ...]:
    """The folders below the top that hold a Python project, those that speak of torch first.

    Not entered are hidden folders, links, folders of other people's code, and what lies within a project. Only some
    levels and some thousand folders are looked at, and the first projects count.
    """
    projects: list[tuple[bool, int, str]] = []
    for visited, (here, names, _) in enumerate(os.walk(tree)):
        folder = Path(here)
        relative = folder.relative_to(tree)
        depth = len(relative.parts)
        if depth and is_project(folder):
            projects.append((not _speaks_of_torch(folder), depth, relative.as_posix()))
            names.clear()
        if visited >= _MOST_FOLDERS or len(projects) >= _MOST_PROJECTS:
            break
        if depth >= _DEEPEST:
            names.clear()
        names[:] = [name for name in sorted(names) if _may_hold_the_project(folder / name)]
    return tuple(name for _, _, name in sorted(projects))


def _may_hold_the_project(folder: Path) -> bool:
    # A submodule has a file of that name (gitsubmodules), a checkout within the tree a folder.
    others = folder.name.lower() in _NOT_THE_PROJECT or (folder / ".git").exists()
    return not (others or folder.name.startswith(".") or folder.is_symlink())


def _speaks_of_torch(folder: Path) -> bool:
    for name in ("pyproject.toml", "setup.py", "CMakeLists.txt"):
        try:
            if b"torch" in source_files.content(folder, name).lower():
                return True
        except SourceError:
            continue
    return False
