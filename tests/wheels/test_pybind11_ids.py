"""pybind11's ids of internals: in modules that are compiled with two versions of it, and in a wheel with both."""

import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.pipeline.test_repair import SETTINGS, wheel
from torch_build_farm.core import tools
from torch_build_farm.wheels import checks
from torch_build_farm.wheels.pybind11_ids import internals_ids

VERSIONS = ("2.13.6", "3.0.1")
SOURCE = """
#include <pybind11/pybind11.h>
struct Box { int value = 42; };
PYBIND11_MODULE(demo, m) { pybind11::class_<Box>(m, "Box").def(pybind11::init<>()); }
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """A module of each version of pybind11, compiled for the running CPython."""
    folder = tmp_path_factory.mktemp("pybind11")
    compiled = {}
    for version in VERSIONS:
        package = folder / version
        install = [str(tools.uv()), "pip", "install", "-q", "--target", str(package), f"pybind11=={version}"]
        subprocess.run(install, check=True)
        includes = (f"-I{package}/pybind11/include", f"-I{sysconfig.get_path('include')}")
        library = folder / f"demo-{version}.so"
        command = ["g++", "-std=c++17", "-O0", "-shared", "-fPIC", "-x", "c++", "-", *includes, "-o", str(library)]
        subprocess.run(command, input=SOURCE.encode(), check=True)
        compiled[version] = library.read_bytes()
    return compiled


def test_ids_of_compiled_modules(modules: Mapping[str, bytes]) -> None:
    (old,) = internals_ids(modules["2.13.6"])
    (new,) = internals_ids(modules["3.0.1"])
    assert old.startswith(("__pybind11_internals_v4_gcc_libstdcpp_cxxabi", "__pybind11_internals_v5_gcc_"))
    assert new == "__pybind11_internals_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__"


def test_a_wheel_with_two_of_them_is_refused(tmp_path: Path, modules: Mapping[str, bytes]) -> None:
    old, new = modules["2.13.6"], modules["3.0.1"]
    (problem,) = checks.problems(wheel(tmp_path, {"demo/_a.so": old, "demo/_b.so": new, "demo/_c.so": new}), SETTINGS)
    assert "do not see each other's types" in problem
    assert "_use_cxx11_abi_1__ in demo/_b.so, demo/_c.so; __pybind11_internals_v" in problem
    assert "__ in demo/_a.so; build all of them with one" in problem
    assert checks.problems(wheel(tmp_path, {"demo/_b.so": new, "demo/_c.so": new}), SETTINGS) == []


@pytest.mark.parametrize(
    "other",
    [
        b"__pybind11_internals_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1___call_once_storage__\0",
        b"__pybind11_module_local_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__\0",
        b"__pybind11_internals_v11_system",
        b"__pybind11_internals_v" + b"1" * 100_000 + b"__\0",
        b"__pybind11_internals_v4" + b"_a" * 100_000 + b"__\0",
    ],
)
def test_what_is_no_id(other: bytes) -> None:
    assert internals_ids(other) == frozenset()
