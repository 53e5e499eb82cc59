"""A variant's packages move to PACKAGE/_torchNN/, so that no two distributions ever own one path.

pip removes every file that a distribution lists, whoever else owns it by then: two variants with the same files, or one
and an earlier single wheel of the project, would destroy each other on upgrade and on uninstall (measured).
PACKAGE/__init__.py, the dispatcher, belongs to the plain wheel.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from torch_build_farm.core.errors import RelocationError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.requirements import read_requirement
from torch_build_farm.core.wheel_archive import add_field, dist_info, split_metadata, write_wheel
from torch_build_farm.project.external_libraries import matches_any, policy
from torch_build_farm.project.settings import Settings
from torch_build_farm.project.variant import STABLE_TAG
from torch_build_farm.wheels import cmake_files, namespaces, pkg_config_files, plain_files, run_paths
from torch_build_farm.wheels.record import installed_path
from torch_build_farm.wheels.wheel import Library, opened, read_wheel

# Entry points of a variant, kept for the plain wheel, which owns the scripts in bin/.
ENTRY_POINTS = "plain_entry_points.txt"
# In each _torchNN/, and in RECORD: an uninstall may leave the folder behind, but not this file. A line "cuda: 12" in it
# says what the variant needs of torch (`cuda_needed`), "import-torch-first: yes" that the dispatcher imports torch, and
# "torch: 2.10" that the variant serves that minor and all later ones.
MARKER = "_variant.txt"
_PACKAGE_FILES = (".cmake", ".pc")  # say where a package's libraries and headers are
_MAIN = """import os, runpy

runpy.run_path(os.path.join(os.path.dirname(__file__), "__init__.py"), run_name="__main__")
"""


def outermost(packages: Sequence[str]) -> tuple[str, ...]:
    """The folders of packages (import names), without those inside another."""
    folders = [name.replace(".", "/") for name in packages]
    outer = []
    for folder in folders:
        if not any(folder.startswith(f"{other}/") for other in folders):
            outer.append(folder)
    return tuple(outer)


@dataclass(frozen=True)
class Move:
    """Where the members of a wheel go: `packages` are import names, `tag` is the variant's, such as torch-stable.

    - `private`: libraries outside the packages that others find by their run paths, by where they are installed.
    - `libraries_folder`: the variant's folder for them at top level.
    """

    packages: tuple[str, ...]
    tag: str
    private: frozenset[str] = frozenset()
    libraries_folder: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        return outermost(self.packages)

    @property
    def inner(self) -> str:
        """The variant's folder in each package, such as _torch_stable."""
        return f"_{self.tag.replace('-', '_')}"

    def member(self, path: str) -> str | None:
        """The new path of a file; None for one that is nobody's. A single module becomes a package's own."""
        if path in self.private:
            return f"{self.libraries_folder}/{path}"
        for folder in self.folders:
            if path.startswith(f"{folder}/"):
                return f"{folder}/{self.inner}/{path[len(folder) + 1 :]}"
            if re.fullmatch(rf"{re.escape(folder)}(\.pyi?|(\.[^/.]+)?\.so)", path):
                return f"{folder}/{self.inner}/__init__{path[len(folder) :]}"
        return None

    def folder(self, path: str) -> str:
        """The new path of a folder; one that is neither in a package nor has private libraries stays."""
        if any(posixpath.dirname(library) == path for library in self.private):
            return posixpath.normpath(posixpath.join(self.libraries_folder, path))
        for package in self.folders:
            if f"{path}/".startswith(f"{package}/"):
                return f"{package}/{self.inner}{path[len(package) :]}"
        return path

    def run_path(self, entry: str, library: str) -> str:
        """An RPATH or RUNPATH entry of `library` (its old path), so that it leads to the same place after the move."""
        place = run_paths.resolve(entry, posixpath.dirname(library))
        if place is None:
            return entry
        if f"{place}/".startswith(run_paths.ROOT):
            # The place is in site-packages, and may move too.
            place = posixpath.join(run_paths.ROOT, self.folder(place[len(run_paths.ROOT) :]))
        new_folder = posixpath.join(run_paths.ROOT, posixpath.dirname(self.member(library) or library))
        relative = posixpath.relpath(place, new_folder)
        return "$ORIGIN" if relative == "." else f"$ORIGIN/{relative}"


def _move(packages: tuple[str, ...], tag: str, info: str, libraries: Collection[Library]) -> Move:
    """The move of a wheel whose .dist-info folder is `info`, with the libraries that lie outside its packages.

    Back ends put them into folders that each variant would own: meson-python into .NAME.mesonpy.libs, CMake projects
    into lib.
    """
    move = Move(packages, tag, libraries_folder=f"{info.partition('-')[0]}.libs")  # as auditwheel names it
    private = set()
    for member in run_paths.linked(libraries):
        path = installed_path(member)
        if move.member(path) is None and not path.startswith(f"{move.libraries_folder}/"):
            private.add(path)
    return replace(move, private=frozenset(private))


