"""The CPythons of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from torch_build_farm.core import tools
from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.home import home
from torch_build_farm.core.process import capture
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Interpreter

# The flags by which a CPython's own build system, and setuptools after it, links extensions; and what prints them.
LINKER_FLAGS = ("LDFLAGS", "LDSHARED", "LDCXXSHARED")
ASK_LINKER_FLAGS = f"import sysconfig; print(*(sysconfig.get_config_var(name) or '' for name in {LINKER_FLAGS!r}))"


def run_paths_of(linker_flags: str) -> tuple[str, ...]:
    """The folders that flags of a compiler put into the run path of what it links (ld's manual, -rpath and -R)."""
    try:
        words = shlex.split(linker_flags)
    except ValueError:  # a quote without its end
        return ()
    for_linker: list[str] = []
    for word, following in pairwise([*words, ""]):
        if word.startswith("-Wl,"):
            for_linker += word.split(",")[1:]
        elif word == "-Xlinker":
            for_linker.append(following)
    folders: dict[str, None] = {}  # an ordered set
    for word, following in pairwise([*for_linker, ""]):
        match = re.fullmatch(r"(?:--?rpath(?:=(.*))?|-R(.*))", word)
        if match:
            value = match[1] or match[2] or following
            folders |= dict.fromkeys(folder for folder in value.split(":") if folder)
    return tuple(folders)


def find_interpreters(environment: Mapping[str, str]) -> dict[CPython, Interpreter]:
    """Every CPython of this machine that uv finds, with those that pyenv and the manylinux images keep apart.

    Raises ToolError where uv cannot list them.
    """
    # uv looks on PATH, so the folders of those that are kept apart are added to it, the caller's own folders first.
    # pyenv's shims are left out: they only start whichever version is switched on, one slow process each.
    folders = [entry for entry in environment["PATH"].split(os.pathsep) if Path(entry).name != "shims"]
    named = os.environ.get("PYENV_ROOT")
    pyenv = Path(named) if named else (home() or Path("/nonexistent")) / ".pyenv"
    folders += map(str, sorted(pyenv.glob("versions/*/bin")))
    folders += map(str, sorted(Path("/opt/python").glob("cp*/bin")))
    listed = capture(
        [tools.uv(), "python", "list", "--only-installed", "--output-format", "json"],
        env={**environment, "PATH": os.pathsep.join(folders)},
    )
    if not listed.ok:
        raise ToolError("uv cannot list this machine's interpreters", where="\n".join(listed.tail))
    interpreters: dict[CPython, Interpreter] = {}
    for entry in json.loads("\n".join(listed.tail)):
        if entry["implementation"] != "cpython" or entry["version_parts"]["major"] != 3:
            continue
        python = CPython(3, entry["version_parts"]["minor"], entry["variant"] == "freethreaded")
        # Not debug builds, whose ABI is another. uv lists newer patch releases first, so the first one stays.
        if entry["variant"] in ("default", "freethreaded"):
            interpreters.setdefault(python, Interpreter(entry["version"], Path(entry["path"])))
    return interpreters
