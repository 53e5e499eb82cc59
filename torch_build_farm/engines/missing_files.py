"""Files that a build misses, by the words of compilers and build tools, and whether they lie outside its source."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

# The build's copy of the tree: in a local engine's work folder, or in a container.
_COPY = re.compile(r"(?<!\S)(?:/\S*/scratch/source|/project)/")

_CMAKE_HEADING = re.compile(r"CMake Error at (?P<place>.+):$")
_MOST_LINES = 8  # of a message of CMake's

# Each names the missing file, and some the file that asks for it.
_MISSING = [
    re.compile(
        r"CMake Error at (?P<asks>[^:]*)[^:]*:\d+ .*(?:Cannot find source file:|requested file:|load file:|"
        r"given source|such file or directory\):) \"?(?P<path>[^\s\"]+)"
    ),
    # cc1plus, for a source on the command line, has no file before its name; a compiler in an #include has one.
    re.compile(r"(?P<asks>[^\s:]+):\d+(?::\d+)?: fatal error: '?(?P<path>[^\s':]+)(?:: No such file|' file not found)"),
    re.compile(r"fatal error: (?P<path>[^\s:]+): No such file or directory"),
    re.compile(r"no such file or directory: '(?P<path>[^']+)'", re.IGNORECASE),
    re.compile(r"ninja: error: '(?P<path>[^']+)', needed by .* missing and no known rule"),
    re.compile(r"ERROR: File (?P<path>\S+) does not exist"),
]
_SOURCE = re.compile(r"\.(?:c|cc|cpp|cxx|cu|cuh|h|hh|hpp|inl)$")
_SYSTEM = ("/usr/", "/opt/")


def without_copy(text: str) -> str:
    """A message without the folder of the build's copy: people have the files in a folder of their own."""
    return _COPY.sub("", text)


def cmake_error(lines: Sequence[str]) -> str:
    """The error of CMake's that begins in the first of `lines`, as one line.

    It is CMake's first paragraph, with the next one where that ends in a colon: there is the name of the file. Where a
    module of CMake's own gives up, the place is the project's line that called it.
    """
    heading = _CMAKE_HEADING.match(lines[0].rstrip())
    place = heading["place"] if heading else ""
    message: list[str] = []
    for number, line in enumerate(lines[1 : _MOST_LINES + 1], 1):
        if line.startswith("Call Stack"):
            place = _projects_own(place, lines[number + 1 :])
            break
        if line.strip():
            message.append(line.strip())
        elif message and not message[-1].endswith(":"):
            break
    start = f"CMake Error at {place}:" if heading else lines[0].strip()
    return " ".join([start, *message])


def _projects_own(place: str, stack: Sequence[str]) -> str:
    """The innermost place in files of the project: `place`, or a line of the call stack behind it."""
    if not place.startswith("/") or _COPY.match(place):
        return place
    for line in stack:
        if not line.startswith("  "):
            break
        caller = line.strip()
        if not caller.startswith("/") or _COPY.match(caller):
            return caller
    return place


def outside(reason: str, subdirectory: str) -> str:
    """The file that a build misses by its error `reason`, if it lies outside of the source; else empty.

    `subdirectory` is the folder of the Python project in the source, where its build starts. Relative names begin in
    the folder of the file that has them. What a file asks for that is none of the source's says nothing.
    """
    for pattern in _MISSING:
        match = pattern.search(reason)
        if match:
            asks = match.groupdict().get("asks") or ""
            return match["path"] if _leads_out(match["path"], asks, subdirectory) else ""
    return ""


def _leads_out(path: str, asks: str, subdirectory: str) -> bool:
    """Whether a path that the file `asks` has, or a command line where that is empty, leads out of the source."""
    if path.startswith("/"):
        in_copy = _COPY.match(path)
        if not in_copy:  # a library of the system's may be missing as well
            return bool(_SOURCE.search(path)) and not path.startswith(_SYSTEM)
        base, path = "", path[in_copy.end() :]
    elif asks.startswith("/"):
        in_copy = _COPY.match(asks)
        if not in_copy:
            return False
        base = posixpath.dirname(asks[in_copy.end() :])
    else:
        base = posixpath.join(subdirectory, posixpath.dirname(asks))
    return posixpath.normpath(posixpath.join(base, path)).startswith("..")
