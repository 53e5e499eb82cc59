"""The tables of a torch release, made from its wheels on the package index: names, lines of headers, layouts."""

from __future__ import annotations

import platform
import re
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import AuditError, ToolError
from torch_build_farm.core.files import replace_folder
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.paths import inside
from torch_build_farm.core.process import Shell
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases import shared_names, symbol_types, torch_wheel, type_layouts
from torch_build_farm.releases.header_lines import HeaderLines, assertion_lines
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.symbol_table import SYSTEM_LIBRARIES, ReleaseFiles, SymbolTable, Unit
from torch_build_farm.releases.table_files import (
    HEADER_LINES_FILE,
    KINDS_FILE,
    LAYOUTS_FILE,
    RECORDS_FILE,
    SHARED_NAMES_FILE,
    SHIPPED,
    SYMBOLS_FILE,
)
from torch_build_farm.releases.type_layouts import Layout, Layouts
from torch_build_farm.wheels.elf import library, symbol
from torch_build_farm.wheels.elf.partial import Exported
from torch_build_farm.wheels.elf.remote_exports import torch_libraries
from torch_build_farm.wheels.elf.symbol import Kind

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from torch_build_farm.core.remote_wheel import RemoteWheel

_PROBE = DATA / "layout_probe.cpp"
_INCLUDE = "torch/include/"
# auditwheel's folder, in which arm64 wheels up to 2.9 have what torch's libraries need, is the second one.
_LIBRARIES = ("torch/lib", "torch.libs")
_ARM_COMPUTE_LIBRARY = "libarm_compute"
# Names in nvcc's unnamed namespaces, and of its registration, carry a hash of each build: nobody else can ask for them.
_PRIVATE = re.compile(r"_GLOBAL__N_|^__(fatbinwrap|cudaRegisterLinkedBinary)_")
_HEADERS = re.compile(r"torch/include/(ATen|c10|torch|pybind11)/.*\.(h|cuh|hpp|inl)")
# Headers of kernels and of lazy tensors: they have no assertions, and the probe does not include them.
_UNUSED_HEADERS = re.compile(r"torch/include/(ATen/cpu|c10/metal|torch/csrc/lazy)/")


@dataclass(frozen=True)
class CollectedRelease:
    """One release: the names of each unit with their kinds, the lines of its headers, the layouts of its types.

    `fetched` is the number of bytes that came from the package index. `wheels` are the SHA-256 of the release's wheels
    by CPython tag, as the package index states them, empty where it does not. `records` are the SHA-256 of each RECORD
    of the wheels that were read, by the wheels'.
    """

    release: ReleaseFiles
    exported: Mapping[Unit, Mapping[str, Kind]]
    header_lines: HeaderLines
    layouts: Layouts
    fetched: int
    wheels: Mapping[str, str]
    records: Mapping[str, str]


def wheels_of(release: str, index: PackageIndex, machine: Machine = X86_64) -> Mapping[str, DistributionPackage]:
    """A release's wheels for Linux on a machine, by their CPython's tag.

    Raises PackageIndexError, and UnknownTorchError for a release of which the index has no wheel.
    """
    return Listing.read(index, machine=machine).release(release).wheels


def read_release(
    release: str,
    index: PackageIndex,
    shell: Shell,
    say: Callable[[str], None],
    pythons: Iterable[str] = (),
    *,
    whole: bool = True,
    machine: Machine = X86_64,
) -> CollectedRelease:
    """Read a release for Linux on `machine`: one CPython's wheel, and of those of `pythons` (tags) libtorch_python.

    Tags that the release has no wheel for are ignored. `say` gets a line of progress after each wheel. Names are read
    from parts of libraries: with `whole` these are parts of the very file that the index means, since all of it is
    downloaded; without, the names are as true as the connection. Raises UnknownTorchError or PackageIndexError;
    ToolError without a g++ for the machine, AuditError if the layout probe does not compile.
    """
    wheels = wheels_of(release, index, machine)
    tags = [tag for tag in pythons if tag in wheels]
    main_tag = _main_tag(tags, wheels)
    records = {}

    def opened(tag: str) -> AbstractContextManager[RemoteWheel]:
        return torch_wheel.opened(wheels[tag], index, shell.cwd, say, whole=whole)

    with opened(main_tag) as wheel:
        records[torch_wheel.stated_sha256(wheels[main_tag])] = torch_wheel.record_sha256(wheel)
        exported = _units(release, main_tag, torch_libraries(wheel))
        name_count = sum(map(len, exported.values()))
        say(f"{wheels[main_tag].filename}: {name_count} names, {wheel.fetched / 1e6:.1f} MB fetched")
        fetched_before = wheel.fetched
        headers = _read_headers(wheel)
        say(f"{len(headers)} headers, {(wheel.fetched - fetched_before) / 1e6:.1f} MB fetched")
        fetched = wheel.fetched

    # Only libtorch_python differs between CPythons: all other libraries are those of the wheel above.
    for tag in tags:
        if tag == main_tag:
            continue
        with opened(tag) as wheel:
            records[torch_wheel.stated_sha256(wheels[tag])] = torch_wheel.record_sha256(wheel)
            exported |= _units(release, tag, torch_libraries(wheel, of_python=True))
            say(f"{wheels[tag].filename}: {wheel.fetched / 1e6:.1f} MB fetched")
            fetched += wheel.fetched

    say("compiling the layout probe")
    layouts = _compile_layouts(headers, shell, machine)

    filenames, hashes = {}, {}
    for tag, file in wheels.items():
        filenames[tag] = file.filename
        hashes[tag] = str((file.digests or {}).get("sha256", ""))
    return CollectedRelease(
        ReleaseFiles(release, filenames),
        exported,
        HeaderLines({release: _assertion_lines(headers)}),
        Layouts({release: layouts}),
        fetched,
        hashes,
        records,
    )


