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
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.errors import DiskError, LockedError, PackageIndexError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.diagnosis import diagnose

if TYPE_CHECKING:
    from torch_build_farm.engines.base import Site
    from torch_build_farm.project.plan import Job
    from torch_build_farm.project.settings import Variant

STORE_VARIABLE = "TORCH_BUILD_FARM_STORE"
_SLACK_GB = 1.0  # build environments, logs, wheels
_SDK_GB = 0.1  # torch's SDK, packed and unpacked


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
    def _torch_folder(self) -> Path:
        return self.root / "torch"

    def _marker(self, release: str, python: CPython) -> Path:
        return self._torch_folder / f"{release}-{python.tag}"

    def has(self, release: str, python: CPython) -> bool:
        """Whether torch `release` (an exact one, or a minor's newest such as "2.9.*") was unpacked here before."""
        return self._marker(release, python).is_file() and self.uv_cache.is_dir()

    def remember(self, release: str, python: CPython) -> None:
        """Note that torch `release` and all it requires lie in the store."""
        marker = self._marker(release, python)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()

    def fetch(self, release: str, python: CPython, site: Site) -> None:
        """Download and unpack torch `release` (exact, or a minor's newest such as "2.9.*") with all it requires, once.

        Two jobs never do so at the same time, since they would download the CUDA wheels twice. Raises
        PackageIndexError or DiskError.
        """
        if self.has(release, python):
            return
        shell = site.shell
        with self.locked("torch", shell):
            if self.has(release, python):
                return
            home = self.environment(f"fetch-{release.replace('*', 'x')}-{python.tag}")
            shell.say(f"downloading torch {release} with its CUDA libraries")
            try:
                made = shell.run(site.uv, "venv", "--clear", "--python", site.python.path, home)
                if not (made.ok and shell.run(site.uv, "pip", "install", "--python", home, f"torch=={release}").ok):
                    raise diagnose(f"torch {release}", shell.log)
            finally:
                site.remove(home)
            self.remember(release, python)

    def check_index(self, release: str, python: CPython, runner: Runner) -> None:
        """Raise PackageIndexError where the index that uv is configured for does not answer for torch `release`."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            wanted, log = Path(folder) / "torch.in", Path(folder) / "log"
            wanted.write_text(f"torch=={release}\n", "utf-8")
            env = {**toolbox.environment(self.uv_cache, Path(folder)), "UV_HTTP_RETRIES": "1"}
            shell = Shell(runner, env, self.root, log, lambda _: None)
            done = shell.run(toolbox.uv(), "pip", "compile", "--no-deps", "--python-version", python.release, wanted)
            if not done.ok:
                error = diagnose(f"torch {release}", log)
                said = " ".join(line.strip() for line in done.tail[-3:])
                raise PackageIndexError(
                    error.what if isinstance(error, PackageIndexError) else f"no torch {release} to be had: {said}",
                    where="the index that uv is configured for",
                    next_step="check the network, proxy and certificates, or name an index in UV_DEFAULT_INDEX",
                )

    def missing(self, jobs: Iterable[Job], smoke: bool, full: bool) -> list[tuple[str, CPython]]:
        """Torch releases of which `jobs` need all, `full`: to build with too, and that are not in the store yet."""
        wanted = [(job.variant.release, job.python) for job in jobs if full]
        wanted += [(f"{job.variant.torch}.*", job.python) for job in jobs if smoke]
        return [(release, python) for release, python in wanted if not self.has(release, python)]

    def missing_gb(self, jobs: Iterable[Job], smoke: bool, full: bool, variants: Iterable[Variant]) -> float:
        """Estimate of what `jobs` still have to unpack, in GB (10^9 bytes).

        The CUDA wheels count once for all minors that require the same runtime, torch once for each release and
        CPython: the release built against, if with all of it, and the minor's newest for the smoke test. A runtime that
        one of `variants` brought before counts as there.
        """
        torch: dict[tuple[str, str], float] = {}
        cuda: dict[str, float] = {}
        there = {variant.cuda_runtime for variant in variants if any(self._torch_folder.glob(f"{variant.torch}.*"))}
        for job in jobs:
            variant = job.variant
            wanted = {variant.release: variant.release} if full else {}
            if smoke:
                wanted[variant.newest] = f"{variant.torch}.*"
            for release, key in wanted.items():
                if not self.has(release, job.python) and not self.has(key, job.python):
                    torch[release, job.python.tag] = variant.torch_gb
                    if variant.cuda_runtime not in there:
                        cuda[variant.cuda_runtime] = max(variant.cuda_runtime_gb, cuda.get(variant.cuda_runtime, 0))
        return sum(torch.values()) + sum(cuda.values())

    def free_gb(self) -> float:
        """Free on the store's file system, in GB (10^9 bytes)."""
        self.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free / 1e9

    def check_disk(
        self, jobs: Sequence[Job], smoke: bool, full: bool, variants: Iterable[Variant], free: float
    ) -> None:
        """Raise DiskError where `free` GB are less than `jobs` need."""
        sdks = 0 if full else _SDK_GB * len(jobs)
        need = self.missing_gb(jobs, smoke, full, variants) + sdks + _SLACK_GB
        if need > free:
            raise DiskError(
                f"the disk is too small: {need:.1f} GB are needed, {free:.1f} GB are free",
                where=str(self.root),
                next_step=f"free some, put the store on another disk with {STORE_VARIABLE}=DIR, "
                "or build fewer at a time (--torch, --python)",
            )
