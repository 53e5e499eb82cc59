"""A project half-way to torch's stable ABI: variants for torch 2.8 and 2.9, and one wheel from 2.10 on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, PROJECTS, Answer, Farm
from torch_build_farm.core.errors import AbiError, CompileError
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

BUILD = ("build", "--torch", "all", "--json")
LATER = "torch215.toml"
STAGES = ["render", "build", "repair", "relocate", "audit"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    """The project in a checkout of its own, which knows nothing of torch 2.15 yet."""
    root = tmp_path_factory.mktemp("stable")
    checkout = root / "checkout"
    for folder in ("variants", "templates", "torch_build_farm"):
        shutil.copytree(CHECKOUT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "build_farm.py", checkout)
    shutil.copytree(PROJECTS / "stable", root / "project")
    (checkout / "variants" / LATER).unlink()
    return Farm(root / "project", root / "work", {}, checkout=checkout)


@pytest.fixture(scope="module")
def built(farm: Farm) -> Answer:
    answer = farm(*BUILD)
    assert answer.code == 0, answer.err
    return answer


def stages(answer: Answer) -> dict[str, list[str]]:
    """The stages that ran, by job."""
    jobs: list[Any] = answer.document["jobs"]
    return {job["job"]: [stage["stage"] for stage in job["stages"] if not stage["kept"]] for job in jobs}


def the_wheel(farm: Farm) -> Path:
    (path,) = farm.work.glob("dist/steady_torch_stable-*.whl")
    return path


def test_one_wheel_for_all_minors_of_the_stable_abi(farm: Farm, built: Answer) -> None:
    jobs = stages(built)
    assert [name.rpartition("-")[0] for name in jobs] == ["steady-torch28", "steady-torch29", "steady-torch-stable"]
    wheel = read_wheel(the_wheel(farm))
    assert wheel.path.name.startswith("steady_torch_stable-1.0-py3-none-manylinux")
    assert wheel.metadata.get_all("Requires-Dist") == ["steady>=1.0", "torch>=2.10"]
    assert wheel.metadata["Requires-Python"] == ">=3.10"
    assert "steady/_torch_stable/steady_ops.so" in wheel.members
    audit = built.document["jobs"][-1]["stages"][-1]["details"]
    assert audit["range"] == ">=2.10.0"


def test_a_new_torch_minor_is_audited_and_builds_nothing(farm: Farm, built: Answer) -> None:
    assert built.code == 0
    before = the_wheel(farm).read_bytes()
    assert farm.checkout
    shutil.copy(CHECKOUT / "variants" / LATER, farm.checkout / "variants" / LATER)
    again = farm(*BUILD)
    assert again.code == 0, again.err
    ran = stages(again)
    assert [ran[name] for name in ran if "stable" in name] == [["audit"]]
    assert the_wheel(farm).read_bytes() == before


def test_it_is_reproduced(farm: Farm, built: Answer) -> None:
    assert built.code == 0
    answer = farm("verify", str(the_wheel(farm)), "--json")
    assert answer.code == 0, answer.err
    assert answer.document["identical"]


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        (
            "using torch::stable::Tensor;",
            "using torch::stable::Tensor;\nnamespace at { int get_num_threads(); }\n"
            'extern "C" int threads() { return at::get_num_threads(); }',
            AbiError,
            "steady_ops.so uses torch's C++ interface: at::get_num_threads()",
        ),
        (
            "#include <torch/csrc/stable/ops.h>",
            "#include <torch/csrc/stable/ops.h>\n#include <c10/core/Device.h>",
            CompileError,
            "This file should not be included when either TORCH_STABLE_ONLY or TORCH_TARGET_VERSION is defined",
        ),
    ],
    ids=["name", "header"],
)
def test_more_than_the_stable_abi_is_refused(
    tmp_path: Path, old: str, new: str, error: type[AbiError] | type[CompileError], said: str
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECTS / "stable", project)
    farm = Farm(project, tmp_path / "work")
    farm.edit("ops.cpp", old, new)
    answer = farm("build", "--torch", "2.12")
    assert answer.code == error.exit_code, answer.out
    assert said in answer.out


@pytest.mark.docker
def test_its_oldest_and_its_newest_torch_in_containers(tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECTS / "stable", project)
    answer = Farm(project, tmp_path / "work", engine="docker")("smoke", "--torch", "2.12", "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    (smoke,) = [stage["details"] for stage in job["stages"] if stage["stage"] == "smoke"]
    assert [smoke[name].partition("+")[0] for name in ("oldest", "torch")] == ["2.10.0", "2.15.0"]
    assert smoke["refuses"] == "torch 2.9"
