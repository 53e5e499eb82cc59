"""What back ends are told of another machine that they build for: by their own CPython, and by files.

Why not crossenv for the CPython: it makes environments of its own, by absolute paths, and installs into them with pip.
Those here are filled by uv with hard links, and foreign code sees them at another place (name_spaces.py).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath

from torch_build_farm.core.files import replace_text
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.resources import DATA
from torch_build_farm.engines.sysroot import TargetPython

_MODULE = "_torch_build_farm_cross"
# With it an environment's CPython answers for this machine all the same (data/cross_python.py).
OWN_MACHINE = {"TORCH_BUILD_FARM_OWN_MACHINE": "1"}
# Of the target's variables those that are about the machine, and not about where its CPython is installed.
_VARIABLES = (
    "ABIFLAGS", "AR", "ARFLAGS", "BLDSHARED", "CC", "CCSHARED", "CFLAGS", "CONFIGURE_CFLAGS", "CPPFLAGS", "CXX",
    "EXT_SUFFIX", "LDCXXSHARED", "LDFLAGS", "LDSHARED", "LDVERSION", "MULTIARCH", "OPT", "Py_DEBUG", "Py_GIL_DISABLED",
    "SHLIB_SUFFIX", "SIZEOF_VOID_P", "SOABI", "VERSION",
)  # fmt: skip


def let_answer(packages: Path, python: TargetPython, machine: Machine) -> None:
    """Let the CPython of an environment answer as `python`; `packages` is its site-packages.

    It gets a module (data/cross_python.py), and the .pth file that imports it.
    """
    variables = {name: python.variables[name] for name in _VARIABLES if name in python.variables}
    variables |= {"INCLUDEPY": python.include, "CONFINCLUDEPY": python.include}
    target = {
        "machine": machine.name,
        "include": python.include,
        "variables": variables,
    }
    replace_text(packages / f"{_MODULE}.py", (DATA / "cross_python.py").read_text("utf-8"))
    replace_text(packages / f"{_MODULE}.json", json.dumps(target))
    replace_text(packages / f"{_MODULE}.pth", f"import {_MODULE}\n")


def meson_file(machine: Machine, compilers: Mapping[str, str], python: PurePath) -> str:
    """A cross file of Meson's (its manual, "Cross-compilation").

    `compilers` are the commands CC, CXX and AR; `python` is the build environment's, as the build sees it.
    """
    binaries = {
        "c": shlex.split(compilers["CC"]),
        "cpp": shlex.split(compilers["CXX"]),
        "ar": shlex.split(compilers["AR"]),
        "python": [str(python)],
    }
    about = {"system": "linux", "cpu_family": machine.name, "cpu": machine.name, "endian": "little"}
    lines = ["[binaries]", *(f"{name} = {command!r}" for name, command in binaries.items())]
    lines += ["[host_machine]", *(f"{name} = {value!r}" for name, value in about.items())]
    return "\n".join([*lines, ""])
