"""When the commands of a build ran, by ninja's log. Projects that do not build with ninja have none.

Own code, 60 lines: no maintained library reads the format.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core.errors import BuildError
from torch_build_farm.core.files import copy_foreign, read_foreign_text

NAME = ".ninja_log"
# Five columns: start and end (ms since that ninja began), mtime (ns), output, hash of the command (ninja's
# build_log.cc). Version 4 counted mtimes in seconds; what a later one will count is unknown.
_FORMATS = tuple(f"# ninja log v{version}" for version in (5, 6, 7))
_LINE = re.compile(r"(\d{1,12})\t(\d{1,12})\t(\d{1,19})\t([^\t]*)\t[^\t]*")
_LARGEST = 8_000_000  # bytes; a line is about 100, and the build can write what it likes


@dataclass(frozen=True)
class Edge:
    """One command: start and end in milliseconds since its ninja began, and the time (Unix, ns) that ninja noted.

    ninja 1.11 and newer note when the command started, older ones when its output was written.
    """

    start: int
    end: int
    noted: int


def edges(text: str) -> list[Edge]:
    """The commands in a log, each output's last one; none where the format is not known."""
    header, *lines = text.split("\n")
    if header not in _FORMATS:
        return []
    # ninja appends a line each time it makes an output, and keeps the older lines: an output's last line counts.
    by_output = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match:  # else ninja was killed while it wrote
            start, end, mtime, output = match.groups()
            by_output[output] = Edge(int(start), int(end), int(mtime))
    return list(by_output.values())


def seconds(text: str) -> float | None:
    """From the first command's start to the last one's end; None where the log has no command."""
    commands = edges(text)
    if not commands:
        return None
    first = min(edge.start for edge in commands)
    last = max(edge.end for edge in commands)
    return (last - first) / 1000


def keep(build: Path, folder: Path) -> None:
    """Copy the log of CMake's build folder `build`, if it has one that can be read, into `folder`."""
    with contextlib.suppress(OSError, BuildError):
        copy_foreign(build / NAME, folder / NAME, _LARGEST)


def compile_seconds(folder: Path) -> float | None:
    """Seconds from the first command's start to the last one's end, by the log kept in `folder`; None without one."""
    try:
        text = read_foreign_text(folder / NAME, _LARGEST)
    except (OSError, BuildError):
        return None
    return seconds(text)
