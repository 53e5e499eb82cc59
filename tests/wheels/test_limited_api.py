"""Wheels that promise CPython's limited API, with libraries that a real compiler made against the real headers."""

from __future__ import annotations

import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.compiler import compiled
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.wheels.limited_api import limited_api_problems
from torch_build_farm.wheels.machine_code import read_machine_code
from torch_build_farm.wheels.wheel import read_wheel

LIMITED = """
#define Py_LIMITED_API 0x03090000
#include <Python.h>
extern "C" PyObject* run(PyObject* self) { Py_INCREF(self); PyErr_SetNone(PyExc_ValueError); return PyLong_FromLong(1); }
"""
# PyObject_Vectorcall joined in 3.12, and _PyObject_GetDictPtr never did.
FULL = """
#include <Python.h>
extern "C" void* run(PyObject* self) { return PyObject_Vectorcall(self, nullptr, 0, nullptr); }
extern "C" void* other(PyObject* self) { return _PyObject_GetDictPtr(self); }
"""


def problems(folder: Path, tag: str, files: dict[str, bytes]) -> list[str]:
    """What is wrong with a wheel of this tag and these files."""
    stem = "demo_torch29-1.0"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": b"Metadata-Version: 2.1\nName: demo-torch29\nVersion: 1.0\n",
        f"{stem}.dist-info/RECORD": b"",
    }
    path = folder / f"{stem}-{tag}-manylinux_2_28_x86_64.whl"
    write_wheel(path, [(zipfile.ZipInfo(name), content) for name, content in files.items()])
    wheel = read_wheel(path)
    return limited_api_problems(wheel, read_machine_code(wheel))


def extension(folder: Path, source: str, *flags: str) -> bytes:
    return compiled(folder, source, f"-I{sysconfig.get_path('include')}", *flags)


@pytest.mark.parametrize("tag", ["cp39-abi3", "py3-none", "cp311-cp311"])
def test_the_limited_api_is_fit_for_every_tag(tmp_path: Path, tag: str) -> None:
    assert problems(tmp_path, tag, {"demo/_core.abi3.so": extension(tmp_path, LIMITED)}) == []


@pytest.mark.parametrize(
    ("tag", "name", "words"),
    [
        ("cp39-abi3", "_core.abi3.so", "PyObject_Vectorcall (from 3.12 on), _PyObject_GetDictPtr"),
        ("cp312-abi3", "_core.so", "API of Python 3.12: _PyObject_GetDictPtr"),
        ("py3-none", "_core.so", "_PyObject_GetDictPtr"),
        ("cp311-cp311", "_core.abi3.so", "PyObject_Vectorcall (from 3.12 on), _PyObject_GetDictPtr"),
    ],
)
def test_names_outside_the_limited_api(tmp_path: Path, tag: str, name: str, words: str) -> None:
    (problem,) = problems(tmp_path, tag, {f"demo/{name}": extension(tmp_path, FULL)})
    assert f"demo/{name} " in problem
    assert words in problem


@pytest.mark.parametrize(
    ("tag", "name", "refused"),
    [
        ("cp310-abi3", "_core.cpython-311-x86_64-linux-gnu.so", True),
        ("py3-none", "_core.cpython-311-x86_64-linux-gnu.so", True),
        ("py2.py3-none", "_core.cpython-313t.so", True),
        ("cp311-none", "_core.cpython-311-x86_64-linux-gnu.so", False),
        ("py3-none", "libcore.cpython-bridge.so", False),
        ("py3-none", "_core.so", False),
    ],
)
def test_a_module_that_one_cpython_alone_finds(tmp_path: Path, tag: str, name: str, *, refused: bool) -> None:
    """It uses the limited API alone: only its name says that no other CPython takes it for the module."""
    files = {"demo/_other.abi3.so": extension(tmp_path, LIMITED), f"demo/{name}": extension(tmp_path, LIMITED)}
    said = problems(tmp_path, tag, files)
    assert [f"demo/{name}: " in problem and "is for several" in problem for problem in said] == [True] * refused


def test_a_wheel_for_one_cpython_may_use_all_of_it(tmp_path: Path) -> None:
    assert (
        problems(tmp_path, "cp311-cp311", {"demo/_core.cpython-311-x86_64-linux-gnu.so": extension(tmp_path, FULL)})
        == []
    )


def test_names_that_the_wheel_itself_brings(tmp_path: Path) -> None:
    """A helper of the project's own may be called Py-something."""
    user = compiled(tmp_path, 'extern "C" int PyDemo_Help(); extern "C" int run() { return PyDemo_Help(); }')
    helper = compiled(tmp_path, 'extern "C" int PyDemo_Help() { return 1; }')
    assert problems(tmp_path, "cp39-abi3", {"demo/_core.abi3.so": user, "demo/libhelp.so": helper}) == []
    assert "PyDemo_Help" in problems(tmp_path, "cp39-abi3", {"demo/_core.abi3.so": user})[0]


def test_what_may_be_absent_counts_for_nothing(tmp_path: Path) -> None:
    weak = 'extern "C" int _PyDemo() __attribute__((weak)); extern "C" int run() { return _PyDemo ? _PyDemo() : 0; }'
    assert problems(tmp_path, "cp39-abi3", {"demo/_core.abi3.so": compiled(tmp_path, weak)}) == []
