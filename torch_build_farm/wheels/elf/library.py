"""What the dynamic linker reads of an ELF library: what it needs, what it leaves undefined, what it exports.

Read as the loader reads it, from the dynamic table and the relocations, since section headers may be stripped; and
with less trust: a contradiction is an error, so that damage to a name is not taken for another name. Sources: the
System V ABI ("Dynamic Linking"), its supplements for x86-64 and arm64, the GNU extensions for hash table and versions.
`headers` has the reasons for own code.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.wheels.elf.gnu_hash import HashTable, gnu_table
from torch_build_farm.wheels.elf.headers import SYMBOL, ElfError, Identity, Tag, identify
from torch_build_farm.wheels.elf.image import Buffer, Image, read_image

_LOCAL, _GLOBAL, _WEAK, _UNIQUE = 0, 1, 2, 10  # STB_
_MAX_TYPE = 10  # STT_GNU_IFUNC
_VERSIONS = 1 << 15  # versions are numbered in 15 bits (Linux Standard Base, "Symbol Version Table")
_VERSION_NUMBER = _VERSIONS - 1  # the mask of these bits; the sixteenth marks a hidden version
# Places that the linker itself defines; some linkers leave them out of the hash table.
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
_LONGEST_PATH = 4096  # characters (Linux, PATH_MAX)
_RELA_SIZE = 24  # of Elf64_Rela: offset, info, addend; the symbol's number is info's upper half
_GPUS = (190, 224)  # EM_CUDA, EM_AMDGPU
_MACHINES = {3: "x86", 21: "PowerPC64", 22: "S390", 40: "ARM", 62: "x86-64", 183: "arm64", 190: "CUDA",
             224: "AMDGPU", 243: "RISC-V", 258: "LoongArch"}  # fmt: skip
_SHARED = 3  # ET_DYN
_NOT_LIBRARIES = {1: "an object file", 2: "a program", 4: "a core dump"}  # ET_REL, ET_EXEC, ET_CORE
_PIE = 0x08000000  # DF_1_PIE: a program that looks like a library otherwise


class OtherMachineError(ElfError):
    """The file is for another machine than the one asked for; `machine` is what people call the file's."""

    def __init__(self, machine: str, expected: Machine) -> None:
        super().__init__(f"a library for {machine}, not for {expected.words}")
        self.machine = machine


