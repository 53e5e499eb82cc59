"""A wheel as the audit sees it: its libraries and its requirement on torch. Nothing is unpacked, nothing is trusted."""

from __future__ import annotations

import contextlib
import io
import mmap
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from torch_build_farm.audit.optional_loads import NO_OPTIONAL_LOAD, OptionalLoad, mentions_load, optional_load
from torch_build_farm.core.archives import zip_entries
from torch_build_farm.core.errors import AuditError
from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.requirements import MOST_METADATA, parse_metadata, read_requirement, read_specifiers
from torch_build_farm.releases.header_lines import HeaderLine, header_lines_in
from torch_build_farm.wheels import record
from torch_build_farm.wheels.elf import library
from torch_build_farm.wheels.elf.library import Elf
from torch_build_farm.wheels.pybind11_ids import internals_ids
from torch_build_farm.wheels.record import installed_path, read_record

if TYPE_CHECKING:
    from installer.records import RecordEntry

_PLATFORM = re.compile(rf"(many)?linux.*_({'|'.join(machine.name for machine in MACHINES)})")  # PEP 600, PEP 513
_LIBRARY_NAME = re.compile(r"\.so(\.[0-9.]+)?$")
# Text files in a library's place (ld's manual, "Implicit Linker Scripts").
_LINKER_SCRIPTS = (b"/* GNU ld script", b"INPUT(", b"INPUT (", b"GROUP(", b"GROUP (")
# Sizes in bytes.
_IN_MEMORY = 32 << 20  # larger libraries are read from a temporary file
_MODULES_LIMIT = 32 << 20  # of all Python modules that are read
_TEXT_LIMITS = {"METADATA": MOST_METADATA, "RECORD": record.MOST_BYTES}


@dataclass(frozen=True)
class AuditedWheel:
    """What the audit reads from a wheel.

    - `machine`: the one that its tags name, x86-64 for a wheel for all platforms.
    - `declared`: METADATA's requirement on torch; None if it does not require torch.
    - `requires`: the normalized names of all distributions that it requires (PEP 503).
    - `libraries`: each library, by the path it is installed to.
    - `other_machines`: of libraries for another machine, which are not among `libraries`, what people call that one.
    - `marks`: the lines of torch's headers in each library, by the same paths.
    - `pybind11`: the ids under which each library shares types with other modules of pybind11, by the same paths.
    - `optional_load`: where its Python code loads a library that it does without.
    """

    path: Path
    name: str
    version: str
    tags: frozenset[Tag]
    machine: Machine
    declared: SpecifierSet | None
    requires: frozenset[str]
    libraries: dict[str, Elf]
    marks: dict[str, frozenset[HeaderLine]]
    pybind11: dict[str, frozenset[str]]
    other_machines: dict[str, str]
    optional_load: OptionalLoad = NO_OPTIONAL_LOAD


def _refuse(path: Path, what: str) -> AuditError:
    return AuditError(f"{path.name}: {what}", where=str(path), next_step="get the wheel again, or rebuild it")


