"""The platforms that wheels are for, by their file names, in the words of environment markers (PEP 508)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch_build_farm.core.machine import MACHINES, X86_64, Machine

# A wheel's platform tag (PEP 425, PEP 600, PEP 656), and what sys.platform is there; the machine follows.
_SYSTEMS = {"linux": r"(?:manylinux\d*|musllinux|linux)(?:_\d+)*", "darwin": r"macosx(?:_\d+)*", "win32": "win"}
# platform.machine() writes these otherwise than the tags of its system do.
_MACHINES = {
    ("win32", "amd64"): ("AMD64",),
    ("win32", "arm64"): ("ARM64",),
    ("darwin", "universal2"): ("arm64", "x86_64"),
}


@dataclass(frozen=True, order=True)
class Platform:
    """A platform: `system` as sys.platform says it, `machine` as platform.machine() does."""

    system: str
    machine: str

    def __str__(self) -> str:
        names = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
        return f"{names[self.system]} {self.machine}"


def of_wheel(name: str) -> frozenset[Platform]:
    """The platforms of a wheel by its file name; none for one that is for all of them, or for a kind not known here."""
    platforms = set()
    for tag in name.removesuffix(".whl").rpartition("-")[2].split("."):
        for system, pattern in _SYSTEMS.items():
            match = re.fullmatch(rf"{pattern}_(\w+)", tag)
            if match:
                machines = _MACHINES.get((system, match[1]), (match[1],))
                platforms |= {Platform(system, machine) for machine in machines}
    return frozenset(platforms)


def machine_of_wheel(name: str) -> Machine:
    """The machine whose libraries a wheel has, by its file name: the first that is known, or else x86-64."""
    of_linux = {platform.machine for platform in of_wheel(name) if platform.system == "linux"}
    for machine in MACHINES:
        if machine.name in of_linux:
            return machine
    return X86_64


def of_machine(machine: Machine) -> Platform:
    """Linux on a machine."""
    return Platform("linux", machine.name)


def machine_of(platform: Platform) -> Machine:
    """The machine of a platform, whatever the system; x86-64 for one that torch has no Linux wheels for."""
    return next((machine for machine in MACHINES if machine.name == platform.machine), X86_64)


def installs_on(name: str, machine: Machine) -> bool:
    """Whether a wheel of that file name is for Linux on a machine, among others."""
    of_name = of_wheel(name)
    return not of_name or of_machine(machine) in of_name


def of_wheels(names: Iterable[str]) -> frozenset[Platform]:
    """The platforms that one of several wheels is for; none where one of them is for all."""
    platforms = [of_wheel(name) for name in names]
    return frozenset().union(*platforms) if all(platforms) else frozenset()


def marker(platforms: Iterable[Platform]) -> str:
    """The environment marker that is true on these platforms; empty for none, which stands for all."""
    each = []
    for platform in sorted(platforms):
        each.append(f'sys_platform == "{platform.system}" and platform_machine == "{platform.machine}"')
    return each[0] if len(each) == 1 else " or ".join(f"({text})" for text in each)
