"""Link stubs: an ELF shared library that has another one's SONAME and exported names, and nothing else.

A linker takes of a shared library its SONAME and, of each name, type, binding and, for executables, size (gABI, "Symbol
Table"); what it links is the same whether code stands behind the names or not. A stub needs a library that does not
exist, so that no loader ever takes it for the real one: the name of that library is the sentence that people then read.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch_build_farm.wheels.elf.gnu_hash import gnu_hash
from torch_build_farm.wheels.elf.partial import (
    GNU_HASH,
    NEEDED,
    SONAME,
    STRSZ,
    STRTAB,
    SYMTAB,
    Missing,
    Parts,
    WrongError,
    exported,
)
from torch_build_farm.wheels.elf.symbol import Kind, of

_STRTAB, _DYNSYM, _DYNAMIC, _NOBITS, _GNU_HASH = 3, 11, 6, 8, 0x6FFFFFF6  # SHT_
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 1 << 10  # SHF_
_PT_LOAD, _PT_DYNAMIC, _PT_TLS = 1, 2, 7
_FUNCTION, _TLS_OBJECT, _IFUNC, _NO_TYPE = 2, 6, 10, 0  # STT_
_PAGE, _ALIGN = 4096, 64
_X86_64, _SHARED = 62, 3


@dataclass(frozen=True)
class Stub:
    """What a stub is made of: `refusal` is the sentence that whoever loads it reads, without a slash in it."""

    soname: str
    needed: tuple[str, ...]
    names: Mapping[str, Kind]
    refusal: str


class _Strings:
    """A string table in the making."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode(errors="surrogateescape") + b"\0"
        return at


