"""What .gitignore says is no part of a source that somebody works in.

git itself answers for a work tree: it knows which ignored files are committed all the same. Where there is no
repository, or no git, the .gitignore files of the tree are read as git reads them. Settings of one user or machine
(core.excludesFile, .git/info/exclude) do not count, since the source would be another one elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pathspec import GitIgnoreSpec, RegexPattern

from torch_build_farm.core import git
from torch_build_farm.core.errors import SourceError
from torch_build_farm.project import source_files

# A pattern with three stars is tried at some millions of places of a name of 255 characters, and each further star
# takes 60 times as many. Nobody writes more.
_MOST_STARS = 3
# `a/**` is what lies in the folder a; pathspec takes it for the folder itself as well, and so `a/**/`.
_WITHIN = re.compile(r"(?!/?\*\*/\*\*)(.*[^/])/\*\*(/?) *")
_FOLDER = "ps_d"  # the group in pathspec's expressions for the slash behind a folder that a pattern names
# Whether a path below the root is ignored; that of a folder ends with a slash. The folders above it are not ignored.
Ignores = Callable[[str], bool]


def ignores(root: Path) -> Ignores:
    """What the .gitignore files of the tree `root` name, and those above it up to the top of its repository."""
    repositories: dict[str, Ignores] = {"": by_git(root) or by_files(root)}

    def of_folder(folder: str) -> Ignores:
        """The answers for what lies in a folder: of the innermost repository, such as a submodule's."""
        if folder not in repositories:
            place = root / folder
            if (place / ".git").exists():
                inner = by_git(place) or by_files(place)
                repositories[folder] = lambda path: inner(path.removeprefix(folder))
            else:
                repositories[folder] = of_folder(_parent(folder))
        return repositories[folder]

    return lambda path: of_folder(_parent(path))(path)


def by_git(root: Path) -> Ignores | None:
    """What git says; None where no repository holds the tree, where git does not answer, or ignores the whole tree."""
    resolved = root.resolve()
    for top in (resolved, *resolved.parents):
        if (top / ".git").exists():
            try:
                names = git.ignored(top, resolved)
            except SourceError:
                return None
            return None if names is None else names.__contains__
    return None


def by_files(root: Path) -> Ignores:
    """What the .gitignore files in the tree say. One that cannot be read, or no pattern at all, names nothing."""
    patterns: dict[str, list[RegexPattern]] = {}

    def ignored(path: str) -> bool:
        folder = path
        while folder:
            folder = _parent(folder)
            if folder not in patterns:
                patterns[folder] = _patterns(root, folder)
            # The last pattern for the path decides, of the innermost file that has one.
            for pattern in reversed(patterns[folder]):
                if _is_about(pattern, path.removeprefix(folder)):
                    return bool(pattern.include)
        return False

    return ignored


def _is_about(pattern: RegexPattern, path: str) -> bool:
    """Whether a pattern names the path itself, and not a folder above it: that one is not ignored.

    pathspec answers for both at once, and prefers folders: of `*` and `!a` it lets the first decide about the folder a.
    It also takes `a/**/` for files, where git names folders alone.
    """
    if pattern.regex is None:
        return False
    names_folders = str(pattern.pattern).rstrip().endswith("/")
    if names_folders and not path.endswith("/"):
        return False
    for match in pattern.regex.finditer(path):
        end_of_folder = match.end(_FOLDER) if _FOLDER in pattern.regex.groupindex else -1
        if end_of_folder in (-1, len(path)):
            return True
    return False


def _patterns(root: Path, folder: str) -> list[RegexPattern]:
    """The patterns of the .gitignore in a folder, which git does not read through a link."""
    name = f"{folder}.gitignore"
    lines: list[str] = []
    if not (root / name).is_symlink():
        try:
            lines = source_files.text(root, name).splitlines()
        except SourceError:
            lines = []
    spec = GitIgnoreSpec.from_lines([_within(line) for line in lines if _is_pattern(line)])
    return [pattern for pattern in spec.patterns if pattern.include is not None]


def _within(line: str) -> str:
    """The pattern in a form that pathspec reads as git does."""
    match = _WITHIN.fullmatch(line)
    return f"{match[1]}/**/*{match[2]}" if match else line


def _is_pattern(line: str) -> bool:
    """Whether a line can be matched in bounded time; git passes over what is no pattern as well."""
    parts = line.split("/")
    if parts.count("**") > _MOST_STARS or any(part.count("*") > _MOST_STARS for part in parts):
        return False
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _parent(path: str) -> str:
    """The folder of a path, with a slash at its end; empty for the root."""
    folder, slash, _ = path.rstrip("/").rpartition("/")
    return f"{folder}{slash}"
