"""The audit as a stage: what it says of the embedded project's wheels, and what the loader says."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.integration.conftest import Built, Environment
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.releases.header_lines import HeaderLines
from torch_build_farm.releases.symbol_table import SymbolTable
from torch_build_farm.releases.table_files import HEADER_LINES_FILE, LAYOUTS_FILE, SHIPPED, SYMBOLS_FILE
from torch_build_farm.releases.type_layouts import Layouts

pytestmark = pytest.mark.torch

SYM_NE, MANGLED = "c10::SymInt::sym_ne(c10::SymInt const&) const", "_ZNK3c106SymInt6sym_neERKS0_"


def test_the_embedded_projects_wheel(main_run: Built, tmp_path: Path) -> None:
    """OK for 2.8.0 and not for 2.9.0, for the reason that users saw; and the real loader agrees on both."""
    job, wheel = main_run.job("2.8"), main_run.wheel("2.8")
    (stage,) = [stage for stage in job["stages"] if stage["stage"] == "audit"]
    assert "2.8.0=OK 2.9.0=BROKEN" in stage["details"]["releases"]
    answer = main_run.farm("audit", str(wheel), "--torch", "2.8.0", "2.9.0", "--json")
    assert answer.code == 0, "its METADATA claims 2.8 alone"
    (found,) = answer.document["wheels"]
    assert found["releases"]["2.8.0"]["verdict"] == "OK"
    assert {one["built"]["how"] for one in found["libraries"]} == {"the farm's record"}
    assert found["releases"]["2.9.0"]["missing"] == [MANGLED]
    text = main_run.farm("audit", str(wheel), "--torch", "2.9.0").out
    said = {line.strip() for line in text.splitlines() if "BROKEN with" in line}
    assert said == {f"BROKEN with 2.9.0: missing {SYM_NE}"}
    with zipfile.ZipFile(wheel) as archive:
        (member,) = [name for name in archive.namelist() if "geometry" in name and name.endswith(".so")]
        library = Path(archive.extract(member, tmp_path / "unpacked"))
    assert loader(library, "2.8.0", tmp_path) == ""
    assert f"undefined symbol: {MANGLED}" in loader(library, "2.9.0", tmp_path)


def loader(library: Path, release: str, folder: Path) -> str:
    """What the loader says of a library beside that torch; empty where it loads."""
    place = Environment(folder / release)
    done = place.uv("install", f"torch=={release}")
    assert done.returncode == 0, done.stderr
    code = "import ctypes, sys, torch; ctypes.CDLL(sys.argv[1])"
    told = subprocess.run([place.python, "-c", code, library], capture_output=True, text=True, check=False)
    return "" if told.returncode == 0 else told.stderr.strip().splitlines()[-1]


def test_a_wheel_that_does_not_work_goes_no_further(make_farm: Callable[..., Farm]) -> None:
    """A library that asks for a name that its own torch lacks: no smoke test, no wheel in work/dist."""
    farm = make_farm("probe")
    farm.edit("core.cpp", "PYBIND11_MODULE", "namespace c10 { void from_no_release(); }\n\nPYBIND11_MODULE")
    farm.edit("core.cpp", "return tensor * 2;", "c10::from_no_release(); return tensor * 2;")
    answer = farm("run", "--torch", "2.9", "--json")
    assert answer.code == AbiError.exit_code, answer.err
    (job,) = answer.document["jobs"]
    assert "missing c10::from_no_release()" in job["error"]["what"]
    assert [stage["stage"] for stage in job["stages"]][-1] == "relocate"
    assert not list(farm.work.glob("dist/*.whl"))


def test_a_release_that_the_farm_does_not_know(make_farm: Callable[..., Farm]) -> None:
    """A patch release that came after the farm: the next step is said."""
    farm = make_farm("probe")
    (farm.project / "variants").mkdir(exist_ok=True)
    text = (CHECKOUT / "variants" / "torch29.toml").read_text("utf-8")
    (farm.project / "variants" / "torch29.toml").write_text(text.replace('"2.9.1"]', '"2.9.1", "2.9.2"]'))
    answer = farm("build", "--torch", "2.9")
    assert answer.code == AuditError.exit_code, answer.err
    assert "nothing is known of torch 2.9.2" in answer.err + answer.out
    assert "index add 2.9.2" in answer.err + answer.out


@pytest.mark.network
def test_what_is_shipped_is_what_the_index_gives(tmp_path: Path) -> None:
    """`index add` of a shipped release: names, marks and layouts come out the same."""
    release, store = "2.13.0", tmp_path / "store"
    done = subprocess.run(
        [sys.executable, CHECKOUT / "build_farm.py", "index", "add", release],
        env={**os.environ, "TORCH_BUILD_FARM_STORE": str(store)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = float(done.stdout.rpartition(" MB in ")[0].rpartition(" ")[2])
    assert 500 < fetched < 600, "the wheel, once: its names are compared with nothing else than its SHA-256"
    made = store / "index" / release
    ours, theirs = (SymbolTable.from_bytes((folder / SYMBOLS_FILE).read_bytes()) for folder in (made, SHIPPED))
    assert ours.units
    for unit in ours.units:
        assert ours.names(unit) == theirs.names(unit), unit
    lines = [
        HeaderLines.from_bytes((folder / HEADER_LINES_FILE).read_bytes()).by_release[release]
        for folder in (made, SHIPPED)
    ]
    assert lines[0] == lines[1]
    types = [Layouts.from_bytes((folder / LAYOUTS_FILE).read_bytes()).by_release[release] for folder in (made, SHIPPED)]
    assert types[0] == types[1]
