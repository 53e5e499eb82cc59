"""Reading ELF libraries: what is there is found, and what is damaged is refused."""

from __future__ import annotations

import os
import random
import struct
import sysconfig
from pathlib import Path

import pytest

from tests.elves import library
from tests.hostile.elf import exporting_ends_of_one_string, one_string, overlapping_versions
from torch_build_farm.core.machine import ARM64
from torch_build_farm.releases.header_lines import header_lines_in
from torch_build_farm.wheels.elf import library as elf
from torch_build_farm.wheels.elf import partial
from torch_build_farm.wheels.elf.gnu_hash import gnu_table, sysv_table
from torch_build_farm.wheels.elf.headers import ElfError, identify, read_headers
from torch_build_farm.wheels.elf.library import Undefined
from torch_build_farm.wheels.elf.partial import Parts
from torch_build_farm.wheels.elf.sections import sections
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


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"\x7fELG" + MADE[4:20], id="another magic"),
        pytest.param(MADE[:19], id="too short"),
        pytest.param(MADE[:4] + b"\x03" + MADE[5:20], id="neither 32 nor 64 bits"),
        pytest.param(MADE[:5] + b"\x00" + MADE[6:20], id="no byte order"),
    ],
)
def test_files_that_only_begin_as_one(start: bytes) -> None:
    with pytest.raises(ElfError, match="it is not an ELF file"):
        identify(start)


@pytest.mark.parametrize(("position", "value"), [(4, b"\x01"), (5, b"\x02")], ids=["32 bits", "big-endian"])
def test_files_of_another_class_or_byte_order(position: int, value: bytes) -> None:
    other = MADE[:position] + value + MADE[position + 1 :]
    assert not identify(other[:20]).is_64_bit_little_endian
    with pytest.raises(ElfError, match="it is not a 64-bit little-endian ELF file"):
        read_headers(lambda start, size: other[start : start + size], len(other))


def test_headers_that_are_cut_off() -> None:
    for length in range(64):
        with pytest.raises(ElfError, match=r"it is not (an|a 64-bit little-endian) ELF file"):
            read_headers(lambda start, size: MADE[start : start + size], length)


def test_a_dynamic_table_that_refers_to_what_is_not_loaded() -> None:
    headers = read_headers(lambda start, size: MADE[start : start + size], len(MADE))
    with pytest.raises(ElfError, match="refers to 8 bytes at 0x10000000, which are not loaded"):
        headers.offset(0x1000_0000, 8)


def test_names_that_are_not_utf_8() -> None:
    """The linker takes any bytes, and patchelf has to get the same."""
    content = library(needed=["libX.so"], run_path="$ORIGIN/X").replace(b"X", b"\xff")
    read = read_library("x.so", content)
    assert read is not None
    assert [os.fsencode(text) for text in (*read.needed, *read.run_paths)] == [b"lib\xff.so", b"$ORIGIN/\xff"]


def test_other_machines_and_programs() -> None:
    with pytest.raises(elf.OtherMachineError, match=r"a library for arm64, not for x86-64") as caught:
        elf.read(library(machine=183))
    assert caught.value.machine == "arm64"
    with pytest.raises(elf.OtherMachineError, match=r"a library for RISC-V, not for arm64"):
        elf.read(library(machine=243), ARM64)
    assert elf.read(library(["a"], machine=183), ARM64).undefined_names == {"a"}
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


