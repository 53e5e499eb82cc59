"""The sections of an ELF file by name, for people who compare two files.

Own code although pyelftools reads sections: it goes by the counts that the file states, up to 2**32 sections and
segments of a file of 900 bytes, and inflates what a section says is compressed.
"""

from __future__ import annotations

import struct

from torch_build_farm.wheels.elf.headers import ElfError, identify

_HEADER = struct.Struct("<Q10xHHH")  # Elf64_Ehdr from e_shoff on, without e_flags, e_ehsize, e_phentsize and e_phnum
_SECTION = struct.Struct("<2I4Q2I2Q")  # Elf64_Shdr
_NOBITS = 8  # SHT_NOBITS
_EXTENDED = 0xFFFF  # SHN_XINDEX
_LONGEST_NAME = 256  # bytes


def sections(content: bytes) -> dict[str, bytes]:
    """The content of each section by its name. Raises ElfError for other files, and for one that contradicts itself."""
    if not identify(content[:20]).is_64_bit_little_endian or len(content) < 64:
        raise ElfError("it is not a 64-bit little-endian ELF file")
    offset, entry_size, count, names_section = _HEADER.unpack_from(content, 0x28)
    if not offset:
        return {}
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
    by_name: dict[str, bytes] = {}
    total = 0
    for name, kind, _flags, _address, start, size, *_ in headers:
        data_size = 0 if kind == _NOBITS else size
        total += data_size
        # Sections do not overlap: together they have no more bytes than the file.
        if start + data_size > len(content) or total > len(content) or name >= max(1, names_size):
            raise ElfError("its sections are not in the file")
        text = content[names_start + name : names_start + min(name + _LONGEST_NAME, names_size)].partition(b"\0")[0]
        by_name[text.decode(errors="backslashreplace")] = content[start : start + data_size]
    return by_name
