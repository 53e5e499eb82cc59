"""What back ends are told of a machine that they build for and do not run on."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
import venv
from pathlib import Path, PurePath

import pytest

from tests.engines.test_sysroot import add_python
from tests.family import make_wheel
from torch_build_farm.core import tools
from torch_build_farm.core.machine import ARM64, MACHINES, running
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import cross_compiling
from torch_build_farm.engines.sysroot import Sysroot, TargetPython
from torch_build_farm.engines.variables import site_packages

ASK = """
import json, os, platform, sys, sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
print(json.dumps({
    "platform": sysconfig.get_platform(),
    "machine": platform.machine(),
    "uname": os.uname().machine,
    "suffix": sysconfig.get_config_var("EXT_SUFFIX"),
    "include": sysconfig.get_path("include"),
    "platinclude": sysconfig.get_path("platinclude", "posix_prefix"),
    "inclpy": sysconfig.get_config_var("INCLUDEPY"),
    "purelib": sysconfig.get_path("purelib"),
    "loads": EXTENSION_SUFFIXES[0],
}))
"""


def answers(python: Path | str) -> dict[str, str]:
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.fixture
def target(tmp_path: Path) -> TargetPython:
    """A CPython of arm64 with this one's version."""
    include = tmp_path / "root" / "usr" / "include" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    add_python(tmp_path / "root" / "usr", "/usr/include/python", name=version, headers=include)
    running = CPython(sys.version_info.major, sys.version_info.minor)
    return Sysroot(ARM64, tmp_path / "root").pythons[running]


def test_the_environments_cpython_answers_as_the_targets(tmp_path: Path, target: TargetPython) -> None:
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    own = answers(home / "bin" / "python")
    packages = Path(site_packages(home, CPython(sys.version_info.major, sys.version_info.minor)))
    cross_compiling.let_answer(packages, target, ARM64)

    told = answers(home / "bin" / "python")
    assert (told["platform"], told["machine"], told["uname"]) == ("linux-aarch64", "aarch64", "aarch64")
    assert told["suffix"] == ".cpython-311-aarch64-linux-gnu.so"
    assert {told["include"], told["platinclude"], told["inclpy"]} == {target.include}
    # What it installs into, and what it can load itself, stays.
    assert (told["purelib"], told["loads"]) == (own["purelib"], own["loads"])


def test_another_environments_cpython_answers_for_itself(tmp_path: Path, target: TargetPython) -> None:
    before = answers(sys.executable)
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    packages = Path(site_packages(home, CPython(sys.version_info.major, sys.version_info.minor)))
    cross_compiling.let_answer(packages, target, ARM64)
    code = f"import subprocess; print(subprocess.check_output([{sys.executable!r}, '-c', {ASK!r}], text=True))"
    done = subprocess.run([home / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == before


def test_meson_is_told_by_a_cross_file() -> None:
    compilers = {"CC": "ccache aarch64-linux-gnu-gcc", "CXX": "aarch64-linux-gnu-g++", "AR": "aarch64-linux-gnu-ar"}
    parser = configparser.ConfigParser()
    parser.read_string(cross_compiling.meson_file(ARM64, compilers, PurePath("/home/bin/python")))
    assert dict(parser["binaries"]) == {
        "c": "['ccache', 'aarch64-linux-gnu-gcc']",
        "cpp": "['aarch64-linux-gnu-g++']",
        "ar": "['aarch64-linux-gnu-ar']",
        "python": "['/home/bin/python']",
    }
    assert dict(parser["host_machine"]) == {
        "system": "'linux'", "cpu_family": "'aarch64'", "cpu": "'aarch64'", "endian": "'little'",
    }  # fmt: skip


def test_what_the_farm_installs_is_for_this_machine(tmp_path: Path, target: TargetPython) -> None:
    """A back end may ask for CMake after it was answered, which has to run here."""
    home = tmp_path / "environment"
    venv.create(home, symlinks=True)
    packages = Path(site_packages(home, CPython.running()))
    cross_compiling.let_answer(packages, target, ARM64)
    for machine in MACHINES:
        make_wheel(tmp_path, "tool", "1", {f"{machine.name}.py": ""}, tag=f"py3-none-manylinux_2_17_{machine.name}")
    options = ["--no-cache", "--no-index", "--find-links", str(tmp_path), "--python", str(home)]
    env = {**os.environ, **cross_compiling.OWN_MACHINE}
    subprocess.run([tools.uv(), "pip", "install", *options, "tool"], env=env, capture_output=True, check=True)
    assert [machine for machine in MACHINES if (packages / f"{machine.name}.py").exists()] == [running()]
