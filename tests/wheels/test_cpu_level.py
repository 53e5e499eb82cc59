"""Which CPUs a library's code takes for granted, on libraries that a real compiler made."""

from __future__ import annotations

from pathlib import Path

import pydantic_core
import pytest

from tests.compiler import compiled
from torch_build_farm.wheels.cpu_level import CpuLevel, read_cpu_level
from torch_build_farm.wheels.elf.headers import ElfError

# As in a torch extension: tables that are set up at load, and a loop that a compiler makes vector code of.
EXTENSION = """
#include <map>
#include <string>
#include <vector>
static std::vector<double> weights{1, 2, 3, 4};
static std::map<std::string, std::string> ops{{"demo::dot", "dot(Tensor a, Tensor b) -> Tensor of both"}};
extern "C" double dot(const double* a, const double* b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
extern "C" unsigned long size() { return ops.size(); }
"""
DISPATCH = """
#define LOOP for (int i = 0; i < n; i++) a[i] = a[i] * b[i] + 1;
__attribute__((target("avx2,fma"))) static void fast(double* a, const double* b, int n) { LOOP }
static void slow(double* a, const double* b, int n) { LOOP }
extern "C" void run(double* a, const double* b, int n) {
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) fast(a, b, n);
    else slow(a, b, n);
}
"""
CLONES = """
extern "C" __attribute__((target_clones("avx512f", "avx2", "default"))) void run(double* a, const double* b, int n) {
    for (int i = 0; i < n; i++) a[i] = a[i] * b[i] + 1;
}
"""
UNASKED = """
extern "C" __attribute__((target("avx2"))) void run(double* a, const double* b, int n) {
    for (int i = 0; i < n; i++) a[i] = a[i] * b[i] + 1;
}
"""


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        (["-march=x86-64"], "x86-64"),
        (["-march=haswell"], "x86-64-v3"),
        (["-march=x86-64-v4", "-mprefer-vector-width=512"], "x86-64-v4"),
        (["-march=x86-64-v3", "-Wl,-z,pack-relative-relocs"], "x86-64-v3"),
    ],
)
def test_what_is_compiled_for_a_cpu_needs_it(tmp_path: Path, flags: list[str], level: str) -> None:
    assert read_cpu_level(compiled(tmp_path, EXTENSION, *flags)).level == level


def test_code_that_runs_at_load_is_found_beside_code_that_asks(tmp_path: Path) -> None:
    """As where the project is compiled with -march=native and a library with dispatch is linked into it."""
    found = read_cpu_level(compiled(tmp_path, EXTENSION + DISPATCH, "-march=haswell"))
    assert found.level == "x86-64-v3"
    assert "runs as it loads" in found.reason


@pytest.mark.parametrize("source", [DISPATCH, CLONES, EXTENSION + DISPATCH, EXTENSION + CLONES])
def test_code_that_asks_first_needs_no_cpu_of_its_own(tmp_path: Path, source: str) -> None:
    assert read_cpu_level(compiled(tmp_path, source)) == CpuLevel()


def test_one_function_for_another_cpu_that_nobody_asks_for(tmp_path: Path) -> None:
    found = read_cpu_level(compiled(tmp_path, EXTENSION + UNASKED))
    assert found.level == "x86-64-v3"
    assert "never asks" in found.reason
    assert "(vmovsd " in found.reason


def test_a_library_compiled_for_avx_as_a_whole_asks_too_late(tmp_path: Path) -> None:
    """The function that asks runs AVX code itself."""
    loops = "".join(
        f'extern "C" void f{n}(double* a, double* b, int n) {{ for (int i = 0; i < n; i++) a[i] = a[i] / b[i] + {n}; }}'
        for n in range(8)
    )
    found = read_cpu_level(compiled(tmp_path, DISPATCH + loops, "-march=haswell"))
    assert (found.level, found.reason.split()[0]) == ("x86-64-v3", "throughout")


@pytest.mark.parametrize(
    "library", [Path(pydantic_core._pydantic_core.__file__), Path("/lib/x86_64-linux-gnu/libcrypto.so.3")]
)
def test_real_libraries(library: Path) -> None:
    if not library.exists():
        pytest.skip(f"{library} is not on this machine")
    assert read_cpu_level(library.read_bytes()) == CpuLevel()


def test_of_other_machines_nothing_is_said() -> None:
    assert read_cpu_level(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0\xb7\0" + bytes(44)) == CpuLevel()


def test_a_damaged_library(tmp_path: Path) -> None:
    """Whatever is cut off or overwritten, the answer is a level or ElfError."""
    whole = compiled(tmp_path, EXTENSION, "-march=haswell")
    for place in range(0, len(whole), 499):
        damaged = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        for content in (damaged, whole[:place]):
            try:
                read_cpu_level(content)
            except ElfError:
                continue
