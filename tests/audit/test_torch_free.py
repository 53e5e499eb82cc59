"""A core that is not without torch: linked to it, using its names, or requiring it."""

from pathlib import Path

import pytest

from tests import elves
from tests.pipeline.test_repair import METADATA, wheel
from torch_build_farm.audit import read_wheel, torch_free
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.releases.table_files import added_folder

FREE = METADATA.replace("Requires-Dist: torch==2.9.*\n", "")
OF_TORCH = "_ZN2at15get_num_threadsEv"


@pytest.fixture(scope="module")
def tables() -> AuditTables:
    return AuditTables.load(added_folder())


def problems(tmp_path: Path, tables: AuditTables, library: bytes, metadata: str = FREE) -> list[str]:
    made = wheel(tmp_path, {"demo/_core.so": library}, metadata=metadata)
    return torch_free.problems(read_wheel.read(made.path), tables)


def test_a_core_without_torch(tmp_path: Path, tables: AuditTables) -> None:
    assert problems(tmp_path, tables, elves.library(["memcpy"], ["mine"], ["libc.so.6"])) == []


@pytest.mark.parametrize("needed", ["libtorch_cpu.so", "libc10.so"])
def test_a_library_that_is_linked_to_torch(tmp_path: Path, tables: AuditTables, needed: str) -> None:
    (problem,) = problems(tmp_path, tables, elves.library([], ["mine"], [needed]))
    assert problem == f"demo/_core.so is linked to {needed} of torch"


def test_a_name_of_torch_that_nothing_links(tmp_path: Path, tables: AuditTables) -> None:
    (problem,) = problems(tmp_path, tables, elves.library([OF_TORCH], ["mine"], ["libc.so.6"]))
    assert problem == "demo/_core.so uses names of torch"


def test_a_requirement(tmp_path: Path, tables: AuditTables) -> None:
    (problem,) = problems(tmp_path, tables, elves.library([], ["mine"], []), metadata=METADATA)
    assert problem == "METADATA requires torch==2.9.*"
