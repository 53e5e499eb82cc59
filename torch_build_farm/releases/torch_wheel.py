"""torch's own wheel on a package index: only the file whose SHA-256 the index states is believed.

The index's page says which file torch's wheel is, and another server, often, has the file. Reading parts of it proves
nothing about the whole. So the farm knows the SHA-256 of each wheel's RECORD, which lists the SHA-256 of every member:
those of released wheels are shipped, in `records.json` beside the tables, and `index add` adds those of a new release.
A wheel whose RECORD nobody knows is downloaded whole once, and compared with the index's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.machine import MACHINES
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.releases.table_files import RECORDS_FILE, added_folder, table_folders
from torch_build_farm.wheels.record import record_path, sha256_by_member

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from torch_build_farm.core.remote_wheel import RemoteWheel


def stated_sha256(file: DistributionPackage) -> str:
    """The SHA-256 that the index states of torch's wheel. Raises PackageIndexError where it states none."""
    digest = (file.digests or {}).get("sha256", "")
    if not digest:
        raise PackageIndexError(
            f"the index states no SHA-256 of {file.filename}",
            where="torch",
            next_step='use an index that states the SHA-256 of its files, or torch-build = "full" in the settings',
        )
    return digest


def known_record(wheel_sha256: str) -> str:
    """The SHA-256 of the RECORD of torch's wheel with this SHA-256; empty where nobody has read it yet."""
    for folder in [folder for machine in MACHINES for folder in table_folders(added_folder(machine), machine)]:
        try:
            digest = json.loads((folder / RECORDS_FILE).read_text("utf-8")).get(wheel_sha256)
        except (OSError, ValueError, AttributeError, RecursionError):
            continue  # a folder of an older farm, or a damaged one: the wheel is downloaded again
        if isinstance(digest, str):
            return digest
    return ""


def records_text(records: Mapping[str, str]) -> str:
    """The content of the file of a folder of tables: the SHA-256 of each RECORD by that of its wheel."""
    return json.dumps(dict(sorted(records.items())), indent=1) + "\n"


@contextmanager
def opened(
    file: DistributionPackage, index: PackageIndex, folder: Path, say: Callable[[str], None], *, whole: bool = False
) -> Iterator[RemoteWheel]:
    """Torch's wheel. Its members are compared with its RECORD, and that with the known one.

    Where none is known, and with `whole`, it is downloaded whole into `folder` for as long as the block lasts, after
    `say` has told people. Only with `whole` are parts of members (`raw`, `chunks`) those of torch's own file. Raises
    PackageIndexError for a file that is not the one whose SHA-256 the index states, and for an index that states none.
    """
    expected_record = known_record(stated_sha256(file))
    if expected_record and not whole:
        with index.open_wheel(file) as wheel:
            _expect_record(wheel, expected_record)
            yield wheel
        return
    say(f"downloading all of {file.filename} once, to compare its SHA-256 (0.5 to 0.9 GB)")
    with index.open_downloaded(file, folder) as wheel:
        _expect_record(wheel, expected_record)
        yield wheel


@contextmanager
def looked_at(file: DistributionPackage, index: PackageIndex) -> Iterator[RemoteWheel]:
    """Torch's wheel, for facts that people look at before they count.

    As `opened`, but nothing is downloaded whole: of a wheel whose RECORD nobody knows, the members are as true as the
    connection. Raises PackageIndexError.
    """
    expected_record = known_record(stated_sha256(file))
    with index.open_wheel(file) as wheel:
        if expected_record:
            _expect_record(wheel, expected_record)
        yield wheel


def record_sha256(wheel: RemoteWheel) -> str:
    """The SHA-256 of the wheel's RECORD. Raises PackageIndexError where it cannot be read."""
    return hashlib.sha256(_record(wheel)).hexdigest()


def _record(wheel: RemoteWheel) -> bytes:
    try:
        return wheel.read(record_path(wheel.members))
    except ValueError as error:
        raise wheel.error(str(error)) from None


def _expect_record(wheel: RemoteWheel, expected: str) -> None:
    """Have every member compared with the wheel's RECORD, whose own SHA-256 is `expected` unless that is empty."""
    content = _record(wheel)
    digest = hashlib.sha256(content)
    if expected and digest.hexdigest() != expected:
        raise wheel.error("it is not the file whose SHA-256 the index states: its RECORD is another")
    try:
        wheel.expect({**sha256_by_member(content), record_path(wheel.members): digest.digest()})
    except ValueError as error:
        raise wheel.error(str(error)) from None
