"""Link stubs: an ELF shared library with another library's SONAME and exported names, and nothing else.

A linker takes from a shared library its SONAME and, of each name, type, binding and, for executables, size (gABI,
"Symbol Table"); its output is the same whether code stands behind the names or not. A stub needs a library that does
not exist, so that no loader ever takes the stub for the real library: the name of the missing library is the sentence
that people then read. Only a stub that is meant to be loaded has no such need, and code behind its functions.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.wheels.elf.gnu_hash import gnu_hash
from torch_build_farm.wheels.elf.headers import MAGIC, ElfError, Tag
from torch_build_farm.wheels.elf.partial import Missing, Parts, exported
from torch_build_farm.wheels.elf.symbol import Kind, kinds_by_name

_PROGBITS, _STRTAB, _DYNSYM, _DYNAMIC, _NOBITS, _GNU_HASH = 1, 3, 11, 6, 8, 0x6FFFFFF6  # SHT_
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 1 << 10  # SHF_
_PT_LOAD, _PT_DYNAMIC, _PT_TLS, _PT_GNU_STACK = 1, 2, 7, 0x6474E551
_PF_EXEC, _PF_WRITE, _PF_READ = 1, 2, 4
_FUNCTION, _TLS_OBJECT, _IFUNC, _NO_TYPE = 2, 6, 10, 0  # STT_
_PAGE, _ALIGN = 4096, 64
_CODE_SIZE = 16  # bytes of address space for each function
_TRAP = b"\xcc"  # int3, behind a function's own code
_SHARED = 3  # ET_


@dataclass(frozen=True)
class Stub:
    """The contents of a stub: `refusal` is the sentence that whoever loads it reads, without a slash in it.

    A stub that is meant to be loaded has an empty `refusal`, and in `code` what each of its functions executes: machine
    code for `machine`, x86-64 then, of up to 16 bytes. `names` are then functions alone.
    """

    soname: str
    needed: tuple[str, ...]
    names: Mapping[str, Kind]
    refusal: str
    code: bytes = b""
    machine: Machine = X86_64

    @property
    def all_needed(self) -> tuple[str, ...]:
        """What DT_NEEDED names, the refusal among it."""
        return (self.refusal, *self.needed) if self.refusal else self.needed


@dataclass(frozen=True)
class _ElfHeader:
    """Elf64_Ehdr of a shared library. The program headers follow it."""

    machine: Machine
    segments: int
    section_headers: int
    sections: int
    section_names: int

    SIZE = 64

    def pack(self) -> bytes:
        identity = MAGIC + bytes([2, 1, 1]) + bytes(9)  # 64-bit, little-endian, version 1, System V
        kind = struct.pack("<2HI", _SHARED, self.machine.elf_number, 1)
        offsets = struct.pack("<3QI", 0, self.SIZE, self.section_headers, 0)  # entry point, headers, flags
        sizes = (self.SIZE, _ProgramHeader.SIZE, self.segments, _SectionHeader.SIZE, self.sections, self.section_names)
        return identity + kind + offsets + struct.pack("<6H", *sizes)


@dataclass(frozen=True)
class _ProgramHeader:
    """Elf64_Phdr; the physical address is the address. Offset, address and sizes in bytes."""

    kind: int
    flags: int
    offset: int
    address: int
    size_in_file: int
    size_in_memory: int
    alignment: int

    SIZE = 56

    def pack(self) -> bytes:
        places = (self.offset, self.address, self.address)
        return struct.pack(
            "<2I6Q", self.kind, self.flags, *places, self.size_in_file, self.size_in_memory, self.alignment
        )


@dataclass(frozen=True)
class _SectionHeader:
    """Elf64_Shdr. `name` is a position in .shstrtab, `link` the number of a section."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int = 0
    info: int = 0
    alignment: int = _ALIGN
    entry_size: int = 0

    SIZE = 64

    def pack(self) -> bytes:
        places = (self.address, self.offset, self.size)
        relations = struct.pack("<2I2Q", self.link, self.info, self.alignment, self.entry_size)
        return struct.pack("<2I4Q", self.name, self.kind, self.flags, *places) + relations


@dataclass(frozen=True)
class _SymbolEntry:
    """Elf64_Sym. `name` is a position in .dynstr, `section` the number of a section."""

    name: int
    kind: Kind
    section: int
    value: int

    SIZE = 24

    def pack(self) -> bytes:
        info = self.kind.binding << 4 | self.kind.kind
        return struct.pack("<IBBHQQ", self.name, info, 0, self.section, self.value, self.kind.size)


