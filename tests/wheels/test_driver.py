"""Stubs of the driver's libraries: a real linker and a real loader take them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.test_repair import wheel
from torch_build_farm.core.machine import X86_64
from torch_build_farm.wheels import driver
from torch_build_farm.wheels.elf import library as elf

CALLS = """
int cuInit(unsigned); int cuMemAlloc_v2(void*, unsigned long); int nvmlInit_v2(void);
int init(void) { return cuInit(0); }
int allocate(void) { return cuMemAlloc_v2(0, 1); }
int management(void) { return nvmlInit_v2(); }
"""


def linked(folder: Path, source: str, *options: str) -> Path:
    path = folder / "_core.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), *options]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def loaded(library: Path, path: Path, *functions: str) -> subprocess.CompletedProcess[str]:
    code = f"import ctypes\nlibrary = ctypes.CDLL({str(library)!r})\n" + "".join(
        f"print(library.{name}())\n" for name in functions
    )
    env = {**os.environ, "LD_LIBRARY_PATH": str(path)}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_a_library_and_a_program_link_against_the_stub(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so").write_bytes(driver.link_stub(X86_64))
    source = CALLS.replace("return nvmlInit_v2();", "return 0;")
    library = linked(tmp_path, source, f"-L{tmp_path}", "-lcuda", "-Wl,-z,defs")
    assert "libcuda.so.1" in elf.read(library.read_bytes()).needed
    program = ["cc", "-x", "c", "-", "-o", str(tmp_path / "program"), f"-L{tmp_path}", "-lcuda"]
    subprocess.run(program, input="int cuInit(unsigned); int main(void) { return cuInit(0); }", text=True, check=True)


def test_no_loader_takes_the_link_stub_for_the_drivers_library(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(driver.link_stub(X86_64))
    done = loaded(tmp_path / "libcuda.so.1", tmp_path)
    assert "this is a stub for linking and not the library of NVIDIA's driver" in done.stderr


@pytest.mark.parametrize("binding", ["-Wl,-z,now", "-Wl,-z,lazy"])
def test_a_wheel_loads_beside_stubs_whose_functions_return_errors(tmp_path: Path, binding: str) -> None:
    for name, soname in (("libcuda.so", "libcuda.so.1"), ("libnvidia-ml.so", "libnvidia-ml.so.1")):
        (tmp_path / "link").mkdir(exist_ok=True)
        command = [
            "cc",
            "-shared",
            "-x",
            "c",
            "/dev/null",
            "-o",
            str(tmp_path / "link" / name),
            f"-Wl,-soname,{soname}",
        ]
        subprocess.run(command, check=True)
    options = [f"-L{tmp_path / 'link'}", "-Wl,--no-as-needed", "-lcuda", "-lnvidia-ml", binding]
    library = linked(tmp_path, CALLS, *options)
    stubs = driver.of_wheel(wheel(tmp_path, {"demo/_core.so": library.read_bytes()}))
    assert set(stubs) == {"libcuda.so.1", "libnvidia-ml.so.1"}

    folder = tmp_path / "stubs"
    folder.mkdir()
    assert "libcuda.so.1: cannot open shared object file" in loaded(library, folder).stderr
    for name, content in stubs.items():
        (folder / name).write_bytes(content)
        assert elf.read(content).exported <= {"cuInit", "cuMemAlloc_v2", "nvmlInit_v2"}
    done = loaded(library, folder, "init", "allocate", "management")
    assert done.stdout.split() == ["34", "34", "12"], done.stderr


def test_a_wheel_that_asks_nothing_of_the_driver(tmp_path: Path) -> None:
    library = linked(tmp_path, "int cuStom(void) { return 1; }")
    assert driver.of_wheel(wheel(tmp_path, {"demo/_core.so": library.read_bytes(), "demo/x": b""})) == {}
