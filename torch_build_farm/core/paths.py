"""The one place where a name that others chose is joined to a folder of the farm.

Such names come out of archives, indexes, records, work folders and settings. A name that leads out of its folder is
refused, never repaired: a repaired name would be another file than the one that its author meant.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch_build_farm.core.errors import UnsafeNameError

# Bytes. Linux takes 255 in a file's name and 4,095 in a path (limits.h); the rest is for the folder.
_LONGEST_PART = 255
_LONGEST = 1000
# Folders within one another. Python walks and removes trees by recursion, and stops at about 900.
_DEEPEST = 100
_SHOWN = 80  # characters of a name in a message
# Control characters, and the two that end a line in Unicode: such a name could write a line of its own somewhere.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def fault(name: str, *, may_lead_up: bool = False) -> str:
    """Why a name is none for a file within a folder, as the end of a sentence; empty for a good name.

    Good is a relative path with `/` between its parts, and no part `..` unless it `may_lead_up`, as a link's target
    may. The file system is not looked at.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # a byte that is not UTF-8, as `os.fsdecode` keeps it
        return "is not UTF-8"
    parts = name.split("/")
    faults = {
        "is empty": not name,
        "is an absolute path": name.startswith("/"),
        "has a control character": bool(_CONTROL.search(name)),
        "leads out of its folder": ".." in parts and not may_lead_up,
        "is too long": size > _LONGEST or any(len(part.encode()) > _LONGEST_PART for part in parts),
        "has too many folders": len(parts) > _DEEPEST,
    }
    return next((reason for reason, applies in faults.items() if applies), "")


def shown(name: str) -> str:
    """A name for a message: in quotes, one line, of bounded length."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, for reading, writing or deleting. Neither has to exist.

    Raises UnsafeNameError where the name is not a path within the folder (`fault`), and where a link on the way, or
    the file itself as a link, leads out of it. Nobody else may change the folder meanwhile.
    """
    reason = fault(name)
    if reason:
        raise UnsafeNameError(f"the name {shown(name)} {reason}", where=str(folder))
    path = folder / name
    if not _stays_inside(folder, path):
        raise UnsafeNameError(f"the name {shown(name)} leads out of its folder by a link", where=str(folder))
    return path


def file_in(folder: Path, name: str) -> Path:
    """As `inside`, for a name that has to be a plain file name. Raises UnsafeNameError for any other."""
    if "/" in name or name == ".":
        raise UnsafeNameError(f"the name {shown(name)} is not that of a file in this folder", where=str(folder))
    return inside(folder, name)


def _stays_inside(folder: Path, path: Path) -> bool:
    """Whether `path`, all links followed, lies in `folder`. A link that leads nowhere does not."""
    root = os.path.realpath(folder)
    # What does not exist cannot be a link: the part that exists decides.
    existing = path
    while existing != folder and not os.path.lexists(existing):
        existing = existing.parent
    if existing == folder:
        return True
    try:
        # Strict: otherwise a chain of links longer than PATH_MAX counts as if it ended where the limit was reached.
        real = os.path.realpath(existing, strict=True)
    except OSError:
        return False
    return Path(real).is_relative_to(root)
