"""Small projects of ordinary shapes, one folder each in tests/shapes: the farm builds each as its author would expect.

A folder holds a project and wheel.toml: the members, tags and metadata of the wheel for torch 2.9, or the error that
refuses it. In wheel.toml {python} stands for the CPython's tag (cp312), {soabi} for the middle of a module's file name
(cpython-312-x86_64-linux-gnu). The table at the end of the run lists them all.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.project.test_tree import git
from torch_build_farm.core.machine import ARM64, Machine, running
from torch_build_farm.core.versions import CPython
from torch_build_farm.wheels.wheel import Wheel, read_wheel

pytestmark = [pytest.mark.shapes, pytest.mark.network]
SHAPES = CHECKOUT / "tests" / "shapes"
EXPECTED = "wheel.toml"
_LISTS = ("Requires-Dist", "Provides-Extra")


@dataclass(frozen=True)
class Seen:
    """What came of a shape: of its wheel the tags without the platform, the members, and fields of METADATA."""

    tags: str
    members: list[str]
    metadata: dict[str, str | list[str]]

    @classmethod
    def of(cls, wheel: Wheel) -> Seen:
        _, _, python, abi, platform = wheel.path.stem.rsplit("-", 4)
        assert platform.startswith("manylinux"), platform
        metadata: dict[str, str | list[str]] = {"Name": wheel.metadata["Name"], "Version": wheel.metadata["Version"]}
        metadata["Requires-Python"] = ",".join(sorted(wheel.metadata["Requires-Python"].split(",")))
        for field in _LISTS:
            values = wheel.metadata.get_all(field)
            if values:
                metadata[field] = [str(value) for value in values]
        return cls(f"{python}-{abi}", without_hashes(wheel.members), metadata)


def without_hashes(members: Iterable[str]) -> list[str]:
    """The members in order, grafted libraries without the hash that auditwheel puts into their names."""
    return sorted(re.sub(r"(\.libs/\w+)-[0-9a-f]{8}\.", r"\1.", member) for member in members)


def expectation(shape: str, platform: Machine) -> dict[str, Any]:
    """wheel.toml of a shape, filled in for the running CPython and a platform."""
    text = (SHAPES / shape / EXPECTED).read_text()
    soabi = str(sysconfig.get_config_var("SOABI")).replace(running().name, platform.name)
    return tomllib.loads(text.replace("{python}", CPython.running().tag).replace("{soabi}", soabi))


def project(shape: str, farm: Farm) -> None:
    """Put the project of a shape into the farm's folder, as a checkout of a commit with a tag."""
    shutil.copytree(SHAPES / shape, farm.project, ignore=shutil.ignore_patterns(EXPECTED), dirs_exist_ok=True)
    for words in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message=One"), ("tag", "v1.2")):
        git(farm.project, *words)


# What a build for another machine comes to where that is not what wheel.toml says.
_RUNS_TORCH = {"error": "ToolError", "says": "it runs torch, which is for arm64"}
IF_CROSS_COMPILED = {
    "cython-cpp-extension": _RUNS_TORCH,
    "torch-library": _RUNS_TORCH,
    "native-refused": {"error": "CompileError", "says": "native"},  # by the compiler, which knows no CPU to mean
}
NAMES = sorted(path.name for path in SHAPES.iterdir())


@pytest.mark.parametrize("shape", NAMES)
def test_shape(shape: str, tmp_path: Path, record_property: Callable[..., None]) -> None:
    check_shape(shape, running(), tmp_path, record_property)


# Of each way in which shapes are built one or two: all of them take minutes.
CROSS_COMPILED = (
    *("back-end-of-its-own", "cmake", "cmake-limited-api", "cmake-own-library", "cython", "hatch-hook", "meson"),
    *("native-refused", "openmp", "pdm-setup", "poetry-alone", "setup-py-alone", "torch-library"),
)


@pytest.mark.arm64
@pytest.mark.parametrize("shape", CROSS_COMPILED)
def test_shape_for_arm64(shape: str, sysroot: Path, tmp_path: Path, record_property: Callable[..., None]) -> None:
    check_shape(shape, ARM64, tmp_path, record_property)


def check_shape(shape: str, platform: Machine, tmp_path: Path, record_property: Callable[..., None]) -> None:
    """Build a shape for a platform, and compare the wheel, or the error, with what wheel.toml says."""
    expected = expectation(shape, platform)
    if platform != running() and shape in IF_CROSS_COMPILED:
        expected["refused"] = IF_CROSS_COMPILED[shape]
    row = shape if platform == running() else f"{shape}, {platform.words}"
    farm = Farm(tmp_path / "project", tmp_path / "work")
    project(shape, farm)
    answer = farm("build", "--torch", "2.9", "--platform", platform.name, "--json")

    refused = expected.get("refused")
    if refused:
        (job,) = answer.document["jobs"]
        record_property("shape", (row, expected["about"], f"refused: {refused['error']}"))
        assert (job["status"], job["error"]["kind"]) == ("failed", refused["error"]), answer.err
        assert refused["says"] in answer.err
        return
    assert answer.code == 0, answer.err
    (path,) = farm.work.glob("dist/*.whl")
    record_property("shape", (row, expected["about"], path.name))
    assert path.stem.endswith(f"_{platform.name}")
    assert Seen.of(read_wheel(path)) == Seen(
        expected["tags"], without_hashes(expected["members"]), expected["metadata"]
    )
