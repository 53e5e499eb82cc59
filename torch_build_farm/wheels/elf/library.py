"""What the dynamic linker reads of an ELF library: what it needs, what it leaves undefined, what it exports.

Read as the loader reads it, from the dynamic segment and the relocations, since section headers may be stripped; and
with less trust: what does not fit together is an error, so that a damaged library is never taken for a good one.
Sources: the System V ABI ("Dynamic Linking"), its x86-64 supplement, the GNU extensions for hash table and versions.
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import IO, cast

from torch_build_farm.wheels.elf.gnu_hash import HashTable, gnu_table

_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym: name, info, other, section index, value, size
_LOCAL, _GLOBAL, _WEAK, _UNIQUE = 0, 1, 2, 10
_MAX_TYPE = 10  # STT_GNU_IFUNC
_VERSIONS = 1 << 15  # they are numbered in 15 bits (Linux Standard Base, "Symbol Version Table")
# Places that the linker itself defines, which some leave out of the hash table.
_LINKERS = {
    "_edata",
    "edata",
    "_end",
    "end",
    "__bss_start",
    "_init",
    "_fini",
    "__bss_start__",
    "__bss_end__",
    "_bss_end__",
    "__end__",
}
_RELA_SIZE = 24  # of Elf64_Rela: offset, info, addend; the symbol's number is info's upper half
_GPUS = ("EM_CUDA", "EM_AMDGPU")
_PIE = 0x08000000  # DF_1_PIE: a program that looks like a library otherwise

Buffer = bytes | mmap


class ElfError(ValueError):
    """The file is no sound ELF library for x86-64."""


class NotLoadedError(ElfError):
    """The file is sound, and nothing that the loader loads into a process: a program, an object file, a GPU's code."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """A name that the loader must find elsewhere; `file` and `version` where it asks for a version of it."""

    name: str
    weak: bool
    version: str = ""
    file: str = ""


@dataclass(frozen=True)
class Elf:
    """A library as the loader sees it. `undefined` are the names that it must find elsewhere.

    `versions` are the (file, version) pairs that it asks for, such as ("libc.so.6", "GLIBC_2.34"). `defines` are those
    that it has itself; none, where its names have no versions.
    """

    soname: str
    needed: tuple[str, ...]
    run_paths: tuple[str, ...]
    undefined: tuple[Undefined, ...]
    exported: frozenset[str]
    versions: tuple[tuple[str, str], ...]
    defines: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Image:
    """The file's bytes by the addresses that they are loaded to, and its dynamic tags."""

    content: Buffer
    loads: tuple[tuple[int, int, int], ...]  # address, offset in the file, size there
    tags: dict[str, int]

    def offset(self, tag: str, size: int = 1) -> int:
        """Where in the file the table of a tag begins; `size` bytes from there on must be in it."""
        address = self.tags[tag]
        for start, offset, length in self.loads:
            if start <= address and address + size <= start + length:
                return offset + address - start
        raise ElfError(f"{tag} leads out of the file")

    def text(self, place: int) -> str:
        """The string at `place` of DT_STRTAB."""
        size = self.tags["DT_STRSZ"]
        start = self.offset("DT_STRTAB", size)
        end = self.content.find(b"\0", start + place, start + size)
        if place >= size or end < 0:
            raise ElfError("a name leads out of the string table")
        return self.content[start + place : end].decode("ascii")


