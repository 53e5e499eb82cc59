"""Files that an environment shares with the store: few packages, compared with what they were before foreign code ran.

uv installs hard links into its cache (on file systems with reflinks: copies that cost nothing). A build that appends to
a file of its own environment would change the cache with it, and what runs in the next project's build. So:

- Of packages below LARGE bytes an environment gets files of its own, as soon as uv is done.
- Of torch, NVIDIA's packages and others of that size the links stay, since copies would take gigabytes. The store notes
  how their files looked (inode, size, time of change, mode) before any foreign code ran beside them. They are compared
  with the note before an environment is used and after foreign code ran in it. A package that was edited is removed
  from the cache, and the job fails; uv unpacks the package anew for the next one.

This finds accidents. Code that means to hide an edit can set a file's time back; it needs containers, where the shared
files are mounted read-only.

Measured for torch 2.9 with its CUDA libraries: 15,000 files, of which 14,000 are large packages'; 0.1 s to look at an
environment before and 0.05 s to look at the cache afterwards, 0.1 s for the copies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core.errors import BuildError
from torch_build_farm.core.files import remove_tree, walk
from torch_build_farm.core.store import TorchStore

LARGE = 5_000_000  # bytes of a package; setuptools has 3 million, networkx, which torch requires, 7 in 600 files

# How a file looked: inode, size, time of its last change (ns), mode.
_Look = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Folder:
    """A package in uv's cache, or a folder of compiled modules: how each of its files looked, by relative path.

    `note` is the file that says so.
    """

    path: Path
    note: Path
    looks: Mapping[str, _Look]

    def edited(self) -> list[str]:
        """Files that do not look as they did, or are gone."""
        names = []
        for name, look in self.looks.items():
            try:
                unchanged = _look(os.lstat(f"{self.path}/{name}")) == look
            except OSError:
                unchanged = False
            if not unchanged:
                names.append(name)
        return names


@dataclass(frozen=True)
class SharedFiles:
    """What one environment shares with the store, for the job `job` with the log `log`."""

    store: TorchStore
    folders: tuple[_Folder, ...]
    job: str
    log: Path

    def compare(self) -> None:
        """Raise BuildError for files that were edited since; the store no longer has their packages."""
        edited = self.remove_edited()
        if edited:
            raise _edited(self.job, self.log, edited, "while this job ran, by it or by another that ran beside it")

    def remove_edited(self) -> list[str]:
        """Remove packages of which a file was edited since from the store; returns the files."""
        edited: list[str] = []
        for folder in self.folders:
            in_folder = folder.edited()
            if in_folder:
                _drop(self.store, folder)
            edited += in_folder
        return edited


def share(store: TorchStore, home: Path, job: str, log: Path) -> SharedFiles:
    """Give the environment `home` files of its own in place of small shared ones, and note how the large ones look.

    Call it before foreign code runs there. Raises BuildError where a file was edited earlier; the store no longer has
    its package.
    """
    linked = _linked_files(home)
    folders = []
    for package in _packages_in_cache(store, linked):
        note = store.root / "linked" / f"{package.parent.name}-{package.name}"
        folders += _noted(package, note, smallest=LARGE)
    for compiled in _compiled_modules(store, linked):
        folders += _noted(compiled, compiled.with_name(f"{compiled.name}.looks"), smallest=0)

    edited: list[str] = []
    for folder in folders:
        in_folder = _take_out(linked, folder)
        if in_folder:
            _drop(store, folder)
        edited += in_folder
    if edited:
        raise _edited(job, log, edited, "by a build or a test before, or by one that runs beside this job")

    # What no large package has taken out.
    for names in linked.values():
        for path, _ in names:
            _make_own(Path(path))
    return SharedFiles(store, tuple(folders), job, log)


def _edited(job: str, log: Path, files: Sequence[str], when: str) -> BuildError:
    """The error for files of the store that were edited in place."""
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return BuildError(
        f"{job}: an installed file that environments share was edited in place: {files[0]}{more}",
        where=f"{when}; {log}",
        next_step="run again: the farm unpacks the package anew. If it is this source that edits it: patch a copy",
    )


# ---- what an environment links, and from where


def _look(status: os.stat_result) -> _Look:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _linked_files(home: Path) -> dict[int, list[tuple[str, _Look]]]:
    """Regular files of an environment that have further names: their paths in it and their look, by inode."""
    linked: dict[int, list[tuple[str, _Look]]] = {}
    for entry in walk(home):
        status = entry.stat(follow_symlinks=False)
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            linked.setdefault(status.st_ino, []).append((entry.path, _look(status)))
    return linked


def _take_out(linked: dict[int, list[tuple[str, _Look]]], folder: _Folder) -> list[str]:
    """Take the files of a folder out of an environment's `linked`; returns those that look otherwise than noted."""
    edited = []
    for name, look in folder.looks.items():
        # Nothing where the environment has another file in its place.
        if any(look_now != look for _, look_now in linked.pop(look[0], ())):
            edited.append(name)
    return edited


