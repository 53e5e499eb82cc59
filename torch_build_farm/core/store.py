"""Torch trees and caches, shared by all jobs of this machine's user: what lies where, and who may write it.

One folder holds uv's cache and every environment the farm makes, so that both lie on one file system and a file that
two environments share is one hard link, downloaded and unpacked once.

| in the store       | what                                               | who writes it                       |
|--------------------|----------------------------------------------------|-------------------------------------|
| `uv/`              | uv's cache                                         | uv, where no foreign code calls it  |
| `torch/`           | markers of the torch releases in uv's cache        | the farm                            |
| `linked/`          | how files that environments link looked at first   | the farm                            |
| `compiled/`        | compiled modules of torch                          | the farm, where no foreign code ran |
| `sdk/`             | torch's SDKs, named by their SHA-256               | the farm                            |
| `sources/`         | fetched sources                                    | the farm                            |
| `index/`           | tables of torch releases that `index add` read     | the farm                            |
| `images/`          | what is in base images                             | the farm                            |
| `engines/`         | notes of what other machines' volumes have         | the farm                            |
| `mounts/`          | two empty folders, where local builds see their own| nobody                              |
| `in-use`, `locks/` | locks                                              | the farm                            |
| `ccache/PROJECT/`  | what ccache keeps of one project                   | that project's builds               |
| `prefixes/DIGEST/` | what `prepare` of one project installed            | that project's commands             |
| `envs/SCOPE/NAME/` | one environment while it is in use                 | its job                             |

Foreign code (builds, smoke tests) reads `TorchStore.read_only`, and writes the last three of its own project alone.
Containers are held to that by their mounts. On the local engine nothing holds foreign code; what it changes by accident
is noticed (engines/shared_files.py).

The store belongs to its user: what somebody else owns or may write, or could exchange, is refused (core/ownership.py).
A new store is for its user alone (0700), since sources in it may be private. One that others may read stays so, except
where foreign code writes: what a reader sees there cannot change what the farm does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from torch_build_farm.core import locks, ownership
from torch_build_farm.core.errors import DiskError, LockedError, out_of_reach
from torch_build_farm.core.files import remove_tree
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython

STORE_VARIABLE = "TORCH_BUILD_FARM_STORE"
_NEXT_STEP = f"use a folder that only you may write: {STORE_VARIABLE}=DIR"
_POLL_S = 0.2  # between two tries to get a lock


def default_folder() -> Path:
    """$TORCH_BUILD_FARM_STORE, else the user's cache folder (XDG_CACHE_HOME, ~/.cache).

    Raises DiskError for a user without a home folder, where neither variable is set.
    """
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    try:
        folder = platformdirs.user_cache_path("torch-build-farm")
    except RuntimeError:  # neither HOME nor the password file names a home folder
        raise _homeless() from None
    if not folder.is_absolute():  # as older releases of platformdirs say it
        raise _homeless()
    return folder


def _homeless() -> DiskError:
    return DiskError(
        "this user has no home folder, where the store would lie",
        next_step=f"set HOME, or name a folder that only you may write: {STORE_VARIABLE}=DIR",
    )


@dataclass(frozen=True)
class TorchStore:
    """The store in `root`; `scope` keeps the environments of one work folder apart from those of another."""

    root: Path
    scope: str

    @classmethod
    def at(cls, root: Path, work: Path) -> TorchStore:
        """The store in `root`, for runs in the work folder `work`.

        Raises DiskError where somebody else than this user owns it or may write it.
        """
        # A short name for the work folder, fit for folders, lock files and labels of containers.
        scope = hashlib.sha256(str(work.resolve()).encode()).hexdigest()[:12]
        store = cls(ownership.check_path(root, _NEXT_STEP), scope)
        store._check_folders()
        return store

    def _check_folders(self) -> None:
        """Raise DiskError where somebody else owns or may write a folder of the store, or where a link of it leads."""
        try:
            # Where nobody else may enter, it does not matter what the umask let others do further below.
            others_enter = self.root.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)
            check = ownership.check_status if others_enter else ownership.check_owner
            with os.scandir(self.root) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        ownership.check_path(Path(entry.path), _NEXT_STEP)
                    elif entry.is_dir():
                        check(Path(entry.path), entry.stat(), _NEXT_STEP)
        except FileNotFoundError:
            pass  # it is made when something is put there
        except OSError as error:
            raise out_of_reach(error) from None

    def make(self) -> None:
        """Make the store's folder, for this user alone. Raises DiskError."""
        ownership.private_folder(self.root, _NEXT_STEP)

    @property
    def uv_cache(self) -> Path:
        """The cache of uv, from which environments link their files."""
        return self.root / "uv"

    @property
    def read_only(self) -> tuple[Path, ...]:
        """What foreign code may read and not write: uv's cache, torch's SDKs and compiled modules."""
        return (self.uv_cache, self.root / "sdk", self.bytecode)

    @property
    def bytecode(self) -> Path:
        """Compiled modules of torch, by CPython and release; made by the farm where no foreign code ran."""
        return self.root / "compiled"  # not "bytecode", where earlier versions kept what foreign code may have made

    def ccache(self, project: str, source: str, engine: str) -> Path:
        """The folder of ccache's results (CCACHE_DIR) for a project, by its name, its source's place and an engine.

        What a build puts there reaches later builds of the same project by the same engine alone.
        """
        digest = hashlib.sha256(f"{project}\n{source}\n{engine}".encode()).hexdigest()[:16]
        return self.root / "ccache" / digest

    def prefix(self, project: str, source: str, preparation: str) -> Path:
        """The folder that a project's `prepare` installs into, by the project's name, its source's place and a digest.

        What is prepared there reaches builds of the same project alone.
        """
        digest = hashlib.sha256(f"{project}\n{source}\n{preparation}".encode()).hexdigest()[:16]
        return self.root / "prefixes" / digest

    def environment(self, name: str) -> Path:
        """Where an environment of that name lies while it is in use."""
        return self.root / "envs" / self.scope / name

    @property
    def mount_points(self) -> tuple[Path, Path]:
        """Where each local build sees its environment and its own files, if it can mount them there."""
        return self.root / "mounts" / "environment", self.root / "mounts" / "scratch"

    @contextlib.contextmanager
    def in_use(self, alone: bool = False) -> Iterator[None]:
        """Keep others from removing the store; `alone`: to remove it. Raises LockedError where others use it."""

        def refuse() -> None:
            raise LockedError("another farm uses the store", where=str(self.root), next_step="wait for it, or stop it")

        self.make()
        with locks.hold(self.root / "in-use", shared=not alone, busy=refuse):
            yield

    @contextlib.contextmanager
    def environments(self) -> Iterator[None]:
        """Hold this work folder's environments, and remove what killed farms left of these and of others."""
        # Waits at most for a farm that sweeps: whoever works in this work folder holds that folder's lock already.
        with locks.hold(self._environments_lock(self.scope), busy=lambda: time.sleep(_POLL_S)):
            self._keep_others_out()
            remove_tree(self.root / "envs" / self.scope)
            for folder in (self.root / "envs").glob("*"):
                # A live farm holds the lock of its environments; that of a dead one is free.
                with contextlib.suppress(BlockingIOError), locks.hold(self._environments_lock(folder.name)):
                    remove_tree(folder)
            yield

    def _keep_others_out(self) -> None:
        """Let nobody else into the folders that foreign code writes, even where others may read the store.

        A container may leave a program there that has this user's rights, whoever starts it (setuid).
        """
        for folder in (self.root / "envs", self.root / "ccache", self.root / "prefixes", *self.mount_points):
            ownership.make_folder(folder)
            if stat.S_IMODE(folder.stat().st_mode) & 0o077:
                folder.chmod(0o700)

    def _environments_lock(self, scope: str) -> Path:
        return self.root / "locks" / f"envs-{scope}"

    def in_work(self, scope: str) -> bool:
        """Whether another live farm on this machine works with the environments of `scope`."""
        return scope != self.scope and locks.is_held(self._environments_lock(scope))

    @contextlib.contextmanager
    def locked(self, name: str, shell: Shell) -> Iterator[None]:
        """Hold the store's lock `name` against other jobs and other farms; waits for it."""

        def wait() -> None:
            shell.say(f"waiting for another job that fetches {name}")
            shell.runner.pause(_POLL_S)

        with locks.hold(self.root / "locks" / name, busy=wait):
            yield

    @property
    def torch_folder(self) -> Path:
        """Markers of the torch releases that lie in the store."""
        return self.root / "torch"

    def _marker(self, release: str, python: CPython, platform: Machine) -> Path:
        return self.torch_folder / f"{release}-{python.tag}{platform.suffix}"

    def releases(self, platform: Machine = X86_64) -> list[str]:
        """The torch releases that were unpacked here for `platform`, as `has` takes them."""
        releases = []
        for marker in self.torch_folder.glob("*-cp*"):
            release, _, *others = marker.name.split("-")
            if (others or [X86_64.name]) == [platform.name]:
                releases.append(release)
        return releases

    def has(self, release: str, python: CPython, platform: Machine = X86_64) -> bool:
        """Whether torch `release` (an exact one, or a minor's newest such as "2.9.*") was unpacked here before."""
        return self._marker(release, python, platform).is_file() and self.uv_cache.is_dir()

    def remember(self, release: str, python: CPython, platform: Machine = X86_64) -> None:
        """Note that torch `release` and all it requires lie in the store."""
        marker = self._marker(release, python, platform)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def forget(self) -> None:
        """Remove the markers of all releases: something that they tell of is no longer in the store.

        What still lies there is linked, and not downloaded, when a release is fetched again.
        """
        remove_tree(self.torch_folder)

    def free_gb(self) -> float:
        """Free on the store's file system, in GB (10^9 bytes)."""
        self.make()
        return shutil.disk_usage(self.root).free / 1e9
