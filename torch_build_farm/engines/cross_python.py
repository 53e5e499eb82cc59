"""A build environment's CPython that answers as one of another machine (data/cross_python.py).

Why not crossenv: it makes environments of its own, by absolute paths, and installs into them with pip. Those here are
filled by uv with hard links and seen at another place by foreign code (name_spaces.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from torch_build_farm.core.files import replace_text
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.resources import DATA
from torch_build_farm.engines.sysroot import TargetPython

_MODULE = "_torch_build_farm_cross"
# Of the target's variables those that are about the machine, and not about where its CPython is installed.
_VARIABLES = (
    "ABIFLAGS", "AR", "ARFLAGS", "BLDSHARED", "CC", "CCSHARED", "CFLAGS", "CONFIGURE_CFLAGS", "CPPFLAGS", "CXX",
    "EXT_SUFFIX", "LDCXXSHARED", "LDFLAGS", "LDSHARED", "LDVERSION", "MULTIARCH", "OPT", "Py_DEBUG", "Py_GIL_DISABLED",
    "SHLIB_SUFFIX", "SIZEOF_VOID_P", "SOABI", "VERSION",
)  # fmt: skip


def put(packages: Path, python: TargetPython, machine: Machine) -> None:
    """Write the module into an environment's site-packages, with the .pth file that imports it."""
    variables = {name: python.variables[name] for name in _VARIABLES if name in python.variables}
    variables |= {"INCLUDEPY": python.include, "CONFINCLUDEPY": python.include}
    target = {
        "machine": machine.name,
        "multiarch": f"{machine.name}-linux-gnu",
        "include": python.include,
        "variables": variables,
    }
    replace_text(packages / f"{_MODULE}.py", (DATA / "cross_python.py").read_text("utf-8"))
    replace_text(packages / f"{_MODULE}.json", json.dumps(target))
    replace_text(packages / f"{_MODULE}.pth", f"import {_MODULE}\n")
