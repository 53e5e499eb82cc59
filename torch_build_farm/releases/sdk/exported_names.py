"""The exported names that an SDK's stubs are made of: from the symbol index, or else read from the wheel itself."""

from __future__ import annotations

import lzma
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from torch_build_farm.releases.symbol_table import StoredTable
from torch_build_farm.releases.symbol_types import SymbolKinds
from torch_build_farm.releases.table_files import KINDS_FILE, SYMBOLS_FILE, added_folder, table_folders
from torch_build_farm.wheels.elf import symbol
from torch_build_farm.wheels.elf.symbol import Kind

if TYPE_CHECKING:
    from torch_build_farm.core.remote_wheel import RemoteWheel

# Nothing links to the others in torch/lib by a name without a version: libgomp.so.1, libgfortran.so.5.
_OF_TORCH = re.compile(r"lib(torch|c10|caffe2|shm)\w*\.so")


@dataclass(frozen=True)
class LibraryExports:
    """A library's DT_NEEDED and exported names. Its SONAME is its file's name, as in every torch so far."""

    needed: tuple[str, ...]
    names: Mapping[str, Kind]


def from_tables(release: str, tag: str, sha256: str) -> dict[str, LibraryExports]:
    """The libraries of a release for a CPython (tag), by file name, from the tables that the audit has.

    Empty unless a table was made from the wheel that has this SHA-256. The names that the tables leave out differ
    between any two builds, so no other build asks for them.
    """
    for folder in table_folders(added_folder()):
        try:
            libraries = _from_folder(folder, release, tag, sha256)
        except (OSError, ValueError, KeyError, IndexError, struct.error, lzma.LZMAError):
            continue  # a table of an older farm, without kinds, or a damaged one: another, or the wheel, has the names
        if libraries is not None:
            return libraries
    return {}


def _from_folder(folder: Path, release: str, tag: str, sha256: str) -> dict[str, LibraryExports] | None:
    """The same from one folder of tables; None if they were not made from this wheel.

    Raises OSError, ValueError, KeyError, IndexError, struct.error or lzma.LZMAError for tables that cannot be read.
    """
    table_content = (folder / SYMBOLS_FILE).read_bytes()
    table = StoredTable.from_bytes(table_content)
    units = [unit for unit in table.units if unit.release == release and unit.python in ("", tag)]
    # libtorch_python is a unit of each CPython that was read; the other libraries are there for every CPython.
    if not any(unit.python for unit in units):
        return None
    kinds = SymbolKinds.from_bytes((folder / KINDS_FILE).read_bytes(), table_content)
    if not sha256 or kinds.wheels[release].get(tag) != sha256:
        return None  # the index has a build of its own under the name of torch's
    units_of_torch = [unit for unit in units if _OF_TORCH.fullmatch(unit.library)]
    libraries = {}
    for unit, names in kinds.of_units(table, units_of_torch).items():
        libraries[unit.library] = LibraryExports(unit.needed, names)
    return libraries


def from_wheel(wheel: RemoteWheel) -> dict[str, LibraryExports]:
    """The libraries of a wheel, by file name, read by range requests (some 13 MB).

    Raises PackageIndexError where it cannot be read.
    """
    from torch_build_farm.wheels.elf.remote_exports import torch_libraries  # noqa: PLC0415 (rarely needed)

    libraries = {}
    for path, exported in torch_libraries(wheel).items():
        name = PurePosixPath(path).name
        if not _OF_TORCH.fullmatch(name):
            continue
        if exported.soname != name:
            raise wheel.error(f"the SONAME of {path} is {exported.soname}")
        libraries[name] = LibraryExports(exported.needed, symbol.kinds_by_name(exported.symbols))
    return libraries