class NotLoadedError(ElfError):
    """The file is sound, but the loader never loads it into a process: a program, an object file, a GPU's code."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """A name that the loader must find elsewhere; `file` and `version` if the library asks for a version of it."""

    name: str
    weak: bool
    version: str = ""
    file: str = ""


@dataclass(frozen=True)
class Elf:
    """A library as the loader sees it. `undefined` are the names that it must find elsewhere.

    `versions` are the (file, version) pairs that it asks for, such as ("libc.so.6", "GLIBC_2.34"). `defines` are the
    versions of its own names; empty if its names have no versions.
    """

    soname: str
    needed: tuple[str, ...]
    run_paths: tuple[str, ...]
    undefined: tuple[Undefined, ...]
    exported: frozenset[str]
    versions: tuple[tuple[str, str], ...]
    defines: frozenset[str] = frozenset()

    @property
    def undefined_names(self) -> frozenset[str]:
        """The undefined names without what is known of each."""
        return frozenset(symbol.name for symbol in self.undefined)


def _check_identity(identity: Identity, machine: Machine) -> None:
    """Raise NotLoadedError, OtherMachineError or ElfError for a file that is not a library for `machine`."""
    found = _MACHINES.get(identity.machine, f"machine {identity.machine}")
    if identity.file_type in _NOT_LIBRARIES or identity.machine in _GPUS:
        kind = _NOT_LIBRARIES.get(identity.file_type, "code")
        raise NotLoadedError(f"not a library, but {kind} for {found}")
    if identity.machine != machine.elf_number:
        raise OtherMachineError(found, machine)
    if identity.file_type != _SHARED:
        raise ElfError(f"not a library, but a file of type {identity.file_type}")


def _is_program(content: Buffer) -> bool:
    """Whether a sound file is a position-independent program, which only its dynamic section tells from a library."""
    try:
        return bool(read_image(content).tags.get(Tag.FLAGS_1, 0) & _PIE)
    except (ElfError, ValueError, struct.error):
        return False


def _image(content: Buffer, machine: Machine) -> Image:
    # First of all, since programs and object files for other machines are sound files too.
    try:
        _check_identity(identify(content[:20]), machine)
    except OtherMachineError:
        if _is_program(content):
            raise NotLoadedError("not a library, but a program for another machine") from None
        raise
    image = read_image(content)
    if image.tags.get(Tag.FLAGS_1, 0) & _PIE:
        raise NotLoadedError("not a library, but a program")
    if Tag.SYMTAB not in image.tags:
        raise ElfError("it has no dynamic symbols")
    return image


def _text(image: Image, position: int) -> str:
    """The string at a position of DT_STRTAB. Raises ValueError for other characters than ASCII."""
    return image.string(position).decode("ascii")


def _hash_table(image: Image) -> HashTable | None:
    """DT_GNU_HASH, by which the loader finds exported names."""
    if Tag.GNU_HASH not in image.tags:
        return None
    return gnu_table(image.read, image.offset(Tag.GNU_HASH, 16), len(image.content) // SYMBOL.size)


def _relocated(image: Image) -> set[int]:
    """Numbers of the symbols that relocations name."""
    numbers: set[int] = set()
    for tag, size_tag in ((Tag.RELA, Tag.RELASZ), (Tag.JMPREL, Tag.PLTRELSZ)):
        size = image.tags.get(size_tag, 0)
        if not size or tag not in image.tags:
            continue
        if size % _RELA_SIZE:
            raise ElfError(f"DT_{size_tag.name} is not a multiple of an entry")
        # libtorch_cpu.so of 2.15.0 has 357,548 entries, so only every third field is looked at in Python.
        fields = array("Q")
        fields.frombytes(image.read(image.offset(tag, size), size))
        numbers.update(info >> 32 for info in fields[1::3])
    return numbers - {0}


def _needed_versions(image: Image) -> dict[int, tuple[str, str]]:
    """DT_VERNEED: (file, version) by the version's number."""
    versions: dict[int, tuple[str, str]] = {}
    if Tag.VERNEED not in image.tags:
        return versions
    file_entry = image.offset(Tag.VERNEED, 16)
    total = 0
    for _ in range(min(image.tags.get(Tag.VERNEEDNUM, 0), _VERSIONS)):
        _, count, file, first_version, next_file = struct.unpack_from("<HHIII", image.content, file_entry)
        # A damaged count must not keep the reader busy for minutes.
        total += count
        if total > _VERSIONS:
            raise ElfError("it asks for more versions than there are numbers")
        version_entry = file_entry + first_version
        for _ in range(count):
            _, _, number, name, next_version = struct.unpack_from("<IHHII", image.content, version_entry)
            versions[number & _VERSION_NUMBER] = (_text(image, file), _text(image, name))
            version_entry += next_version
        if not next_file:
            break
        file_entry += next_file
    return versions


def _defined_versions(image: Image) -> frozenset[str]:
    """DT_VERDEF: the versions' names."""
    names: set[str] = set()
    if Tag.VERDEF not in image.tags:
        return frozenset()
    entry = image.offset(Tag.VERDEF, 20)
    for _ in range(min(image.tags.get(Tag.VERDEFNUM, 0), _VERSIONS)):
        _, _, _, _, _, name_entry, next_entry = struct.unpack_from("<HHHHIII", image.content, entry)
        (name,) = struct.unpack_from("<I", image.content, entry + name_entry)
        names.add(_text(image, name))
        if not next_entry:
            break
        entry += next_entry
    return frozenset(names)


