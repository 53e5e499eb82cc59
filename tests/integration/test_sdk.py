"""torch's SDK against the real torch: the same wheels, builds that turn out to run torch, and no SDK in a smoke test."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests import small_torch
from tests.conftest import CHECKOUT, Farm
from tests.integration.conftest import Built, Environment
from tests.made_up import Front
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.pipeline import installed_packages
from torch_build_farm.project.settings import load
from torch_build_farm.releases.sdk import cache
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch


def built_with(farm: Farm, torch: str) -> tuple[str, str]:
    """What a job's record says of its torch, and the torch that was in its environment."""
    answer = farm("build", "--torch", torch, "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    (details,) = [stage["details"] for stage in job["stages"] if stage["stage"] == "build"]
    return details["built-with"], installed_packages.installed(Path(job["log"]).read_text())["torch"]


def the_sdk(release: str) -> cache.Sdk:
    """The SDK that an earlier build of this process left in the store."""
    found = cache.find(TorchStore.at(default_folder(), CHECKOUT), release, CPython.running(), PackageIndex.configured())
    assert found, f"no SDK of {release} is in the store"
    return found


def wheel_of(farm: Farm) -> tuple[str, str]:
    (path,) = farm.work.glob("dist/*.whl")
    return path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_embedded_project_is_the_same_with_all_of_torch(main_run: Built, tmp_path: Path) -> None:
    sdk = main_run.job("2.9")
    assert sdk["stages"][1]["details"]["built-with"] == "torch's SDK 2.9.0"
    folder = tmp_path / "full"
    shutil.copytree(CHECKOUT, folder, ignore=shutil.ignore_patterns("work", ".venv", "__pycache__"), symlinks=True)
    full = Farm(folder, tmp_path / "work", {"SOURCE_DATE_EPOCH": sdk["stages"][0]["details"]["epoch"]})
    full.edit("pyproject.toml", "[tool.torch-build-farm]\n", '[tool.torch-build-farm]\ntorch-build = "full"\n')
    assert built_with(full, "2.9") == ('all of torch 2.9.0: torch-build = "full"', "2.9.0")
    assert wheel_of(full) == (Path(sdk["wheel"]["path"]).name, sdk["wheel"]["sha256"])


def test_a_plain_find_package_is_the_same_with_all_of_torch(make_farm: Callable[..., Farm]) -> None:
    """As many write it: linked to ${TORCH_LIBRARIES}, those of CUDA among them."""
    farm = make_farm("probe", SOURCE_DATE_EPOCH="1700000000")
    assert built_with(farm, "2.13") == ("torch's SDK 2.13.0", "2.13.0+sdk")
    sdk = wheel_of(farm)
    farm.edit("pyproject.toml", "[tool.torch-build-farm]\n", '[tool.torch-build-farm]\ntorch-build = "full"\n')
    assert built_with(farm, "2.13") == ('all of torch 2.13.0: torch-build = "full"', "2.13.0")
    assert wheel_of(farm) == sdk


# CMake that asks torch what only a running one knows, and goes on without where that fails.
ASKS = """
execute_process(COMMAND "${{Python_EXECUTABLE}}" -c "import torch; print({asked})"
                OUTPUT_VARIABLE answer ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
message(STATUS "torch says [${{answer}}]")
"""


def asking(farm: Farm, asked: str) -> Farm:
    farm.edit(
        "pyproject.toml", 'requires = ["scikit-build-core>=0.11"]', 'requires = ["scikit-build-core>=0.11", "torch"]'
    )
    farm.edit("CMakeLists.txt", "COMPONENTS Development.Module)", "COMPONENTS Interpreter Development.Module)\n")
    path = farm.project / "CMakeLists.txt"
    path.write_text(path.read_text() + ASKS.format(asked=asked))
    return farm


def test_what_a_cmake_build_asks_is_answered(tiny: Farm) -> None:
    farm = asking(tiny, "torch.__version__, torch.version.cuda, torch.utils.cmake_prefix_path[-12:]")
    assert built_with(farm, "2.9") == ("torch's SDK 2.9.0", "2.9.0+sdk")
    assert "torch says [2.9.0+sdk 12.8 /share/cmake]" in farm.log(next(farm.work.glob("logs/t*.log")).stem)


def test_a_build_that_runs_torch_gets_all_of_it(tiny: Farm) -> None:
    """It catches the refusal and would have gone on with another answer: the SDK's note gives it away."""
    farm = asking(tiny, "torch.ones(3).sum().item()")
    why = "the build asks for torch.ones, which torch's SDK does not have, and goes on without it"
    assert built_with(farm, "2.9") == (f"all of torch 2.9.0: {why}", "2.9.0")
    assert "torch says [3.0]" in farm.log(next(farm.work.glob("logs/t*.log")).stem)
    said = farm("build", "--torch", "2.9")
    assert f"built   with all of torch 2.9.0: {why}" in said.out

    farm.edit("pyproject.toml", "[tool.torch-build-farm]\n", '[tool.torch-build-farm]\ntorch-build = "sdk"\n')
    refused = farm("build", "--torch", "2.9", "--json")
    assert refused.code == 30, refused.err
    (job,) = refused.document["jobs"]
    assert (job["error"]["kind"], job["wheel"]) == ("SdkError", None)
    assert "asks for torch.ones, which torch's SDK does not have" in job["error"]["what"]


def test_the_version_of_the_sdk_does_not_get_into_a_wheel(tiny: Farm) -> None:
    farm = asking(tiny, "torch.__version__")
    path = farm.project / "CMakeLists.txt"
    path.write_text(path.read_text() + "file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/built.py \"TORCH = '${answer}'\\n\")\n"
                    "install(FILES ${CMAKE_CURRENT_BINARY_DIR}/built.py DESTINATION tiny)\n")  # fmt: skip
    line = "the build writes the version of torch's SDK into tiny/built.py"
    assert built_with(farm, "2.9") == (f"all of torch 2.9.0: {line}", "2.9.0")
    (wheel,) = farm.work.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("built.py")]
        assert archive.read(name) == b"TORCH = '2.9.0+cu128'\n"


