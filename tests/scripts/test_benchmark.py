"""What ci/benchmark.py makes of logs and numbers."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import CHECKOUT


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.setattr(sys, "path", [str(CHECKOUT / "ci"), *sys.path])
    return {name: import_module(name) for name in ("meter", "benchmark")}


def test_seconds_in_which_something_compiled(scripts: dict[str, Any]) -> None:
    union = scripts["meter"].union
    assert union([]) == 0
    assert union([(5, 9), (0, 2), (1, 3)]) == 7
    assert union([(0, 10), (2, 3)]) == 10


def test_a_build_is_placed_on_the_clock_by_what_ninja_noted(scripts: dict[str, Any]) -> None:
    text = "# ninja log v7\n10\t2000\t1000010000000\ta.o\tf00\n2000\t2500\t1002000000000\tb.so\tf01\n"
    assert scripts["meter"].span(text) == (1000.01, 1002.5)


def test_phases_last_until_the_next_begins(scripts: dict[str, Any]) -> None:
    meter = scripts["meter"]
    lines = [
        (0.0, meter.BEGIN),
        (1.0, "#### torch-build-farm: build demo-torch28-cp311 2026-11-22"),
        (
            1.2,
            "$ docker exec c0 /opt/torch-build-farm/bin/uv pip install --python /s/envs/x/fetch-2.9.x 'torch==2.9.*'",
        ),
        (1.4, "$ /farm/bin/python -I -m cibuildwheel . --only cp311-manylinux_x86_64"),
        (1.5, "Starting container image torch-build-farm:0123..."),
        (2.0, "* Creating isolated environment: venv+uv..."),
        (4.0, "* Building wheel..."),
        (4.5, "*** Building project with Ninja..."),
        (4.6, "[1/6] Building CXX object demo.o"),
        (14.5, "*** Installing project into wheel..."),
        (15.0, meter.END),
    ]
    expected = {
        "start": 1.0,
        "start of cibuildwheel": 0.3,
        "download of torch": 0.2,
        "container": 0.5,
        "build environment": 2.0,
        "configure": 0.5,
        "compile": 10.0,
        "packing": 0.5,
    }
    assert meter.phases(reversed(lines)) == expected


def test_the_farms_compiling_counts_for_no_more_than_the_same_compiling_alone(scripts: dict[str, Any]) -> None:
    found: dict[str, Any] = {
        "a": {"seconds": 300.0, "compile": {"wall": 60.0}},
        "c": {"seconds": 100.0, "compile": {"wall": 70.0}, "disk_growth_bytes": {"beyond_torch": 3e8}},
    }
    scripts["benchmark"].count_compile(found)
    assert found["c"]["compile"]["counted"] == 60.0
    ratio, growth = scripts["benchmark"].goals(found)
    assert (ratio["value"], ratio["met"]) == (round(40 / 240, 3), False)
    assert (growth["value"], growth["met"]) == (300, False)


def test_torch_itself_is_torch_and_what_it_requires(scripts: dict[str, Any], tmp_path: Path) -> None:
    wheels = {"torch": "Nvidia.cublas; platform_system == 'Linux'", "nvidia-cublas": "", "numpy": "", "optional": ""}
    for name, needed in wheels.items():
        info = tmp_path / "uv" / "archive-v0" / f"of-{name}" / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        requires = f"Requires-Dist: {needed}\nRequires-Dist: optional; extra == 'more'\n" if needed else ""
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        (info.parent / "file").write_bytes(b"0" * 100_000)
    assert 200_000 < scripts["benchmark"].torch_bytes(tmp_path) < 300_000