def _version_numbers(image: Image, count: int) -> array[int]:
    """DT_VERSYM: the version's number of each of the `count` symbols; empty for names without versions."""
    numbers = array("H")
    if Tag.VERSYM in image.tags:
        size = numbers.itemsize * count
        numbers.frombytes(image.read(image.offset(Tag.VERSYM, size), size))
    return numbers


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
    """DT_SYMTAB, whose length only the hash table and the relocations tell."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.relocated = _relocated(image)
        self.table = _hash_table(image)
        self.first_hashed = self.table.first if self.table else 0
        self.hashed = self.table is not None and self.table.count > 0
        hashed_count = self.table.count if self.table else 0
        # Symbol 0 is always there.
        self.count = max(1, self.first_hashed, hashed_count, max(self.relocated, default=0) + 1)
        if image.tags.get(Tag.SYMENT, SYMBOL.size) != SYMBOL.size:
            raise ElfError("its symbols have another size than those of 64-bit files")
        size = self.count * SYMBOL.size
        self._rows = image.read(image.offset(Tag.SYMTAB, size), size)

    def __iter__(self) -> Iterator[_Symbol]:
        for number, (name, info, other, section, _, _) in enumerate(SYMBOL.iter_unpack(self._rows)):
            yield _Symbol(number, name, info >> 4, info & 15, other & 3, section)

    def is_required(self, symbol: _Symbol) -> bool:
        """Whether the loader must find it elsewhere.

        Linkers put undefined symbols before those of the hash table; a relocation may name others.
        """
        return not symbol.defined and (symbol.number < self.first_hashed or symbol.number in self.relocated)

    def check(self, symbol: _Symbol) -> None:
        """Raise ElfError for a symbol that no linker writes."""
        if symbol.binding not in (_LOCAL, _GLOBAL, _WEAK, _UNIQUE) or symbol.type > _MAX_TYPE:
            raise ElfError(f"symbol {symbol.number} is of an unknown kind")
        if self.is_required(symbol) and (symbol.binding == _LOCAL or symbol.visibility):
            raise ElfError(f"symbol {symbol.number} is undefined, but other libraries cannot define it")
        # Linkers put into the GNU hash table what a library defines, and before it what others must define.
        if not self.hashed or symbol.binding == _LOCAL:
            return
        in_table = symbol.number >= self.first_hashed
        if symbol.defined == in_table:
            return
        if not symbol.defined or _text(self.image, symbol.name) not in _LINKERS:
            raise ElfError(f"symbol {symbol.number} is on the wrong side of the GNU hash table")

    def exported_name(self, symbol: _Symbol) -> str | None:
        """The name of a defined symbol if other libraries find it: the hash table has it, under this very name."""
        if self.table is None:
            return _text(self.image, symbol.name)
        if not self.hashed or symbol.number < self.first_hashed:
            return None
        name = _text(self.image, symbol.name)
        if not self.table.matches(symbol.number - self.first_hashed, name.encode()):
            raise ElfError(f"symbol {symbol.number} is not the one that the GNU hash table has")
        return name


def _files(image: Image) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """DT_SONAME, the DT_NEEDED, and the paths of DT_RPATH and DT_RUNPATH."""
    run_paths: list[str] = []
    for position in image.values(Tag.RPATH, Tag.RUNPATH):
        run_paths += _text(image, position).split(":")
    sonames = image.values(Tag.SONAME)
    soname = _text(image, sonames[0]) if sonames else ""
    needed = [_text(image, position) for position in image.values(Tag.NEEDED)]
    if max(map(len, [soname, *needed, *run_paths])) > _LONGEST_PATH:
        raise ElfError("it names a file by more characters than the loader takes")
    return soname, tuple(needed), tuple(run_paths)


def read(content: Buffer, machine: Machine = X86_64) -> Elf:
    """Read a library for `machine`.

    Raises NotLoadedError for ELF files that are no libraries, OtherMachineError for another machine's library, ElfError
    for whatever is not sound.
    """
    try:
        return _read(content, machine)
    except ElfError:
        raise
    except Exception as error:  # whatever a damaged file makes a parser stumble over
        raise ElfError(f"not a sound ELF file: {type(error).__name__}: {error}") from error


def _read(content: Buffer, machine: Machine) -> Elf:
    image = _image(content, machine)
    symbols = _Symbols(image)
    versions = _needed_versions(image)
    version_numbers = _version_numbers(image, symbols.count)
    undefined: list[Undefined] = []
    exported: set[str] = set()
    for symbol in symbols:
        if symbol.number == 0:  # no symbol: it stands for "none" in relocations
            continue
        symbols.check(symbol)
        if symbol.defined:
            # Linkers put no local symbol into the hash table, so one that is there has a damaged binding.
            if symbol.binding != _LOCAL or symbols.hashed:
                exported_name = symbols.exported_name(symbol)
                if exported_name is not None:
                    exported.add(exported_name)
        elif symbols.is_required(symbol):
            name = _text(image, symbol.name)
            if not name:
                raise ElfError(f"symbol {symbol.number} is undefined and has no name")
            number = version_numbers[symbol.number] & _VERSION_NUMBER if version_numbers else 0
            file, version = versions.get(number, ("", ""))
            undefined.append(Undefined(name, symbol.binding == _WEAK, version, file))
    # A linker lists a name once, as defined or as undefined.
    contradictions = exported.intersection(symbol.name for symbol in undefined)
    if contradictions:
        raise ElfError(f"it both defines and needs {min(contradictions)}")
    soname, needed, run_paths = _files(image)
    return Elf(
        soname=soname,
        needed=needed,
        run_paths=run_paths,
        undefined=tuple(undefined),
        exported=frozenset(exported),
        versions=tuple(sorted(set(versions.values()))),
        defines=_defined_versions(image),
    )
