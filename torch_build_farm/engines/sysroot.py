"""The system of another machine in a folder, its sysroot: the CPythons there, their headers, and what they run with.

Debian's debootstrap makes one. Wheels are cross-compiled against it, and nothing of it runs meanwhile. For smoke tests
its CPythons run under QEMU, which the kernel starts (binfmt_misc); QEMU_LD_PREFIX names the folder with their loader
and libraries (QEMU's manual, "User space emulator").
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.process import capture
from torch_build_farm.core.text import printable
from torch_build_farm.core.versions import CPython

_PREFIXES = ("/usr/local", "/usr")
_MANYLINUX = "/opt/python"  # a folder with a link for each CPython
_FOR_PROGRAMS = ("lib", "lib32", "lib64", "usr", "opt")  # folders at the top that programs load from
# What torch's cpuinfo reads before all else. Of a machine of another kind it misreads the rest, and torch 2.13 crashes.
_PROCESSORS = ("possible", "present")
_VERSION = re.compile(r'^#define PY_VERSION\s+"([^"+]+)', re.MULTILINE)  # patchlevel.h; "+" marks a checkout
_MOST_LINKS = 40  # in a row, as in Linux (path_resolution(7))
_LARGEST_FILE = 1 << 20  # bytes of a file that is read; CPython's have some 60 KB
_HOW = "see docs/how-to/arm64.md"


@dataclass(frozen=True)
class TargetPython:
    """A CPython of a sysroot. `variables` are its sysconfig.get_config_vars() that were fixed when it was built.

    `include` is the folder of its headers, `version` the full one; both are empty where it has no headers.
    """

    executable: Path
    version: str
    include: str
    variables: Mapping[str, str | int]


@dataclass(frozen=True)
class Sysroot:
    """The system of `machine` in `folder`."""

    machine: Machine
    folder: Path

    @classmethod
    def of(cls, machine: Machine) -> Sysroot | None:
        """The one that the environment names; None if it names none.

        Raises ToolError for what is no folder, and for a path with a space.
        """
        named = os.environ.get(variable_of(machine))
        if not named:
            return None
        folder = Path(named)
        if not folder.is_absolute() or not folder.is_dir():
            raise ToolError(
                f"{variable_of(machine)} is not the absolute path of a folder",
                where=named,
                next_step=f"name the folder that holds usr/ and lib/ of {machine.words} Linux; {_HOW}",
            )
        if any(character.isspace() for character in named):
            raise ToolError(
                f"{variable_of(machine)} has a space, which compiler options cannot carry",
                where=named,
                next_step="move the folder, or name it by a link without one",
            )
        return cls(machine, folder)

    @cached_property
    def pythons(self) -> Mapping[CPython, TargetPython]:
        """Its CPythons. Nothing of it is executed. Raises ToolError where one is for another machine."""
        pythons: dict[CPython, TargetPython] = {}
        for python, executable, library in self._installed():
            if python in pythons:
                continue
            for path in sorted(library.glob("_sysconfigdata_*.py")):
                variables = _build_time_variables(self.real(self._path_there(path)))
                if variables is not None:
                    self._check_machine(executable, variables)
                    pythons[python] = self._python(executable, variables)
                    break
        return pythons

    def _check_machine(self, executable: Path, variables: Mapping[str, str | int]) -> None:
        """Raise ToolError for a CPython that says that it is for another machine, by the triplet it was built for."""
        built_for = str(variables.get("HOST_GNU_TYPE", self.machine.name))
        if built_for.partition("-")[0] != self.machine.name:
            raise ToolError(
                f"{variable_of(self.machine)} names a system of another machine: its CPython is for "
                f"{printable(built_for, 100)}",
                where=str(executable),
                next_step=f"name the folder that holds usr/ and lib/ of {self.machine.words} Linux; {_HOW}",
            )

    @property
    def library_folders(self) -> list[Path]:
        """The folders with the libraries of that system, and before them those of Debian's cross compiler."""
        of_machine = f"{self.machine.name}-linux-gnu"  # on Debian and its kin
        names = [f"/lib/{of_machine}", f"/usr/lib/{of_machine}", "/lib64", "/usr/lib64"]
        folders = [Path("/usr", of_machine, "lib"), *map(self.real, names)]
        return [folder for folder in folders if folder.is_dir()]

    def environment(self, prefix: Path) -> dict[str, str]:
        """The variables with which programs of the machine run here, under QEMU.

        `prefix` is a folder in which QEMU looks for each file first; it is made if it is not there yet.
        """
        processors = prefix / "sys" / "devices" / "system" / "cpu"
        processors.mkdir(parents=True, exist_ok=True)
        for name in _PROCESSORS:
            (processors / name).touch()
        for name in _FOR_PROGRAMS:
            with contextlib.suppress(FileExistsError):
                if (self.folder / name).exists():
                    (prefix / name).symlink_to(self.folder / name)
        return {"QEMU_LD_PREFIX": str(prefix)}

    def check_emulation(self, python: CPython, prefix: Path) -> None:
        """Raise ToolError where this kernel does not run the sysroot's programs; `prefix` is as for `environment`."""
        command = [str(self.pythons[python].executable), "-I", "-c", "print('runs')"]
        answer = capture(command, env=self.environment(prefix))
        if answer.last_line != "runs":
            raise ToolError(
                f"programs for {self.machine.words} do not run here, so no wheel for it can be smoke-tested",
                where=(answer.tail or (str(self.pythons[python].executable),))[-1],
                next_step="install QEMU's user emulation and register it with the kernel (Debian: `ci/qemu`, as "
                f"root), or leave the tests out: --smoke none; {_HOW}",
            )

    def real(self, path: str) -> Path:
        """Where a path of that system lies here; links are followed within the sysroot, and too many lead nowhere."""
        here = self.folder
        parts = list(Path(path).parts)
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "/":
                here = self.folder
            elif part == "..":
                here = here.parent if here != self.folder else here
            elif (here / part).is_symlink():
                links += 1
                if links > _MOST_LINKS:
                    return self.folder / "nonexistent"
                parts = [*(here / part).readlink().parts, *parts]
            else:
                here /= part
        return here

    def _path_there(self, path: Path) -> str:
        """The path in that system of what lies in the sysroot."""
        return f"/{path.relative_to(self.folder)}"

    def _installed(self) -> Iterator[tuple[CPython, Path, Path]]:
        """Each CPython, with its executable and the folder of its standard library."""
        in_manylinux = sorted(path.name for path in self.real(_MANYLINUX).glob("*"))
        for prefix in (*_PREFIXES, *(f"{_MANYLINUX}/{name}" for name in in_manylinux)):
            for path in sorted(self.real(f"{prefix}/bin").glob("python3.*")):
                match = re.fullmatch(r"python(3\.\d+t?)", path.name)
                executable = self.real(f"{prefix}/bin/{path.name}")
                if match and executable.is_file():
                    home = self._path_there(executable.parent.parent)
                    yield CPython.parse(match[1]), executable, self.real(f"{home}/lib/{path.name}")

    def _python(self, executable: Path, variables: Mapping[str, str | int]) -> TargetPython:
        include = self.real(str(variables.get("INCLUDEPY", "/nonexistent")))
        version = None
        with contextlib.suppress(OSError):
            text = foreign_files.content(include / "patchlevel.h", _LARGEST_FILE).decode("utf-8", "replace")
            version = _VERSION.search(text)
        if version is None or not (include / "Python.h").is_file():
            return TargetPython(executable, "", "", variables)
        return TargetPython(executable, version[1], str(include), variables)


def variable_of(machine: Machine) -> str:
    """The environment variable that names a machine's sysroot, such as TORCH_BUILD_FARM_SYSROOT_AARCH64."""
    return f"TORCH_BUILD_FARM_SYSROOT_{machine.name.upper()}"


def missing(machine: Machine) -> ToolError:
    """The error for jobs of another machine where no sysroot is named."""
    return ToolError(
        f"this machine has no system of {machine.words} to cross-compile for",
        where=variable_of(machine),
        next_step=f"name the folder of one there, or build in containers: --engine docker; {_HOW}",
    )


def _build_time_variables(path: Path) -> dict[str, str | int] | None:
    """The assignment in CPython's _sysconfigdata module, read and not executed; None for another file."""
    try:
        module = ast.parse(foreign_files.content(path, _LARGEST_FILE))
        for statement in module.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "build_time_vars":
                value = ast.literal_eval(statement.value)
                if not isinstance(value, dict):
                    return None
                return {str(name): text for name, text in value.items() if isinstance(text, str | int)}
    # What ast's parser and literal_eval raise for text of any kind.
    except (OSError, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        pass
    return None
