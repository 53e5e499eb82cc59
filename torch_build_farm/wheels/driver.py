"""Stubs of the libraries that come with NVIDIA's driver, which machines without a GPU do not have.

The driver brings libcuda.so.1 and libnvidia-ml.so.1; neither the CUDA toolkit's wheels nor torch's have them. An
extension that calls the driver links against a stub, as with the CUDA toolkit's own (its manual, "lib64/stubs"), and
beside another stub it is imported where there is no GPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from torch_build_farm.core.machine import ARM64, Machine
from torch_build_farm.core.resources import DATA
from torch_build_farm.wheels.elf import library as elf
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.stub import Stub, assemble
from torch_build_farm.wheels.elf.symbol import Kind
from torch_build_farm.wheels.platforms import machine_of_wheel
from torch_build_farm.wheels.wheel import Wheel, opened

_FUNCTION = Kind(2, 1, 0)  # STT_FUNC, STB_GLOBAL
_LINK_REFUSAL = "this is a stub for linking and not the library of NVIDIA's driver"


@dataclass(frozen=True)
class _DriverLibrary:
    """What a library of the driver exports, as a pattern, and what its functions return where there is no driver."""

    names: re.Pattern[str]
    status: int


_LIBRARIES = {
    "libcuda.so.1": _DriverLibrary(
        re.compile(r"cu[A-Z]\w*", re.ASCII), 34
    ),  # CUDA_ERROR_STUB_LIBRARY, as NVIDIA's own stub
    "libnvidia-ml.so.1": _DriverLibrary(re.compile(r"nvml[A-Z]\w*", re.ASCII), 12),  # NVML_ERROR_LIBRARY_NOT_FOUND
}


@cache
def link_stub(machine: Machine) -> bytes:
    """libcuda.so for linkers of `machine`, with the names of CUDA 12.8 to 13.2. No loader takes it for the driver's."""
    lines = (DATA / "cuda-driver.txt").read_text("utf-8").splitlines()
    names = dict.fromkeys((line for line in lines if not line.startswith("#")), _FUNCTION)
    return assemble(Stub("libcuda.so.1", (), names, _LINK_REFUSAL, machine=machine))


def import_stubs(libraries: Iterable[bytes], machine: Machine) -> dict[str, bytes]:
    """A stub of each of the driver's libraries that these ELF libraries for `machine` need, by its file name.

    It has the names that they ask for; every function returns an error.
    """
    needed: set[str] = set()
    undefined: set[str] = set()
    for content in libraries:
        try:
            library = elf.read(content, machine)
        except ElfError:  # code for GPUs, or a library of another machine: nothing here loads it
            continue
        needed.update(library.needed)
        undefined |= library.undefined_names
    stubs = {}
    for soname in sorted(needed & _LIBRARIES.keys()):
        of_driver = _LIBRARIES[soname]
        names = {name: _FUNCTION for name in undefined if of_driver.names.fullmatch(name)}
        code = _returning(of_driver.status, machine)
        stubs[soname] = assemble(Stub(soname, (), names, refusal="", code=code, machine=machine))
    return stubs


def of_wheel(wheel: Wheel) -> dict[str, bytes]:
    """`import_stubs` of the wheel's libraries."""
    if not any(name in _LIBRARIES for library in wheel.libraries for name in library.needed):
        return {}
    with opened(wheel.path) as archive:
        contents = (archive.read(library.path) for library in wheel.libraries)
        return import_stubs(contents, machine_of_wheel(wheel.path.name))


def _returning(status: int, machine: Machine) -> bytes:
    """Machine code of a function that returns `status`, which has up to 16 bits.

    x86-64: mov eax, STATUS; ret. arm64: movz w0, STATUS; ret (Arm's manual of the A64 instructions).
    """
    if machine == ARM64:
        return (0x52800000 | status << 5).to_bytes(4, "little") + (0xD65F03C0).to_bytes(4, "little")
    return b"\xb8" + status.to_bytes(4, "little") + b"\xc3"


def stand_in(stubs: Mapping[str, bytes], folder: Path, runs: Callable[[str], bool]) -> tuple[str, ...]:
    """Write the stubs of those libraries that are not here into a new `folder`; returns their names.

    `runs` says whether a statement of Python succeeds where the libraries are to be loaded.
    """
    lacking = [soname for soname in stubs if not runs(f"import ctypes; ctypes.CDLL({soname!r})")]
    if lacking:
        folder.mkdir()
        for soname in lacking:
            (folder / soname).write_bytes(stubs[soname])
    return tuple(lacking)


def beside(folder: Path) -> list[str]:
    """The words before a command that make the loader look into `folder` for the driver's libraries.

    Images may have an LD_LIBRARY_PATH of their own, as manylinux's do.
    """
    script = 'export LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" && shift && exec "$@"'
    return ["sh", "-c", script, "sh", str(folder)]
