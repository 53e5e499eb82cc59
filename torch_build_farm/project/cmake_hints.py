"""What a source's CMake files say that somebody who writes a project file should know; CMake is not run.

Own code: only CMake reads its language wholly, and it runs what it reads. A command that a variable or a condition
hides is not seen, so these are hints and never settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import SourceError
from torch_build_farm.project import source_files

_MOST_FILES = 50
_MOST_FOLDERS = 2_000
# Files that others include, but for those that find a package or are one.
_INCLUDED = re.compile(r"(?!Find)(?!.*[Cc]onfig).+\.cmake")
_COMMENT = re.compile(r"#[^\n]*")
_BRACKET_COMMENT = re.compile(r"#\[(?P<equals>=*)\[")
_FIND = re.compile(r"\bfind_package\s*\(\s*(?P<name>\w[\w.+-]*+)(?P<rest>[^()]{0,500})\)", re.IGNORECASE)
_FETCH = re.compile(
    r"\b(?:FetchContent_Declare|FetchContent_Populate|ExternalProject_Add|CPMAddPackage)"
    r'\s*\(\s*"?(?:(?:NAME|URI)\s+"?)?(?P<name>[^\s()"]{1,80})',
    re.IGNORECASE,
)
_INSTALL = re.compile(r"\binstall\s*\((?P<words>[^()]{0,2000})\)", re.IGNORECASE)
_DESTINATION = re.compile(
    r'DESTINATION\s+"?(?P<folder>(?:include|lib|lib64|bin|share|\$\{CMAKE_INSTALL_(?:INCLUDE|LIB|BIN|DATA)(?:ROOT)?DIR\})'
    r'(?:/[^\s"]*)?)"?(?=\s|$)'
)
# Found in every build: torch, the interpreter, and what a build requirement or the compiler brings.
_THERE = {"cuda", "cudatoolkit", "openmp", "pybind11", "python", "python3", "pythoninterp", "pythonlibs",
          "pythonlibsnew", "threads",
          "torch", "nanobind", "scikit-build"}  # fmt: skip


@dataclass(frozen=True)
class CMakeHints:
    """`required` are packages that must be found, `fetches` what is downloaded, `outside` the folders beside packages
    that install() writes to.
    """

    torch: bool
    required: tuple[str, ...]
    fetches: tuple[str, ...]
    outside: tuple[str, ...]

    def without(self, name: str) -> CMakeHints:
        """The same, without a package of the project's own name, which its build or an earlier one makes."""
        required = tuple(other for other in self.required if canonicalize_name(other) != canonicalize_name(name))
        return replace(self, required=required)


def text(project: Path) -> str:
    """The CMake files of a project's folder, and of those folders below that are its own, without comments."""
    return "\n".join(_texts(project))


def find(text: str) -> CMakeHints:
    """The hints in a text of CMake's language; none in an empty one."""
    packages: set[str] = set()
    required: set[str] = set()
    fetches: set[str] = set()
    outside: set[str] = set()
    for match in _FIND.finditer(text):
        packages.add(match["name"].lower())
        if "REQUIRED" in match["rest"].split() and match["name"].lower() not in _THERE:
            required.add(match["name"])
    fetches.update(match["name"] for match in _FETCH.finditer(text))
    for match in _INSTALL.finditer(text):
        outside.update(found["folder"] for found in _DESTINATION.finditer(match["words"]))
    return CMakeHints("torch" in packages, tuple(sorted(required)), tuple(sorted(fetches)), tuple(sorted(outside)))


def _texts(project: Path) -> Iterator[str]:
    """The project's own CMake files without their comments, those nearest to the top first."""
    pending, files, folders = [""], 0, 0
    while pending and files < _MOST_FILES and folders < _MOST_FOLDERS:
        folder = pending.pop(0)
        folders += 1
        with os.scandir(project / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        below = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        pending += [f"{folder}{name}/" for name in below if not (name in source_files.NOT_ITS_OWN or name[0] == ".")]
        for entry in found:
            if entry.name == "CMakeLists.txt" or _INCLUDED.fullmatch(entry.name):
                try:
                    text = source_files.text(project, f"{folder}{entry.name}")
                except SourceError:  # too large, or a link that leads out: there is no hint in it
                    continue
                files += bool(text)
                yield _without_comments(text)


def _without_comments(text: str) -> str:
    """A text of CMake's language without comments, also those of several lines: #[[ ... ]], #[==[ ... ]==]."""
    parts, end = [], 0
    for opening in _BRACKET_COMMENT.finditer(text):
        if opening.start() < end:
            continue
        parts.append(text[end : opening.start()])
        closing = f"]{opening['equals']}]"
        end = text.find(closing, opening.end())
        if end < 0:  # the comment lasts until the text ends
            end = len(text)
            break
        end += len(closing)
    return _COMMENT.sub("", "".join([*parts, text[end:]]))