def _packages_in_cache(store: TorchStore, linked: Mapping[int, object]) -> Iterator[Path]:
    """The packages in uv's cache that an environment links files from.

    uv unpacks each into a folder of a random name. What an environment has of it is told by its METADATA.
    """
    for package in store.uv_cache.glob("archive-v*/*"):
        with contextlib.suppress(OSError), os.scandir(package) as entries:
            for entry in entries:
                if entry.name.endswith(".dist-info") and os.lstat(f"{entry.path}/METADATA").st_ino in linked:
                    yield package


def _compiled_modules(store: TorchStore, linked: Mapping[int, object]) -> Iterator[Path]:
    """The folders of torch's compiled modules that an environment links files from."""
    for first in sorted(store.bytecode.glob("*/*/__pycache__/__init__.*.pyc")):
        if first.lstat().st_ino in linked:
            yield first.parent.parent


# ---- how files looked


def _noted(path: Path, note: Path, smallest: int) -> list[_Folder]:
    """The folder at `path` as it was when `note` was written, now unless it is there; none for less than `smallest`.

    A note is of one very folder: in a copy of the store every file has another inode, and so has the folder.
    """
    try:
        note = note.with_name(f"{note.name}-{path.stat().st_ino}")
    except FileNotFoundError:  # another job has just removed it
        return []
    looks = _read(note)
    if looks is None:
        looks = {os.path.relpath(entry.path, path): _look(entry.stat(follow_symlinks=False)) for entry in walk(path)}
        if sum(size for _, size, _, _ in looks.values()) < smallest:
            return []
        _write(note, looks)
        looks = _read(note) or looks  # another job's, if that was first
    return [_Folder(path, note, looks)]


def _write(note: Path, looks: Mapping[str, _Look]) -> None:
    """Write a note unless there is one: the first was written before any foreign code could edit a file."""
    note.parent.mkdir(parents=True, exist_ok=True)
    fields = [" ".join(map(str, look)) + f" {name}\0" for name, look in looks.items()]
    scratch = note.with_name(f".{note.name}.{os.urandom(4).hex()}")
    try:
        scratch.write_bytes("".join(fields).encode("utf-8", "surrogateescape"))
        with contextlib.suppress(FileExistsError):
            note.hardlink_to(scratch)
    finally:
        scratch.unlink()


def _read(note: Path) -> dict[str, _Look] | None:
    """What a note says; None where there is none, or one that a sudden end has cut short, which is removed."""
    try:
        *lines, rest = note.read_bytes().decode("utf-8", "surrogateescape").split("\0")
    except FileNotFoundError:
        return None
    if rest or not lines:
        note.unlink(missing_ok=True)
        return None
    looks = {}
    for line in lines:
        inode, size, time_ns, mode, name = line.split(" ", 4)
        looks[name] = int(inode), int(size), int(time_ns), int(mode)
    return looks


# ---- taking files out of common use


def _make_own(path: Path) -> None:
    """A copy in place of a hard link, with its mode and times: Python compares a source's with its bytecode's."""
    status = path.stat()
    scratch = path.with_name(f".{path.name[:200]}.own")
    shutil.copyfile(path, scratch)
    scratch.chmod(status.st_mode)
    os.utime(scratch, ns=(status.st_atime_ns, status.st_mtime_ns))
    scratch.replace(path)


def _drop(store: TorchStore, folder: _Folder) -> None:
    """Remove a folder of which a file was edited, and what depends on it, from the store."""
    # Renamed first: at once nobody finds it any more.
    removed = folder.path.with_name(f".edited-{os.urandom(4).hex()}")
    with contextlib.suppress(FileNotFoundError):
        folder.path.rename(removed)
    folder.note.unlink(missing_ok=True)
    for pointer in store.uv_cache.glob("wheels-v*"):
        _remove_pointers(pointer, folder.path.name)
    for info in removed.glob("torch-*.dist-info"):
        for compiled in store.bytecode.glob(f"*/{info.name}*"):
            remove_tree(compiled)
    remove_tree(removed)
    store.forget()


def _remove_pointers(folder: Path, package: str) -> None:
    """Remove what in uv's folder of wheels points to an unpacked package, so that uv unpacks it anew.

    uv follows a link, or a note NAME.rev beside it for a wheel that is a local file, such as torch's SDK. `uv cache
    clean` would remove every release of the name.
    """
    for entry in walk(folder):
        path = Path(entry.path)
        if entry.is_symlink() and path.readlink().name == package:
            path.with_name(f"{path.name}.rev").unlink(missing_ok=True)
            path.unlink()
