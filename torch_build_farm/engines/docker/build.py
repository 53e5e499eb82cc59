"""One build in a container: its requirements are fetched first, then cibuildwheel runs without a network."""

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

from packaging.version import Version

from torch_build_farm.core.errors import BuildError, DiskError, EngineError, FarmError, OutOfMemoryError
from torch_build_farm.core.process import Completed, Ending, Shell
from torch_build_farm.engines import ninja_log, torch_downloads
from torch_build_farm.engines.base import BuildRequest, ccache_of
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import cibuildwheel_config, containers, images, store_access
from torch_build_farm.engines.docker.containers import Confinement, Watch
from torch_build_farm.engines.docker.session import DockerSession
from torch_build_farm.engines.docker.site import open_site
from torch_build_farm.engines.docker.store_access import StoreAccess
from torch_build_farm.engines.variables import Places, build_variables
from torch_build_farm.wheels import auditwheel
from torch_build_farm.wheels.auditwheel import without_library

_ENDING = Ending(SIGINT, 20.0)  # on SIGINT cibuildwheel removes its container
_FETCH = files("torch_build_farm").joinpath("data/fetch-tools.py")
_NO_NETWORK = "--network=none"
_OFFLINE = {"UV_OFFLINE": "1"}
# Messages of programs that find no network: getaddrinfo's, the kernel's, uv's and cargo's.
_NO_NETWORK_MESSAGES = (
    "name resolution",
    "Could not resolve",
    "Network is unreachable",
    "Failed to resolve",
    "dns error",
    "Name or service not known",
    "resolve host",
    "network connectivity is disabled",
)


