"""The sections of an ELF file, for people who compare two files and for readers of code.

Own code although pyelftools reads sections: it goes by the counts that the file states, up to 2**32 sections and
segments of a file of 900 bytes, and inflates what a section says is compressed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from torch_build_farm.wheels.elf.headers import ElfError, identify

_HEADER = struct.Struct("<Q10xHHH")  # Elf64_Ehdr from e_shoff on, without e_flags, e_ehsize, e_phentsize and e_phnum
_SECTION = struct.Struct("<2I4Q2I2Q")  # Elf64_Shdr
_NOBITS = 8  # SHT_NOBITS
_EXECUTABLE = 4  # SHF_EXECINSTR
_EXTENDED = 0xFFFF  # SHN_XINDEX
_LONGEST_NAME = 256  # bytes


@dataclass(frozen=True)
class Section:
    """A section. `address` is where the loader puts it, relative to the library's start; 0 for one it does not load."""

    name: str
    address: int
    executable: bool
    content: bytes


def sections(content: bytes) -> dict[str, bytes]:
    """The content of each section by its name. Raises ElfError as `read_sections` does."""
    return {section.name: section.content for section in read_sections(content)}


def read_sections(content: bytes) -> list[Section]:
    """Every section in its order; none of a file whose section headers are stripped.

    Raises ElfError for other files, and for one that contradicts itself.
    """
    if not identify(content[:20]).is_64_bit_little_endian or len(content) < 64:
        raise ElfError("it is not a 64-bit little-endian ELF file")
    offset, entry_size, count, names_section = _HEADER.unpack_from(content, 0x28)
    if not offset:
        return []
    if entry_size != _SECTION.size or offset + entry_size > len(content):
        raise ElfError("its section headers are not in the file")
    first = _SECTION.unpack_from(content, offset)
    # Section 0 has what does not fit into the header (gABI, "ELF Header").
    count = count or first[5]
    names_section = first[6] if names_section == _EXTENDED else names_section
    if offset + entry_size * count > len(content) or not names_section < count:
        raise ElfError("its section headers are not in the file")

    headers = list(_SECTION.iter_unpack(content[offset : offset + entry_size * count]))
    names_start, names_size = headers[names_section][4:6]
    result: list[Section] = []
    total = 0
    for name, kind, flags, address, start, size, *_ in headers:
        data_size = 0 if kind == _NOBITS else size
        total += data_size
        # Sections do not overlap: together they have no more bytes than the file.
        if start + data_size > len(content) or total > len(content) or name >= max(1, names_size):
            raise ElfError("its sections are not in the file")
        text = content[names_start + name : names_start + min(name + _LONGEST_NAME, names_size)].partition(b"\0")[0]
        data = content[start : start + data_size]
        result.append(Section(text.decode(errors="backslashreplace"), address, bool(flags & _EXECUTABLE), data))
    return result
