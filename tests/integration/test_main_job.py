"""The main job on the embedded project: two minors, built, repaired, smoke-tested, and the bug they answer."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.conftest import CHECKOUT, Farm
from tests.integration.conftest import Built, Environment, beside
from torch_build_farm.core.store import default_folder
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.slots import compile_slots
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"
PYTHON = CPython.running()


def test_two_wheels_and_exit_code_0(main_run: Built) -> None:
    assert main_run.answer.code == 0, main_run.answer.err
    names = {path.name for path in (main_run.farm.work / "dist").iterdir()}
    assert names == {main_run.wheel(torch).name for torch in ("2.8", "2.9")}
    for torch in ("2.8", "2.9"):
        name = main_run.wheel(torch).name
        assert name.startswith(f"pymomentum_gpu_torch{torch.replace('.', '')}-0.1.115.post0-{PYTHON.tag}-")
        assert "-manylinux_2_" in name
        assert [stage["stage"] for stage in main_run.job(torch)["stages"]] == [
            "render",
            "build",
            "repair",
            "relocate",
            "audit",
            "smoke",
        ]


@pytest.mark.parametrize("torch", ["2.8", "2.9"])
def test_metadata(main_run: Built, torch: str) -> None:
    wheel = read_wheel(main_run.wheel(torch))
    assert wheel.metadata["Name"] == f"pymomentum-gpu-torch{torch.replace('.', '')}"
    assert [str(requirement) for requirement in wheel.requirements("torch")] == [f"torch=={torch}.*"]
    assert wheel.requires_python == SpecifierSet({"2.8": ">=3.9,<3.14", "2.9": ">=3.10,<3.15"}[torch])
    assert wheel.metadata["License"] == "MIT"
    assert wheel.requirements("numpy")
    assert [str(requirement) for requirement in wheel.requirements("pymomentum-gpu")] == [
        f"pymomentum-gpu>={wheel.version}"
    ]
    owned = {member.split(".dist-info/")[0] if ".dist-info/" in member else "/".join(member.split("/")[:2]) for member in wheel.members}  # fmt: skip
    tag = f"torch{torch.replace('.', '')}"
    assert owned == {f"pymomentum/_{tag}", f"pymomentum_gpu_{tag}-0.1.115.post0"}
    assert wheel.metadata["Description-Content-Type"] == "text/markdown"


@pytest.mark.parametrize("torch", ["2.8", "2.9"])
def test_nothing_of_torch_or_the_builder_is_inside(main_run: Built, torch: str) -> None:
    wheel = read_wheel(main_run.wheel(torch))
    assert len(wheel.libraries) == 2
    for library in wheel.libraries:
        assert set(library.needed) >= {"libtorch_cpu.so", "libc10.so", "libtorch_python.so"}
        assert not set(library.needed) & {"libtorch_cuda.so", "libc10_cuda.so"}
        assert library.run_paths == ()
    assert not any("/site-packages/" in member or ".libs/" in member for member in wheel.members)
    with zipfile.ZipFile(wheel.path) as archive:
        for member in wheel.members:
            content = archive.read(member)
            assert str(main_run.farm.work).encode() not in content, member
            assert b"/site-packages/torch/" not in content, member


def test_smoke_saw_each_torch_and_the_refusal(main_run: Built) -> None:
    for torch, refused in (("2.8", "2.9"), ("2.9", "2.10")):
        details = main_run.job(torch)["stages"][-1]["details"]
        assert details["torch"].startswith(f"{torch}.")
        assert details["cuda"] == "12.8"
        assert details["refuses"] == f"torch {refused}"
        assert details["imports"] == "pymomentum, pymomentum.geometry, pymomentum.solver"
        assert "values and gradients agree on cpu" in details["script"]


def test_the_builds_share_one_jobserver(main_run: Built) -> None:
    fifos = set()
    for torch in ("2.8", "2.9"):
        log = Path(main_run.job(torch)["log"]).read_text()
        fifos |= set(re.findall(rf"Jobserver mode detected: -j{compile_slots(2)} --jobserver-auth=fifo:(\S+)", log))
    assert len(fifos) == 1


def test_a_second_run_does_nothing(main_run: Built) -> None:
    again = main_run.farm("run", "--torch", "2.8", "2.9")
    assert again.code == 0
    assert "nothing to do: every job is as it was" in again.out


def test_pip_refuses_the_wheel_beside_another_torch(main_run: Built, environment: Environment, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", environment.home], check=True)
    wheel = main_run.wheel("2.8")
    refused = environment.pip("install", "--dry-run", "--no-deps", wheel)
    assert refused.returncode == 0, refused.stderr
    others = beside(CHECKOUT, wheel, tmp_path)
    refused = environment.pip("install", "--dry-run", wheel, *others, "torch==2.9.*")
    assert refused.returncode != 0
    assert "pymomentum-gpu-torch28 0.1.115.post0 depends on torch==2.8.*" in refused.stdout + refused.stderr


DLOPEN = """
import ctypes, os, sys, torch
try:
    ctypes.CDLL(sys.argv[1] if len(sys.argv) > 1 else {library!r}, os.RTLD_NOW)
