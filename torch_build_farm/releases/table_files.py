"""Where the tables of torch's releases lie: the shipped ones, and those that `index add` puts into the user's cache.

Apart from `release_tables`, which reads them: a run with nothing to do only compares the files.
"""

from __future__ import annotations

from pathlib import Path

from torch_build_farm.core.resources import DATA
from torch_build_farm.core.store import default_folder

SHIPPED = DATA / "torch"
# The files of a folder of tables. KINDS_FILE, which the SDK's stubs are made of, is not among `files_read`.
SYMBOLS_FILE, KINDS_FILE, HEADER_LINES_FILE, LAYOUTS_FILE = "symbols.xz", "kinds.xz", "marks.xz", "layouts.xz"
RECORDS_FILE = "records.json"  # of torch_wheel.py


def added_folder() -> Path:
    """The folder that `index add` writes to, beside the farm's other caches: a folder of tables per release."""
    return default_folder() / "index"


def table_folders(added: Path) -> list[Path]:
    """Every folder with tables. Added ones come first, since they may be of a newer upload than the shipped ones."""
    # A name with a dot in front is a folder that is being written.
    folders = [path for path in added.glob("*") if path.is_dir() and not path.name.startswith(".")]
    return [*sorted(folders), SHIPPED]


def files_read(added: Path) -> list[Path]:
    """All files that `ReleaseTables.load` reads."""
    paths = [*sorted(SHIPPED.glob("*")), *sorted(added.glob("[!.]*/*"))]
    return [path for path in paths if path.name in (SYMBOLS_FILE, HEADER_LINES_FILE, LAYOUTS_FILE)]
