"""The local engine: wheels built on this machine, each in an environment of its own.

The front end is PyPA's `build`, through its API: an environment at a fixed path that uv fills, and every process
started by the farm's own runner. (`build --env-dir` does the same, but needs CPython 3.10 in the environment's
interpreter; torch 2.8 still has wheels for 3.9.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from torch_build_farm.core import tools
from torch_build_farm.core.errors import BuildError, FarmError, ToolError
from torch_build_farm.core.files import check_regular, remove_tree, replace_text
from torch_build_farm.core.paths import inside
from torch_build_farm.core.process import Completed, Shell, capture, to_be_finished
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import ninja_log, no_network, torch_downloads
from torch_build_farm.engines.base import (
    BuildRequest,
    Interpreter,
    Site,
    ccache_of,
    check_gcc,
    no_cuda_toolkit,
    source_of,
)
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.interpreters import ASK_LINKER_FLAGS, find_interpreters, run_paths_of
from torch_build_farm.engines.local_prefix import LocalPrefix
from torch_build_farm.engines.missing_modules import lacks_module
from torch_build_farm.engines.prefixes import given_prefixes, preparation
from torch_build_farm.engines.shared_files import SharedFiles, share
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots, oom_kills
from torch_build_farm.engines.variables import Places, build_variables
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, Settings
from torch_build_farm.project.variant import Variant

if TYPE_CHECKING:
    from build import ProjectBuilder

_QUERY = {"apt": ("dpkg-query", "-W", "-f", "${Status}"), "dnf": ("rpm", "-q")}


@dataclass(frozen=True)
class LocalEngine:
    """Builds on this machine, with its compiler and its CPythons."""

    project: Project
    store: TorchStore
    name: str = "local"
    repairs_itself: bool = False
    base_image: str = ""

    @cached_property
    def _environment(self) -> dict[str, str]:
        return tools.environment(self.store.uv_cache, self.store.root)

    @cached_property
    def _interpreters(self) -> dict[CPython, Interpreter]:
        return find_interpreters(self._environment)

    def build_folders(self, source_folders: Sequence[str]) -> Sequence[PurePath]:  # noqa: ARG002 (needs none)
        """None beside the store's and the work folder: builds run on this machine."""
        return ()

    @cached_property
    def _prefix(self) -> LocalPrefix | None:
        """What `prepare` fills; another compiler fills another."""
        prepared = preparation(self.project)
        if prepared is None:
            return None
        compiler = self.project.settings.environment.get("CXX") or os.environ.get("CXX") or "c++"
        identity = [prepared.digest, *capture([*shlex.split(compiler), "--version"], env=self._environment).tail[:1]]
        folder = self.store.prefix(self.project.settings.name, source_of(self.project), "\n".join(identity))
        return LocalPrefix(folder, prepared)

    @property
    def prefixes(self) -> Sequence[PurePath]:
        """What was prepared in the store, and the folders that the settings name."""
        prepared = [self._prefix.folder] if self._prefix else []
        return [*prepared, *given_prefixes(self.project.settings)]

    def free_gb(self) -> float:
        """Free in the store, GB (10^9 bytes)."""
        return self.store.free_gb()

    def sweep(self) -> int:
        """Nothing outlives a farm on its own machine: its supervisors see to that."""
        return 0

    def slots(self, compile_gb: float = DEFAULT_GB) -> int:
        """By this machine's CPUs and free memory."""
        return compile_slots(self.project.settings.memory_per_compile_gb or compile_gb)

    def interpreters(self, variant: Variant) -> Mapping[CPython, Interpreter]:  # noqa: ARG002 (one set for all)
        """Every CPython of this machine."""
        return self._interpreters

    @contextlib.contextmanager
    def site(self, job: Job, shell: Shell) -> Iterator[Site]:
        """The machine as it is."""
        yield Site(
            shell=shell,
            uv=tools.uv(),
            python=self._interpreters[job.python],
            store=self.store,
            bring=lambda path: path,
            remove=to_be_finished()(remove_tree),
            foreign=lambda home: self._foreign(job, home, shell),
            written=lambda home: home,
            links=True,
        )

    @contextlib.contextmanager
    def _foreign(self, job: Job, home: Path, shell: Shell) -> Iterator[Shell]:
        """A shell for foreign code in the environment `home`, with folders of its own in place of the store's.

        Raises BuildError where files that the environment shares were edited, before or meanwhile.
        """
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=home))  # a package may have installed any other name
        (scratch / "tmp").mkdir()
        shared = share(self.store, home, job.id, shell.log)
        try:
            yield replace(shell, env=tools.foreign_environment(scratch), cwd=scratch)
        except BaseException:
            shared.remove_edited()
            raise
        shared.compare()

    @cached_property
    def _why_network(self) -> str:
        """Why builds that may not use a network have one all the same; empty where they have none."""
        return no_network.why_not()

    def isolated(self) -> bool:
        """Whether foreign code of a build starts without a network."""
        return not self.project.settings.network and not self._why_network

    def _settings(self, job: Job) -> Settings:
        return self.project.settings.for_job(job.variant, job.python)

    def _compiler(self, job: Job) -> str:
        return self._settings(job).environment.get("CXX") or os.environ.get("CXX") or "c++"

    @cached_property
    def _compilers(self) -> dict[str, Completed]:
        """What each compiler answered to --version, by its command."""
        return {}

    def _compiler_version(self, job: Job) -> Completed:
        compiler = self._compiler(job)
        if compiler not in self._compilers:
            self._compilers[compiler] = capture([*shlex.split(compiler), "--version"], env=self._environment)
        return self._compilers[compiler]

    def toolchain(self, job: Job) -> Mapping[str, str]:
        """Compiler and interpreter of a job."""
        interpreter = self._interpreters[job.python]
        cuda = {}
        if self._settings(job).cuda_arch_list:  # only then: asking nvcc costs a process at every start
            cuda = {"nvcc": self._nvcc[1], "CUDA_HOME": os.environ.get("CUDA_HOME", "")}
        # Of the farm's tools those that build; auditwheel and patchelf are inputs of the stages that use them.
        versions = tools.versions()
        used_by_builds = {name: versions[name] for name in ("uv", "build", "cmake", "ninja")}
        compiler = self._compiler_version(job)
        return {
            "compiler": compiler.tail[0] if compiler.ok else "none",
            "CC": os.environ.get("CC", ""),
            "CXX": os.environ.get("CXX", ""),
            "python": interpreter.version,
            "prefix": self._prefix.folder.name if self._prefix else "",
            **cuda,
            **used_by_builds,
        }

    def interpreter_run_paths(self, job: Job) -> Sequence[str]:
        """By the flags that the interpreter itself states."""
        answer = capture([self._interpreters[job.python].path, "-I", "-c", ASK_LINKER_FLAGS], env=self._environment)
        return run_paths_of(answer.tail[-1]) if answer.ok and answer.tail else ()

    def check(self, jobs: Sequence[Job], shell: Shell) -> None:
        """Compiler, Python headers, system packages, prefixes and, for CUDA sources, the toolkit; then `prepare`."""
        for job in jobs:
            compiler = self._compiler_version(job)
            if not compiler.ok:
                raise ToolError(
                    f"no C++ compiler: {self._compiler(job)} does not run",
                    where=(compiler.tail or ("no output",))[-1],
                    next_step="install one (Debian: apt install g++; Fedora: dnf install gcc-c++) or name it in CXX",
                )
            check_gcc(job, compiler.tail[0], "install one and name it in CXX and CC")
        if not self.project.settings.network and self._why_network:
            shell.say(
                f"builds can use the network, since this machine cannot start them without one ({self._why_network}): "
                "what compiles nothing is refused"
            )
        pythons = {job.python for job in jobs}
        for python in sorted(pythons):
            self._check_headers(python)
        _check_system_packages(self.project.settings)
        _check_prefixes(self.project.settings)
        for job in jobs:
            if self._settings(job).cuda_arch_list and not job.variant.cuda_toolkit:  # else wheels bring the toolkit
                self._check_cuda(job)
        if self._prefix:
            self._prefix.make(self.store, shell)

    def has_headers(self, python: CPython) -> bool:
        """Whether something can be compiled for this CPython: whether its Python.h is there."""
        # The interpreter itself is asked: distributions have the headers in packages and folders of their own.
        code = "import sysconfig; print(sysconfig.get_path('include'))"
        answer = capture([self._interpreters[python].path, "-I", "-c", code], env=self._environment)
        return answer.ok and (Path(answer.tail[0]) / "Python.h").is_file()

    def _check_headers(self, python: CPython) -> None:
        """Raise ToolError if nothing can be compiled for this CPython."""
        if not self.has_headers(python):
            raise ToolError(
                f"CPython {python} has no headers, so nothing can be compiled for it",
                where=f"{self._interpreters[python].path}: Python.h is missing",
                next_step=f"install them (Debian: apt install python{python.release}-dev) "
                f"or a CPython that has them: uv python install {python}",
            )

    @cached_property
    def _nvcc(self) -> tuple[str, str]:
        """The nvcc of CUDA_HOME, else of PATH, and the line with its release; empty where there is none."""
        home = os.environ.get("CUDA_HOME")
        nvcc = str(Path(home) / "bin" / "nvcc") if home else shutil.which("nvcc")
        if not nvcc:
            return "", ""
        return nvcc, nvcc_release(nvcc, self._environment)

    def _check_cuda(self, job: Job) -> None:
        """Raise CudaToolkitError if this machine has no nvcc of the CUDA major that the job's torch has."""
        nvcc, release = self._nvcc
        match = re.search(r"release (\d+)\.", release)
        if not match or match[1] != job.variant.cuda_major:
            installed = f"{nvcc} is CUDA {match[1]}" if match else "no nvcc is on PATH or in CUDA_HOME"
            raise no_cuda_toolkit(job, installed, f"install CUDA {job.variant.cuda_major} and point CUDA_HOME at it")

    def build(self, request: BuildRequest) -> Path:
        """Build one wheel; the environment is gone afterwards, the log stays."""
        home = self.store.environment(f"{request.job.id}-build")
        remove_tree(home)
        # What the kernel killed for want of memory does not always leave a word in the log, but the kernel counts it.
        before = oom_kills()
        build = _LocalBuild(self, request, home)
        try:
            wheel = build.run()
            ninja_log.keep(request.scratch / "build", request.out)
            return wheel
        except subprocess.CalledProcessError:
            subdirectory = self.project.settings.subdirectory
            error = diagnose(request.job.id, request.shell.log, oom_kills() - before, subdirectory)
            if self.isolated():
                error = no_network.explained(request.job.id, error, build.foreign_tail, request.tree / subdirectory)
            raise error from None
        finally:
            with to_be_finished():
                remove_tree(home)
                remove_tree(request.scratch)