def test_a_planted_sdk_fails_the_smoke_test(tiny: Farm) -> None:
    """2.8.0 is the only release of its minor, so that 2.8.0+sdk is what torch==2.8.* prefers where it is offered."""
    asking(tiny, "torch.__version__")
    assert built_with(tiny, "2.8") == ("torch's SDK 2.8.0", "2.8.0+sdk")
    tiny.env["UV_FIND_LINKS"] = str(the_sdk("2.8.0").folder)
    answer = tiny("run", "--torch", "2.8", "--json")
    assert answer.code == 17, answer.err
    (job,) = answer.document["jobs"]
    assert "torch's SDK was installed in place of torch: torch-2.8.0+sdk.dist-info" in job["error"]["what"]
    assert not list(tiny.work.glob("dist/*.whl"))


@pytest.mark.parametrize("ranges", [True, False])
def test_an_index_without_ranges_means_all_of_torch(tiny: Farm, tmp_path: Path, ranges: bool) -> None:
    """An index that has a torch of its own, of which the farm has never heard."""
    python = CPython.running()
    torch = small_torch.write(tmp_path, "2.9.0", python.tag)
    front = Front({torch.name: torch}, hidden="torch-")
    front.ranges = ranges
    try:
        asking(tiny, "torch.__version__")
        tiny.env |= {"UV_DEFAULT_INDEX": front.url, "TORCH_BUILD_FARM_STORE": str(tmp_path / "store")}
        why = f"{torch.name} cannot be read in parts: the server does not answer range requests"
        wanted = ("torch's SDK 2.9.0", "2.9.0+sdk") if ranges else (f"all of torch 2.9.0: {why}", "2.9.0")
        assert built_with(tiny, "2.9") == wanted
    finally:
        front.close()


MODULE = """
#include <Python.h>
#include <cuda.h>
#include "scale.h"
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
extern "C" __attribute__((visibility("default"))) void* scale_address() { return (void*)&scale_cuda; }
PyMODINIT_FUNC PyInit__C() { return cuInit(0) == CUDA_ERROR_DEINITIALIZED ? nullptr : PyModule_Create(&module); }
"""


def test_cuda_sources(make_farm: Callable[..., Farm]) -> None:
    """With the SDK and the newest CUDA toolkit from its own wheels; containers build for 2.13. Each takes a minute."""
    farm = make_farm("cuda")
    farm.edit("pyproject.toml", '["8.0", "9.0"]', '["9.0"]')  # each takes its time
    (farm.project / "src" / "module.cpp").write_text(MODULE)  # as does torch/extension.h
    driver = "find_package(CUDAToolkit REQUIRED)\ntarget_link_libraries(_C PRIVATE CUDA::cuda_driver)\n"
    farm.edit("CMakeLists.txt", "install(", f"{driver}install(")
    minors = ["2.15"]
    answer = farm("build", "--torch", *minors, "--json")
    assert answer.code == 0, answer.err
    for job, minor in zip(answer.document["jobs"], minors, strict=True):
        (details,) = [stage["details"] for stage in job["stages"] if stage["stage"] == "build"]
        assert details["built-with"] == f"torch's SDK {minor}.0"
        with zipfile.ZipFile(job["wheel"]["path"]) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".so")]
            sections = {one.name for one in ELFFile(io.BytesIO(archive.read(name))).iter_sections()}
        assert ".nv_fatbin" in sections
        (library,) = read_wheel(Path(job["wheel"]["path"])).libraries
        assert "libcuda.so.1" in library.needed


@pytest.mark.network
@pytest.mark.parametrize("minor", ["2.11", "2.12", "2.13", "2.14", "2.15"])
def test_the_toolkit_of_each_minor_can_be_installed(environment: Environment, minor: str) -> None:
    """Its requirements in variants/ resolve together: an nvcc of the CUDA that torch was built with, and what it needs."""
    variant = load(CHECKOUT, CHECKOUT).variants[Minor.parse(minor)]
    done = environment.uv("install", "--dry-run", *variant.cuda_toolkit)
    assert done.returncode == 0, done.stderr
    assert f" + nvidia-cuda-nvcc=={variant.cuda}." in done.stderr


@pytest.mark.network
@pytest.mark.parametrize("release", ["2.8.0", "2.15.0"])
def test_sdk_by_itself(environment: Environment, tmp_path: Path, release: str) -> None:
    """On a cold store: at most 15 MB; CMake configures against it, and a front end takes it for torch."""
    store, out = tmp_path / "store", tmp_path / "out"
    done = subprocess.run(
        [sys.executable, CHECKOUT / "build_farm.py", "sdk", release, "--out", out],
        env={**os.environ, "TORCH_BUILD_FARM_STORE": str(store)}, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    megabytes, _ = done.stdout.splitlines()[-1].split(" MB in ")
    assert float(megabytes) < 15
    assert f"CMAKE_PREFIX_PATH={out}/torch/share/cmake" in done.stdout
    (path,) = store.glob("sdk/*/*.whl")
    again = environment.uv("install", "--no-index", "--find-links", path.parent, f"torch=={release}")
    assert again.returncode == 0, again.stderr
    assert f"torch=={release}+sdk" in again.stderr
    assert environment.uv("check").returncode == 0
