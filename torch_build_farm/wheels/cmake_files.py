"""CMake package files inside a package, which have to find its libraries and headers after the move to _torchNN/.

They go by their own place. A path that stays within the package is right after the move, since all of the package moves
together. One that leads above the package and down again is not: CMake's install(EXPORT) writes such paths where the
install prefix is site-packages, as it is for scikit-build-core.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

from torch_build_farm.wheels.run_paths import way

_LIST_DIR = "${CMAKE_CURRENT_LIST_DIR}"
# What install(EXPORT) writes: the file's own folder, then one line for each folder above it.
_IMPORT_PREFIX = re.compile(
    rb'get_filename_component\(_IMPORT_PREFIX "\$\{CMAKE_CURRENT_LIST_FILE\}" PATH\)\n'
    rb'(?P<above>(?:get_filename_component\(_IMPORT_PREFIX "\$\{_IMPORT_PREFIX\}" PATH\)\n)*)'
)
_ONE_ABOVE = b'get_filename_component(_IMPORT_PREFIX "${_IMPORT_PREFIX}" PATH)\n'
# What configure_package_config_file writes, and people too.
_ABOVE_LIST_DIR = re.compile(rb"\$\{CMAKE_CURRENT_LIST_DIR\}(?P<above>(?:/\.\.)+)(?P<rest>[^\"\s;)$]*)")
_PREFIXES = (b"_IMPORT_PREFIX", b"PACKAGE_PREFIX_DIR")


def moved(contents: Mapping[str, bytes], new_folder: Callable[[str], str]) -> dict[str, bytes]:
    """The CMake files of a wheel, by their old places, as they have to be in their new ones.

    `new_folder` gives the new path of a folder, the same one for a folder that does not move.
    """
    # The files of an export's configurations use the prefix that its main file computes.
    prefixes: dict[str, str] = {}
    for path, content in contents.items():
        for match in (_IMPORT_PREFIX.search(content), _ABOVE_LIST_DIR.search(content)):
            if match:
                prefix = _above(posixpath.dirname(path), _count(match))
                if new_folder(prefix) == prefix:
                    prefixes[posixpath.dirname(path)] = prefix
    return {path: _moved(path, content, prefixes, new_folder) for path, content in contents.items()}


def _count(match: re.Match[bytes]) -> int:
    """How many folders above the file's own a match leads."""
    return match["above"].count(b"\n") + match["above"].count(b"/..")


def _above(folder: str, count: int) -> str:
    """The folder so many levels above; "." is site-packages."""
    return posixpath.normpath(posixpath.join(folder, *[".."] * count))


def _moved(path: str, content: bytes, prefixes: Mapping[str, str], new_folder: Callable[[str], str]) -> bytes:
    folder = posixpath.dirname(path)
    new = new_folder(folder)

    def import_prefix(match: re.Match[bytes]) -> bytes:
        prefix = _above(folder, _count(match))
        steps = len(way(new, new_folder(prefix)).split("/"))
        old_steps = len(way(folder, prefix).split("/"))
        return match[0] + _ONE_ABOVE * (steps - old_steps)

    def list_dir(match: re.Match[bytes]) -> bytes:
        rest = _text(match["rest"]).lstrip("/")
        place = posixpath.normpath(posixpath.join(_above(folder, _count(match)), rest))
        slash = "/" if match["rest"].endswith(b"/") else ""
        return _bytes(f"{_LIST_DIR}/{way(new, new_folder(place))}{slash}")

    content = _IMPORT_PREFIX.sub(import_prefix, content)
    content = _ABOVE_LIST_DIR.sub(list_dir, content)
    if folder in prefixes:
        content = _below_prefix(content, prefixes[folder], new_folder)
    return content


def _below_prefix(content: bytes, prefix: str, new_folder: Callable[[str], str]) -> bytes:
    """The content with each place below a prefix that does not move itself."""

    def place(match: re.Match[bytes]) -> bytes:
        old = posixpath.normpath(posixpath.join(prefix, _text(match["rest"])))
        new = way(prefix, new_folder(old))
        return b"${" + match["name"] + b"}/" + _bytes(new) + (b"/" if match["rest"].endswith(b"/") else b"")

    names = b"|".join(_PREFIXES)
    return re.sub(rb"\$\{(?P<name>" + names + rb")\}/(?P<rest>[^\"\s;)$]+)", place, content)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
