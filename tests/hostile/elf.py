"""ELF libraries, damaged where counts, offsets and sizes are, and some whose names are each other's ends."""

from __future__ import annotations

import random
import string
import struct
import sysconfig
from pathlib import Path

from tests.elves import library
from tests.hostile.damage import damage
from tests.torch_like import Library
from torch_build_farm.audit.demangle import demangled
from torch_build_farm.core.errors import AuditError
from torch_build_farm.releases.header_lines import header_lines_in
from torch_build_farm.wheels.elf import library as elf
from torch_build_farm.wheels.elf import partial
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.partial import Missing, Parts
from torch_build_farm.wheels.elf.sections import sections
from torch_build_farm.wheels.wheel import read_library

_REAL = min(Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so"), key=lambda path: path.stat().st_size)
_NUMBERS = (0, 1, 2, 0xFF, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def _valid(chance: random.Random) -> bytes:
    if chance.random() < 0.2:
        return _REAL.read_bytes()
    if chance.random() < 0.3:
        return Library(["one", "two", "_ZN3c107SymIntE"], text=1000, gnu=chance.random() < 0.5).content()
    versioned = {"memcpy": ("libc.so.6", "GLIBC_2.14"), "stat": ("libc.so.6", "GLIBC_2.33")}
    return library(
        ["_ZN3c101aEv", "PyInit"], ["_ZN4demo1fEv"], weak=["maybe"], versioned=versioned, soname="libdemo.so"
    )


def numbers_changed(content: bytes, chance: random.Random) -> bytes:
    """A valid library with one to six numbers of its headers or tables replaced by what means much."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        size = chance.choice((2, 4, 8))
        # Headers and tables are at the start of small libraries, and at the end of real ones.
        reach = min(len(changed), 1 << 12) - size
        place = chance.randrange(0, reach, 2)
        if chance.random() < 0.5:
            place = len(changed) - size - place
        number = chance.choice((*_NUMBERS, len(changed), chance.randrange(len(changed))))
        changed[place : place + size] = (number & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(changed)


def _dynamic(content: bytearray) -> dict[int, tuple[int, int]]:
    """By tag where the entry of the dynamic table of a library of `tests.elves` is, and its value."""
    (start,) = struct.unpack_from("<Q", content, 64 + 56 + 8)  # the second program header
    entries = {}
    for place in range(start, len(content) - 15, 16):
        tag, value = struct.unpack_from("<2Q", content, place)
        if not tag:
            break
        entries[tag] = (place, value)
    return entries


def one_string(count: int, length: int) -> bytes:
    """A library with `count` undefined names, each of which is the end of one string of `length` characters."""
    content = bytearray(library([f"n{number:07}" for number in range(count)], soname="x" * length))
    entries = _dynamic(content)
    symbols, (_, long_name) = entries[6][1], entries[14]
    for number in range(count):
        struct.pack_into("<I", content, symbols + 24 * (number + 1), long_name + number % length)
    return bytes(content)


def exporting_ends_of_one_string(count: int, length: int) -> bytes:
    """The same for names that the library exports; the hash table is theirs, and so are the symbols' positions."""
    content = bytearray(library([], [f"n{number:07}" for number in range(count)], soname="x" * length))
    entries = _dynamic(content)
    symbols, (_, long_name) = entries[6][1], entries[14]
    for number in range(count):
        struct.pack_into("<I", content, symbols + 24 * (number + 1), long_name + number % length)
    return bytes(content)


def overlapping_versions(count: int, length: int) -> bytes:
    """A chain of `count` needed versions, each of which names the same long string as its file and its name."""
    start = library(["a"], soname="x" * length, versioned={"m": ("libc.so.6", "V")})
    chain = struct.pack("<HHIII", 1, count, 0, 16, 0)
    content = bytearray(
        library(["a"], soname="x" * length, versioned={"m": ("libc.so.6", "V")}, more=bytes(16 * count + 16))
    )
    entries = _dynamic(content)
    _, long_name = entries[14]
    place = len(start)
    struct.pack_into("<HHIII", content, place, 1, count, long_name, 16, 0)
    for number in range(count):
        struct.pack_into("<IHHII", content, place + len(chain) + 16 * number, 0, 0, number, long_name + number, 16)
    struct.pack_into("<2Q", content, entries[0x6FFFFFFE][0], 0x6FFFFFFE, place)
    return bytes(content)


def mangled(chance: random.Random) -> str:
    """A mangled name whose parts refer to each other, often twice."""
    digits = string.digits + string.ascii_uppercase
    name = "_Z1f1AIiiE"
    for _ in range(chance.randint(1, 60)):
        one, two = chance.choice(digits), chance.choice(digits)
        name += chance.choice(
            [f"S_IS{one}_S{two}_E", f"S_IS{one}_S{one}_E", "P" * 50, "cv" * 20, f"DpT{one}_", "N1aE", "J"]
        )
    return name


def examples(seed: int) -> bytes:
    """A library, or a name."""
    chance = random.Random(seed)
    kind = chance.random()
    if kind < 0.02:
        return mangled(chance).encode()
    if kind < 0.5:
        return numbers_changed(_valid(chance), chance)
    if kind < 0.75:
        return damage(_valid(chance), chance)
    return _bomb(chance.randrange(7), chance.choice((100, 2000, 30_000)))


def _bomb(kind: int, size: int) -> bytes:
    if kind == 0:
        return one_string(size // 4, size * 3)
    if kind == 1:
        return overlapping_versions(size // 4, size * 3)
    if kind == 2:
        return library(["a"], more=b"include/c10/" * size)
    if kind == 3:
        return library(["a"], needed=["lib" + "1" * size])
    run_path = "/nvidia" * size if kind == 4 else ""
    return library(["_ZN" + ("6Tensor" if kind == 5 else "SSSS") * size + "E"], run_path=run_path)


def check(data: bytes, folder: Path) -> None:
    if data.startswith(b"_Z"):
        demangled(data.decode())
        return
    parts = Parts(len(data))
    parts.add(0, data)
    readers = (elf.read, header_lines_in, sections, lambda content: read_library("a", content))
    for read in (*readers, lambda _: partial.exported(parts)):
        try:
            read(data)
        except (ElfError, Missing, ValueError) as error:
            failure = error
        else:
            continue
        if not isinstance(failure, ElfError | Missing) and read is not header_lines_in:
            raise failure
    try:
        elf.read(data)
    except ElfError as error:
        raise AuditError(str(error)) from error