except OSError as error:
    print(torch.__version__, error)
    sys.exit(3)
print(torch.__version__, "loads")
"""


def test_the_torch28_extension_fails_on_torch_29(main_run: Built, environment: Environment, tmp_path: Path) -> None:
    with zipfile.ZipFile(main_run.wheel("2.8")) as archive:
        (member,) = [name for name in archive.namelist() if "geometry" in name and name.endswith(".so")]
        library = archive.extract(member, tmp_path)
    code = DLOPEN.format(library=library)
    assert environment.uv("install", "torch==2.9.1").returncode == 0
    failed = environment.run(code)
    assert failed.returncode == 3, failed.stderr
    assert failed.stdout.startswith("2.9.1")
    assert f"undefined symbol: {SYM_NE}" in failed.stdout
    # The same library loads on the torch it was built for, so it is the torch that makes the difference.
    assert environment.uv("install", "torch==2.8.0").returncode == 0
    loaded = environment.run(code)
    assert (loaded.returncode, loaded.stdout.strip()) == (0, "2.8.0+cu128 loads"), loaded.stderr


def test_a_cpu_only_library_tells_nothing_of_cuda_but_torch_213_does(tiny: Farm) -> None:
    """The torch of the smoke test is the index's CUDA build, not one that lies on this machine."""
    answer = tiny("run", "--torch", "2.13", "--smoke", "import", "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    assert job["stages"][-1]["details"]["torch"] == "2.13.0+cu130"
    assert job["stages"][-1]["details"]["cuda"] == "13.0"


def test_records_hold_digest_hashes_seconds_and_tools(main_run: Built) -> None:
    for stage in ("render", "build", "repair", "relocate", "audit", "smoke"):
        (path,) = main_run.farm.work.glob(f"jobs/*torch28*/records/{stage}.json")
        record = json.loads(path.read_text())
        assert len(record["digest"]) == 64
        assert record["seconds"] > 0
        assert record["tools"]["compiler"]
        assert all(len(output["sha256"]) == 64 for output in record["outputs"])
    assert (
        main_run.job("2.8")["wheel"]["sha256"]
        == json.loads(next(main_run.farm.work.glob("jobs/*torch28*/records/relocate.json")).read_text())["outputs"][0][
            "sha256"
        ]
    )


def test_bytecode_of_torch_is_used_again(main_run: Built) -> None:
    release = main_run.job("2.9")["stages"][-1]["details"]["torch"].partition("+")[0]
    kept = default_folder() / "compiled" / PYTHON.tag / f"torch-{release}.dist-info"
    (compiled,) = (kept / "__pycache__").glob("__init__.*.pyc")
    before = compiled.stat().st_ino
    assert main_run.farm("run", "--torch", "2.9", "--smoke", "import").code == 0
    assert compiled.stat().st_ino == before, "compiled once more, and put in its place"
    assert not (kept / "numpy").exists(), "the project's own requirement, which another project may not have"
