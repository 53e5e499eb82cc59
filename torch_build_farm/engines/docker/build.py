"""One build in a container: what it requires is fetched first, then cibuildwheel runs without a network."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path, PurePath, PurePosixPath
from signal import SIGINT
from typing import TYPE_CHECKING

from packaging.version import Version

from torch_build_farm.core.errors import BuildError, DiskError, EngineError, FarmError, OutOfMemoryError
from torch_build_farm.core.process import Completed, Ending, Shell
from torch_build_farm.engines import ninja_log, torch_downloads
from torch_build_farm.engines import variables as recipe
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import cibuildwheel_config, containers, images, store_access
from torch_build_farm.engines.docker.containers import Watch
from torch_build_farm.engines.docker.store_access import Ground
from torch_build_farm.engines.variables import Places
from torch_build_farm.wheels import auditwheel
from torch_build_farm.wheels.auditwheel import without_library

if TYPE_CHECKING:
    from torch_build_farm.engines.docker.engine import DockerEngine

_ENDING = Ending(SIGINT, 20.0)  # on SIGINT cibuildwheel removes its container
_FETCH = files("torch_build_farm").joinpath("data/fetch-tools.py")
_NO_NETWORK = ("--network=none",)
_OFFLINE = {"UV_OFFLINE": "1"}
# What programs say that find no network: getaddrinfo's messages, the kernel's, uv's and cargo's.
_WANTED_NETWORK = ("name resolution", "Could not resolve", "Network is unreachable", "Failed to resolve", "dns error",
                   "Name or service not known", "resolve host", "network connectivity is disabled")  # fmt: skip


class ContainerBuild:
    """One build of `request` in containers of `image` on `floor`."""

    def __init__(self, engine: DockerEngine, request: BuildRequest, image: str, floor: Ground) -> None:
        self.engine, self.image, self.floor = engine, image, floor
        # No FIFO reaches an engine elsewhere: there each build gets its share of the compilers.
        self.request = request if floor.shared else replace(request, makeflags="")
        self.home = floor.store.environment(f"{request.job.id}-build")
        self.objects = floor.store.environment(f"{request.job.id}-objects")
        self.asked = self.home.with_name(f"{request.job.id}-asked")
        self.shell = replace(request.shell, env=engine.cli_environment, cwd=engine.here.root)
        self.ccache: PurePath | None = None

    @cached_property
    def _fixed(self) -> bool:
        """Whether the front end makes its environment where it is told to."""
        job = self.request.job
        return (
            Version(self.engine.contents(self.engine.base(job.variant)).pythons[job.python.tag][2])
            >= cibuildwheel_config.ENV_DIR
        )

    @cached_property
    def _sdk(self) -> PurePath | None:
        """The folder of torch's SDK, as containers see it."""
        sdk = self.request.sdk
        if sdk is None or self.floor.shared:
            return sdk.folder if sdk else None
        return store_access.place(self.engine.helper(self.image), self.floor, sdk.folder, f"sdk/{sdk.sha256}")

    def run(self) -> Path:
        """The wheel. Raises BuildError or one of its kinds; the environment is gone afterwards, the log stays."""
        request, job = self.request, self.request.job
        try:
            if self.floor.shared:
                self.home.parent.mkdir(parents=True, exist_ok=True)
            if not self.engine.project.settings.network:
                self._fetch_tools()
            with Watch(self.engine.client, self.engine.labels, job.id, self.shell.runner) as watch:
                with containers.Peak(self.engine.client, self.engine.labels.filters(job.id)) as peak:
                    done = self._cibuildwheel()
                if not done.ok:
                    watch.settle()
                    raise self._failure(done, watch)
            (wheel,) = request.out.glob("*.whl")
            ninja_log.keep(self.objects, request.out)
            if peak.megabytes:
                request.peak.write_text(f"{peak.megabytes:.0f}", "utf-8")
            return wheel
        finally:
            containers.remove(self.engine.client, self.engine.labels.filters(job.id))
            self._keep_asked()
            self.engine.clear(self.home, self.image)
            self.asked.unlink(missing_ok=True)
            shutil.rmtree(self.objects, ignore_errors=True)
            shutil.rmtree(request.scratch, ignore_errors=True)

    def _keep_asked(self) -> None:
        """What the build asked torch's SDK for in vain; nothing where the engine went away."""
        with contextlib.suppress(OSError, EngineError):
            if self.floor.shared:
                shutil.copyfile(self.asked, self.request.asked)
            elif text := store_access.read(self.engine.helper(self.image), self.floor, self.asked):
                self.request.asked.write_text(text, "utf-8")

    def _places(self, tree: PurePath, home: Path | None) -> Places:
        building = PurePosixPath(cibuildwheel_config.BUILD)
        mapped = {str(tree): ".", str(building): "build"}
        return Places(home, tree, building, mapped, self._sdk, self.asked, self.ccache)

    def _fetch_tools(self) -> None:
        """Install what the build requires, with network, so that it is in uv's cache. Raises what installing raises."""
        job, settings = self.request.job, self.engine.project.settings
        home = self.floor.store.environment(f"{job.id}-tools")
        with self.engine.site(job, self.request.shell) as site:
            if self.request.sdk is None:
                torch_downloads.fetch(self.floor.store, job.variant.release, job.python, site)
            tree = site.bring(self.request.tree)
            script = site.bring(Path(str(_FETCH)))
            variables = recipe.variables(settings, self.request, self._places(tree, home))
            words = [f"{name}={value}" for name, value in variables.items()]
            if self.request.reuse and site.shell.run("sh", "-c", "command -v ccache").ok:
                self.ccache = self.floor.store.ccache
            try:
                done = site.shell.run("env", *words, site.python.path, script, tree, home, site.uv, site.python.path)
            finally:
                site.remove(home)
        if not done.ok:
            raise diagnose(job.id, self.shell.log)

    def _cibuildwheel(self) -> Completed:
        request, floor = self.request, self.floor
        job, settings = request.job, self.engine.project.settings
        variables = recipe.variables(
            settings,
            request,
            self._places(PurePosixPath(cibuildwheel_config.PROJECT), self.home if self._fixed else None),
        )
        variables |= {} if settings.network else _OFFLINE
        if not floor.shared:
            variables["CMAKE_BUILD_PARALLEL_LEVEL"] = str(request.share)
        if not self._fixed and floor.shared:  # the front end picks a folder in TMPDIR, which must be in the store
            self.home.mkdir(parents=True, exist_ok=True)
            variables["TMPDIR"] = str(self.home)
        confinement = floor.confinement
        if floor.shared:  # CMake's build folder lies where ninja's log can be read
            self.objects.mkdir(parents=True, exist_ok=True)
            bound = containers.mount(type="bind", source=str(self.objects), target=cibuildwheel_config.BUILD)
            confinement = replace(confinement, mounts=(*confinement.mounts, bound))
        arguments = confinement.arguments(self.engine.labels.all(job.id), variables)
        arguments += () if settings.network else _NO_NETWORK
        text = cibuildwheel_config.configuration(
            self.image, arguments, str(self.home) if self._fixed else "", settings.before_build
        )
        configuration = request.scratch / "cibuildwheel.toml"
        configuration.write_text(text, "utf-8")
        (request.scratch / "tmp").mkdir()
        epoch = {"SOURCE_DATE_EPOCH": str(request.epoch), "TMPDIR": str(request.scratch / "tmp")}
        shell: Shell = replace(request.shell, env={**self.shell.env, **epoch}, cwd=request.tree, ending=_ENDING)
        return shell.run(
            sys.executable, "-I", "-m", "cibuildwheel", ".", "--only", images.identifiers()[job.python],
            "--config-file", configuration, "--output-dir", request.out,
        )  # fmt: skip

    def _failure(self, done: Completed, watch: Watch) -> FarmError:
        """Why cibuildwheel failed: by the engine's events first, then by its log."""
        job, log = self.request.job.id, self.shell.log
        # An idle connection may break while the engine goes on; then cibuildwheel tells how a command ended.
        watch.lost = watch.lost and not any("failed with code" in line for line in done.tail)
        if told := self.engine.told(job, watch, log):
            return told
        if done.returncode == cibuildwheel_config.PURE:
            return without_library(f"the wheel of {job}", log)
        if cibuildwheel_config.was_repairing(done.tail):
            return auditwheel.failure(log, done.tail)
        error = diagnose(job, log)
        told_better = isinstance(error, DiskError | OutOfMemoryError)
        if not self.engine.project.settings.network and not told_better and _missed_network(done.tail):
            return BuildError(
                f"{job}: the build wants to download something, and builds have no network",
                where=error.where,
                next_step="bring it with the source or as a build requirement, or network = true in "
                "[tool.torch-build-farm]",
            )
        return error


def _missed_network(tail: Sequence[str]) -> bool:
    return any(words.lower() in line.lower() for line in tail for words in _WANTED_NETWORK)
