"""What the audit knows of a torch release, read from its wheels on the package index: names, marks, layouts."""

from __future__ import annotations

import re
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import AuditError, ToolError
from torch_build_farm.core.files import replace_folder
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases import symbol_types, type_layouts
from torch_build_farm.releases.header_lines import Marks, of_header
from torch_build_farm.releases.known import KINDS, LAYOUTS, MARKS, SYMBOLS
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.symbol_table import SYSTEM_LIBRARIES, Release, Table, Unit
from torch_build_farm.releases.type_layouts import Layouts
from torch_build_farm.wheels.elf import library, symbol
from torch_build_farm.wheels.elf.partial import Exported
from torch_build_farm.wheels.elf.remote_exports import torch_libraries
from torch_build_farm.wheels.elf.symbol import Kind

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from torch_build_farm.core.remote_wheel import RemoteWheel

_PROBE = DATA / "layout_probe.cpp"
_INCLUDE = "torch/include/"
# Names in nvcc's unnamed namespaces, and of its registration, carry a hash of each build: nobody else can ask for them.
_PRIVATE = re.compile(r"_GLOBAL__N_|^__(fatbinwrap|cudaRegisterLinkedBinary)_")
_HEADERS = re.compile(r"torch/include/(ATen|c10|torch|pybind11)/.*\.(h|cuh|hpp|inl)")
# Kernels', and lazy tensors', with no assertions in them, which the probe does not include.
_NO_HEADERS = re.compile(r"torch/include/(ATen/cpu|c10/metal|torch/csrc/lazy)/")


@dataclass(frozen=True)
class Gathered:
    """One release: names with their kinds, marks and layouts; `fetched` bytes of it came from the index."""

    release: Release
    exported: Mapping[Unit, Mapping[str, Kind]]
    marks: Marks
    layouts: Layouts
    fetched: int
    wheels: Mapping[str, str]  # SHA-256 by tag, as the index states them


def wheels_of(release: str, index: PackageIndex) -> Mapping[str, DistributionPackage]:
    """A release's wheels by their CPython's tag. Raises UnknownTorchError for a release that the index has none of."""
    return Listing.read(index).release(release).wheels


def _units(release: str, tag: str, libraries: Mapping[str, Exported]) -> dict[Unit, dict[str, Kind]]:
    """The units of a wheel's libraries; those that torch installs beside its own are left out."""
    found = {}
    for path, one in libraries.items():
        if PurePosixPath(path).parent.as_posix() != "torch/lib":
            continue
        name = PurePosixPath(path).name
        unit = Unit(release, name, tag if "python" in name else "", one.needed)
        found[unit] = symbol.of(name for name in one.symbols if not _PRIVATE.search(name.name))
    return found


def _headers(wheel: RemoteWheel) -> dict[str, bytes]:
    paths = [path for path in wheel.members if _HEADERS.fullmatch(path) and not _NO_HEADERS.match(path)]
    return {path[len(_INCLUDE) :]: content for path, content in wheel.read_many(paths).items()}


def _marks(headers: Mapping[str, bytes]) -> dict[str, frozenset[int]]:
    found = {}
    for path, content in headers.items():
        own = path.split("/")[0] in ("ATen", "c10", "torch") and path.endswith((".h", ".cuh"))
        if own and (lines := of_header(content.decode("utf-8", "replace"))):
            found[path] = frozenset(lines)
    return found


