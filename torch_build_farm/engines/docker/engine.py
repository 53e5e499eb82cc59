"""The engine itself: images made ready, cibuildwheel run in them, containers for everything else, and no trace left."""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from packaging.version import Version

from torch_build_farm.core.errors import EngineError, FarmError, ImageError, Interrupted, OutOfMemoryError
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import BuildRequest, Interpreter, Site, check_gcc, no_cuda_toolkit
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import cibuildwheel_config, containers, images, store_access
from torch_build_farm.engines.docker.build import ContainerBuild
from torch_build_farm.engines.docker.client import Daemon, cli, cli_environment, on_local_socket, same_engine, speaking
from torch_build_farm.engines.docker.containers import Labels, Watch, alive
from torch_build_farm.engines.docker.images import Base, Contents, Layer
from torch_build_farm.engines.docker.store_access import Ground, Helper
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, Variant

if TYPE_CHECKING:
    from docker import DockerClient

_AUDITWHEEL = Version("6.4")  # the first whose --exclude takes patterns as the farm's policy has them
_MEMORY_SHARE = 0.9  # of the engine's memory may be taken by compilers


@dataclass(frozen=True)
class ContainerShell(Shell):
    """Runs its commands in a container; `env` and `cwd` are those of the docker command."""

    container: str = ""

    def run(self, *command: str | Path) -> Completed:  # type: ignore[override]
        """Run a command in the container. Raises Interrupted when the run is cancelled."""
        return super().run(cli(), "exec", self.container, *command)


