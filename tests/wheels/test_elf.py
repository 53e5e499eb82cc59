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


def test_libraries_of_this_interpreter() -> None:
    """Real ones, as linkers write them, without section headers too."""
    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    found = {path.name: elf.read(path.read_bytes()) for path in sorted(folder.glob("*.so"))[:20]}
    assert found
    for name, one in found.items():
        assert f"PyInit_{name.partition('.')[0]}" in one.exported
        assert any(asked.name.startswith("Py") for asked in one.undefined)


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