class _Strings:
    """A string table in the making."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        """The position of the new string."""
        position = len(self.data)
        self.data += text.encode(errors="surrogateescape") + b"\0"
        return position


def _hashed(names: Sequence[str]) -> tuple[list[str], bytes]:
    """The names in the order of .gnu.hash, from symbol 1 on, and that section (glibc's elf/dl-lookup.c)."""
    bucket_count = max(1, len(names) // 4)
    hashes = {name: gnu_hash(name.encode(errors="surrogateescape")) for name in names}
    ordered = sorted(names, key=lambda name: (hashes[name] % bucket_count, name))
    word_count = 1 << max(0, (len(names) // 16).bit_length())
    bloom = [0] * word_count
    buckets = [0] * bucket_count  # the number of each bucket's first symbol
    chain = []
    for number, name in enumerate(ordered, 1):
        value = hashes[name]
        # The Bloom filter has two bits for each name, and 6 is its shift.
        bloom[value // 64 % word_count] |= 1 << value % 64 | 1 << (value >> 6) % 64
        bucket = value % bucket_count
        if not buckets[bucket]:
            buckets[bucket] = number
        # The lowest bit marks the last symbol of a bucket.
        is_last = number == len(ordered) or hashes[ordered[number]] % bucket_count != bucket
        chain.append(value & ~1 | is_last)
    head = struct.pack("<4I", bucket_count, 1, word_count, 6)
    return ordered, head + struct.pack(f"<{word_count}Q{bucket_count}I{len(chain)}I", *bloom, *buckets, *chain)


# The sections in their order, by number, since they refer to each other by it.
_HASH, _SYMBOLS, _NAMES, _DYN, _TEXT, _DATA, _THREAD, _SECTION_NAMES = range(1, 9)


class _Places:
    """An address of its own for each name, so that none looks like another's alias."""

    def __init__(self) -> None:
        self.sizes = {_TEXT: 0, _DATA: 0, _THREAD: 0}

    def next(self, kind: Kind) -> tuple[int, int]:
        """Section and offset in it."""
        size = _round_up(max(kind.size, 1), _ALIGN)
        if kind.kind in (_FUNCTION, _IFUNC, _NO_TYPE):
            section, size = _TEXT, _CODE_SIZE
        elif kind.kind == _TLS_OBJECT:
            section = _THREAD
        else:
            section = _DATA
        offset = self.sizes[section]
        self.sizes[section] += size
        return section, offset


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _ALIGN)


def assemble(stub: Stub) -> bytes:
    """The stub's bytes, which depend on nothing but its parts."""
    names, hash_table = _hashed(sorted(stub.names))
    strings, places = _Strings(), _Places()
    places_of_names = []
    for name in names:
        section, offset = places.next(stub.names[name])
        places_of_names.append((strings.add(name), stub.names[name], section, offset))
    tags: list[tuple[int, int]] = []
    for library in stub.all_needed:
        tags.append((Tag.NEEDED, strings.add(library)))
    tags.append((Tag.SONAME, strings.add(stub.soname)))

    # The parts in the file follow each other; addresses are offsets.
    has_thread_variables = places.sizes[_THREAD] > 0
    segment_count = 4 + has_thread_variables + bool(stub.code)
    head_size = _round_up(_ElfHeader.SIZE + _ProgramHeader.SIZE * segment_count, _ALIGN)
    symbols_size = _SymbolEntry.SIZE * (len(places_of_names) + 1)
    dynamic_size = 16 * (len(tags) + 5)  # five more follow below
    address = {_HASH: head_size}
    address[_SYMBOLS] = _round_up(address[_HASH] + len(hash_table), _ALIGN)
    address[_NAMES] = _round_up(address[_SYMBOLS] + symbols_size, _ALIGN)
    address[_DYN] = _round_up(address[_NAMES] + len(strings.data), _ALIGN)
    end = address[_DYN] + dynamic_size

    # The file has no bytes for data, and for code only where some is wanted: only addresses behind its end.
    address[_TEXT] = _round_up(end, _PAGE)
    address[_DATA] = _round_up(address[_TEXT] + places.sizes[_TEXT], _PAGE)
    address[_THREAD] = address[_DATA] + places.sizes[_DATA]

    packed_symbols = [bytes(_SymbolEntry.SIZE)]  # symbol 0 is undefined
    for position, kind, section, offset in places_of_names:
        # A thread's variables count from the start of its block.
        start = 0 if section == _THREAD else address[section]
        packed_symbols.append(_SymbolEntry(position, kind, section, start + offset).pack())
    symbols = b"".join(packed_symbols)
    tags += [
        (Tag.GNU_HASH, address[_HASH]),
        (Tag.STRTAB, address[_NAMES]),
        (Tag.SYMTAB, address[_SYMBOLS]),
        (Tag.STRSZ, len(strings.data)),
        (Tag.NULL, 0),
    ]
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    contents = {_HASH: hash_table, _SYMBOLS: symbols, _NAMES: bytes(strings.data), _DYN: dynamic}
    body = bytes(head_size) + b"".join(map(_padded, contents.values()))
    sizes = {number: len(content) for number, content in contents.items()} | places.sizes
    code = stub.code.ljust(_CODE_SIZE, _TRAP) * (sizes[_TEXT] // _CODE_SIZE) if stub.code else b""
    segments = _segments(len(body), len(code), address, sizes)
    if code:
        body = body.ljust(address[_TEXT], b"\0") + code
    return _file(stub.machine, body, segments, address, sizes, has_code=bool(code))


def _segments(
    body_size: int, code_size: int, address: Mapping[int, int], size: Mapping[int, int]
) -> list[_ProgramHeader]:
    """The program headers; `address` and `size` are those of the sections by their numbers.

    `body_size` and `code_size` are how many bytes the file has of headers and tables, and of code.
    """
    data_flags, text_flags = _PF_READ | _PF_WRITE, _PF_READ | _PF_EXEC
    text = address[_TEXT] if code_size else 0
    dynamic = address[_DYN]
    segments = [
        _ProgramHeader(_PT_LOAD, data_flags, 0, 0, body_size, body_size, _PAGE),
        _ProgramHeader(_PT_LOAD, text_flags, text, address[_TEXT], code_size, size[_TEXT], _PAGE),
        _ProgramHeader(_PT_LOAD, data_flags, 0, address[_DATA], 0, size[_DATA], _PAGE),
        _ProgramHeader(_PT_DYNAMIC, data_flags, dynamic, dynamic, size[_DYN], size[_DYN], 8),
    ]
    if code_size:
        # Without this one a loader makes the stack executable, or refuses to.
        segments.append(_ProgramHeader(_PT_GNU_STACK, data_flags, 0, 0, 0, 0, 16))
    if size[_THREAD]:
        segments.append(_ProgramHeader(_PT_TLS, _PF_READ, 0, address[_THREAD], 0, size[_THREAD], _ALIGN))
    return segments


def _file(
    machine: Machine,
    body: bytes,
    segments: Sequence[_ProgramHeader],
    address: Mapping[int, int],
    size: Mapping[int, int],
    *,
    has_code: bool,
) -> bytes:
    """The file: `body` with ELF and program headers filled in, and section names and headers behind it."""
    text_kind = _PROGBITS if has_code else _NOBITS
    strings = _Strings()
    end = len(body)

    def section(number: int, name: str, kind: int, flags: int, **relations: int) -> _SectionHeader:
        # Sections without bytes in the file count as at the end of the body.
        offset = end if kind == _NOBITS else address[number]
        return _SectionHeader(strings.add(name), kind, flags, address[number], offset, size[number], **relations)

    sections = [
        section(_HASH, ".gnu.hash", _GNU_HASH, _ALLOC, link=_SYMBOLS),
        # Symbols from number 1 on are not local.
        section(_SYMBOLS, ".dynsym", _DYNSYM, _ALLOC, link=_NAMES, info=1, entry_size=_SymbolEntry.SIZE),
        section(_NAMES, ".dynstr", _STRTAB, _ALLOC),
        section(_DYN, ".dynamic", _DYNAMIC, _ALLOC | _WRITE, link=_NAMES, entry_size=16),
        section(_TEXT, ".text", text_kind, _ALLOC | _EXEC),
        section(_DATA, ".bss", _NOBITS, _ALLOC | _WRITE),
        section(_THREAD, ".tbss", _NOBITS, _ALLOC | _WRITE | _TLS),
    ]
    # Its name first: it is part of the table whose size the header states.
    position = strings.add(".shstrtab")
    sections.append(_SectionHeader(position, _STRTAB, 0, 0, end, len(strings.data), alignment=1))
    names = _padded(bytes(strings.data))
    section_count = len(sections) + 1  # section 0 is unused
    elf_header = _ElfHeader(machine, len(segments), end + len(names), section_count, _SECTION_NAMES)
    head = elf_header.pack() + b"".join(segment.pack() for segment in segments)
    section_headers = bytes(_SectionHeader.SIZE) + b"".join(header.pack() for header in sections)
    return head + body[len(head) :] + names + section_headers


def problem(content: bytes, stub: Stub) -> str:
    """How the bytes differ from the stub, as seen by the reader of torch's libraries; empty if they do not."""
    parts = Parts(len(content))
    parts.add(0, content)
    try:
        library = exported(parts)
    except (Missing, ElfError) as error:
        return str(error)
    names = kinds_by_name(library.symbols)
    wrong = []
    for name in names.keys() | stub.names.keys():
        if names.get(name) != stub.names.get(name):
            wrong.append(name)
    if wrong:
        return f"{len(wrong)} names are not as torch has them, such as {min(wrong)}"
    if (library.soname, library.needed) != (stub.soname, stub.all_needed):
        return f"it is {library.soname} and needs {', '.join(library.needed)}"
    return ""