def _image(content: Buffer) -> tuple[_Image, list[tuple[str, int]]]:
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415 (slow to import; a run with nothing to do needs none)
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    elf = ELFFile(cast(IO[bytes], io.BytesIO(content) if isinstance(content, bytes) else content))
    if elf["e_type"] in ("ET_EXEC", "ET_REL", "ET_CORE") or elf["e_machine"] in _GPUS:
        raise NotLoadedError(f"no library, but {elf['e_type']} for {elf.get_machine_arch()}")
    if (elf.elfclass, elf.little_endian, elf["e_machine"], elf["e_type"]) != (64, True, "EM_X86_64", "ET_DYN"):
        raise ElfError(f"a library for {elf.get_machine_arch()}, not for x86-64")
    loads: list[tuple[int, int, int]] = []
    tags: list[tuple[str, int]] = []
    for segment in elf.iter_segments():
        if segment["p_type"] == "PT_LOAD":
            loads.append((segment["p_vaddr"], segment["p_offset"], segment["p_filesz"]))
            if segment["p_offset"] + segment["p_filesz"] > len(content):
                raise ElfError("the file is cut off")
        elif segment["p_type"] == "PT_DYNAMIC":
            dynamic = cast(DynamicSegment, segment)
            tags = [(str(tag.entry.d_tag), int(tag.entry.d_val)) for tag in dynamic.iter_tags()]
    if dict(tags).get("DT_FLAGS_1", 0) & _PIE:
        raise NotLoadedError("no library, but a program")
    if not any(name == "DT_SYMTAB" for name, _ in tags):
        raise ElfError("it has no dynamic symbols")
    return _Image(content, tuple(loads), dict(tags)), tags


def _hash_table(image: _Image) -> HashTable | None:
    """DT_GNU_HASH, which the loader finds exported names by."""
    if "DT_GNU_HASH" not in image.tags:
        return None

    def read(offset: int, size: int) -> bytes:
        found = image.content[offset : offset + size]
        if len(found) < size:
            raise ElfError("its GNU hash table is cut off")
        return found

    return gnu_table(read, image.offset("DT_GNU_HASH", 16))


def _relocated(image: _Image) -> set[int]:
    """Numbers of the symbols that relocations name."""
    numbers: set[int] = set()
    for tag, size_tag in (("DT_RELA", "DT_RELASZ"), ("DT_JMPREL", "DT_PLTRELSZ")):
        size = image.tags.get(size_tag, 0)
        if not size or tag not in image.tags:
            continue
        if size % _RELA_SIZE:
            raise ElfError(f"{size_tag} is no multiple of an entry")
        start = image.offset(tag, size)
        entries = array("Q")
        entries.frombytes(image.content[start : start + size])
        numbers.update(info >> 32 for info in entries[1::3])
    return numbers - {0}


def _needed_versions(image: _Image) -> dict[int, tuple[str, str]]:
    """DT_VERNEED: version index -> (file, version)."""
    found: dict[int, tuple[str, str]] = {}
    if "DT_VERNEED" not in image.tags:
        return found
    place, entries = image.offset("DT_VERNEED", 16), 0
    for _ in range(image.tags.get("DT_VERNEEDNUM", 0)):
        _, count, file, aux, following = struct.unpack_from("<HHIII", image.content, place)
        entry = place + aux
        entries += count
        if entries > _VERSIONS:
            raise ElfError("it asks for more versions than there are numbers")
        for _ in range(count):
            _, _, index, name, more = struct.unpack_from("<IHHII", image.content, entry)
            found[index & 0x7FFF] = (image.text(file), image.text(name))
            entry += more
        if not following:
            break
        place += following
    return found


def _defined_versions(image: _Image) -> frozenset[str]:
    """DT_VERDEF: the versions' names."""
    found: set[str] = set()
    if "DT_VERDEF" not in image.tags:
        return frozenset()
    place = image.offset("DT_VERDEF", 20)
    for _ in range(min(image.tags.get("DT_VERDEFNUM", 0), _VERSIONS)):
        _, _, _, _, _, aux, following = struct.unpack_from("<HHHHIII", image.content, place)
        (name,) = struct.unpack_from("<I", image.content, place + aux)
        found.add(image.text(name))
        if not following:
            break
        place += following
    return frozenset(found)


@dataclass(frozen=True)
class _Symbol:
    number: int
    name: int
    binding: int
    type: int
    visibility: int
    section: int

    @property
    def defined(self) -> bool:
        return self.section != 0


