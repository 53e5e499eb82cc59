"""What every reader of ELF files here starts with: a file's header, its segments and its dynamic table.

The loader goes by segments, and so do the readers. Sections are for linkers and may be stripped (gABI, "Dynamic
Linking"). `image` has a library that is there as a whole, `partial` one of which only parts are there; `library` reads
what the audit judges.

The readers are own code, although pyelftools and lief read ELF files too, for three reasons. They refuse a file that
contradicts itself, and compare each exported name with the hash table, so that damage to a name is not taken for
another name. `partial` states which bytes it lacks, where the others need the whole file. And they are fast: for the
exported names of libtorch_cpu.so (torch 2.15.0: 448 MB, 74,732 names, 357,548 relocations) `library` takes 0.7 s of CPU
time and `partial` 0.6 s, both in 0.5 GB of memory, most of it the file; pyelftools 0.33 takes 10.6 s for the same
names, and lief 1.0 takes 22 s and 1.1 GB, or 2.6 s and 0.95 GB without the relocations, which `library` reads too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"\x7fELF"
SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, section index, value, size
_HEADER_SIZE = 64  # bytes of Elf64_Ehdr
_SEGMENT_SIZE = 56  # bytes of Elf64_Phdr
_LOAD, _DYNAMIC = 1, 2  # PT_
_64_BIT, _LITTLE_ENDIAN = 2, 1  # ELFCLASS64, ELFDATA2LSB
_MOST_SEGMENTS = 1170  # 64 KiB of program headers, the most that Linux loads; PN_XNUM, which says more, is refused
_MOST_DYNAMIC = 1 << 20  # bytes of the dynamic table; libtorch_cpu.so has 700

Read = Callable[[int, int], bytes]
"""Gives bytes of a file by their offset and number. Raises an exception where they are not there."""


class ElfError(ValueError):
    """The file contradicts itself, or is not an ELF file of the kind that the reader reads."""


class Tag(IntEnum):
    """Tags of the dynamic table: gABI, "Dynamic Section", and from GNU_HASH on the GNU extensions."""

    NULL = 0
    NEEDED = 1
    PLTRELSZ = 2
    PLTGOT = 3
    HASH = 4
    STRTAB = 5
    SYMTAB = 6
    RELA = 7
    RELASZ = 8
    STRSZ = 10
    SYMENT = 11
    SONAME = 14
    RPATH = 15
    JMPREL = 23
    RUNPATH = 29
    GNU_HASH = 0x6FFFFEF5
    VERSYM = 0x6FFFFFF0
    FLAGS_1 = 0x6FFFFFFB
    VERDEF = 0x6FFFFFFC
    VERDEFNUM = 0x6FFFFFFD
    VERNEED = 0x6FFFFFFE
    VERNEEDNUM = 0x6FFFFFFF


class Identity(NamedTuple):
    """What a file is for. `file_type` and `machine` are ET_ and EM_ numbers."""

    is_64_bit_little_endian: bool
    file_type: int
    machine: int


class Segment(NamedTuple):
    """A program header: type, and in bytes the offset in the file, the address and the size in the file."""

    kind: int
    offset: int
    address: int
    size: int


def identify(start: bytes) -> Identity:
    """What the first 20 bytes of an ELF file, of any class and byte order, are for. Raises ElfError for other files."""
    if start[:4] != MAGIC or len(start) < 20 or start[4] not in (1, 2) or start[5] not in (1, 2):
        raise ElfError("it is not an ELF file")
    byte_order = "<" if start[5] == _LITTLE_ENDIAN else ">"
    file_type, machine = struct.unpack_from(f"{byte_order}2H", start, 16)
    return Identity((start[4], start[5]) == (_64_BIT, _LITTLE_ENDIAN), file_type, machine)


@dataclass(frozen=True)
class Headers:
    """The headers of a 64-bit little-endian ELF file.

    `section_headers` is their offset: after what the linker wrote, before what patchelf appends; 0 if stripped.
    `section_headers_end` is the offset of the first byte after them.
    """

    segments: tuple[Segment, ...]
    section_headers: int
    section_headers_end: int

    @property
    def loaded(self) -> list[Segment]:
        """The segments that the loader maps into memory, in the file's order."""
        loaded = [segment for segment in self.segments if segment.kind == _LOAD]
        return sorted(loaded, key=lambda segment: segment.offset)

    @property
    def is_dynamic(self) -> bool:
        """Whether the dynamic linker has anything to do for the file."""
        return any(segment.kind == _DYNAMIC for segment in self.segments)

    @property
    def dynamic(self) -> Segment:
        """PT_DYNAMIC. Raises ElfError for a file without it."""
        for segment in self.segments:
            if segment.kind == _DYNAMIC:
                if segment.size > _MOST_DYNAMIC:
                    raise ElfError("its dynamic table is longer than any linker writes")
                return segment
        raise ElfError("it is not a shared library: it has no dynamic segment")

    def offset(self, address: int, size: int = 1) -> int:
        """Where in the file the byte at an address is. Raises ElfError unless `size` bytes from there on are loaded."""
        for segment in self.segments:
            if segment.kind == _LOAD and segment.address <= address <= segment.address + segment.size - size:
                return address - segment.address + segment.offset
        raise ElfError(f"its dynamic table refers to {size} bytes at {address:#x}, which are not loaded from the file")


def read_headers(read: Read, file_size: int) -> Headers:
    """The headers of a file. Raises ElfError for anything but a 64-bit little-endian ELF file."""
    header = read(0, min(_HEADER_SIZE, file_size))
    if len(header) < _HEADER_SIZE or not identify(header).is_64_bit_little_endian:
        raise ElfError("it is not a 64-bit little-endian ELF file")
    program_headers, section_headers = struct.unpack_from("<2Q", header, 32)
    entry_size, count, section_entry_size, section_count = struct.unpack_from("<4H", header, 54)
    if count > _MOST_SEGMENTS or (count and entry_size < _SEGMENT_SIZE):
        raise ElfError("it has more segments than a file can have, or shorter ones")
    segments = []
    for index in range(count):
        # Without its last fields, size in memory and alignment.
        entry = read(program_headers + entry_size * index, 40)
        kind, _flags, offset, address, _physical_address, size = struct.unpack("<2I4Q", entry)
        segments.append(Segment(kind, offset, address, size))
    section_headers_end = section_headers + section_entry_size * section_count
    return Headers(tuple(segments), section_headers, section_headers_end)


def entries(table: bytes) -> Iterator[tuple[int, int]]:
    """Tags and values of a dynamic table, up to DT_NULL."""
    whole_entries = len(table) // 16 * 16
    for tag, value in struct.iter_unpack("<qQ", table[:whole_entries]):
        if tag == Tag.NULL:
            return
        yield tag, value
