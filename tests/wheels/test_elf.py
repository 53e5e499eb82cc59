"""Reading ELF libraries: what is there is found, and what is damaged is refused."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest

from tests.elves import library
from torch_build_farm.wheels.elf import library as elf
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.library import Undefined
from torch_build_farm.wheels.wheel import Library, read_library

MADE = library(
    ["_ZN3c101aEv", "PyInit"],
    ["_ZN4demo1fEv", "demo"],
    ["libc10.so", "libc.so.6"],
    weak=["maybe"],
    versioned={"memcpy": ("libc.so.6", "GLIBC_2.14")},
    soname="libdemo.so",
    run_path="$ORIGIN:$ORIGIN/../torch/lib",
)


def test_what_a_library_says() -> None:
    found = elf.read(MADE)
    assert found.soname == "libdemo.so"
    assert found.needed == ("libc10.so", "libc.so.6")
    assert found.run_paths == ("$ORIGIN", "$ORIGIN/../torch/lib")
    assert found.exported == {"_ZN4demo1fEv", "demo"}
    assert found.undefined == (
        Undefined("_ZN3c101aEv", False),
        Undefined("PyInit", False),
        Undefined("maybe", True),
        Undefined("memcpy", False, "GLIBC_2.14", "libc.so.6"),
    )
    assert found.versions == (("libc.so.6", "GLIBC_2.14"),)


REAL = sorted((Path(sysconfig.get_path("stdlib")) / "lib-dynload").glob("*.so"))[:20]


def test_libraries_of_this_interpreter() -> None:
    """Real libraries, as linkers write them, with and without section headers."""
    assert REAL
    for path in REAL:
        content = bytearray(path.read_bytes())
        module = elf.read(bytes(content))
        assert f"PyInit_{path.name.partition('.')[0]}" in module.exported
        assert any(symbol.name.startswith("Py") for symbol in module.undefined)
        content[0x28:0x30] = bytes(8)  # e_shoff
        content[0x3C:0x40] = bytes(4)  # e_shnum, e_shstrndx
        assert elf.read(bytes(content)) == module


def test_a_library_without_its_last_byte() -> None:
    """Nothing reads the section headers at the end; a download that broke off is noticed by them all the same."""
    content = REAL[0].read_bytes()
    with pytest.raises(ElfError, match="cut off"):
        elf.read(content[:-1])
    with pytest.raises(ElfError, match="cut off"):
        read_library("x.so", content[:-1])


def test_a_dynamic_table_without_an_end() -> None:
    assert MADE[-16:] == bytes(16)  # DT_NULL
    with pytest.raises(ElfError, match="does not end"):
        elf.read(MADE[:-16] + (0x6FFFFFF9).to_bytes(8, "little") + bytes(8))  # DT_RELACOUNT


def test_what_the_checks_of_a_wheel_read() -> None:
    assert read_library("x.so", MADE) == Library(
        "x.so", "libdemo.so", ("libc10.so", "libc.so.6"), ("$ORIGIN", "$ORIGIN/../torch/lib")
    )
    assert read_library("x.txt", b"text") is None
    identity = bytearray(MADE)
    identity[4] = 1  # 32 bits
    assert read_library("x.so", bytes(identity)) == Library("x.so", "", (), ())
    identity[4:6] = b"\x02\x02"  # 64 bits, big-endian
    assert read_library("x.so", bytes(identity)) == Library("x.so", "", (), ())
    object_file = bytes([*MADE[:16], 1, *MADE[17:56], 0, *MADE[57:]])  # ET_REL, without segments
    assert read_library("x.o", object_file) == Library("x.o", "", (), ())


def test_cut_off_anywhere() -> None:
    for length in range(len(MADE)):
        with pytest.raises(ElfError):
            elf.read(MADE[:length])


def test_other_machines_and_programs() -> None:
    with pytest.raises(ElfError, match=r"AArch64, not for x86-64"):
        elf.read(library(machine=183))
    with pytest.raises(elf.NotLoadedError):
        elf.read(library(machine=190))  # CUDA
    with pytest.raises(elf.NotLoadedError):
        elf.read(MADE[:16] + b"\x01" + MADE[17:])  # an object file


def test_damaged_symbols_are_never_taken_for_good_ones() -> None:
    """Each changed byte of .dynsym, of the strings or of the hash table is noticed, or changes nothing that is read.

    A name that is asked for may become another name (which torch then lacks), or weak; it must not vanish.
    """
    sound = elf.read(MADE)
    random.seed(1)
    refused = 0
    for _ in range(2000):
        place, value = random.randrange(64, len(MADE)), random.randrange(256)
        damaged = MADE[:place] + bytes([value]) + MADE[place + 1 :]
        try:
            found = elf.read(damaged)
        except ElfError:
            refused += 1
            continue
        assert len(found.undefined) >= len(sound.undefined) or len(found.needed) < len(sound.needed), (place, value)
        assert found.exported <= sound.exported, (place, value)
    assert 500 < refused < 1900, "some changes are noticed, and some change nothing"
