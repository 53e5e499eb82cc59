"""What the machine code in a wheel's libraries asks of the user's machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch_build_farm.core.machine import Machine
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels.cpu_level import LEVELS, CpuLevel, read_cpu_level
from torch_build_farm.wheels.device_code import heaviest, read_device_code
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.library import NotLoadedError, OtherMachineError, read
from torch_build_farm.wheels.platforms import machine_of_wheel
from torch_build_farm.wheels.wheel import Wheel, opened

# A name of CPython's C API, or of its insides.
_PYTHON_NAME = re.compile(r"_?Py[A-Z_]")


@dataclass(frozen=True)
class MachineCode:
    """The machine code in a wheel; the mappings have the library's path in the wheel as key.

    `cpu_levels` has the level that each library takes for granted, `python_names` the names of CPython's C API that it
    cannot do without, `unreadable` why one could not be read. `exported` are the names of that kind that the libraries
    bring. `device_code` has the size of the code for GPUs, in bytes by architecture (`device_code.read_device_code`).
    """

    cpu_levels: Mapping[str, CpuLevel]
    python_names: Mapping[str, frozenset[str]]
    exported: frozenset[str]
    device_code: Mapping[str, int]
    unreadable: Mapping[str, str]

    @property
    def cpu_level(self) -> str:
        """The level of x86-64 that the wheel as a whole takes for granted; the first for code of another machine."""
        return LEVELS[max((level.number for level in self.cpu_levels.values()), default=0)]


def read_machine_code(wheel: Wheel) -> MachineCode:
    """Read the libraries of a wheel one by one. Raises RepairError for a damaged wheel."""
    cpu_levels = {}
    python_names = {}
    exported: set[str] = set()
    device_code: Counter[str] = Counter()
    unreadable = {}
    machine = machine_of_wheel(wheel.path.name)
    with opened(wheel.path) as archive:
        for library in wheel.libraries:
            content = archive.read(library.path)
            try:
                cpu_levels[library.path] = read_cpu_level(content)
                device_code.update(read_device_code(content))
                elf = read(content, machine)
            except NotLoadedError:  # a program, or code for a GPU
                continue
            except ElfError as error:
                unreadable[library.path] = str(error)
                continue
            required = [symbol.name for symbol in elf.undefined if not symbol.weak]
            python_names[library.path] = frozenset(name for name in required if _PYTHON_NAME.match(name))
            exported |= {name for name in elf.exported if _PYTHON_NAME.match(name)}
    return MachineCode(cpu_levels, python_names, frozenset(exported), dict(device_code), unreadable)


def wrong_machine(wheel: Wheel, machine: Machine) -> str:
    """Why nothing in a wheel that a build has made is for `machine`, in a sentence; empty where something is.

    auditwheel goes by the tag, and looks no further than at libraries of that kind.
    """
    named = machine_of_wheel(wheel.path.name)
    if named != machine:
        return f"{wheel.path.name} is for {named.words}, and the job for {machine.words}"
    problems = []
    with opened(wheel.path) as archive:
        for library in wheel.libraries:
            try:
                read(archive.read(library.path), machine)
            except OtherMachineError as error:
                problems.append(f"{library.path} is {error}")
            except ElfError:  # which is said once auditwheel has given the wheel its tag
                return ""
            else:
                return ""
    return "; ".join(problems)


def size_problem(wheel: Wheel, code: MachineCode, settings: Settings) -> list[str]:
    """Why the wheel is too large, with what weighs most in it, in one sentence; empty for one that is not."""
    size = wheel.path.stat().st_size / 1e6
    if size <= settings.size_limit_mb:
        return []
    problem = f"the wheel has {size:.1f} MB, over size-limit-mb = {settings.size_limit_mb}"
    if code.device_code:
        problem += (
            f"; its code for GPUs has, unpacked, {heaviest(code.device_code)}: list fewer architectures in "
            "cuda-arch-list (code for 8.0 runs on GPUs of 8.6 and 8.9 too)"
        )
    return [problem]


def machine_code_problems(code: MachineCode, settings: Settings) -> list[str]:
    """Why users' machines cannot run the code as the settings promise, one sentence each; empty for a good wheel."""
    problems = []
    for path, why in code.unreadable.items():
        problems.append(f"{path} cannot be read: {why}")
    promised = LEVELS.index(settings.cpu_baseline)
    for path, cpu in code.cpu_levels.items():
        if cpu.number > promised:
            problems.append(
                f"{path} uses instructions of {cpu.level} {cpu.reason}: an older CPU ends the process with SIGILL; "
                "build without -march=native, -mavx2 and the like (an option of the project's may add them), or, if "
                f'users need such a CPU, set cpu-baseline = "{cpu.level}"'
            )
    return problems
