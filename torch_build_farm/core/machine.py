"""The processor architectures of the Linux machines that wheels are judged for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """An architecture. `name` is what platform.machine() says and wheels' tags end with, `words` what people read.

    `elf_number` is what ELF files state (gABI, `e_machine`); `cross_compiler` is the name of g++ for it on a machine of
    another kind (Debian's packages of cross compilers).
    """

    name: str
    words: str
    elf_number: int
    cross_compiler: str


X86_64 = Machine("x86_64", "x86-64", 62, "x86_64-linux-gnu-g++")
ARM64 = Machine("aarch64", "arm64", 183, "aarch64-linux-gnu-g++")
MACHINES = (X86_64, ARM64)


def named(name: str) -> Machine:
    """The machine of that name. Raises KeyError for any other."""
    return {machine.name: machine for machine in MACHINES}[name]