def _compiled(headers: Mapping[str, bytes], shell: Shell) -> dict[str, type_layouts.Layout]:
    """The layouts that a C++ compiler gives torch's types. Raises ToolError without one, AuditError where it fails."""
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415 (slow to import)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in headers.items():
            target = folder / "include" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        include = folder / "include"
        places = [include, include / "torch" / "csrc" / "api" / "include", sysconfig.get_path("include")]
        # A shared library, so that the linker puts the names into the debug information; nothing of it is ever run.
        options = ["-std=c++20", "-O0", "-g", "-w", "-fPIC", "-shared", "-Wl,--unresolved-symbols=ignore-all"]
        whole = ["-femit-class-debug-always", "-fno-eliminate-unused-debug-types"]
        made = folder / "probe.so"
        done = shell.run("g++", *options, *whole, _PROBE, *(f"-I{place}" for place in places), "-o", made)
        if done.returncode in (126, 127):
            raise ToolError(
                "layouts take a C++ compiler, and there is no g++",
                where="index add",
                next_step="install g++ and the headers of this Python",
            )
        if not done.ok:
            raise AuditError(
                f"the probe of the layouts does not compile: {(*done.tail, '')[0]}",
                where=str(shell.log),
                next_step="the log has the compiler's messages; Python.h comes with python3-dev",
            )
        with made.open("rb") as stream:
            return type_layouts.types_in(ELFFile(stream).get_dwarf_info())


def gather(
    release: str, index: PackageIndex, shell: Shell, say: Callable[[str], None], pythons: Iterable[str] = ()
) -> Gathered:
    """Read a release: the wheel for one CPython, and libtorch_python alone of those for `pythons` (tags)."""
    files = wheels_of(release, index)
    wanted, running = [tag for tag in pythons if tag in files], CPython.running().tag
    first = next((tag for tag in (running, *wanted) if tag in files and (not wanted or tag in wanted)), "")
    first = first or max(files, key=CPython.parse)
    with index.open_wheel(files[first]) as wheel:
        exported = _units(release, first, torch_libraries(wheel))
        say(f"{files[first].filename}: {sum(map(len, exported.values()))} names, {wheel.fetched / 1e6:.1f} MB fetched")
        before = wheel.fetched
        headers = _headers(wheel)
        say(f"{len(headers)} headers, {(wheel.fetched - before) / 1e6:.1f} MB fetched")
        fetched = wheel.fetched
    for tag in (tag for tag in wanted if tag != first):
        with index.open_wheel(files[tag]) as wheel:
            exported |= _units(release, tag, torch_libraries(wheel, of_python=True))
            say(f"{files[tag].filename}: {wheel.fetched / 1e6:.1f} MB fetched")
            fetched += wheel.fetched
    say("compiling the probe of the layouts")
    layouts = Layouts({release: _compiled(headers, shell)})
    names = {tag: file.filename for tag, file in files.items()}
    hashes = {tag: str((file.digests or {}).get("sha256", "")) for tag, file in files.items()}
    return Gathered(Release(release, names), exported, Marks({release: _marks(headers)}), layouts, fetched, hashes)


def system_units() -> dict[Unit, frozenset[str]]:
    """What this machine's C and C++ libraries export. Raises AuditError where one is not found."""
    found = {}
    for name in SYSTEM_LIBRARIES:
        folders = (Path(folder) for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"))
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise AuditError(f"this machine has no {name}", where="index make", next_step="install the C++ library")
        one = library.read(path.read_bytes())
        found[Unit("", name, "", one.needed)] = one.exported
    return found


def write(folder: Path, gathered: Sequence[Gathered], more: dict[Unit, frozenset[str]]) -> None:
    """Write the four tables of these releases, whole or not at all; `more` are units of no release."""
    exported: dict[Unit, Iterable[str]] = {**more}
    their_kinds: dict[Unit, Mapping[str, Kind]] = {}
    releases: list[Release] = []
    marks, layouts = Marks({}), Layouts({})
    for one in gathered:
        exported |= one.exported
        their_kinds |= one.exported
        releases.append(one.release)
        marks = Marks({**marks.lines, **one.marks.lines})
        layouts = layouts.with_those_of(one.layouts)
    table = Table.of(releases, exported)
    kinds = symbol_types.packed(table, their_kinds, {one.release.name: one.wheels for one in gathered})
    with replace_folder(folder) as scratch:
        (scratch / SYMBOLS).write_bytes(table.packed())
        (scratch / KINDS).write_bytes(kinds)
        (scratch / MARKS).write_bytes(marks.packed())
        (scratch / LAYOUTS).write_bytes(layouts.packed())