class _LocalBuild:
    """One build: environment at `home`, a writable copy of the tree under the request's scratch folder."""

    def __init__(self, engine: LocalEngine, request: BuildRequest, home: Path) -> None:
        self.engine = engine
        self.request = request
        self.home = home
        self.tree = request.scratch / "source"
        self.settings = engine.project.settings.for_job(request.job.variant, request.job.python)
        self.env = self._variables()
        self.peak_mb = 0.0
        self.foreign_tail: tuple[str, ...] = ()  # of the last command's output, if that was foreign code

    def _variables(self) -> dict[str, str]:
        """The build's environment variables: the farm's usual ones, the caller's CUDA, and those of every engine."""
        request = self.request
        places = Places(
            self.home,
            self.tree,
            request.scratch / "build",
            {str(request.scratch): "."},
            sdk=request.sdk.folder if request.sdk else None,
            sdk_misses=request.sdk_misses,
            ccache=ccache_of(self.engine.project, self.engine.store, self.engine.name)
            if request.reuse and shutil.which("ccache")
            else None,
            prefixes=self.engine.prefixes,
        )
        variables = {
            **tools.foreign_environment(request.scratch),
            "VIRTUAL_ENV": str(self.home),
            "PATH": tools.search_path(self.home / "bin"),
        }
        if self.settings.cuda_arch_list:
            passed = {"CUDA_HOME": "CUDA_HOME", "CXX": "CUDAHOSTCXX"}  # else nvcc takes the first gcc on PATH
            for callers_name, builds_name in passed.items():
                if callers_name in os.environ:
                    variables[builds_name] = os.environ[callers_name]
        return {**variables, **build_variables(self.settings, request, places)}

    def _call(self, cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        """Start a command of foreign code; this is the runner that `build` calls its hooks with."""
        more = dict(extra_environ or {})
        if self.engine.isolated():
            cmd, more = [*no_network.WITHOUT_NETWORK, *cmd], {**no_network.OFFLINE, **more}
        done = self._start(cmd, Path(cwd) if cwd else self.home.parent, more)
        self.foreign_tail = done.tail
        _require_success(done)

    def _start(self, cmd: Sequence[str], folder: Path, more: Mapping[str, str]) -> Completed:
        """Start a command with `more` variables than the build's."""
        shell = replace(self.request.shell, env={**self.env, **more}, cwd=folder)
        done = shell.run(*cmd)
        self.peak_mb = max(self.peak_mb, done.peak_mb)
        return done

    def _uv(self, *words: str) -> None:
        """Call uv with the store's cache, which no foreign code learns of, and with no other way to link from it."""
        cache = {"UV_CACHE_DIR": str(self.engine.store.uv_cache), "UV_LINK_MODE": "clone"}
        self.foreign_tail = ()
        _require_success(self._start([str(tools.uv()), *words], self.home.parent, cache))

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
        python = self.engine.interpreters(job.variant)[job.python].path
        if request.sdk is None:
            with self.engine.site(job, request.shell) as site:
                torch_downloads.fetch(self.engine.store, job.variant.release, job.python, site)

        # PEP 517 in its order: the environment, what [build-system] requires, and only then the back end, which may ask
        # for more.
        self._uv("venv", "--python", str(python), str(self.home))
        builder = project_builder(
            self.tree / self.settings.subdirectory,
            python_executable=str(self.home / "bin" / "python"),
            runner=self._call,
        )
        shared = self._install(set(builder.build_system_requires))
        try:
            additional = set(builder.get_requires_for_build("wheel", self.settings.config_settings))
            if additional:
                shared = self._install(additional)
            for command in self.settings.before_build:
                self._call(["/bin/sh", "-c", command], cwd=str(self.tree))
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
        if not self.settings.network and not self.engine.isolated():
            project = request.tree / self.settings.subdirectory
            no_network.check_compiled(request, path, project)
        return path

    def _back_end(self, builder: ProjectBuilder) -> str:
        """Let the back end make the wheel; returns the name that it says the wheel has."""
        out = f"{self.request.out}/"
        try:
            return builder.build("wheel", out, self.settings.config_settings).removeprefix(out)
        except TypeError as error:  # `build` joins what it says to the folder
            raise self._error("the back end does not say how its wheel is called") from error

    def _error(self, what: str) -> BuildError:
        return BuildError(f"{self.request.job.id}: {what}", where=str(self.request.shell.log))


def _require_success(done: Completed) -> None:
    """Raise CalledProcessError for a command that failed."""
    if not done.ok:
        raise subprocess.CalledProcessError(done.returncode, done.command)


def nvcc_release(nvcc: str, env: Mapping[str, str] | None = None) -> str:
    """The line of `nvcc --version` with the toolkit's release; empty if it prints none."""
    for line in capture([nvcc, "--version"], env=env).tail:
        if "release" in line:
            return line
    return ""


def _check_prefixes(settings: Settings) -> None:
    """Raise ToolError for a folder of `prefixes` that is not on this machine."""
    for prefix in settings.prefixes:
        if not Path(prefix).is_dir():
            raise ToolError(
                f"there is no folder {prefix}",
                where="[tool.torch-build-farm] prefixes",
                next_step="correct prefixes, or let prepare install what belongs there",
            )


def _check_system_packages(settings: Settings) -> None:
    """Raise ToolError where a package manager of this machine lacks a package of the project."""
    by_manager = {"apt": settings.system_packages.apt, "dnf": settings.system_packages.dnf}
    for manager, packages in by_manager.items():
        query = _QUERY[manager]
        if not shutil.which(query[0]):  # another distribution's manager
            continue
        missing = []
        for package in packages:
            answer = capture([*query, package])
            # dpkg knows packages that were removed, too.
            installed = answer.ok and (manager != "apt" or "ok installed" in answer.tail[0])
            if not installed:
                missing.append(package)
        if missing:
            raise ToolError(
                f"system packages are missing: {', '.join(missing)}",
                where="[tool.torch-build-farm.system-packages]",
                next_step=f"{manager} install {' '.join(missing)}",
            )