class ContainerBuild:
    """One build of `request` in containers of `image` that reach the store through `access`."""

    def __init__(self, session: DockerSession, request: BuildRequest, image: str, access: StoreAccess) -> None:
        self.session, self.image, self.access = session, image, access
        # No FIFO reaches an engine elsewhere: there each build gets its share of the compilers.
        self.request = request if access.shared else replace(request, makeflags="")
        self.settings = session.project.settings
        self.home = access.store.environment(f"{request.job.id}-build")
        self.objects = access.store.environment(f"{request.job.id}-objects")
        self.sdk_misses = self.home.with_name(f"{request.job.id}-asked")
        self.shell = replace(request.shell, env=session.cli_environment, cwd=session.host_store.root)
        self.ccache: PurePath | None = None

    @cached_property
    def _fixed_home(self) -> bool:
        """Whether the front end can make its environment in a given folder (--env-dir)."""
        job = self.request.job
        contents = self.session.contents(self.session.base(job.variant))
        _, _, build_version = contents.pythons[job.python.tag]
        return Version(build_version) >= cibuildwheel_config.ENV_DIR

    @cached_property
    def _sdk(self) -> PurePath | None:
        """The folder of torch's SDK, as containers see it; None for a build with all of torch."""
        sdk = self.request.sdk
        if sdk is None:
            return None
        if self.access.shared:
            return sdk.folder
        return store_access.put_folder(self.session.helper(self.image), self.access, sdk.folder, f"sdk/{sdk.sha256}")

    def run(self) -> Path:
        """The wheel. Raises BuildError or one of its kinds; the environment is gone afterwards, the log stays."""
        request, job, session = self.request, self.request.job, self.session
        try:
            if self.access.shared:
                self.home.parent.mkdir(parents=True, exist_ok=True)
            # The build itself has no network, so what it requires must be in uv's cache by then.
            if not self.settings.network:
                self._fetch_requirements()

            # The watch is opened before the container is there, so that it misses none of its events.
            with Watch(session.client, session.labels, job.id, self.shell.runner) as watch:
                with containers.Peak(session.client, session.labels.filters(job.id)) as peak:
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
            # Containers first: what still runs in one could write into the folders that are removed next.
            containers.remove(session.client, session.labels.filters(job.id))
            self._keep_sdk_misses()
            session.remove_folder(self.home, self.image)
            self.sdk_misses.unlink(missing_ok=True)
            shutil.rmtree(self.objects, ignore_errors=True)
            shutil.rmtree(request.scratch, ignore_errors=True)

    def _keep_sdk_misses(self) -> None:
        """Keep the note of what the SDK lacked; if the engine went away, there is none to keep."""
        with contextlib.suppress(OSError, EngineError):
            if self.access.shared:
                shutil.copyfile(self.sdk_misses, self.request.sdk_misses)
                return
            text = store_access.read_file(self.session.helper(self.image), self.access, self.sdk_misses)
            if text:
                self.request.sdk_misses.write_text(text, "utf-8")

    def _places(self, tree: PurePath, environment: Path | None) -> Places:
        """Where things are, as a build in a container with this source tree and environment sees them."""
        build_folder = PurePosixPath(cibuildwheel_config.BUILD)
        return Places(
            environment=environment,
            tree=tree,
            build=build_folder,
            mapped={str(tree): ".", str(build_folder): "build"},
            sdk=self._sdk,
            sdk_misses=self.sdk_misses,
            ccache=self.ccache,
        )

    def _fetch_requirements(self) -> None:
        """Install what the build requires, with network, so that uv's cache has it. Raises what installing raises."""
        job = self.request.job
        home = self.access.store.environment(f"{job.id}-tools")
        with open_site(self.session, job, self.request.shell) as site:
            if self.request.sdk is None:
                torch_downloads.fetch(self.access.store, job.variant.release, job.python, site)
            tree = site.bring(self.request.tree)
            script = site.bring(Path(str(_FETCH)))
            # The back end is asked what more it requires, so it needs the variables of the build.
            variables = build_variables(self.settings, self.request, self._places(tree, home))
            assignments = [f"{name}={value}" for name, value in variables.items()]
            # Only the build itself uses ccache, and whether the image has it is asked here, where a container runs.
            if self.request.reuse and site.shell.run("sh", "-c", "command -v ccache").ok:
                self.ccache = ccache_of(self.session.project, self.access.store)
            try:
                done = site.shell.run(
                    "env", *assignments, site.python.path, script, tree, home, site.uv, site.python.path
                )
            finally:
                site.remove(home)
        if not done.ok:
            raise diagnose(job.id, self.shell.log)

    def _variables(self) -> dict[str, str]:
        """The build's environment variables, as its container gets them."""
        tree = PurePosixPath(cibuildwheel_config.PROJECT)
        places = self._places(tree, self.home if self._fixed_home else None)
        variables = build_variables(self.settings, self.request, places)
        if not self.settings.network:
            variables |= _OFFLINE
        if not self.access.shared:
            # Would turn the jobserver off where there is one.
            variables["CMAKE_BUILD_PARALLEL_LEVEL"] = str(self.request.share)
        elif not self._fixed_home:
            # The front end picks a folder in TMPDIR; hard links need that to be in the store.
            self.home.mkdir(parents=True, exist_ok=True)
            variables["TMPDIR"] = str(self.home)
        return variables

    def _confinement(self) -> Confinement:
        """The container's limits and mounts, CMake's build folder among them where this machine can read it."""
        confinement = self.access.confinement
        if not self.access.shared:
            return confinement
        # ninja's log is in the build folder, and is read once the container is gone.
        self.objects.mkdir(parents=True, exist_ok=True)
        mount = containers.mount(type="bind", source=str(self.objects), target=cibuildwheel_config.BUILD)
        return replace(confinement, mounts=(*confinement.mounts, mount))

    def _cibuildwheel(self) -> Completed:
        """Let cibuildwheel build the job's wheel, and nothing else, in a container of the image."""
        request, job = self.request, self.request.job
        create_arguments = self._confinement().arguments(self.session.labels.all(job.id), self._variables())
        if not self.settings.network:
            create_arguments.append(_NO_NETWORK)
        text = cibuildwheel_config.configuration(
            self.image, create_arguments, str(self.home) if self._fixed_home else "", self.settings.before_build
        )
        # Named on the command line, it takes the place of [tool.cibuildwheel] in the project's pyproject.toml.
        configuration = request.scratch / "cibuildwheel.toml"
        configuration.write_text(text, "utf-8")
        temporary = request.scratch / "tmp"
        temporary.mkdir()
        env = {**self.shell.env, "SOURCE_DATE_EPOCH": str(request.epoch), "TMPDIR": str(temporary)}
        shell: Shell = replace(request.shell, env=env, cwd=request.tree, ending=_ENDING)
        # --only takes the exact identifier: left to requires-python, cibuildwheel also builds for musllinux.
        return shell.run(
            sys.executable, "-I", "-m", "cibuildwheel", ".", "--only", images.identifiers()[job.python],
            "--config-file", configuration, "--output-dir", request.out,
        )  # fmt: skip

    def _failure(self, done: Completed, watch: Watch) -> FarmError:
        """Why cibuildwheel failed: by the engine's events first, then by its log."""
        job, log = self.request.job.id, self.shell.log
        # An idle connection may break while the engine is well; then cibuildwheel still reports how a command ended.
        watch.lost = watch.lost and not any("failed with code" in line for line in done.tail)
        error = self.session.failure_from_events(job, watch, log)
        if error:
            return error
        if done.returncode == cibuildwheel_config.PURE:
            return without_library(f"the wheel of {job}", log)
        if cibuildwheel_config.was_repairing(done.tail):
            return auditwheel.failure(log, done.tail)
        error = diagnose(job, log)
        # A full disk or memory is the better explanation, whatever the log says about the network.
        blames_network = not isinstance(error, DiskError | OutOfMemoryError) and _missed_network(done.tail)
        if blames_network and not self.settings.network:
            return BuildError(
                f"{job}: the build tries to download something, and builds have no network",
                where=error.where,
                next_step="ship it with the source, make it a build requirement, or set network = true in "
                "[tool.torch-build-farm]",
            )
        return error


def _missed_network(tail: Sequence[str]) -> bool:
    text = "\n".join(tail).lower()
    return any(message.lower() in text for message in _NO_NETWORK_MESSAGES)
