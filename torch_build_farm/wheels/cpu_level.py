"""Which level of x86-64 CPUs the code of a library takes for granted.

The levels are those of the x86-64 psABI ("Micro-Architecture Levels"): -march=native and -mavx2 make a compiler use
instructions above the first one, and a CPU without them ends the process with SIGILL. Code that asks the CPU first is
sound, as in OpenBLAS or numpy. What cannot be told from a library in general can be told in three cases:

- Code that runs as the library loads has nobody before it who asks.
- A library that never asks, neither by the instruction CPUID nor by a function for it, uses all of its code anyway.
- A library without SSE code was compiled for AVX as a whole, also the part that asks.

Measured on 230 libraries of numpy, scipy, pyarrow, OpenCV, faiss, FFmpeg, blake3, simsimd, torchvision and torch: those
with AVX all ask, none of it is in code that runs as they load, and they have at least 21 instructions of SSE for 100 of
AVX. numpy and pyarrow take the second level for granted, and are found to.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from torch_build_farm.wheels.elf.headers import SYMBOL, identify
from torch_build_farm.wheels.elf.sections import Section, read_sections

if TYPE_CHECKING:
    from iced_x86 import Instruction

LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
# Of CPUID's features those that the psABI's table names, by the number of the level that brings them.
_FEATURES = {
    1: ("SSE3", "SSSE3", "SSE4_1", "SSE4_2", "POPCNT", "CMPXCHG16B"),
    2: ("AVX", "AVX2", "BMI1", "BMI2", "F16C", "FMA", "LZCNT", "MOVBE"),
    3: ("AVX512F", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512VL"),
}
_AVX = 2
# Functions by which libgcc, glibc, cpuinfo, Arrow, FFmpeg and torch tell what a CPU has.
_ASKS = re.compile(
    rb"(?i)cpu_?(info|model|flags|features|indicator|id|capability|supports)|is_(avx|amx|sse)\w*supported"
)
_LEAST_AVX = 50  # instructions, below which the share of SSE says nothing
_LEAST_SSE = 0.05  # instructions of SSE for one of AVX in a library that dispatches
_LONGEST_FUNCTION = 1 << 16  # bytes
_X86_64 = 62  # EM_
_RELATIVE = 8  # R_X86_64_RELATIVE


@dataclass(frozen=True)
class CpuLevel:
    """The level that a library takes for granted, and why it does; `reason` is empty for the first level."""

    level: str = LEVELS[0]
    reason: str = ""

    @property
    def number(self) -> int:
        """The level's place in LEVELS."""
        return LEVELS.index(self.level)


def read_cpu_level(content: bytes) -> CpuLevel:
    """The level that a library takes for granted, the first for one without section headers or for another machine.

    Its time grows with the code: 10 MB take about a second. Raises ElfError for a damaged file.
    """
    identity = identify(content[:20])
    if not identity.is_64_bit_little_endian or identity.machine != _X86_64:
        return CpuLevel()
    sections = read_sections(content)
    code = [section for section in sections if section.executable]

    reasons: list[tuple[int, str]] = []
    for address in _run_at_load(sections):
        level, example = _highest_level(_function(code, address))
        reasons.append((level, f"in code that runs as it loads ({example})"))
    swept = _sweep(code)
    if not swept.asks and not _asks_by_function(sections):
        reasons.append((swept.level, f"and never asks which CPU it runs on ({swept.example})"))
    if swept.avx >= _LEAST_AVX and swept.sse < swept.avx * _LEAST_SSE:
        reasons.append((_AVX, f"throughout ({swept.example})"))
    level, reason = max(reasons, key=lambda entry: entry[0], default=(0, ""))
    return CpuLevel(LEVELS[level], reason if level else "")


@cache
def _level_of_features(code: int) -> tuple[int, bool]:
    """The level of an instruction code of iced's, and whether it is SSE's of the first level."""
    # Imported here: only builds need it.
    from iced_x86 import CpuidFeature, Instruction, Mnemonic  # noqa: PLC0415

    instruction = Instruction.create(code)  # type: ignore[arg-type]  # at runtime its codes are numbers
    # On a CPU without BMI1, TZCNT is BSF: compilers write it into code for every CPU.
    if instruction.mnemonic == Mnemonic.TZCNT:
        return 0, False
    names = {value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)}
    features = {names[feature] for feature in instruction.cpuid_features()}
    levels = [0]
    for level, names_of_level in _FEATURES.items():
        if features.intersection(names_of_level):
            levels.append(level)
    if any(feature.startswith("AVX512") for feature in features):
        levels.append(max(_FEATURES))
    return max(levels), max(levels) == 0 and bool(features & {"SSE", "SSE2"})