class TestBounds:
    """What a file states decides neither how long it is read nor how much memory that takes."""

    def test_many_names_that_are_ends_of_one_string(self) -> None:
        assert len(elf.read(one_string(200, 2000)).undefined) == 200, "some of it is allowed"
        for content in (one_string(1000, 20_000), overlapping_versions(3000, 20_000)):
            assert len(content) < 120_000
            with pytest.raises(ElfError, match="much longer than the file"):
                elf.read(content)
        parts = Parts(len(content := exporting_ends_of_one_string(1000, 20_000)))
        parts.add(0, content)
        with pytest.raises(ElfError, match="much longer than its table"):
            partial.exported(parts)

    def test_more_segments_than_a_file_can_have(self) -> None:
        content = bytearray(MADE + bytes(64))
        struct.pack_into("<Q", content, 0x28, len(MADE))  # e_shoff
        struct.pack_into("<4H", content, 0x36, 56, 0xFFFF, 64, 1)  # e_phentsize, e_phnum (PN_XNUM) and so on
        struct.pack_into("<I", content, len(MADE) + 44, 2**32 - 1)  # sh_info of section 0: the segments' number
        assert len(content) < 1500
        for read in (elf.read, lambda data: read_library("x.so", data)):
            with pytest.raises(ElfError, match="more segments"):
                read(bytes(content))
        struct.pack_into("<2H", content, 0x36, 0, 1000)
        with pytest.raises(ElfError, match="shorter ones"):
            elf.read(bytes(content))

    def test_a_dynamic_table_longer_than_linkers_write(self) -> None:
        content = bytearray(MADE + bytes(2 << 20))
        struct.pack_into("<Q", content, 64 + 56 + 32, 2 << 20)  # the size of the second segment, PT_DYNAMIC
        with pytest.raises(ElfError, match="longer than any linker"):
            elf.read(bytes(content))

    def test_a_hash_table_of_more_symbols_than_the_file(self) -> None:
        # One bucket, whose chain begins with symbol 1 and has no end.
        gnu = struct.pack("<5I", 1, 1, 0, 0, 1) + bytes(40_000)
        for most in (1000, 0):
            with pytest.raises(ValueError, match="more symbols than the file"):
                gnu_table(lambda offset, size: gnu[offset : offset + size], 0, most)
        sysv = struct.pack("<2I", 0, 9999) + bytes(40_000)
        with pytest.raises(ValueError, match="more symbols than the file"):
            sysv_table(lambda offset, size: sysv[offset : offset + size], 0, 1000)

    @pytest.mark.parametrize("field", ["soname", "needed", "run_path"])
    def test_names_of_files_that_no_loader_takes(self, field: str) -> None:
        name = "libx" + "1" * 5000
        content = library(["a"], **{field: [name] if field == "needed" else name})  # type: ignore[arg-type]
        with pytest.raises(ElfError, match="more characters than the loader"):
            elf.read(content)

    def test_lines_of_headers(self) -> None:
        good = b'include/c10/core/a.h":12'
        assert header_lines_in(b"/x/" + good + b"\0") == {("c10/core/a.h", 12)}
        assert header_lines_in(b"include/c10/" * 200_000 + good) >= set(), (
            "each beginning is followed a little way only"
        )
        many = b"".join(b'include/c10/a%d.h":1\0' % number for number in range(50_001))
        with pytest.raises(ValueError, match="more lines"):
            header_lines_in(many)

    def test_sections_by_name(self) -> None:
        found = sections(REAL[0].read_bytes())
        assert found[".dynstr"].startswith(b"\0")
        assert found[".bss"] == b""
        with pytest.raises(ElfError):
            sections(b"text")
        assert sections(MADE) == {}

    @pytest.mark.parametrize(
        ("count", "size", "names", "reason"),
        [(0, 2**40, 0, "headers"), (0xFFFF, 0, 0, "headers"), (1, 0, 5, "headers"), (2, 1 << 20, 0, "its sections")],
        ids=["a number of sections in section 0", "many sections", "no section of names", "sections over sections"],
    )
    def test_sections_that_are_not_there(self, count: int, size: int, names: int, reason: str) -> None:
        content = bytearray(MADE + bytes(64 * 2))
        struct.pack_into("<Q", content, 0x28, len(MADE))
        struct.pack_into("<3H", content, 0x3A, 64, count, names)
        struct.pack_into("<Q", content, len(MADE) + 32, size)
        with pytest.raises(ElfError, match=reason):
            sections(bytes(content))
