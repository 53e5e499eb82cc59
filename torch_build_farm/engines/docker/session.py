"""What one run keeps of a Docker engine: the client, the images it has made ready, and the store as containers see it.

Builds, sites and the engine itself stand on this module; it knows none of them.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch_build_farm.core.errors import EngineError, FarmError, OutOfMemoryError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines import slots
from torch_build_farm.engines.docker import images, store_access
from torch_build_farm.engines.docker.client import (
    Daemon,
    cli_environment,
    on_local_socket,
    translated_errors,
)
from torch_build_farm.engines.docker.containers import Labels, Watch, alive, mount
from torch_build_farm.engines.docker.contents import Contents, check_emulation, look_into
from torch_build_farm.engines.docker.images import Base, Layer
from torch_build_farm.engines.docker.store_access import Helper, StoreAccess
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant

if TYPE_CHECKING:
    from docker import DockerClient

_MEMORY_SHARE = 0.9  # of the engine's memory may be taken by compilers


class Prepared(NamedTuple):
    """What a variant's containers start from: the farm's image for it, and how they reach the store."""

    image: str
    access: StoreAccess


class DockerSession:
    """One run's dealings with the engine that `client` speaks to. Thread-safe.

    `host_store` is the store as this machine sees it. `base_image` is what --base-image names; empty for the image of
    each variant.
    """

    def __init__(
        self, project: Project, host_store: TorchStore, client: DockerClient, daemon: Daemon, base_image: str
    ) -> None:
        self.project = project
        self.host_store = host_store
        self.client = client
        self.daemon = daemon
        self.base_image = base_image
        self.labels = Labels.of(host_store, uuid.uuid4().hex[:12])
        self.access: StoreAccess | None = None  # None until the first container is prepared
        self.measured_gb = slots.DEFAULT_GB  # the most that a compiler took in earlier runs
        self._emulated: set[Machine] = set()  # other platforms whose programs the engine has started
        self._lock = threading.RLock()
        self._bases: dict[tuple[str, Machine], Base] = {}
        self._layers: dict[Base, Layer] = {}
        self._ready: dict[Base, str] = {}  # the farm's image, by its base

    @cached_property
    def cli_environment(self) -> dict[str, str]:
        """The environment of the docker command."""
        return cli_environment(self.host_store.uv_cache, self.host_store.root)

    def compile_slots(self, compile_gb: float) -> int:
        """How many compilers of `compile_gb` GB each fit the engine, and this machine too where the engine is on it."""
        # The engine reports its memory as a whole, and not what is free of it.
        by_memory = int(self.daemon.memory * _MEMORY_SHARE / 1e9 / compile_gb)
        on_engine = max(1, min(self.daemon.cpus, by_memory))
        if on_local_socket(self.client):
            return min(on_engine, slots.compile_slots(compile_gb))
        return on_engine

    # ---- images

    def base(self, variant: Variant) -> Base:
        """The base image for a variant. Its ID is empty as long as the engine does not have the image."""
        name, platform = self.base_image or self.project.image(variant), variant.platform
        with self._lock:
            if (name, platform) not in self._bases:
                # A stand-in replaces only what the farm picked itself, never an image that somebody named.
                base = images.find_base(self.client, name, platform, stand_in=not self.base_image)
                self._bases[name, platform] = base
            return self._bases[name, platform]

    def layer(self, base: Base) -> Layer:
        """The farm's layer over a base image."""
        if base not in self._layers:
            self._layers[base] = images.plan_layer(self.project, base, self.daemon.user)
        return self._layers[base]

    def contents(self, base: Base) -> Contents:
        """What is in a base image that the engine has."""
        if base.platform != self.daemon.platform:
            self._check_emulation(base)
        return look_into(self.client, base, self.host_store.root / "images", self.labels.all())

    def _check_emulation(self, base: Base) -> None:
        """Raise EngineError where the engine does not start programs of another platform's image; asked once a run."""
        with self._lock:
            if base.platform not in self._emulated:
                check_emulation(self.client, base, self.labels.all())
                self._emulated.add(base.platform)

    def pulled(self, variant: Variant, shell: Shell) -> Base:
        """The base image for a variant, pulled if the engine lacks it."""
        base = self.base(variant)
        if not base.id:
            base = self._bases[base.requested, base.platform] = images.pull(self.client, base, shell)
        return base

    # ---- containers

    def prepare(self, variant: Variant, shell: Shell) -> Prepared:
        """The variant's image, built unless the engine has it, and how its containers reach the store."""
        # Jobs call this at the same time, and most of them need the same image and the same access.
        with self._lock:
            base = self.pulled(variant, shell)
            if base not in self._ready:
                labels = {images.LABEL: "yes", f"{images.LABEL}.store": self.labels.store}
                self._ready[base] = images.make_layer(
                    self.client, self.daemon.platform, self.layer(base), labels, shell
                )
            image = self._ready[base]
            if self.access is None:
                self.access = store_access.find_access(self.helper(image), self.host_store, self._compilers_memory())
            return Prepared(image, self.access)

    def _compilers_memory(self) -> int:
        """Bytes that the compilers of one container may take together."""
        configured_gb = self.project.settings.memory_per_compile_gb
        # Measured sizes may raise this limit and never lower it: smaller compilers only mean that more of them run.
        sizes_gb = (configured_gb,) if configured_gb else (slots.DEFAULT_GB, self.measured_gb)
        totals = [self.compile_slots(size_gb) * int(size_gb * 1e9) for size_gb in sizes_gb]
        return min(max(totals), self.daemon.memory)

    def helper(self, image: str) -> Helper:
        """Short-lived containers of an image that `prepare` made ready, for errands in the store."""
        platform = next(base.platform for base, ready in self._ready.items() if ready == image)
        return Helper(self.client, self.daemon, image, platform, self.labels)

    def emulation_mounts(self, platform: Machine) -> list[str]:
        """Mounts of all containers in which foreign code for a platform runs: none on the engine's own.

        Under QEMU torch's cpuinfo takes this machine's processors for arm64's, and torch 2.13 crashes at its import.
        Where it reads nothing of them it goes on without.
        """
        if platform == self.daemon.platform:
            return []
        files = [f"/sys/devices/system/cpu/{name}" for name in ("possible", "present")]
        return [mount(type="bind", source="/dev/null", target=file, readonly="") for file in files]

    def remove_folder(self, folder: Path, image: str) -> None:
        """Remove a folder of the store, where containers see it; it may hold the changes of an overlay."""
        if self.access is None or self.access.shared:
            store_access.remove_changes(folder)
            # The kernel keeps files of root's in an overlay's folder, which another user may not remove.
            if self.access is None or not folder.exists():
                return
        # An engine that went away keeps the folder until the next run on it, which removes it.
        with contextlib.suppress(EngineError), translated_errors():
            store_access.remove_folder(self.helper(image), self.access, folder)

    def failure_from_events(self, job: str, watch: Watch, log: Path) -> FarmError | None:
        """The error that the engine's events explain; None where they explain nothing.

        Events come before the log: from inside the container an out-of-memory kill, a killed container and a lost
        engine all look like a failed compile.
        """
        if watch.oom:
            limit_gb = self.access.confinement.memory / 1e9 if self.access else 0
            return OutOfMemoryError(
                f"{job}: out of memory: the engine killed a process in its container, which may use {limit_gb:.1f} GB",
                where=str(log),
                next_step="raise memory-per-compile-gb in [tool.torch-build-farm] (fewer compilers at once, each with "
                "more), or use a machine with more memory",
            )
        if watch.lost or not alive(self.client):
            return EngineError(
                f"{job}: the Docker engine went away",
                where=str(log),
                next_step="run the same command again when it is back: finished work is kept",
            )
        if watch.killed:
            return EngineError(
                f"{job}: its container was stopped by somebody else (docker kill, docker stop, docker rm)",
                where=str(log),
                next_step="run the same command again: finished work is kept",
            )
        return None