def _main_tag(tags: Sequence[str], wheels: Mapping[str, DistributionPackage]) -> str:
    """The CPython whose wheel is read for everything: the running one if it may be, otherwise the first of `tags`.

    Without tags it may be any that has a wheel: the running one, otherwise the newest.
    """
    running = CPython.running().tag
    if running in (tags or wheels):
        return running
    if tags:
        return tags[0]
    return max(wheels, key=CPython.parse)


def _units(release: str, tag: str, libraries: Mapping[str, Exported]) -> dict[Unit, dict[str, Kind]]:
    """The units of a wheel's libraries, without the libraries that torch installs beside its own."""
    units = {}
    for path, exported in libraries.items():
        location = PurePosixPath(path)
        if location.parent.as_posix() not in _LIBRARIES:
            continue
        python = tag if "python" in location.name else ""
        unit = Unit(release, location.name, python, exported.needed)
        units[unit] = symbol.kinds_by_name(entry for entry in exported.symbols if not _PRIVATE.search(entry.name))
    return units


def _read_headers(wheel: RemoteWheel) -> dict[str, bytes]:
    """The headers of a wheel by their path below torch/include."""
    paths = []
    for path in wheel.members:
        if _HEADERS.fullmatch(path) and not _UNUSED_HEADERS.match(path):
            paths.append(path)
    headers = {}
    for path, content in wheel.read_many(paths).items():
        headers[path.removeprefix(_INCLUDE)] = content
    return headers


def _assertion_lines(headers: Mapping[str, bytes]) -> dict[str, frozenset[int]]:
    """The lines of the assertions in each of torch's own headers that has any."""
    lines_by_header = {}
    for path, content in headers.items():
        # Others are compiled under another path, or never name themselves: header_lines looks for these alone.
        if path.split("/")[0] not in ("ATen", "c10", "torch") or not path.endswith((".h", ".cuh")):
            continue
        lines = assertion_lines(content.decode("utf-8", "replace"))
        if lines:
            lines_by_header[path] = frozenset(lines)
    return lines_by_header


