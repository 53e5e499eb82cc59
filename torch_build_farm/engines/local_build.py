"""One build of the local engine.

The front end is PyPA's `build`, through its API: an environment at a fixed path that uv fills, and every process
started by the farm's own runner. (`build --env-dir` does the same, but needs CPython 3.10 in the environment's
interpreter; torch 2.8 still has wheels for 3.9.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core import tools
from torch_build_farm.core.errors import BuildError, FarmError, ToolError
from torch_build_farm.core.files import check_regular, remove_tree, replace_text
from torch_build_farm.core.paths import inside
from torch_build_farm.core.process import Completed
from torch_build_farm.engines import cross_compiling, no_network, torch_downloads
from torch_build_farm.engines.base import BuildRequest, Engine, ccache_of
from torch_build_farm.engines.missing_modules import lacks_module
from torch_build_farm.engines.name_spaces import NameSpaces
from torch_build_farm.engines.shared_files import SharedFiles, share
from torch_build_farm.engines.sysroot import Sysroot
from torch_build_farm.engines.variables import Places, build_variables, site_packages
from torch_build_farm.engines.without_toolkit import path_without_nvcc
from torch_build_farm.project.settings import Project

if TYPE_CHECKING:
    from build import ProjectBuilder


@dataclass(frozen=True)
class BuildMachine:
    """What a build runs on: its CPython, and the name spaces of foreign code; and the system that it builds for.

    `sysroot` is None for a build for machines of the kind at hand.
    """

    python: Path
    name_spaces: NameSpaces
    sysroot: Sysroot | None = None


class LocalBuild:
    """One build: environment at `home`, a writable copy of the tree under the request's scratch folder.

    Foreign code starts in `name_spaces`, and its variables name places as it sees them there. uv starts outside, since
    a hard link leads from one mount to another nowhere (link(2)).
    """

    def __init__(
        self, engine: Engine, project: Project, request: BuildRequest, home: Path, machine: BuildMachine
    ) -> None:
        self.engine = engine
        self.project = project
        self.machine = machine
        name_spaces = self.name_spaces = machine.name_spaces
        self.request = request
        self.home = home
        self.tree = request.scratch / "source"
        self.sysroot = machine.sysroot
        self.settings = project.settings.for_job(request.job.variant, request.job.python)
        self.search_path = self._search_path()
        self.env = self._variables(home, request.scratch)
        self.foreign_env = self._variables(name_spaces.path(home), name_spaces.path(request.scratch))
        self.peak_mb = 0.0
        self.foreign_tail: tuple[str, ...] = ()  # of the last command's output, if that was foreign code
        self.before_build_command = ""  # while one of them runs

    def _variables(self, home: Path, scratch: Path) -> dict[str, str]:
        """The build's environment variables: the farm's usual ones, the caller's CUDA, and those of every engine.

        `home` and `scratch` are where a command sees these folders.
        """
        request = self.request
        places = Places(
            home,
            scratch / self.tree.name,
            scratch / "build",
            {str(scratch): "."},
            sdk=request.sdk.folder if request.sdk else None,
            sdk_misses=request.sdk_misses,
            ccache=ccache_of(self.project, self.engine.store, self.engine.name)
            if request.reuse and shutil.which("ccache")
            else None,
            prefixes=self.engine.prefixes,
            sysroot=self.sysroot.folder if self.sysroot else None,
        )
        variables = {
            **tools.foreign_environment(scratch),
            "VIRTUAL_ENV": str(home),
            "PATH": os.pathsep.join([str(home / "bin"), self.search_path.replace(str(request.scratch), str(scratch))]),
        }
        if self.settings.cuda_arch_list:
            passed = {"CUDA_HOME": "CUDA_HOME", "CXX": "CUDAHOSTCXX"}  # else nvcc takes the first gcc on PATH
            for callers_name, builds_name in passed.items():
                if callers_name in os.environ:
                    variables[builds_name] = os.environ[callers_name]
        return {**variables, **build_variables(self.settings, request, places)}

    def _search_path(self) -> str:
        """PATH without the environment's programs; links in the scratch folder keep nvcc out of it."""
        path = tools.search_path()
        if self.settings.cuda_arch_list:
            return path
        return path_without_nvcc(path, self.request.scratch / "search-path")

    def _call(self, cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        """Start a command of foreign code; this is the runner that `build` calls its hooks with."""
        folder = Path(cwd) if cwd else self.home.parent
        env = {**self.foreign_env, **(no_network.OFFLINE if self.name_spaces.no_network else {})}
        for name, value in (extra_environ or {}).items():
            env[name] = self.name_spaces.text(value)  # `build` says where a back end lies that is in the source
        done = self._start(self.name_spaces.command(cmd, folder), folder, env)
        self.foreign_tail = done.tail
        _require_success(done)

    def _start(self, cmd: Sequence[str], folder: Path, env: Mapping[str, str]) -> Completed:
        shell = replace(self.request.shell, env=env, cwd=folder)
        done = shell.run(*cmd)
        self.peak_mb = max(self.peak_mb, done.peak_mb)
        return done

    def _uv(self, *words: str) -> None:
        """Call uv with the store's cache, which no foreign code learns of, and with no other way to link from it."""
        cache = {"UV_CACHE_DIR": str(self.engine.store.uv_cache), "UV_LINK_MODE": "clone"}
        env = {**self.env, **cache, **cross_compiling.OWN_MACHINE}
        self.foreign_tail = ()
        _require_success(self._start([str(tools.uv()), *words], self.home.parent, env))

    def _install(self, requirements: set[str]) -> SharedFiles:
        """Install requirements; returns what the environment then shares with the store."""
        if requirements:
            # After "--" nothing is an option of uv's: the back end may ask for anything.
            self._uv("pip", "install", "--python", str(self.home), "--", *sorted(requirements))
        return share(self.engine.store, self.home, self.request.job.id, self.request.shell.log)

    def run(self) -> Path:
        """Build. Raises CalledProcessError when a command failed, BuildError when the back end did."""
        import build  # noqa: PLC0415 (a run with nothing to do builds nothing)
        from pyproject_hooks import BuildBackendWarning  # noqa: PLC0415

        # `build` repeats back ends' warnings on the farm's own standard error; their output is in the job's log.
        warnings.filterwarnings("ignore", category=BuildBackendWarning)
        try:
            return self._run(build.ProjectBuilder)
        except build.BuildBackendException as error:  # wraps whatever our runner raised
            if isinstance(error.exception, subprocess.CalledProcessError | FarmError):
                raise error.exception from None
            lacking = lacks_module(self.request.job.id, [str(error)], str(self.request.shell.log))
            raise lacking or self._error(str(error)) from error
        except build.BuildException as error:
            raise self._error(str(error)) from error

    def _run(self, project_builder: type[ProjectBuilder]) -> Path:
        """Build as `build` does: the environment, its requirements, the back end. Raises CalledProcessError."""
        request = self.request

        # A copy: back ends write into their source tree, and the rendered one must stay as its record says.
        shutil.copytree(request.tree, self.tree, symlinks=True)
        (request.scratch / "tmp").mkdir()
        self.home.parent.mkdir(parents=True, exist_ok=True)
        job = request.job
        if request.needs_full_torch and self.sysroot:
            raise ToolError(
                f"{job.id} cannot be cross-compiled: it runs torch, which is for {job.platform.words}",
                where=str(request.shell.log),
                next_step="build it in containers, --engine docker, or on a machine of that kind",
            )
        if request.needs_full_torch:
            with self.engine.site(job, request.shell) as site:
                torch_downloads.fetch(self.engine.store, job.variant.release, job, site)

        # PEP 517 in its order: the environment, what [build-system] requires, and only then the back end, which may ask
        # for more.
        # Relocatable, since its scripts run where foreign code sees it.
        self._uv("venv", "--relocatable", "--python", str(self.machine.python), str(self.home))
        builder = project_builder(
            self.tree / self.settings.subdirectory,
            python_executable=str(self.name_spaces.path(self.home) / "bin" / "python"),
            runner=self._call,
        )
        shared = self._install(set(builder.build_system_requires))
        if self.sysroot:  # what runs from here on is foreign, and asks it about the machine
            packages = Path(site_packages(self.home, job.python))
            cross_compiling.let_answer(packages, self.sysroot.pythons[job.python], job.platform)
        try:
            additional = set(builder.get_requires_for_build("wheel", self.settings.config_settings))
            if additional:
                shared = self._install(additional)
            for command in self.settings.before_build:
                self.before_build_command = command
                # What these install, such as a code generator, runs here.
                own_machine = cross_compiling.OWN_MACHINE if self.sysroot else None
                self._call(["/bin/sh", "-c", command], cwd=str(self.tree), extra_environ=own_machine)
            self.before_build_command = ""
            wheel = self._back_end(builder)
        except BaseException:
            shared.remove_edited()
            raise
        shared.compare()

        # From here on nothing foreign runs. What the build left in the farm's way goes: it may be a link elsewhere.
        if request.out.is_symlink():
            raise self._error("the build put a link in place of the folder for its wheel")
        remove_tree(request.peak)
        replace_text(request.peak, f"{self.peak_mb:.0f}")
        try:
            path = check_regular(inside(request.out, wheel))
        except FileNotFoundError:
            raise self._error(f"the back end made no {wheel!r:.200}, though it says so") from None
        if not self.settings.network and not self.name_spaces.no_network:
            project = request.tree / self.settings.subdirectory
            no_network.check_compiled(request, path, project)
        return path

    def _back_end(self, builder: ProjectBuilder) -> str:
        """Let the back end make the wheel; returns the name that it says the wheel has."""
        out = f"{self.request.out}/"
        try:
            return builder.build("wheel", out, self._config_settings()).removeprefix(out)
        except TypeError as error:  # `build` joins what it says to the folder
            raise self._error("the back end does not say how its wheel is called") from error

    def _config_settings(self) -> Mapping[str, str | Sequence[str]]:
        """The project's; meson-python is told by an argument what CMake reads in variables."""
        settings = self.settings.config_settings
        # The back end may be the farm's own, which then calls it.
        has_meson_python = (Path(site_packages(self.home, self.request.job.python)) / "mesonpy").is_dir()
        if self.sysroot is None or not has_meson_python:
            return settings
        request = self.request
        python = Path(self.foreign_env["VIRTUAL_ENV"]) / "bin" / "python"
        file = request.scratch / "meson-cross.ini"
        replace_text(file, cross_compiling.meson_file(request.job.platform, self.env, python))
        own = settings.get("setup-args", ())
        arguments = [own] if isinstance(own, str) else [*own]
        return {**settings, "setup-args": [f"--cross-file={self.name_spaces.path(file)}", *arguments]}

    def explained(self, error: FarmError) -> FarmError:
        """The error of the build with what failed, where its log had no known cause for `error`."""
        if type(error) is not BuildError or not self.before_build_command:
            return error
        said = [line for line in self.foreign_tail if line.strip()]
        reason = f": {said[-1].strip()}" if said else ""
        return BuildError(
            f"{self.request.job.id}: the before-build command {self.before_build_command!r} fails{reason}",
            where=error.where,
            next_step=error.next_step,
        )

    def _error(self, what: str) -> BuildError:
        return BuildError(f"{self.request.job.id}: {what}", where=str(self.request.shell.log))


def _require_success(done: Completed) -> None:
    """Raise CalledProcessError for a command that failed."""
    if not done.ok:
        raise subprocess.CalledProcessError(done.returncode, done.command)
