"""What ninja's log of a build says: when its commands ran. Projects that do not build with ninja have none."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

NAME = ".ninja_log"
# Five columns: start and end (ms since that ninja began), mtime (ns), output, hash of the command (ninja's
# build_log.cc). Version 4 counted mtimes in seconds, and nothing tells what a later one will count.
_FORMATS = tuple(f"# ninja log v{version}" for version in (5, 6, 7))


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
    found = {}
    for line in lines:
        columns = line.split("\t")
        if len(columns) == 5:
            with contextlib.suppress(ValueError):
                found[columns[3]] = Edge(*map(int, columns[:3]))
    return list(found.values())


def seconds(text: str) -> float | None:
    """From the first command's start to the last one's end; None where the log tells of none."""
    found = edges(text)
    return (max(edge.end for edge in found) - min(edge.start for edge in found)) / 1000 if found else None


def keep(build: Path, folder: Path) -> None:
    """Copy the log of CMake's build folder `build`, if it has one, into `folder`."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(build / NAME, folder / NAME)


def compile_seconds(folder: Path) -> float | None:
    """Seconds from the first command's start to the last one's end, by the log kept in `folder`; None without one."""
    try:
        text = (folder / NAME).read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    return seconds(text)
