"""The processor architectures of the Linux machines that wheels are built and judged for: the platforms."""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """An architecture. `name` is what platform.machine() says and wheels' tags end with, `words` what people read.

    `elf_number` is what ELF files state (gABI, `e_machine`); `cross_compiler` is the name of g++ for it on a machine of
    another kind (Debian's packages of cross compilers), `cross_c_compiler` that of gcc.
    """

    name: str
    words: str
    elf_number: int
    cross_compiler: str

    @property
    def cross_c_compiler(self) -> str:
        return f"{self.cross_compiler.removesuffix('g++')}gcc"

    @property
    def suffix(self) -> str:
        """What names of jobs, files and folders end with: nothing for x86-64, as they were before other machines."""
        return "" if self == X86_64 else f"-{self.name}"

    def __str__(self) -> str:
        return self.name


X86_64 = Machine("x86_64", "x86-64", 62, "x86_64-linux-gnu-g++")
ARM64 = Machine("aarch64", "arm64", 183, "aarch64-linux-gnu-g++")
MACHINES = (X86_64, ARM64)


def named(name: str) -> Machine:
    """The machine of that name. Raises KeyError for any other."""
    return {machine.name: machine for machine in MACHINES}[name]


def running() -> Machine:
    """The machine that runs this code; x86-64 for one that torch has no Linux wheels for."""
    names = {machine.name: machine for machine in MACHINES}
    return names.get(platform.machine(), X86_64)
