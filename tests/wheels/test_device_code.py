"""The architectures of device code, in libraries that the real nvcc compiled."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from torch_build_farm.wheels.device_code import device_code_problems, read_device_code
from torch_build_farm.wheels.elf.headers import ElfError

KERNEL = """
__global__ void twice(float* a) { a[threadIdx.x] *= 2; }
extern "C" void run(float* a) { twice<<<1, 32>>>(a); }
"""
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="needs a CUDA toolkit")


def compiled(folder: Path, source: str, *flags: str) -> bytes:
    (folder / "demo.cu").write_text(source)
    library = folder / "demo.so"
    subprocess.run(["nvcc", "-shared", "-Xcompiler", "-fPIC", *flags, folder / "demo.cu", "-o", library], check=True)
    return library.read_bytes()


def gencode(*pairs: str) -> list[str]:
    words = []
    for pair in pairs:
        virtual, real = pair.split()
        words += ["-gencode", f"arch=compute_{virtual},code={real}"]
    return words


@needs_nvcc
@pytest.mark.parametrize(
    ("flags", "architectures"),
    [
        (gencode("80 sm_80", "90 sm_90"), {"sm_80", "sm_90"}),
        (gencode("80 sm_80", "90 compute_90"), {"sm_80", "compute_90"}),
        (gencode("90a sm_90a"), {"sm_90a"}),
        (gencode("100f sm_100f"), {"sm_100f"}),
        ([*gencode("120 sm_120"), "-Xfatbin", "-compress-all"], {"sm_120"}),
        ([*gencode("80 sm_80"), "-rdc=true"], {"sm_80"}),
        ([*gencode("80 sm_80"), "-cudart", "shared"], {"sm_80"}),
    ],
)
def test_what_nvcc_compiled_for(tmp_path: Path, flags: list[str], architectures: set[str]) -> None:
    assert set(read_device_code(compiled(tmp_path, KERNEL, *flags))) == architectures


@needs_nvcc
@pytest.mark.parametrize("flags", [[], ["-Xfatbin", "-compress-all"]])
def test_what_nvcc_links_into_everything_is_no_device_code(tmp_path: Path, flags: list[str]) -> None:
    assert read_device_code(compiled(tmp_path, 'extern "C" int run() { return 1; }', *flags)) == {}


@needs_nvcc
def test_how_much_code_there_is_for_each_architecture(tmp_path: Path) -> None:
    """A kernel for one architecture alone counts there, in whole libraries and where the code is compressed."""
    only_80 = "#if __CUDA_ARCH__ == 800\n__global__ void more(float* a) { for (;;) *a = sinf(*a); }\n#endif\n"
    flags = gencode("80 sm_80", "90 sm_90")
    before = read_device_code(compiled(tmp_path, KERNEL, *flags))
    after = read_device_code(compiled(tmp_path, KERNEL + only_80, *flags))
    assert after["sm_80"] > before["sm_80"] + 1000
    assert after["sm_90"] == before["sm_90"]
    packed = read_device_code(compiled(tmp_path, KERNEL + only_80, *flags, "-Xfatbin=-compress-all"))
    assert packed["sm_80"] < after["sm_80"]


@needs_nvcc
def test_a_damaged_library(tmp_path: Path) -> None:
    whole = compiled(tmp_path, KERNEL, *gencode("80 sm_80"))
    place = whole.index(struct.pack("<I", 0xBA55ED50))
    for offset in range(0, 200):
        damaged = bytearray(whole)
        damaged[place + offset] ^= 0xFF
        try:
            read_device_code(bytes(damaged))
        except ElfError:
            continue


def test_missing_architectures_are_named() -> None:
    assert device_code_problems(frozenset({"sm_80", "sm_90a", "compute_90"}), ("8.0", "9.0a", "9.0")) == []
    (problem,) = device_code_problems(frozenset({"sm_80"}), ("8.0", "9.0+PTX"))
    assert "no device code for sm_90, compute_90," in problem
    assert "but for sm_80:" in problem


def test_a_wheel_without_device_code_is_told_what_forces_it() -> None:
    script = 'force = os.getenv("DEMO_FORCE_GPU", "0") == "1" or os.environ["MAX_JOBS"]\n'
    (problem,) = device_code_problems(frozenset(), ("8.0",), script)
    assert "FORCE_CUDA" in problem
    assert problem.endswith("setup.py reads DEMO_FORCE_GPU")
    assert device_code_problems(frozenset(), ()) == []
