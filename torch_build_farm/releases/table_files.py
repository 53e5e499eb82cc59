"""Where the tables of torch's releases lie: the shipped ones, and those that `index add` puts into the user's cache.

Apart from `release_tables`, which reads them: a run with nothing to do only compares the files. Each machine that torch
has Linux wheels for has tables of its own, which nothing reads before a wheel for that machine is audited.
"""

from __future__ import annotations

from pathlib import Path

from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.store import default_folder

SHIPPED = DATA / "torch"
# The files of a folder of tables. KINDS_FILE, which the SDK's stubs are made of, is not among `files_read`.
SYMBOLS_FILE, KINDS_FILE, HEADER_LINES_FILE, LAYOUTS_FILE = "symbols.xz", "kinds.xz", "marks.xz", "layouts.xz"
RECORDS_FILE = "records.json"  # of torch_wheel.py
# In place of SYMBOLS_FILE where only x86-64 has a table of its own: shared_names.py.
SHARED_NAMES_FILE = "shared-names.xz"


def shipped_folder(machine: Machine) -> Path:
    """The folder of the shipped tables for a machine. That for another one than x86-64 has no file of header lines.

    The headers with assertions are the same in torch's wheels for all machines: of 2.6.0 to 2.15.0 for arm64, all lines
    were compared with those for x86-64.
    """
    return SHIPPED.with_name(f"{SHIPPED.name}{machine.suffix}")


def added_folder(machine: Machine = X86_64) -> Path:
    """The folder that `index add` writes to, beside the farm's other caches: a folder of tables per release."""
    return added_beside(default_folder() / "index", machine)


def added_beside(added: Path, machine: Machine) -> Path:
    """The folder of added tables for a machine; `added` is that for x86-64."""
    return added.with_name(f"{added.name}{machine.suffix}")


def table_folders(added: Path, machine: Machine = X86_64) -> list[Path]:
    """Every folder with tables for a machine; `added` is its folder of added ones.

    Added ones come first, since they may be of a newer upload than the shipped ones.
    """
    # A name with a dot in front is a folder that is being written.
    folders = [path for path in added.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [*sorted(folders), shipped_folder(machine)]


def files_read(added: Path) -> list[Path]:
    """All files that `ReleaseTables.load` and `for_machine` read; `added` is the folder of added ones for x86-64."""
    paths: list[Path] = []
    for machine in MACHINES:
        paths += sorted(shipped_folder(machine).glob("*"))
        paths += sorted(added_beside(added, machine).glob("[!.]*/*"))
    read = (SYMBOLS_FILE, SHARED_NAMES_FILE, HEADER_LINES_FILE, LAYOUTS_FILE)
    return [path for path in paths if path.name in read]
