"""A core without torch and its add-on for two torch minors: built, tested together, published in order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECTS, Answer, Farm
from torch_build_farm.core.errors import CoreError, RepairError
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

RUN = ("run", "--torch", "2.8", "2.9", "--json")


def project(root: Path) -> Farm:
    shutil.copytree(PROJECTS / "addon", root / "project")
    return Farm(root / "project", root / "work")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    return project(tmp_path_factory.mktemp("addon"))


@pytest.fixture(scope="module")
def run(farm: Farm) -> Answer:
    answer = farm(*RUN)
    assert answer.code == 0, answer.err
    return answer


def ran(answer: Answer) -> dict[str, list[str]]:
    """The stages that ran, by job without its CPython."""
    jobs: list[Any] = answer.document["jobs"]
    stages = {}
    for job in jobs:
        stages[job["job"].rpartition("-")[0]] = [stage["stage"] for stage in job["stages"] if not stage["kept"]]
    return stages


def details(answer: Answer, job: str, stage: str) -> Any:
    (found,) = [row for row in answer.document["jobs"] if row["job"].startswith(f"{job}-cp")]
    return {row["stage"]: row["details"] for row in found["stages"]}[stage]


def test_one_core_and_two_variants_that_require_it(farm: Farm, run: Answer) -> None:
    assert list(ran(run)) == ["acme-core", "acme-gpu-torch28", "acme-gpu-torch29"]
    core, old, new = (read_wheel(path) for path in sorted(farm.work.glob("dist/*.whl")))
    assert core.metadata.get_all("Requires-Dist") is None
    assert {member.split("/")[0] for member in core.members} == {"acme", "acme_core-1.0.dist-info"}
    for wheel in (old, new):
        assert [str(requirement) for requirement in wheel.requirements("acme-core")] == ["acme-core==1.0"]
        assert "acme/__init__.py" not in wheel.members
    assert details(run, "acme-core", "build")["built-with"] == "no torch"
    assert " torch==" not in details(run, "acme-core", "build")["environment"]


def test_they_are_tested_together_without_an_index_that_has_the_core(farm: Farm, run: Answer) -> None:
    assert details(run, "acme-core", "smoke") == {"torch": "none", "imports": "acme"}
    (core,) = farm.work.glob("dist/acme_core-*.whl")
    for variant, refused in (("acme-gpu-torch28", "torch 2.9"), ("acme-gpu-torch29", "torch 2.10")):
        smoke = details(run, variant, "smoke")
        assert smoke["core"] == core.name
        assert smoke["script"] == "the solver takes the core's bodies"
        assert smoke["refuses"] == refused


def test_a_second_run_does_nothing(farm: Farm, run: Answer) -> None:
    assert run.code == 0
    assert set(map(tuple, ran(farm(*RUN)).values())) == {()}
    alone = farm("run", "--torch", "2.9", "--only", "*-torch29-*", "--json")
    assert ran(alone) == {"acme-core": [], "acme-gpu-torch29": []}


def test_each_wheel_is_reproduced(farm: Farm, run: Answer) -> None:
    assert run.code == 0
    for pattern in ("acme_core-*", "acme_gpu_torch29-*"):
        (wheel,) = farm.work.glob(f"dist/{pattern}.whl")
        answer = farm("verify", str(wheel), "--json")
        assert answer.code == 0, answer.err
        assert answer.document["identical"]


def test_two_versions_of_pybind11_are_refused_with_both_ids(tmp_path: Path) -> None:
    farm = project(tmp_path)
    # Torch's headers come first, and pybind11 2.13.6 is among those of 2.8.
    linked = "target_link_libraries(_solver PRIVATE ${TORCH_LIBRARIES})"
    headers_first = "target_include_directories(_solver BEFORE PRIVATE ${TORCH_INCLUDE_DIRS})"
    farm.edit("CMakeLists.txt", linked, f"{linked}\n  {headers_first}")
    answer = farm("build", "--torch", "2.8", "--json")
    assert answer.code == RepairError.exit_code, answer.err
    core, variant = answer.document["jobs"]
    assert core["error"] is None
    said = variant["error"]["what"]
    assert "do not see the types of the core: __pybind11_internals_v" in said
    assert "in acme/solver/_solver" in said
    assert "__pybind11_internals_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__ in acme/_core" in said


def test_variants_of_a_core_that_fails_are_not_started(tmp_path: Path) -> None:
    farm = project(tmp_path)
    farm.edit("core.cpp", "PYBIND11_MODULE", "no such thing")
    answer = farm("build", "--torch", "2.8", "2.9", "--json")
    core, *variants = answer.document["jobs"]
    assert answer.code != CoreError.exit_code  # the core's own comes first
    for variant in variants:
        assert variant["stages"] == []
        assert f"not started, since {core['job']} failed" in variant["error"]["what"]


def test_a_core_with_files_of_the_variants_is_refused(tmp_path: Path) -> None:
    farm = project(tmp_path)
    shutil.copytree(farm.project / "solver", farm.project / "acme" / "solver")
    answer = farm("build", "--torch", "2.8", "--only", "acme-core-*", "--json")
    assert answer.code == CoreError.exit_code
    (core,) = answer.document["jobs"]
    assert "the core has acme/solver/__init__.py, which the variants bring with acme.solver" in core["error"]["what"]
