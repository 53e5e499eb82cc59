"""What a source's CMake files say that somebody who writes a project file should know; CMake is not run.

Own code: only CMake reads its language wholly, and it runs what it reads. A command that a variable or a condition
hides is not seen, so these are hints and never settings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core.errors import SourceError
from torch_build_farm.project import source_files

_MOST_FILES = 50
_MOST_FOLDERS = 2_000
_NOT_ITS_OWN = {"3rdparty", "build", "docs", "examples", "extern", "external", "test", "tests", "third_party", "vendor"}
_COMMENT = re.compile(r"#[^\n]*")
_FIND = re.compile(r"\bfind_package\s*\(\s*(?P<name>\w[\w.+-]*)(?P<rest>[^()]{0,500})\)", re.IGNORECASE)
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
_THERE = {"cuda", "cudatoolkit", "openmp", "pybind11", "python", "python3", "pythoninterp", "pythonlibs", "threads",
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


def text(project: Path) -> str:
    """The CMakeLists.txt of a project's folder, and of those folders below that are its own, without comments."""
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
    """The CMakeLists.txt files without their comments, those nearest to the top first."""
    pending, files, folders = [""], 0, 0
    while pending and files < _MOST_FILES and folders < _MOST_FOLDERS:
        folder = pending.pop(0)
        folders += 1
        with os.scandir(project / folder) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        pending += [f"{folder}{name}/" for name in below if name not in _NOT_ITS_OWN and not name.startswith(".")]
        try:
            text = source_files.text(project, f"{folder}CMakeLists.txt")
        except SourceError:  # too large, or a link that leads out: there is no hint in it
            continue
        files += bool(text)
        yield _COMMENT.sub("", text)
