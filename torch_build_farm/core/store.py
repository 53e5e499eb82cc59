"""Torch trees and caches, shared by all jobs of this machine's user.

One folder holds uv's cache and every environment the farm makes, so that both lie on one file system and a file that
two environments share is one hard link, downloaded and unpacked once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from torch_build_farm.core import locks
from torch_build_farm.core.errors import LockedError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython

STORE_VARIABLE = "TORCH_BUILD_FARM_STORE"
_POLL_S = 0.2  # between two tries to get a lock


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
        """The store in `root`, for runs in the work folder `work`."""
        # A short name for the work folder, fit for folders, lock files and labels of containers.
        scope = hashlib.sha256(str(work.resolve()).encode()).hexdigest()[:12]
        return cls(root.resolve(), scope)

    @property
    def uv_cache(self) -> Path:
        """The cache of uv, from which environments link their files."""
        return self.root / "uv"

    @property
    def ccache(self) -> Path:
        """The folder of ccache's results (CCACHE_DIR)."""
        return self.root / "ccache"

    def environment(self, name: str) -> Path:
        """Where an environment of that name lies while it is in use."""
        return self.root / "envs" / self.scope / name

    @contextlib.contextmanager
    def in_use(self, alone: bool = False) -> Iterator[None]:
        """Keep others from removing the store; `alone`: to remove it. Raises LockedError where others use it."""

        def refuse() -> None:
            raise LockedError("another farm uses the store", where=str(self.root), next_step="wait for it, or stop it")

        with locks.hold(self.root / "in-use", shared=not alone, busy=refuse):
            yield

    @contextlib.contextmanager
    def environments(self) -> Iterator[None]:
        """Hold this work folder's environments, and remove what killed farms left of these and of others."""
        # Waits at most for a farm that sweeps: whoever works in this work folder holds that folder's lock already.
        with locks.hold(self._environments_lock(self.scope), busy=lambda: time.sleep(_POLL_S)):
            shutil.rmtree(self.root / "envs" / self.scope, ignore_errors=True)
            for folder in (self.root / "envs").glob("*"):
                # A live farm holds the lock of its environments; that of a dead one is free.
                with contextlib.suppress(BlockingIOError), locks.hold(self._environments_lock(folder.name)):
                    shutil.rmtree(folder, ignore_errors=True)
            yield

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
