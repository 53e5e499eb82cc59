"""Wheels for arm64, cross-compiled on a machine of another kind against a sysroot, and tested under QEMU."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm, need
from torch_build_farm.core.machine import ARM64
from torch_build_farm.engines.sysroot import Sysroot, variable_of
from torch_build_farm.wheels import driver
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = [pytest.mark.arm64, pytest.mark.network]
OTHER = CHECKOUT / "tests" / "projects" / "tiny"


@pytest.fixture(autouse=True)
def _another_machine() -> None:
    need(platform.machine() != ARM64.name, "this machine is arm64 itself")


@pytest.mark.torch
def test_the_embedded_project_works_with_arm64s_own_torch(sysroot: Path, tmp_path: Path) -> None:
    farm = Farm(CHECKOUT, tmp_path / "work")
    answer = farm("--torch", "2.10", "--platform", "aarch64", "--json", timeout=3000)
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    details = {stage["stage"]: stage["details"] for stage in job["stages"]}
    assert job["job"].endswith("-aarch64")
    assert job["wheel"]["path"].endswith("_aarch64.whl")
    assert "2.10.0=OK" in details["audit"]["releases"]
    assert "values and gradients agree" in details["smoke"]["script"]

    wheel = read_wheel(Path(job["wheel"]["path"]))
    machines = {content_machine(wheel.path, library.path) for library in wheel.libraries}
    assert machines == {ARM64.elf_number}
    assert [str(pin) for pin in wheel.requirements("torch")] == ["torch==2.10.*"]


def content_machine(wheel: Path, member: str) -> int:
    """The machine of an ELF file in a wheel (gABI, e_machine)."""
    done = subprocess.run(["unzip", "-p", wheel, member], capture_output=True, check=True)
    return int.from_bytes(done.stdout[18:20], "little")


def test_a_stub_of_the_driver_answers_on_arm64(sysroot: Path, tmp_path: Path) -> None:
    """As driver.import_stubs makes it: each function returns an error."""
    library = tmp_path / "libm.so"
    source = "int cuInit(unsigned); int module(void) { return cuInit(0); }"
    (tmp_path / "libcuda.so").write_bytes(driver.link_stub(ARM64))
    subprocess.run(
        [ARM64.cross_c_compiler, "-shared", "-fPIC", "-xc", "-", "-o", library, f"-L{tmp_path}", "-lcuda"],
        input=source.encode(),
        check=True,
    )
    stubs = driver.import_stubs([library.read_bytes()], ARM64)
    (tmp_path / "libcuda.so.1").write_bytes(stubs["libcuda.so.1"])
    python = next(iter(Sysroot(ARM64, sysroot).pythons.values())).executable
    statement = f"import ctypes; print(ctypes.CDLL({str(library)!r}).module())"
    done = subprocess.run(
        [python, "-c", statement],
        env={"QEMU_LD_PREFIX": str(sysroot), "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "34", done.stderr  # CUDA_ERROR_STUB_LIBRARY
    assert ctypes.sizeof(ctypes.c_int) == 4


SETUP = """
    import subprocess
    from setuptools import setup
    from setuptools.command.build_ext import build_ext
    from setuptools.extension import Extension

    class Build(build_ext):
        def build_extension(self, extension):
            path = self.get_ext_fullpath(extension.name)
            self.mkpath(path.rpartition("/")[0])
            subprocess.run(["c++", "-shared", "-fPIC", *extension.sources, "-o", path], check=True)

    setup(name="demo", version="1.0", packages=["demo"], cmdclass={"build_ext": Build},
          ext_modules=[Extension("demo._demo", ["demo.cpp"])])
"""


def refused(tmp_path: Path, setup: str, *words: str, lines: str = "") -> tuple[int, str]:
    """The exit code and message for a project with that setup.py."""
    project = tmp_path / "demo-project"
    (project / "demo").mkdir(parents=True)
    (project / "demo" / "__init__.py").write_text("")
    (project / "demo.cpp").write_text("int demo() { return 1; }\n")
    (project / "setup.py").write_text(textwrap.dedent(setup))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n{lines}'
    )
    farm = Farm(project, tmp_path / "work")
    answer = farm("build", "--torch", "2.10", "--platform", "aarch64", *words)
    return answer.code, answer.err + answer.out


def test_a_build_that_calls_this_machines_compiler_is_refused(sysroot: Path, tmp_path: Path) -> None:
    code, text = refused(tmp_path, SETUP)
    assert code == 16, text
    assert "a library for x86-64, not for arm64" in text


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('torch-build = "full"\n', "runs torch"),
        ('prepare = ["true"]\n', "prepare makes its dependencies for this machine"),
    ],
)
def test_what_cannot_be_cross_compiled_is_refused_before_it_is_built(
    lines: str, says: str, sysroot: Path, tmp_path: Path
) -> None:
    code, text = refused(tmp_path, SETUP, lines=lines)
    assert code == 8, text
    assert says in text
    assert "--engine docker" in text
    assert not list(tmp_path.glob("work/jobs/*/raw"))


def test_a_setup_py_that_runs_torch_is_told_where_it_can_be_built(sysroot: Path, tmp_path: Path) -> None:
    setup = SETUP.replace("import subprocess", "import subprocess, torch.utils.cpp_extension", 1)
    code, text = refused(tmp_path, setup)
    assert code == 8, text
    assert "runs torch" in text


def test_before_build_is_for_this_machine(sysroot: Path, tmp_path: Path) -> None:
    """What its commands install, such as a code generator, has to run."""
    note = tmp_path / "answers"
    ask = "import sysconfig, platform; print(sysconfig.get_platform(), platform.machine())"
    code, text = refused(tmp_path, SETUP, lines=f"before-build = ['python -c \"{ask}\" > {note}']\n")
    assert code == 16, text
    assert note.read_text().split() == [f"linux-{platform.machine()}", platform.machine()]


def test_without_a_sysroot_the_error_says_what_to_name(tiny: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable_of(ARM64), raising=False)
    answer = tiny("--torch", "2.10", "--platform", "aarch64")
    assert answer.code == 8, answer.err
    assert variable_of(ARM64) in answer.err
    assert "--engine docker" in answer.err


def test_tests_that_cannot_run_are_refused_before_the_build(
    sysroot: Path, make_farm: Callable[..., Farm], tmp_path: Path
) -> None:
    """A system whose loader is missing stands for a kernel without QEMU: its CPython does not start."""
    broken = tmp_path / "broken"
    for name in ("usr/bin", "usr/lib/python3.11", "usr/include"):
        shutil.copytree(sysroot / name, broken / name, symlinks=True)
    farm = make_farm("tiny", **{variable_of(ARM64): str(broken)})
    answer = farm("--torch", "2.10", "--platform", "aarch64")
    assert answer.code == 8, answer.err
    assert "no wheel for it can be smoke-tested" in answer.err
    assert "--smoke none" in answer.err


def test_a_plan_needs_no_sysroot(tiny: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs may be built elsewhere, as those of workflows are."""
    monkeypatch.delenv(variable_of(ARM64), raising=False)
    answer = tiny("plan", "--torch", "2.10", "--platform", "all", "--json")
    assert answer.code == 0, answer.err
    assert [job["platform"] for job in answer.document["include"]] == ["x86_64", "aarch64"]
