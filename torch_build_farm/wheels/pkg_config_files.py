"""pkg-config's files inside a package, which have to find its libraries and headers after the move to _torchNN/.

A file states places by its own, ${pcfiledir}, and by variables that it sets (pkg-config(1), "Metadata file syntax"). A
place that is above the package stays where it is, and what is named below it may move.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

from torch_build_farm.wheels import run_paths

_NAME = rb"[A-Za-z0-9_.]+"
_DEFINITION = re.compile(rb"(?P<name>" + _NAME + rb")[ \t]*=(?P<value>.*)")
_LONGEST_PLACE = 4096  # characters, as of a path (PATH_MAX, linux/limits.h)
_PLACE = re.compile(rb"\$\{(?P<name>" + _NAME + rb")\}(?P<rest>(?:/[^\s\"'$]*)?)")


def moved(path: str, content: bytes, new_folder: Callable[[str], str]) -> bytes:
    """The content of the file that lies at `path`, as it has to be in its new place.

    `new_folder` gives the new path of a folder, the same one for a folder that does not move.
    """
    places = {b"pcfiledir": posixpath.dirname(path)}  # where each variable leads to before the move

    def rest_of(match: re.Match[bytes]) -> str:
        return posixpath.normpath(match["rest"].decode("utf-8", "surrogateescape").lstrip("/"))

    def place_of(match: re.Match[bytes]) -> str:
        return posixpath.normpath(posixpath.join(places[match["name"]], rest_of(match)))

    def new_text(match: re.Match[bytes]) -> bytes:
        if match["name"] not in places:
            return match[0]
        relative = run_paths.way(new_folder(places[match["name"]]), new_folder(place_of(match)))
        if relative == rest_of(match):
            return match[0]
        slash = b"/" if match["rest"].endswith(b"/") else b""
        return b"${" + match["name"] + b"}/" + relative.encode("utf-8", "surrogateescape") + slash

    lines = []
    for line in content.split(b"\n"):
        lines.append(_PLACE.sub(new_text, line))
        definition = _DEFINITION.fullmatch(line)
        value = _PLACE.fullmatch(definition["value"].strip(b'" \t\r')) if definition else None
        if definition and value and value["name"] in places:
            place = place_of(value)
            if len(place) <= _LONGEST_PLACE:
                places[definition["name"]] = place
    return b"\n".join(lines)