class DockerEngine:
    """Builds in containers of the engine that `client` speaks to."""

    name = "docker"
    repairs_itself = True

    def __init__(
        self, project: Project, store: TorchStore, client: DockerClient, daemon: Daemon, base_image: str | None
    ) -> None:
        self.project = project
        self.here = store
        self.client = client
        self._daemon = daemon
        self.base_image = base_image or ""
        self.labels = Labels.of(store, uuid.uuid4().hex[:12])
        self._lock = threading.RLock()
        self._bases: dict[str, Base] = {}
        self._layers: dict[Base, Layer] = {}
        self._ready: dict[str, str] = {}
        self._ground: Ground | None = None
        self._measured_gb = DEFAULT_GB

    # ---- what it knows

    @property
    def version(self) -> str:
        """The engine's version."""
        return self._daemon.version

    @property
    def store(self) -> TorchStore:
        """The store as containers see it; this machine's until `check` has found out that they do not share it."""
        return self._ground.store if self._ground else self.here

    def build_folders(self, source_folders: Sequence[str]) -> Sequence[PurePath]:
        """CMake's build folder, and the folders of the source tree as cibuildwheel places it in the container."""
        project = PurePosixPath(cibuildwheel_config.PROJECT)
        return (PurePosixPath(cibuildwheel_config.BUILD), *(project / name for name in source_folders))

    def free_gb(self) -> float:
        """Free in the store, GB."""
        return self._ground.free_gb if self._ground else self.here.free_gb()

    def slots(self, compile_gb: float = DEFAULT_GB) -> int:
        """By the engine's CPUs and memory, and by this machine's where it is the same."""
        self._measured_gb = max(self._measured_gb, compile_gb)
        each = self.project.settings.memory_per_compile_gb or compile_gb
        theirs = max(1, min(self._daemon.cpus, int(self._daemon.memory * _MEMORY_SHARE / 1e9 / each)))
        return min(theirs, compile_slots(each)) if on_local_socket(self.client) else theirs

    @speaking()
    def base(self, variant: Variant) -> Base:
        """The base image for a variant."""
        asked = self.base_image or variant.image
        with self._lock:
            if asked not in self._bases:
                self._bases[asked] = images.find_base(self.client, asked, stand_in=not self.base_image)
            return self._bases[asked]

    def _layer(self, base: Base) -> Layer:
        if base not in self._layers:
            self._layers[base] = images.plan_layer(self.project, base, self._daemon.user)
        return self._layers[base]

    def contents(self, base: Base) -> Contents:
        return images.look_into(self.client, base, self.here.root / "images", self.labels.all())

    @speaking()
    def interpreters(self, variant: Variant) -> Mapping[CPython, Interpreter]:
        """The CPythons of the variant's image; until it is pulled, those that cibuildwheel expects there."""
        base = self.base(variant)
        if base.id:
            return self.contents(base).interpreters()
        # Which patch release the image has is not known yet; 99 passes a requires-python that names one.
        return {python: Interpreter(f"{python.release}.99", Path("python")) for python in images.identifiers()}

    @speaking()
    def toolchain(self, job: Job) -> Mapping[str, str]:
        """Image, compiler and interpreter of a job."""
        base = self.base(job.variant)
        facts = {
            "image": self._layer(base).tag,
            "base": base.id or base.reference,
            "cibuildwheel": version("cibuildwheel"),
        }
        if not base.id:
            return facts
        contents = self.contents(base)
        python = contents.pythons.get(job.python.tag, ("", "", ""))
        return {**facts, "compiler": contents.compiler, "python": python[0], "build": python[2],
                "auditwheel": contents.auditwheel, "nvcc": contents.nvcc}  # fmt: skip

    # ---- making ready

    @speaking()
    def check(self, jobs: Sequence[Job], shell: Shell) -> None:
        """Pull and make the images of `jobs`, and see that each has what its jobs need."""
        shell = replace(shell, env=self.cli_environment, cwd=self.here.root)
        same_engine(self._daemon, self.cli_environment)
        for job in jobs:
            self._check_contents(job, self._pulled(job.variant, shell))
        for variant in {job.variant.tag: job.variant for job in jobs}.values():
            self._prepare(variant, shell)
        notes = {self.base(job.variant).note for job in jobs}
        for note in sorted(notes):
            shell.say(f"image: {note}")
        if self._ground and not self._ground.shared:
            shell.say("the engine does not share this machine's files: it keeps torch in a volume of its own")

    def _check_contents(self, job: Job, base: Base) -> None:
        contents = self.contents(base)
        if contents.lacking:
            raise ImageError(
                f"the image {base.reference} lacks {', '.join(contents.lacking)}",
                where="cibuildwheel and the farm need them",
                next_step=images.WAYS_OUT,
            )
        if Version(contents.auditwheel or "0") < _AUDITWHEEL:
            raise ImageError(
                f"the image {base.reference} has auditwheel {contents.auditwheel or 'of no known version'}, "
                f"and {_AUDITWHEEL} is needed",
                next_step=images.WAYS_OUT,
            )
        if job.python not in contents.interpreters():
            raise ImageError(
                f"{job.id}: the image {base.reference} has no CPython {job.python} with headers and `build`",
                where=f"it has {', '.join(map(str, sorted(contents.interpreters()))) or 'none'}",
                next_step="ask for another with --python, or name another image with --base-image",
            )
        check_gcc(job, contents.compiler, "name another image with --base-image")
        cuda = bool(self.project.settings.cuda_arch_list)
        if (
            cuda
            and job.variant.cuda_toolkit
            and Version(contents.pythons[job.python.tag][2]) < cibuildwheel_config.ENV_DIR
        ):
            raise ImageError(
                f"{job.id}: CUDA's toolkit wheels need `build` {cibuildwheel_config.ENV_DIR}, and "
                f"CPython {job.python} of the image {base.reference} has {contents.pythons[job.python.tag][2]}",
                next_step="ask for another with --python, or name another image with --base-image",
            )
        needs_nvcc = cuda and not job.variant.cuda_toolkit
        major = job.variant.cuda_major
        if needs_nvcc and contents.nvcc.split(".")[0] != major:
            found = f"the image {base.reference} has " + (f"nvcc {contents.nvcc}" if contents.nvcc else "no nvcc")
            remedy = f"name an image with CUDA {major} (--base-image, or image in variants/{job.variant.tag}.toml)"
            raise no_cuda_toolkit(job, found, remedy)

    def _pulled(self, variant: Variant, shell: Shell) -> Base:
        base = self.base(variant)
        if not base.id:
            base = self._bases[base.asked] = images.pull(self.client, base, shell)
        return base

    def _prepare(self, variant: Variant, shell: Shell) -> tuple[str, Ground]:
        """The variant's image, made if need be, and the ground that its containers stand on."""
        with self._lock:
            base = self._pulled(variant, shell)
            if base.asked not in self._ready:
                labels = {images.LABEL: "yes", f"{images.LABEL}.store": self.labels.store}
                self._ready[base.asked] = images.make_layer(self.client, self._layer(base), labels, shell)
            image = self._ready[base.asked]
            if self._ground is None:
                # What was measured last time may raise what compilers take together; less of it only lets more run.
                asked = self.project.settings.memory_per_compile_gb
                each = (asked,) if asked else (DEFAULT_GB, self._measured_gb)
                compilers = min(max(self.slots(one) * int(one * 1e9) for one in each), self._daemon.memory)
                self._ground = store_access.find(self.helper(image), self.here, compilers)
            return image, self._ground

    def helper(self, image: str) -> Helper:
        return Helper(self.client, self._daemon, image, self.labels)

    @cached_property
    def cli_environment(self) -> dict[str, str]:
        return cli_environment(self.here.uv_cache, self.here.root)

    # ---- building

    @speaking()
    def build(self, request: BuildRequest) -> Path:
        """Let cibuildwheel build and repair one wheel, in a container without network."""
        shell = replace(request.shell, env=self.cli_environment, cwd=self.here.root)
        image, floor = self._prepare(request.job.variant, shell)
        return ContainerBuild(self, request, image, floor).run()

    def told(self, job: str, watch: Watch, log: Path) -> FarmError | None:
        """What the engine's events say of a failure, if anything."""
        if watch.oom:
            limit = self._ground.confinement.memory / 1e9 if self._ground else 0
            return OutOfMemoryError(
                f"{job}: out of memory: the engine killed a process in its container, which may take {limit:.1f} GB",
                where=str(log),
                next_step="raise memory-per-compile-gb in [tool.torch-build-farm] (fewer compilers at once, each with "
                "more), or use a machine with more memory",
            )
        if watch.lost or not alive(self.client):
            return EngineError(
                f"{job}: the Docker engine went away",
                where=str(log),
                next_step="run the same command again when it is back: what was finished is kept",
            )
        if watch.killed:
            return EngineError(
                f"{job}: its container was stopped by somebody else (docker kill, docker stop, docker rm)",
                where=str(log),
                next_step="run the same command again: what was finished is kept",
            )
        return None

    # ---- containers for everything else

    @contextlib.contextmanager
    def site(self, job: Job, shell: Shell) -> Iterator[Site]:
        """A container of the job's image, for commands beside its build."""
        shell = replace(shell, env=self.cli_environment, cwd=self.here.root)
        with speaking():
            image, floor = self._prepare(job.variant, shell)
        name = f"torch-build-farm-{job.id}-{uuid.uuid4().hex[:12]}"
        removed: list[Path] = []
        try:
            with speaking(), Watch(self.client, self.labels, job.id, shell.runner) as watch:
                if not self._start(name, floor.confinement.arguments(self.labels.all(job.id), {}), image, shell):
                    raise self.told(job.id, watch, shell.log) or diagnose(job.id, shell.log)
                there = ContainerShell(shell.runner, shell.env, shell.cwd, shell.log, shell.say, container=name)
                python = self.contents(self.base(job.variant)).interpreters()[job.python]
                try:
                    yield Site(
                        shell=there,
                        uv=images.UV,
                        python=python,
                        store=floor.store,
                        bring=lambda path: self._bring(path, name, shell),
                        remove=removed.append,
                    )
                except Interrupted:
                    raise
                except FarmError as error:
                    watch.settle()
                    raise self.told(job.id, watch, shell.log) or error from None
        finally:
            containers.remove(self.client, self.labels.filters(job.id))
            for folder in removed:
                self.clear(folder, image)

    def _start(self, name: str, options: list[str], image: str, shell: Shell) -> bool:
        """Start a container that waits for commands; with the engine's GPUs, where it has any to give."""
        # One command ends as a process of its own, not as the container: sleep holds that open.
        end = (*options, image, "sleep", "infinity")
        start = (cli(), "run", "--detach", "--init", f"--name={name}")
        if self._daemon.gpus:
            if shell.run(*start, "--gpus=all", *end).ok:
                return True
            shell.say("the engine has NVIDIA's runtime but gives no GPU: testing without one")
            shell.run(cli(), "rm", "--force", name)
        return shell.run(*start, *end).ok

    def _bring(self, path: Path, container: str, shell: Shell) -> Path:
        there = Path("/tmp") / path.name
        done = shell.run(cli(), "cp", path, f"{container}:{there}")  # keeps the number of its owner
        if not done.ok:
            raise diagnose(container, shell.log)
        return there

    def clear(self, folder: Path, image: str) -> None:
        """Remove a folder of the store, where containers see it."""
        if self._ground is None or self._ground.shared:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            # An engine that went away keeps the folder until the next run on it, which removes it.
            with contextlib.suppress(EngineError), speaking():
                store_access.remove(self.helper(image), self._ground, folder)

    @speaking()
    def sweep(self) -> int:
        """Remove containers that killed farms of this machine left; returns how many."""
        return containers.sweep(self.client, self.here)


@speaking()
def open_engine(project: Project, store: TorchStore, client: DockerClient, base_image: str | None) -> DockerEngine:
    """The engine that `client` speaks to. Raises EngineError where it cannot be used."""
    return DockerEngine(project, store, client, Daemon.ask(client), base_image)
