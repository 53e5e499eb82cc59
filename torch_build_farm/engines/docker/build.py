"""One build in a container: its requirements are installed first, then cibuildwheel runs without a network.

What the build requires is installed by the farm, in a container of its own; what the back end asks for beside that, it
is asked in another, as foreign code. cibuildwheel and its front end then run as ever, and the front end installs by
renaming what is there. What comes back are wheels, as bytes (data/cibuildwheel-contained.py), ninja's log and a note of
names, all read as files that foreign code wrote.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from signal import SIGINT

from packaging.version import Version

from torch_build_farm.core.errors import BuildError, EngineError, FarmError
from torch_build_farm.core.files import read_foreign_text, remove_tree
from torch_build_farm.core.process import Completed, Ending, Shell, to_be_finished
from torch_build_farm.core.resources import DATA
from torch_build_farm.engines import ninja_log, no_network, torch_downloads
from torch_build_farm.engines.base import BuildRequest, Site, ccache_of
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import cibuildwheel_config, containers, images, store_access
from torch_build_farm.engines.docker.client import translated_errors
from torch_build_farm.engines.docker.containers import Confinement, Watch
from torch_build_farm.engines.docker.pinned import identifiers
from torch_build_farm.engines.docker.requirements import answer_of_back_end, checked_requirements
from torch_build_farm.engines.docker.session import DockerSession
from torch_build_farm.engines.docker.site import open_site
from torch_build_farm.engines.docker.store_access import StoreAccess
from torch_build_farm.engines.variables import FARM_FOLDER, Places, build_variables
from torch_build_farm.releases import sdk
from torch_build_farm.wheels import auditwheel
from torch_build_farm.wheels.auditwheel import without_library

_ENDING = Ending(SIGINT, 20.0)  # on SIGINT cibuildwheel removes its container
_ASK = DATA / "ask-back-end.py"
_UV = DATA / "uv-ready.sh"
_CIBUILDWHEEL = DATA / "cibuildwheel-contained.py"
_ASKED = "asked"  # the note of what the SDK lacked
_MOST_ASKED = 1_000_000  # bytes of it
# The build's variables that reach the farm's own uv. A project's `environment` may set others, such as UV_NO_BUILD or
# LD_PRELOAD, by which foreign code would run there.
_FOR_UV = {"UV_CONSTRAINT", sdk.VARIABLE, "UV_INDEX", "UV_DEFAULT_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
           "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_HTTP_TIMEOUT"}  # fmt: skip
_NOT_FOR_ASKING = {"MAKEFLAGS"}  # no jobserver is there


class ContainerBuild:
    """One build of `request` in containers of `image` that reach the store through `access`.

    The build's part of the store is `folder`: in it the environment, which the farm installs, waits under the name
    `ready` until the front end installs it at `home` (data/uv-ready.sh). The build sees `folder` as the lower layer of
    an overlay, with its own changes in `changes`. It notes what it requests of torch's SDK in `notes`.
    """

    def __init__(self, session: DockerSession, request: BuildRequest, image: str, access: StoreAccess) -> None:
        self.session, self.image, self.access = session, image, access
        # No FIFO reaches an engine elsewhere: there each build gets its share of the compilers.
        self.request = request if access.shared else replace(request, makeflags="")
        self.settings = session.project.settings.for_job(request.job.variant, request.job.python)
        self.folder, self.changes, self.objects, self.notes = [
            access.store.environment(f"{request.job.id}-{name}") for name in ("build", "changes", "objects", "notes")
        ]
        self.home = self.folder / "env"
        self.ready = self.folder / "ready"
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
        helper, name = self.session.helper(self.image), f"sdk/{sdk.sha256}"
        # Two jobs may need the same one.
        with self.session.host_store.locked("sdk-volume", self.shell):
            return store_access.put_folder(helper, self.access, sdk.folder, name)

    def run(self) -> Path:
        """The wheel. Raises BuildError or one of its kinds; the environment is gone afterwards, the log stays."""
        request, job, session = self.request, self.request.job, self.session
        try:
            self._prepare()

            # The watch is opened before the container is there, so that it misses none of its events.
            with Watch(session.client, session.labels, job.id, self.shell.runner) as watch:
                with containers.Peak(session.client, session.labels.filters(job.id)) as peak:
                    done = self._cibuildwheel()
                if not done.ok:
                    watch.settle()
                    raise self._failure(done, watch)

            wheel = only_wheel(job.id, request.out, self.shell.log)
            ninja_log.keep(self.objects, request.out)
            if peak.megabytes:
                request.peak.write_text(f"{peak.megabytes:.0f}", "utf-8")
            return wheel
        finally:
            with to_be_finished():
                # Containers first: what still runs in one could write into the folders that are removed next.
                containers.remove(session.client, session.labels.filters(job.id))
                try:
                    self._keep_sdk_misses()
                finally:
                    for folder in (self.folder, self.changes, self.objects, self.notes):
                        session.remove_folder(folder, self.image)
                    remove_tree(request.scratch)

    def _keep_sdk_misses(self) -> None:
        """Keep the note of what the SDK lacked; if the engine went away, there is none to keep.

        Raises BuildError where the build has put something else in its place.
        """
        path = self.notes / _ASKED
        with contextlib.suppress(OSError, EngineError), translated_errors():
            if self.access.shared:
                text = read_foreign_text(path, _MOST_ASKED)
            else:
                text = store_access.read_file(self.session.helper(self.image), self.access, path)
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
            sdk_misses=self.notes / _ASKED,
            ccache=self.ccache,
            prefixes=images.prefixes_of(self.settings),
        )

    # ---- the environment

    def _prepare(self) -> None:
        """Install what the build requires, where no foreign code runs. Raises what installing raises."""
        job = self.request.job
        with open_site(self.session, job, self.request.shell) as site:
            if self.request.needs_full_torch:
                torch_downloads.fetch(self.access.store, job.variant.release, job, site)
            # Only the build itself uses ccache, and whether the image has it is asked here, where a container runs.
            if self.request.reuse and site.shell.run("sh", "-c", "command -v ccache").ok:
                self.ccache = ccache_of(self.session.project, self.access.store, "docker")

            farm_files = site.bring(self._farm_files(site))
            static = self._static_requirements()
            self._install(site, farm_files, static)
            # A back end may require more, and to tell so it has to run.
            additional = self._ask_back_end(site)
            if set(additional) - set(static):
                self._install(site, farm_files, [*static, *additional])
            self._set_aside(site, farm_files)

    def _farm_files(self, site: Site) -> Path:
        """A folder with what containers need of the farm, to be copied as one: the tree's constraints, two scripts."""
        folder = self.request.scratch / "farm-files"
        # At the same place as in the source tree, which this folder stands for.
        place = PurePath(self.settings.subdirectory) / FARM_FOLDER
        shutil.copytree(self.request.tree / place, folder / place)
        shutil.copy(_ASK, folder)
        text = _UV.read_text("utf-8").replace("@READY@", shlex.quote(str(self.ready)))
        text = text.replace("@HOME@", shlex.quote(str(self.home))).replace("@UV@", shlex.quote(str(site.uv)))
        uv = folder / _UV.name
        uv.write_text(text, "utf-8")
        uv.chmod(0o755)
        return folder

    def _static_requirements(self) -> list[str]:
        """What [build-system] of the source requires. Raises BuildError."""
        import build  # noqa: PLC0415 (a run with nothing to do builds nothing)

        try:
            required = build.ProjectBuilder(self.request.tree / self.settings.subdirectory).build_system_requires
        except build.BuildException as error:
            raise BuildError(f"{self.request.job.id}: {error}", where=str(self.shell.log)) from error
        return checked_requirements(self.request.job.id, sorted(required))

    def _install(self, site: Site, farm_files: Path, required: Sequence[str]) -> None:
        """Make the environment anew, with what is required in it, and the script that asks the back end.

        uv asks the interpreter of an environment for its folders, which executes .pth files of what is installed there.
        So nothing is ever installed where something is already.
        """
        variables = build_variables(self.settings, self.request, self._places(farm_files, self.home))
        assignments = [f"{name}={value}" for name, value in variables.items() if name in _FOR_UV]
        install: list[str | Path] = [site.uv, "pip", "install", "--python", self.home, "--", *required]
        # One command, since each takes a tenth of a second to start in a container.
        script = '"$1" venv --clear --python "$2" "$3" && cp "$4" "$3" && shift 4 && exec env "$@"'
        done = site.shell.run(
            "sh", "-c", script, "sh", site.uv, site.python.path, self.home, farm_files / _ASK.name,
            *assignments, *(install if required else ["true"]),
        )  # fmt: skip
        if not done.ok:
            raise diagnose(self.request.job.id, self.shell.log)

    def _ask_back_end(self, site: Site) -> list[str]:
        """What the source's back end requires beside [build-system]. Raises BuildError for what is no requirement."""
        with site.foreign(self.home) as shell:
            tree = site.bring(self.request.tree)
            variables = build_variables(self.settings, self.request, self._places(tree, self.home))
            assignments = [f"{name}={value}" for name, value in variables.items() if name not in _NOT_FOR_ASKING]
            script, project = self.home / _ASK.name, tree / self.settings.subdirectory
            config_settings = json.dumps(dict(self.settings.config_settings))
            done = shell.run("env", *assignments, site.python.path, "-I", script, project, self.home, config_settings)
        if not done.ok:
            raise diagnose(self.request.job.id, self.shell.log)
        return checked_requirements(self.request.job.id, answer_of_back_end(done.last_line))

    def _set_aside(self, site: Site, farm_files: Path) -> None:
        """Leave the environment under the name that the build finds it by, and make the build's own folders."""
        folders = [self.folder / "tmp", self.objects, self.notes, self.changes / "upper", self.changes / "work"]
        if self.ccache:
            folders.append(Path(self.ccache))
        script = 'rm "$1/$5" && mv -T "$1" "$2" && cp "$3" "$4" && shift 5 && exec mkdir -p "$@"'
        done = site.shell.run(
            "sh", "-c", script, "sh", self.home, self.ready, farm_files / _UV.name, self.folder / "uv", _ASK.name,
            *folders,
        )  # fmt: skip
        if not done.ok:
            raise diagnose(self.request.job.id, self.shell.log)

    # ---- the build

    def _variables(self) -> dict[str, str]:
        """The build's environment variables, as its container gets them."""
        tree = PurePosixPath(cibuildwheel_config.PROJECT)
        places = self._places(tree, self.home if self._fixed_home else None)
        variables = build_variables(self.settings, self.request, places)
        if "LD_LIBRARY_PATH" not in self.settings.environment:
            variables.pop("LD_LIBRARY_PATH", None)  # the image has it, joined with what its base sets
        variables["UV"] = str(self.folder / "uv")
        if not self.settings.network:
            variables |= no_network.OFFLINE
        if not self.access.shared:
            # Would turn the jobserver off where there is one.
            variables["CMAKE_BUILD_PARALLEL_LEVEL"] = str(self.request.share)
        if not self._fixed_home:
            # The front end picks a folder in TMPDIR.
            variables["TMPDIR"] = str(self.folder / "tmp")
        return variables

    def _confinement(self) -> Confinement:
        """The container's limits and mounts: the environment, and the folders that are the job's own."""
        access = self.access
        mounts = [access.environment(self.folder, self.changes), access.mount(self.notes, writable=True)]
        mounts += self.session.emulation_mounts(self.request.job.platform)
        if self._sdk:
            mounts.append(access.mount(self._sdk))
        if self.ccache:
            mounts.append(access.mount(self.ccache, writable=True))
        if access.shared:
            # ninja's log is in the build folder, and is read once the container is gone.
            mounts.append(access.mount(self.objects, PurePosixPath(cibuildwheel_config.BUILD), writable=True))
            # A FIFO can be written to in a read-only mount; its mode and owner cannot be changed there.
            _, _, fifo = self.request.makeflags.partition("--jobserver-auth=fifo:")
            if fifo:
                mounts.append(access.mount(Path(fifo)))
        return access.foreign(mounts, self.settings.network)

    def _cibuildwheel(self) -> Completed:
        """Let cibuildwheel build the job's wheel, and nothing else, in a container of the image."""
        request, job = self.request, self.request.job
        create_arguments = self._confinement().arguments(self.session.labels.all(job.id), self._variables())
        text = cibuildwheel_config.configuration(
            self.image, job.platform, create_arguments, str(self.home) if self._fixed_home else "", self.settings
        )
        # Named on the command line, it takes the place of [tool.cibuildwheel] in the project's pyproject.toml.
        configuration = request.scratch / "cibuildwheel.toml"
        configuration.write_text(text, "utf-8")
        temporary = request.scratch / "tmp"
        temporary.mkdir()
        env = {**self.shell.env, "SOURCE_DATE_EPOCH": str(request.epoch), "TMPDIR": str(temporary)}
        shell: Shell = replace(request.shell, env=env, cwd=request.tree, ending=_ENDING)
        # The working directory is the source tree, which is copied as a whole; the first argument is the project in it.
        project = self.settings.subdirectory or "."
        # --only takes the exact identifier: left to requires-python, cibuildwheel also builds for musllinux.
        return shell.run(
            sys.executable, "-I", _CIBUILDWHEEL, project, "--only", identifiers(job.platform)[job.python],
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
            return without_library(f"the wheel of {job}", log, of_core=not self.request.job.variant.needs_torch)
        if cibuildwheel_config.was_repairing(done.tail):
            return auditwheel.failure(log, done.tail)
        error = diagnose(job, log, subdirectory=self.settings.subdirectory)
        if self.settings.network:
            return error
        return no_network.explained(job, error, done.tail, self.request.tree / self.settings.subdirectory)


def only_wheel(job: str, folder: Path, log: Path) -> Path:
    """The wheel that came back from a job's container. Raises BuildError unless there is exactly one."""
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        names = ", ".join(wheel.name for wheel in wheels[:5])
        raise BuildError(
            f"{job}: the build left {len(wheels)} wheels where one is expected{': ' if names else ''}{names}",
            where=str(log),
            next_step="let the build write no wheel of its own to /output, where cibuildwheel puts the repaired one",
        )
    return wheels[0]