def _plan(names: Sequence[str], info: str, move: Move, plain_patterns: Sequence[str]) -> dict[str, str]:
    """The new path of each member. Raises RelocationError for a file that two variants would both own.

    `plain_patterns` are the setting `plain-files`.
    """
    planned: dict[str, str] = {}
    stray = []
    for name in names:
        path = installed_path(name)
        new_path = move.member(path)
        # Both folders have the variant's name in theirs, so no other variant owns them.
        if path.split("/")[0] in (info, move.libraries_folder):
            new_path = f"{info}/{ENTRY_POINTS}" if name == f"{info}/entry_points.txt" else path
        if new_path is None and plain_files.is_plain(name, plain_patterns):
            new_path = f"{info}/{plain_files.FOLDER}/{plain_files.scheme_path(name)}"
        if new_path is None:
            stray.append(name)
        else:
            planned[name] = new_path
    if stray:
        first = plain_files.scheme_path(min(stray))
        raise RelocationError(
            f"every variant would own {', '.join(sorted(stray)[:5])}{' and more' if len(stray) > 5 else ''}, and "
            "uninstalling one would take it from the others",
            where=f"packages is {', '.join(move.packages)}",
            next_step="install it inside a package; in place of a script use an entry point ([project.scripts]); what "
            f'is the same for every variant can go into the plain wheel: plain-files = ["{first}"]',
        )
    for new_path, count in Counter(planned.values()).items():
        if count > 1:
            clashing = sorted(name for name in planned if planned[name] == new_path)
            raise RelocationError(
                f"{' and '.join(clashing)} would both become {new_path}", next_step="drop one of them"
            )
    return planned


def _added(
    planned: Mapping[str, str], move: Move, cuda: str, *, version: str, torch_first: bool, oldest_torch: str
) -> dict[str, str]:
    """Files that the relocated wheel has in addition: markers, and a __main__.py for each single module.

    `version` is the wheel's. `torch_first`: the dispatcher imports torch before any package of the wheel;
    `oldest_torch` is the minor from which on the variant serves all, empty for a variant that serves one.
    """
    marker = f"The variant {move.tag}. The dispatcher looks for this file.\nversion: {version}\n"
    if cuda:
        marker += f"cuda: {cuda}\n"
    if oldest_torch:
        marker += f"torch: {oldest_torch}\n"
    new_paths = set(planned.values())
    added = {}
    for package in move.folders:
        folder = f"{package}/{move.inner}"
        if not any(path.startswith(f"{folder}/") for path in new_paths):
            continue
        # A compiled module's libraries are needed before its first line runs: it cannot import torch by itself.
        is_compiled = any(re.fullmatch(rf"{re.escape(folder)}/__init__(\.[^/.]+)?\.so", path) for path in new_paths)
        added[f"{folder}/{MARKER}"] = marker + ("import-torch-first: yes\n" if torch_first or is_compiled else "")
    for name, new_path in planned.items():
        # `python -m MODULE` ran the module itself; now MODULE is a package, which runs by its __main__.py.
        folder = posixpath.dirname(new_path)
        single_module = installed_path(name) == f"{posixpath.dirname(folder)}.py"
        if new_path.endswith("/__init__.py") and single_module:
            added[f"{folder}/__main__.py"] = _MAIN
    return added


# Libraries that are named by CUDA's major version (those of CUDA 12 and 13); cuFFT, say, has a number of its own.
_OF_CUDA_MAJOR = re.compile(r"lib(?:cudart|nvrtc|nvJitLink|cublas|cublasLt)\.so\.([0-9]{1,3})")


def cuda_needed(libraries: Iterable[Library]) -> str:
    """The CUDA that a wheel needs of torch: its major version ("12"), "any" for some, "" for none.

    Told by what its libraries name as NEEDED. What torch or its CUDA wheels bring is never in a wheel.
    """
    needed = sorted({name for library in libraries for name in library.needed})
    majors = [match[1] for name in needed if (match := _OF_CUDA_MAJOR.fullmatch(name))]
    if majors:
        return max(majors, key=int)
    of_cuda = (*policy().cuda, *policy().cuda_torch_only)
    return "any" if any(matches_any(name, of_cuda) for name in needed) else ""


def _version_of(metadata: str) -> str:
    fields, _, _ = split_metadata(metadata)
    (version_field,) = [field for field in fields if field.lower().startswith("version:")]
    return version_field.partition(":")[2].strip()