def _highest_level(instructions: Iterator[Instruction]) -> tuple[int, str]:
    """The highest level among instructions, and the first instruction of that level as text."""
    level, example = 0, ""
    for instruction in instructions:
        level_here = _level_of_features(instruction.code)[0]
        if level_here > level:
            level, example = level_here, str(instruction)
    return level, example


@dataclass
class _Sweep:
    level: int = 0
    example: str = ""
    sse: int = 0
    avx: int = 0
    asks: bool = False


def _sweep(code: Sequence[Section]) -> _Sweep:
    """All instructions of a library, one behind the other."""
    from iced_x86 import Decoder, Instruction, Mnemonic  # noqa: PLC0415

    sweep = _Sweep()
    instruction = Instruction()
    for section in code:
        decoder = Decoder(64, section.content)
        while decoder.can_decode:
            # Into the same object: half the time of a new one for each of millions.
            decoder.decode_out(instruction)
            level, is_sse = _level_of_features(instruction.code)
            sweep.sse += is_sse
            sweep.avx += level >= _AVX
            if level > sweep.level:
                sweep.level, sweep.example = level, str(instruction)
            elif instruction.mnemonic == Mnemonic.CPUID:
                sweep.asks = True
    return sweep


def _run_at_load(sections: Sequence[Section]) -> list[int]:
    """Addresses of the functions that run as a library is loaded and as Python imports it."""
    by_name = {section.name: section for section in sections}
    addresses = []
    initializers = by_name.get(".init_array")
    if initializers:
        relocated = {}
        for section in sections:
            if section.name == ".rela.dyn":
                whole = len(section.content) // 24 * 24
                for place, info, addend in struct.iter_unpack("<QQq", section.content[:whole]):
                    if info == _RELATIVE:
                        relocated[place] = addend
        for offset in range(0, len(initializers.content) // 8 * 8, 8):
            (stored,) = struct.unpack_from("<Q", initializers.content, offset)
            # Without such an entry the relocation is of the packed kind (DT_RELR), which adds to what is stored.
            addresses.append(relocated.get(initializers.address + offset, stored))
    for name, address in _dynamic_symbols(sections):
        if name.startswith(b"PyInit_") and address:
            addresses.append(address)
    return addresses


def _asks_by_function(sections: Sequence[Section]) -> bool:
    """Whether a library calls a function of another one that tells what the CPU has."""
    return any(address == 0 and _ASKS.search(name) for name, address in _dynamic_symbols(sections))


def _dynamic_symbols(sections: Sequence[Section]) -> Iterator[tuple[bytes, int]]:
    """Name and address of each dynamic symbol, 0 of one that another library has."""
    by_name = {section.name: section.content for section in sections}
    symbols, names = by_name.get(".dynsym", b""), by_name.get(".dynstr", b"")
    for name, _, _, _, value, _ in SYMBOL.iter_unpack(symbols[: len(symbols) // SYMBOL.size * SYMBOL.size]):
        yield names[name : names.find(b"\0", name)], value


def _function(code: Sequence[Section], address: int) -> Iterator[Instruction]:
    """The instructions of the function at `address`, up to the end that no jump within it leads past."""
    from iced_x86 import Decoder, FlowControl  # noqa: PLC0415

    for section in code:
        start = address - section.address
        if not 0 <= start < len(section.content):
            continue
        furthest = address
        for instruction in Decoder(64, section.content[start : start + _LONGEST_FUNCTION], ip=address):
            yield instruction
            flow = instruction.flow_control
            if flow == FlowControl.CONDITIONAL_BRANCH:
                furthest = max(furthest, min(instruction.near_branch_target, address + _LONGEST_FUNCTION))
            ends = flow in (FlowControl.RETURN, FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH)
            if ends and instruction.next_ip > furthest:
                return
