"""The exported names that an SDK's stubs are made of: as the symbol index has them, else read out of the wheel."""

from __future__ import annotations

import lzma
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from torch_build_farm.releases import symbol_table, symbol_types
from torch_build_farm.releases.known import KINDS, SYMBOLS, added_folder, folders
from torch_build_farm.wheels.elf import symbol
from torch_build_farm.wheels.elf.symbol import Kind

if TYPE_CHECKING:
    from torch_build_farm.core.remote_wheel import RemoteWheel

# Nothing links to the others in torch/lib by a name without a version: libgomp.so.1, libgfortran.so.5.
_TORCHS = re.compile(r"lib(torch|c10|caffe2|shm)\w*\.so")


@dataclass(frozen=True)
class Library:
    """A library's DT_NEEDED and exported names. Its SONAME is its file's name, as in every torch so far."""

    needed: tuple[str, ...]
    names: Mapping[str, Kind]


def known(release: str, tag: str, sha256: str) -> dict[str, Library]:
    """The libraries of a release for a CPython (tag), as the index has them; none where it does not know this wheel.

    What the index left out, names that differ between any two builds, no other build asks for.
    """
    for folder in folders(added_folder()):
        try:
            of_file = (folder / SYMBOLS).read_bytes()
            table = symbol_table.unpacked(of_file)
            ours = [one for one in table.units if one.release == release and one.python in ("", tag)]
            if not any(unit.python for unit in ours):
                continue
            rows = symbol_types.unpacked((folder / KINDS).read_bytes(), of_file)
            if not sha256 or rows.wheels[release].get(tag) != sha256:
                continue  # an index's own build, under the name of torch's
            found = rows.of(table, [unit for unit in ours if _TORCHS.fullmatch(unit.library)])
        except (OSError, ValueError, KeyError, IndexError, lzma.LZMAError):
            continue  # an older farm's, without kinds, or damaged: the wheel itself tells
        return {unit.library: Library(unit.needed, names) for unit, names in found.items()}
    return {}


def read(wheel: RemoteWheel) -> dict[str, Library]:
    """The same out of the wheel, by range requests (some 13 MB). Raises PackageIndexError where it cannot be read."""
    from torch_build_farm.wheels.elf.remote_exports import torch_libraries  # noqa: PLC0415 (seldom wanted)

    found = {}
    for path, one in torch_libraries(wheel).items():
        name = PurePosixPath(path).name
        if not _TORCHS.fullmatch(name):
            continue
        if one.soname != name:
            raise wheel.error(f"{path} calls itself {one.soname}")
        found[name] = Library(one.needed, symbol.of(one.symbols))
    return found