def _compile_layouts(headers: Mapping[str, bytes], shell: Shell, machine: Machine) -> dict[str, Layout]:
    """The layouts that g++ for the machine gives torch's types. Raises ToolError without it, AuditError if it fails."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 (slow to import)

    with tempfile.TemporaryDirectory() as scratch:
        include = Path(scratch) / "include"
        for path, content in headers.items():
            header = inside(include, path)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_bytes(content)
        # A shared library, so that the linker puts the names into the debug information; nothing of it is ever run.
        options = ["-std=c++20", "-O0", "-g", "-w", "-fPIC", "-shared", "-Wl,--unresolved-symbols=ignore-all"]
        # Debug information of every type, also of those that the probe does not use.
        options += ["-femit-class-debug-always", "-fno-eliminate-unused-debug-types"]
        for folder in (include, include / "torch" / "csrc" / "api" / "include", sysconfig.get_path("include")):
            options.append(f"-I{folder}")
        probe = Path(scratch) / "probe.so"
        compiler = "g++" if machine.name == platform.machine() else machine.cross_compiler
        done = shell.run(compiler, *options, _PROBE, "-o", probe)
        if done.returncode in (126, 127):
            raise ToolError(
                f"the layouts need a C++ compiler, and {compiler} is not installed",
                where="index add",
                next_step=f"install {compiler} and the headers of this Python",
            )
        if not done.ok:
            raise AuditError(
                f"the layout probe does not compile: {(*done.tail, '')[0]}",
                where=str(shell.log),
                next_step="the log has the compiler's messages; Python.h comes with python3-dev",
            )
        with probe.open("rb") as stream:
            return type_layouts.types_in(ELFFile(stream).get_dwarf_info())


def system_units(machine: Machine = X86_64) -> dict[Unit, frozenset[str]]:
    """The names that the C and C++ libraries of `machine` export. Raises AuditError where one is not installed."""
    units = {}
    for name in SYSTEM_LIBRARIES:
        elf = library.read(_system_library(name, machine).read_bytes(), machine)
        units[Unit("", name, "", elf.needed)] = elf.exported
    return units


def _system_library(name: str, machine: Machine) -> Path:
    """The library of that name: this machine's own, or that of a cross compiler. Raises AuditError without it."""
    multiarch = f"{machine.name}-linux-gnu"
    folders = [f"/lib/{multiarch}", f"/usr/{multiarch}/lib"]
    if machine.name == platform.machine():
        folders += ["/lib64", "/usr/lib64"]
    for folder in folders:
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise AuditError(
        f"there is no {name} for {machine.words} here", where="index make", next_step="install the C++ library"
    )


def write_beside(folder: Path, collected: Sequence[CollectedRelease], system: Mapping[Unit, frozenset[str]]) -> None:
    """Write the tables of these releases for another machine than x86-64, by those that the farm ships for that one.

    `system` is that of `write`. The names of the Arm Compute Library are left out: they are half of what torch for
    x86-64 does not export and more than half of the file, and extensions have no headers of it. Raises AuditError where
    header lines differ from those for x86-64, since none are written.
    """
    exported: dict[Unit, Iterable[str]] = {**system}
    layouts = Layouts({})
    records: dict[str, str] = {}
    of_x86_64 = HeaderLines.from_bytes((SHIPPED / HEADER_LINES_FILE).read_bytes()).by_release
    for release in collected:
        for unit, names in release.exported.items():
            exported[unit] = () if unit.library.startswith(_ARM_COMPUTE_LIBRARY) else names
        layouts = layouts.extended_by(release.layouts)
        records |= release.records
        for name, lines in release.header_lines.by_release.items():
            if lines != of_x86_64.get(name):
                raise AuditError(
                    f"the headers of torch {name} have assertions in other lines than those for x86-64",
                    where=str(folder),
                    next_step="give the folder a file of header lines",
                )
    table = SymbolTable.of([release.release for release in collected], exported)
    with replace_folder(folder) as scratch:
        names_content = shared_names.to_bytes(table, (SHIPPED / SYMBOLS_FILE).read_bytes())
        (scratch / SHARED_NAMES_FILE).write_bytes(names_content)
        (scratch / LAYOUTS_FILE).write_bytes(layouts.to_bytes())
        (scratch / RECORDS_FILE).write_text(torch_wheel.records_text(records), "utf-8")


def write(folder: Path, collected: Sequence[CollectedRelease], system: Mapping[Unit, frozenset[str]]) -> None:
    """Write the tables of these releases, all or none; `system` are units that belong to no release."""
    exported: dict[Unit, Iterable[str]] = {**system}
    kinds: dict[Unit, Mapping[str, Kind]] = {}
    lines_by_release: dict[str, Mapping[str, frozenset[int]]] = {}
    layouts = Layouts({})
    releases: list[ReleaseFiles] = []
    wheels: dict[str, Mapping[str, str]] = {}
    records: dict[str, str] = {}
    for release in collected:
        exported |= release.exported
        kinds |= release.exported
        lines_by_release |= release.header_lines.by_release
        layouts = layouts.extended_by(release.layouts)
        releases.append(release.release)
        wheels[release.release.name] = release.wheels
        records |= release.records
    table = SymbolTable.of(releases, exported)
    kinds_content = symbol_types.to_bytes(table, kinds, wheels)
    with replace_folder(folder) as scratch:
        (scratch / SYMBOLS_FILE).write_bytes(table.to_bytes())
        (scratch / KINDS_FILE).write_bytes(kinds_content)
        (scratch / HEADER_LINES_FILE).write_bytes(HeaderLines(lines_by_release).to_bytes())
        (scratch / LAYOUTS_FILE).write_bytes(layouts.to_bytes())
        (scratch / RECORDS_FILE).write_text(torch_wheel.records_text(records), "utf-8")