def _require(metadata: str, settings: Settings) -> str:
    """METADATA with the setting `requires`, and with the plain wheel of this version or later, for its dispatcher.

    An older one may be a single wheel of the time before the farm, whose code would be imported silently.
    """
    fields, newline, rest = split_metadata(metadata)
    plain_wheel = f"{settings.name}>={Version(_version_of(metadata)).public}"  # PEP 440: no local version after >=
    for requirement in reversed([plain_wheel, *settings.requires]):  # each goes before those that are there
        if f"Requires-Dist: {requirement}" not in fields:
            add_field(fields, f"Requires-Dist: {requirement}")
    pairs = [field.partition(":") for field in fields]
    declared = {canonicalize_name(value.strip()) for name, _, value in pairs if name == "Provides-Extra"}
    for extra in reversed(_extras_of(settings.requires)):
        if extra not in declared:
            add_field(fields, f"Provides-Extra: {extra}")
    return newline.join(fields) + rest


def _extras_of(requirements: Iterable[str]) -> list[str]:
    """The extras that markers of requirements name, normalized (PEP 685), in their order."""
    extras: dict[str, None] = {}  # an ordered set
    for requirement in requirements:
        marker = str(read_requirement(requirement).marker or "")
        for name, reversed_name in re.findall(r'extra == "([^"]+)"|"([^"]+)" == extra', marker):
            extras[canonicalize_name(name or reversed_name)] = None
    return list(extras)


def _repatch(library: Library, content: bytes, move: Move, scratch: Path, shell: Shell) -> bytes:
    """The library with its run paths adapted to its new place."""
    old_path = installed_path(library.path)
    entries = [move.run_path(entry, old_path) for entry in library.run_paths]
    return run_paths.patched(library, content, entries, scratch=scratch, shell=shell, error=RelocationError)


def _moved_package_files(contents: Mapping[str, bytes], move: Move) -> dict[str, bytes]:
    """CMake's and pkg-config's files, by where they were installed, with the places that they name after the move."""
    moved = {}
    for path, content in contents.items():
        if path.endswith(".pc"):
            moved[path] = pkg_config_files.moved(path, content, move.folder)
    of_cmake = {path: content for path, content in contents.items() if path not in moved}
    return moved | cmake_files.moved(of_cmake, move.folder)


def relocate(wheel: Path, out: Path, scratch: Path, *, settings: Settings, tag: str, shell: Shell) -> Path:
    """Write the relocated wheel into folder `out`; it requires the plain wheel. Returns its path.

    `scratch` is an empty folder; `tag` is the variant's. Raises RelocationError, and RepairError for a file that is not
    a wheel.
    """
    libraries = {library.path: library for library in read_wheel(wheel).libraries}
    # Of a wheel that works with every torch some libraries may need CUDA, which it loads where there is one.
    cuda = "" if settings.torch_flavours == "any" else cuda_needed(libraries.values())
    with opened(wheel) as archive:
        info = dist_info(archive)
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        contents = deque(archive.read(entry) for entry in entries)
        namespaces.check(outermost(settings.packages), archive)
        metadata = _require(archive.read(f"{info}/METADATA").decode("utf-8"), settings)
    move = _move(settings.packages, tag, info, libraries.values())
    package_files = {}
    for entry, content in zip(entries, contents, strict=True):
        if entry.filename.endswith(_PACKAGE_FILES):
            package_files[installed_path(entry.filename)] = content
    package_files = _moved_package_files(package_files, move)
    planned = _plan([entry.filename for entry in entries], info, move, settings.plain_files)
    members = []
    for entry in entries:
        content = contents.popleft()  # not kept beside what becomes of it: libraries may have gigabytes
        if planned[entry.filename].startswith(f"{info}/{plain_files.FOLDER}/"):
            content = plain_files.content_for_all(entry.filename, content)
        elif entry.filename in libraries:
            content = _repatch(libraries[entry.filename], content, move, scratch, shell)
        elif entry.filename.endswith(_PACKAGE_FILES):
            content = package_files[installed_path(entry.filename)]
        elif entry.filename == f"{info}/METADATA":
            content = metadata.encode("utf-8")
        # Nothing else of the entry changes, so that the same input always gives the same bytes.
        entry.filename = planned[entry.filename]
        members.append((entry, content))
    date = members[-1][0].date_time
    oldest_torch = str(settings.stable_abi) if tag == STABLE_TAG else ""
    added = _added(
        planned,
        move,
        cuda,
        version=_version_of(metadata),
        torch_first=settings.import_torch_first,
        oldest_torch=oldest_torch,
    )
    for path, text in added.items():
        if path in planned.values():
            raise RelocationError(
                f"{path} is the farm's own file, and the wheel has one of that name", next_step="name it otherwise"
            )
        added_entry = zipfile.ZipInfo(path, date)
        added_entry.external_attr, added_entry.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
        members.append((added_entry, text.encode()))
    write_wheel(out / wheel.name, members)
    return out / wheel.name