class _Symbols:
    """DT_SYMTAB, as far as hash table and relocations say that it goes."""

    def __init__(self, image: _Image) -> None:
        self.image = image
        self.relocated = _relocated(image)
        self.table = _hash_table(image)
        self.first = self.table.first if self.table else 0
        self.hashed = self.table is not None and self.table.count > 0
        last = self.table.count if self.table else 0
        count = max([self.first, last, 1, *(number + 1 for number in self.relocated)])
        if image.tags.get("DT_SYMENT", _SYMBOL.size) != _SYMBOL.size:
            raise ElfError("its symbols have another size than x86-64's")
        start = image.offset("DT_SYMTAB", count * _SYMBOL.size)
        self._rows = image.content[start : start + count * _SYMBOL.size]
        self.count = count

    def __iter__(self) -> Iterator[_Symbol]:
        for number, (name, info, other, section, _, _) in enumerate(_SYMBOL.iter_unpack(self._rows)):
            yield _Symbol(number, name, info >> 4, info & 15, other & 3, section)

    def asked(self, symbol: _Symbol) -> bool:
        """Whether the loader must find it: all that linkers put before the hash table's, and what relocations name."""
        return not symbol.defined and (symbol.number < self.first or symbol.number in self.relocated)

    def check(self, symbol: _Symbol) -> None:
        """Raise ElfError for a symbol that no linker writes."""
        asked = self.asked(symbol)
        if symbol.binding not in (_LOCAL, _GLOBAL, _WEAK, _UNIQUE) or symbol.type > _MAX_TYPE:
            raise ElfError(f"symbol {symbol.number} is of no known kind")
        if asked and (symbol.binding == _LOCAL or symbol.visibility):
            raise ElfError(f"symbol {symbol.number} is asked for, and not to be had")
        wrong = self.hashed and symbol.binding != _LOCAL and symbol.defined != (symbol.number >= self.first)
        if wrong and not (symbol.defined and self.image.text(symbol.name) in _LINKERS):
            raise ElfError(f"symbol {symbol.number} is on the wrong side of the GNU hash table")

    def exported(self, symbol: _Symbol) -> set[str]:
        """The name of a defined symbol, if others find it: one that the hash table has, and under that very name."""
        if self.table is None:
            return {self.image.text(symbol.name)}
        if not self.hashed or symbol.number < self.first:
            return set()
        name = self.image.text(symbol.name)
        if not self.table.matches(symbol.number - self.first, name.encode()):
            raise ElfError(f"symbol {symbol.number} is not the one that the GNU hash table has")
        return {name}


def read(content: Buffer) -> Elf:
    """Read a library. Raises ElfError for whatever is none, or not sound."""
    try:
        return _read(content)
    except ElfError:
        raise
    except Exception as error:  # whatever a damaged file makes a parser stumble over
        raise ElfError(f"no sound ELF file: {type(error).__name__}: {error}") from error


def _read(content: Buffer) -> Elf:
    image, tags = _image(content)
    symbols = _Symbols(image)
    versions = _needed_versions(image)
    version_table = array("H")
    if "DT_VERSYM" in image.tags:
        start = image.offset("DT_VERSYM", 2 * symbols.count)
        version_table.frombytes(content[start : start + 2 * symbols.count])
    undefined: list[Undefined] = []
    exported: set[str] = set()
    for symbol in symbols:
        if symbol.number == 0:
            continue
        symbols.check(symbol)
        if symbol.defined:
            if symbol.binding != _LOCAL or symbols.hashed:
                exported |= symbols.exported(symbol)
        elif symbols.asked(symbol):
            name = image.text(symbol.name)
            if not name:
                raise ElfError(f"symbol {symbol.number} is asked for and has no name")
            index = version_table[symbol.number] & 0x7FFF if version_table else 0
            file, version = versions.get(index, ("", ""))
            undefined.append(Undefined(name, symbol.binding == _WEAK, version, file))
    if own := exported & {one.name for one in undefined}:
        raise ElfError(f"it asks for what it has itself: {min(own)}")
    paths = [image.text(value) for name, value in tags if name in ("DT_RPATH", "DT_RUNPATH")]
    return Elf(
        soname=next((image.text(value) for name, value in tags if name == "DT_SONAME"), ""),
        needed=tuple(image.text(value) for name, value in tags if name == "DT_NEEDED"),
        run_paths=tuple(path for paths_ in paths for path in paths_.split(":")),
        undefined=tuple(undefined),
        exported=frozenset(exported),
        versions=tuple(sorted(set(versions.values()))),
        defines=_defined_versions(image),
    )
