"""Torch trees and caches, shared by all jobs of this machine's user.

One folder holds uv's cache and every environment the farm makes, so that both lie on one file system and a file that
two environments share is one hard link, downloaded and unpacked once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from torch_build_farm.core.errors import LockedError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython

if TYPE_CHECKING:
    pass

STORE_VARIABLE = "TORCH_BUILD_FARM_STORE"


def default_folder() -> Path:
    """$TORCH_BUILD_FARM_STORE, else the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    named = os.environ.get(STORE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("torch-build-farm")


@dataclass(frozen=True)
class TorchStore:
    """The store in `root`; `scope` keeps the environments of one work folder apart from those of another."""

    root: Path
    scope: str

    @classmethod
    def at(cls, root: Path, work: Path) -> TorchStore:
        return cls(root.resolve(), hashlib.sha256(str(work.resolve()).encode()).hexdigest()[:12])

    @property
    def uv_cache(self) -> Path:
        return self.root / "uv"

    @property
    def ccache(self) -> Path:
        return self.root / "ccache"

    def environment(self, name: str) -> Path:
        """Where an environment of that name lies while it is in use."""
        return self.root / "envs" / self.scope / name

    @contextlib.contextmanager
    def in_use(self, alone: bool = False) -> Iterator[None]:
        """Keep others from removing the store; `alone`: to remove it. Raises LockedError where others use it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "in-use").open("a") as stream:
            try:
                fcntl.flock(stream, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(
                    "another farm uses the store", where=str(self.root), next_step="wait for it, or stop it"
                ) from None
            yield

    @contextlib.contextmanager
    def environments(self) -> Iterator[None]:
        """Have this work folder's environments to oneself, and remove what killed farms left of theirs and of ours."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as ours:
            fcntl.flock(ours.enter_context((locks / f"envs-{self.scope}").open("a")), fcntl.LOCK_EX)
            shutil.rmtree(self.root / "envs" / self.scope, ignore_errors=True)
            for folder in (self.root / "envs").glob("*"):
                with (locks / f"envs-{folder.name}").open("a") as stream, contextlib.suppress(BlockingIOError):
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a live farm, else left by a dead one
                    shutil.rmtree(folder, ignore_errors=True)
            yield

    def in_work(self, scope: str) -> bool:
        """Whether a live farm on this machine works with the environments of `scope`."""
        path = self.root / "locks" / f"envs-{scope}"
        if scope == self.scope or not path.exists():
            return False
        with path.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    @contextlib.contextmanager
    def locked(self, name: str, shell: Shell) -> Iterator[None]:
        """Hold the store's lock `name` against other jobs and other farms; waits for it."""
        path = self.root / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    shell.say(f"waiting for another job that fetches {name}")
                    shell.runner.pause(0.2)
            yield

    @property
    def torch_folder(self) -> Path:
        """Markers of the torch releases that lie in the store."""
        return self.root / "torch"

    def _marker(self, release: str, python: CPython) -> Path:
        return self.torch_folder / f"{release}-{python.tag}"

    def has(self, release: str, python: CPython) -> bool:
        """Whether torch `release` (an exact one, or a minor's newest such as "2.9.*") was unpacked here before."""
        return self._marker(release, python).is_file() and self.uv_cache.is_dir()

    def remember(self, release: str, python: CPython) -> None:
        """Note that torch `release` and all it requires lie in the store."""
        marker = self._marker(release, python)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def free_gb(self) -> float:
        """Free on the store's file system, in GB (10^9 bytes)."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free / 1e9