def _hashed(names: Sequence[str]) -> tuple[list[str], bytes]:
    """The names in the order of .gnu.hash, from symbol 1 on, and that section (glibc's elf/dl-lookup.c)."""
    buckets = max(1, len(names) // 4)
    hashes = {name: gnu_hash(name.encode(errors="surrogateescape")) for name in names}
    ordered = sorted(names, key=lambda name: (hashes[name] % buckets, name))
    words = 1 << max(0, (len(names) // 16).bit_length())
    bloom, heads, chain = [0] * words, [0] * buckets, []
    for number, name in enumerate(ordered, 1):
        value = hashes[name]
        bloom[value // 64 % words] |= 1 << value % 64 | 1 << (value >> 6) % 64
        bucket = value % buckets
        heads[bucket] = heads[bucket] or number
        last = number == len(ordered) or hashes[ordered[number]] % buckets != bucket
        chain.append(value & ~1 | last)
    table = struct.pack("<4I", buckets, 1, words, 6)
    return ordered, table + struct.pack(f"<{words}Q{buckets}I{len(chain)}I", *bloom, *heads, *chain)


# The sections in their order, by number: who refers to one needs it.
_HASH, _SYMBOLS, _NAMES, _DYN, _TEXT, _DATA, _THREAD, _SECTIONS = range(1, 9)


class _Places:
    """An address of its own for each name, so that none looks like another's alias."""

    def __init__(self) -> None:
        self.sizes = {_TEXT: 0, _DATA: 0, _THREAD: 0}

    def next(self, kind: Kind) -> tuple[int, int]:
        """Section and offset in it."""
        code = kind.kind in (_FUNCTION, _IFUNC, _NO_TYPE)
        section = _TEXT if code else _THREAD if kind.kind == _TLS_OBJECT else _DATA
        at = self.sizes[section]
        self.sizes[section] += 16 if code else -(-max(kind.size, 1) // _ALIGN) * _ALIGN
        return section, at


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % _ALIGN)


def assemble(stub: Stub) -> bytes:
    """The stub's bytes, which depend on nothing but its parts."""
    ordered, hash_table = _hashed(sorted(stub.names))
    strings, places = _Strings(), _Places()
    rows = [(strings.add(name), stub.names[name], *places.next(stub.names[name])) for name in ordered]
    tags = [(NEEDED, strings.add(name)) for name in (stub.refusal, *stub.needed)]
    tags.append((SONAME, strings.add(stub.soname)))
    segments = 5 if places.sizes[_THREAD] else 4
    head = _padded(bytes(64 + 56 * segments))
    sizes = [len(head), len(hash_table), 24 * (len(rows) + 1), len(strings.data), 16 * (len(tags) + 5)]
    _, hash_at, symbols_at, names_at, dynamic_at, end = accumulate(
        (-(-size // _ALIGN) * _ALIGN for size in sizes), initial=0
    )
    address = {_TEXT: -(-end // _PAGE) * _PAGE}
    address[_DATA] = -(-(address[_TEXT] + places.sizes[_TEXT]) // _PAGE) * _PAGE
    address[_THREAD] = address[_DATA] + places.sizes[_DATA]
    offset = {**address, _THREAD: 0}  # a thread's variables count from the start of its block
    table = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0) + b"".join(
        struct.pack("<IBBHQQ", name, kind.binding << 4 | kind.kind, 0, section, offset[section] + at, kind.size)
        for name, kind, section, at in rows
    )
    tags += [(GNU_HASH, hash_at), (STRTAB, names_at), (SYMTAB, symbols_at), (STRSZ, len(strings.data)), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    contents = {_HASH: hash_table, _SYMBOLS: table, _NAMES: bytes(strings.data), _DYN: dynamic}
    body = head + b"".join(map(_padded, contents.values()))
    at = {_HASH: hash_at, _SYMBOLS: symbols_at, _NAMES: names_at, _DYN: dynamic_at, **address}
    size = {number: len(content) for number, content in contents.items()} | places.sizes
    loads = [
        (_PT_LOAD, 6, 0, 0, len(body), len(body), _PAGE),
        (_PT_LOAD, 5, 0, address[_TEXT], 0, places.sizes[_TEXT], _PAGE),
        (_PT_LOAD, 6, 0, address[_DATA], 0, places.sizes[_DATA], _PAGE),
        (_PT_DYNAMIC, 6, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8),
    ]
    if places.sizes[_THREAD]:
        loads.append((_PT_TLS, 4, 0, address[_THREAD], 0, places.sizes[_THREAD], _ALIGN))
    headers = b"".join(struct.pack("<2I6Q", k, f, o, a, a, s, m, align) for k, f, o, a, s, m, align in loads)
    return _with_sections(body, headers, at, size)


def _with_sections(body: bytes, headers: bytes, at: Mapping[int, int], size: Mapping[int, int]) -> bytes:
    """The file: `body` with its ELF header and program `headers` filled in, and section headers behind it."""
    kinds = {
        _HASH: (".gnu.hash", _GNU_HASH, _ALLOC, _SYMBOLS, 0, 0),
        _SYMBOLS: (".dynsym", _DYNSYM, _ALLOC, _NAMES, 1, 24),
        _NAMES: (".dynstr", _STRTAB, _ALLOC, 0, 0, 0),
        _DYN: (".dynamic", _DYNAMIC, _ALLOC | _WRITE, _NAMES, 0, 16),
        _TEXT: (".text", _NOBITS, _ALLOC | _EXEC, 0, 0, 0),
        _DATA: (".bss", _NOBITS, _ALLOC | _WRITE, 0, 0, 0),
        _THREAD: (".tbss", _NOBITS, _ALLOC | _WRITE | _TLS, 0, 0, 0),
    }
    strings = _Strings()
    rows = [bytes(64)]
    for number, (name, kind, flags, link, info, entry) in kinds.items():
        in_file = at[number] if number <= _DYN else len(body)
        rows.append(struct.pack("<2I4Q2I2Q", strings.add(name), kind, flags, at[number], in_file, size[number], link,
                                info, _ALIGN, entry))  # fmt: skip
    own = strings.add(".shstrtab")
    rows.append(struct.pack("<2I4Q2I2Q", own, _STRTAB, 0, 0, len(body), len(strings.data), 0, 0, 1, 0))
    names = _padded(bytes(strings.data))
    ident = b"\x7fELF\2\1\1" + bytes(9)
    head = struct.pack("<16s2HI3QI6H", ident, _SHARED, _X86_64, 1, 0, 64, len(body) + len(names), 0, 64, 56,
                       len(headers) // 56, 64, len(rows), _SECTIONS)  # fmt: skip
    return head + headers + body[len(head) + len(headers) :] + names + b"".join(rows)


def problem(content: bytes, stub: Stub) -> str:
    """What the bytes have in them that is not the stub's, told by the reader that torch's libraries are read with."""
    parts = Parts(len(content))
    parts.add(0, content)
    try:
        found = exported(parts)
    except (Missing, WrongError) as error:
        return str(error)
    names = of(found.symbols)
    if wrong := sorted(name for name in names.keys() | stub.names.keys() if names.get(name) != stub.names.get(name)):
        return f"{len(wrong)} names are not as torch has them, such as {wrong[0]}"
    if (found.soname, found.needed) != (stub.soname, (stub.refusal, *stub.needed)):
        return f"it is {found.soname} and needs {', '.join(found.needed)}"
    return ""