def _check_targets(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Raise AuditError for two files that are installed to the same path."""
    seen: set[str] = set()
    for info in infos:
        target = installed_path(info.filename)
        if target in seen:
            raise _refuse(path, f"two files are installed to {target!r}")
        seen.add(target)


def _text(archive: zipfile.ZipFile, path: Path, name: str) -> str:
    """The text of a file in the .dist-info folder. Raises AuditError unless there is exactly one, of sensible size."""
    candidates = []
    for info in archive.infolist():
        if re.fullmatch(rf"[^/]+\.dist-info/{name}", info.filename):
            candidates.append(info)
    if len(candidates) != 1:
        raise _refuse(path, f"it has {len(candidates)} {name} files, not one")
    (only,) = candidates
    if only.file_size > _TEXT_LIMITS[name]:
        raise _refuse(path, f"{name} has {only.file_size} bytes, more than a wheel can need")
    return archive.read(only).decode("utf-8")


@contextlib.contextmanager
def _content(stream: IO[bytes], size: int) -> Iterator[tuple[bytes | mmap.mmap, str]]:
    """A library's bytes, in memory or in a temporary file, and their SHA-256 in RECORD's base64."""
    from installer.utils import copyfileobj_with_hashing  # noqa: PLC0415 (slow to import)

    with contextlib.ExitStack() as stack:
        target: IO[bytes] = io.BytesIO() if size <= _IN_MEMORY else stack.enter_context(tempfile.TemporaryFile())
        value, _ = copyfileobj_with_hashing(cast(BinaryIO, stream), cast(BinaryIO, target), "sha256")
        target.flush()  # mmap sees the file, not its buffer
        if isinstance(target, io.BytesIO):
            yield target.getvalue(), value
        else:
            yield stack.enter_context(mmap.mmap(target.fileno(), 0, access=mmap.ACCESS_READ)), value


def _is_elf(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bool:
    with archive.open(info) as stream:
        return stream.read(4) == b"\x7fELF"


@dataclass(frozen=True)
class _Libraries:
    """What is read of the libraries, by the path that they are installed to: the fields of AuditedWheel."""

    libraries: dict[str, Elf]
    marks: dict[str, frozenset[HeaderLine]]
    pybind11: dict[str, frozenset[str]]
    other_machines: dict[str, str]


def _libraries(archive: zipfile.ZipFile, path: Path, machine: Machine) -> _Libraries:
    """What is read of the libraries of a wheel for `machine`.

    Raises AuditError for a library that is damaged, lost or not as RECORD lists it.
    """
    entries = read_record(_text(archive, path, "RECORD").encode())
    _check_none_is_lost(path, archive, entries)
    libraries: dict[str, Elf] = {}
    marks: dict[str, frozenset[HeaderLine]] = {}
    pybind11: dict[str, frozenset[str]] = {}
    other_machines: dict[str, str] = {}
    # A wheel has no links: libfoo.so, libfoo.so.1 and libfoo.so.1.2 are three copies, of which one is read.
    path_by_digest: dict[str, str] = {}
    for info in archive.infolist():
        # A library that others need may have any name.
        named_library = bool(_LIBRARY_NAME.search(info.filename))
        if not named_library and not _is_elf(archive, info):
            continue
        with archive.open(info) as stream, _content(stream, info.file_size) as (content, digest):
            _check_hash(path, info.filename, digest, entries.get(info.filename))
            if content[:16].startswith(_LINKER_SCRIPTS):
                continue
            target = installed_path(info.filename)
            copied = path_by_digest.setdefault(digest, target)
            if copied in libraries:
                libraries[target], marks[target] = libraries[copied], marks[copied]
                pybind11[target] = pybind11[copied]
                continue
            try:
                libraries[target] = library.read(content, machine)
                marks[target] = header_lines_in(content)
                pybind11[target] = internals_ids(content)
            except library.OtherMachineError as error:
                other_machines[target] = error.machine
            except library.NotLoadedError as error:
                if named_library:  # otherwise it is a program, an object file or code for a GPU
                    raise _refuse(path, f"{info.filename}: {error}") from None
            except ValueError as error:  # ElfError is one
                raise _refuse(path, f"{info.filename}: {error}") from None
    return _Libraries(libraries, marks, pybind11, other_machines)


def _check_none_is_lost(path: Path, archive: zipfile.ZipFile, entries: Iterable[str]) -> None:
    """Raise AuditError for a library in RECORD that is not there: without it, nothing would be wrong with the wheel."""
    members = set(archive.namelist())
    for name in entries:
        if _LIBRARY_NAME.search(name) and name not in members:
            raise _refuse(path, f"RECORD lists {name}, which is not there")


def _modules(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The Python modules that mention a load of a library, by the path that they are installed to."""
    modules = {}
    left = _MODULES_LIMIT
    for info in archive.infolist():
        if not info.filename.endswith(".py") or info.file_size > left:
            continue
        content = archive.read(info)
        left -= len(content)
        if mentions_load(content):
            modules[installed_path(info.filename)] = content
    return modules


def _check_hash(path: Path, name: str, digest: str, entry: RecordEntry | None) -> None:
    """Raise AuditError if RECORD has another hash for a file; without a hash there is nothing to compare."""
    if entry is None or entry.hash_ is None:
        return
    if entry.hash_.name != "sha256":
        raise _refuse(path, f"RECORD lists {name} with a hash other than SHA-256")
    if entry.hash_.value != digest:
        raise _refuse(path, f"{name} is not the file that RECORD lists")


def _machine(tags: Iterable[Tag]) -> Machine | None:
    """The machine of a wheel for Linux with glibc, by its tags; x86-64 for all platforms, None for any other wheel."""
    platforms = {tag.platform for tag in tags}
    if "any" in platforms:
        return X86_64
    names = {match[2] for match in map(_PLATFORM.fullmatch, platforms) if match}
    for machine in MACHINES:  # a wheel for several is judged for the first
        if machine.name in names:
            return machine
    return None


def _required(metadata: Message, tags: Iterable[Tag], machine: Machine) -> list[Requirement]:
    """METADATA's requirements on Linux with the newest CPython of the tags, without those of extras."""
    environment = {"extra": "", "platform_system": "Linux", "sys_platform": "linux", "platform_machine": machine.name}
    minors_of_python = []
    for tag in tags:
        if re.fullmatch(r"cp3\d+", tag.interpreter):
            minors_of_python.append(int(tag.interpreter[3:]))
    # A py3 wheel's markers are judged by the CPython that runs the audit.
    if minors_of_python:
        newest = max(minors_of_python)
        environment |= {"python_version": f"3.{newest}", "python_full_version": f"3.{newest}.0"}

    required = []
    for text in metadata.get_all("Requires-Dist", []):
        requirement = read_requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            required.append(requirement)
    return required


def _declared(required: Iterable[Requirement]) -> SpecifierSet | None:
    """The requirement on torch; None if there is none, an empty set for a requirement without versions."""
    specifiers = []
    for requirement in required:
        if canonicalize_name(requirement.name) == "torch":
            specifiers.append(str(requirement.specifier))
    if not specifiers:
        return None
    joined = ",".join(filter(None, specifiers))
    # A local version, such as 2.8.0+cu128, is a build of the release.
    return read_specifiers(re.sub(r"\+[\w.]+", "", joined))


def read(path: Path) -> AuditedWheel:
    """Read a wheel.

    Raises AuditError for a file that is not a wheel, is damaged, or is for a platform other than x86-64 or arm64 Linux.
    """
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        machine = _machine(tags)
        if machine is None:
            words = " or ".join(machine.words for machine in MACHINES)
            raise _refuse(path, f"it is for a platform other than {words} Linux")
        # A FIFO would be waited for, a device read without an end.
        if path.exists() and not path.is_file():
            raise _refuse(path, "it is no file")
        with zipfile.ZipFile(path) as archive:
            _check_targets(path, zip_entries(archive, path.stat().st_size))
            metadata = parse_metadata(_text(archive, path, "METADATA"))
            required = _required(metadata, tags, machine)
            names = frozenset(canonicalize_name(requirement.name) for requirement in required)
            read = _libraries(archive, path, machine)
            return AuditedWheel(
                path=path,
                name=name,
                version=str(version),
                tags=tags,
                machine=machine,
                declared=_declared(required),
                requires=names,
                libraries=read.libraries,
                marks=read.marks,
                pybind11=read.pybind11,
                other_machines=read.other_machines,
                optional_load=optional_load(_modules(archive)) if read.libraries else NO_OPTIONAL_LOAD,
            )
    except AuditError:
        raise
    except (InvalidWheelFilename, InvalidRequirement, OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _refuse(path, f"it cannot be read as a wheel: {error}") from None
    except Exception as error:  # whatever a damaged archive makes zipfile stumble over: zlib.error, EOFError, ...
        raise _refuse(path, f"it cannot be read as a wheel: {type(error).__name__}: {error}") from None
