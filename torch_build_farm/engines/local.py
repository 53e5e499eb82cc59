"""The local engine: wheels built on this machine, each in an environment of its own (local_build.py)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath

from torch_build_farm.core import machine, tools
from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.files import remove_tree
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.process import Completed, Shell, capture, to_be_finished
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import ninja_log, no_network, system_packages
from torch_build_farm.engines import sysroot as sysroots
from torch_build_farm.engines.base import (
    BuildRequest,
    Interpreter,
    Site,
    check_gcc,
    check_nvcc,
    no_cuda_toolkit,
    source_of,
)
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.interpreters import ASK_LINKER_FLAGS, LINKER_FLAGS, find_interpreters, run_paths_of
from torch_build_farm.engines.local_build import BuildMachine, LocalBuild
from torch_build_farm.engines.local_prefix import LocalPrefix
from torch_build_farm.engines.name_spaces import NameSpaces
from torch_build_farm.engines.prefixes import given_prefixes, library_folders, preparation
from torch_build_farm.engines.shared_files import share
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots, oom_kills
from torch_build_farm.engines.sysroot import Sysroot
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, Settings
from torch_build_farm.project.variant import Variant


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
        compiler = self._version_of(_compiler_of(self.project.settings))
        identity = [prepared.digest, *compiler.tail[:1]]
        folder = self.store.prefix(self.project.settings.name, source_of(self.project), "\n".join(identity))
        return LocalPrefix(folder, prepared)

    @property
    def shares_compilations(self) -> bool:
        """Whether ccache is on PATH, and builds see their folders at the same place."""
        return shutil.which("ccache") is not None and self._mounts

    @property
    def prefixes(self) -> Sequence[PurePath]:
        """What was prepared in the store, and the folders that the settings name."""
        prepared = [self._prefix.folder] if self._prefix else []
        return [*prepared, *given_prefixes(self.project.settings)]

    def library_folders(self, job: Job) -> Sequence[PurePath]:
        """Those of the prefixes, and of the sysroot."""
        sysroot = self.sysroot(job.platform)
        return [*library_folders(self.prefixes), *(sysroot.library_folders if sysroot else ())]

    def free_gb(self) -> float:
        """Free in the store, GB (10^9 bytes)."""
        return self.store.free_gb()

    def sweep(self) -> int:
        """Nothing outlives a farm on its own machine: its supervisors see to that."""
        return 0

    def slots(self, compile_gb: float = DEFAULT_GB) -> int:
        """By this machine's CPUs and free memory."""
        return compile_slots(self.project.settings.memory_per_compile_gb or compile_gb)

    @cached_property
    def _sysroots(self) -> dict[Machine, Sysroot | None]:
        """Those that the environment was asked for so far."""
        return {}

    def _named_sysroot(self, platform: Machine) -> Sysroot | None:
        if platform not in self._sysroots:
            self._sysroots[platform] = Sysroot.of(platform)
        return self._sysroots[platform]

    def sysroot(self, platform: Machine) -> Sysroot | None:
        """The system that wheels for another machine are built against; None for this machine's own kind.

        Raises ToolError where there is none.
        """
        if platform == machine.running():
            return None
        sysroot = self._named_sysroot(platform)
        if sysroot is None:
            raise sysroots.missing(platform)
        return sysroot

    def _emulation_prefix(self, sysroot: Sysroot) -> Path:
        return self.store.environment(f"emulation-{sysroot.machine.name}")

    def _emulation(self, platform: Machine) -> dict[str, str]:
        """The variables of commands whose programs are for a platform: none for this machine's own kind."""
        sysroot = self.sysroot(platform)
        return sysroot.environment(self._emulation_prefix(sysroot)) if sysroot else {}

    def interpreters(self, variant: Variant) -> Mapping[CPython, Interpreter]:
        """Every CPython of this machine; for another platform those that its sysroot and this machine have in common.

        Without a sysroot all: what is planned here may be built on a machine of that kind, and `check` asks for one.
        """
        is_own = variant.platform == machine.running()
        sysroot = None if is_own else self._named_sysroot(variant.platform)
        if sysroot is None:
            return self._interpreters
        targets = {}
        for python, target in sysroot.pythons.items():
            if python in self._interpreters and target.version:  # without headers nothing is compiled for it
                targets[python] = Interpreter(target.version, target.executable)
        return targets

    @contextlib.contextmanager
    def site(self, job: Job, shell: Shell) -> Iterator[Site]:
        """The machine as it is; for another platform with the programs of its sysroot, under QEMU."""
        shell = replace(shell, env={**shell.env, **self._emulation(job.platform)})
        yield Site(
            shell=shell,
            uv=tools.uv(),
            python=self.interpreters(job.variant)[job.python],
            store=self.store,
            bring=lambda path: path,
            remove=to_be_finished()(remove_tree),
            foreign=lambda home: self._foreign(job, home, shell),
            written=lambda home: home,
            links=True,
            index=job.variant.index,
            platform=job.platform,
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
            env = {**tools.foreign_environment(scratch), **self._emulation(job.platform)}
            yield replace(shell, env=env, cwd=scratch)
        except BaseException:
            shared.remove_edited()
            raise
        shared.compare()

    @cached_property
    def _why_network(self) -> str:
        """Why builds that may not use a network have one all the same; empty where they have none."""
        return NameSpaces(no_network=True).why_not()

    def isolated(self) -> bool:
        """Whether foreign code of a build starts without a network."""
        return not self.project.settings.network and not self._why_network

    @cached_property
    def _mounts(self) -> bool:
        """Whether a build's folders can be mounted where those of other builds are."""
        points = self.store.mount_points
        return not NameSpaces(mounts=dict(zip(points, points, strict=True))).why_not()

    def _name_spaces(self, home: Path, scratch: Path) -> NameSpaces:
        """Those of a build with an environment `home` and its own files in `scratch`."""
        mounts = dict(zip((home, scratch), self.store.mount_points, strict=True)) if self._mounts else {}
        return NameSpaces(self.isolated(), mounts)

    def _settings(self, job: Job) -> Settings:
        return self.project.settings.for_job(job.variant, job.python)

    def _compiler(self, job: Job) -> str:
        if self.sysroot(job.platform):
            return self._settings(job).environment.get("CXX") or job.platform.cross_compiler
        return _compiler_of(self._settings(job))

    @cached_property
    def _compilers(self) -> dict[str, Completed]:
        """What each compiler answered to --version, by its command."""
        return {}

    def _compiler_version(self, job: Job) -> Completed:
        return self._version_of(self._compiler(job))

    def _version_of(self, compiler: str) -> Completed:
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
        sysroot = self.sysroot(job.platform)
        return {
            "compiler": compiler.tail[0] if compiler.ok else "none",
            "CC": os.environ.get("CC", ""),
            "CXX": os.environ.get("CXX", ""),
            "python": interpreter.version,
            **({"sysroot-python": self.interpreters(job.variant)[job.python].version} if sysroot else {}),
            "prefix": self._prefix.folder.name if self._prefix else "",
            **cuda,
            **used_by_builds,
        }

    def interpreter_run_paths(self, job: Job) -> Sequence[str]:
        """By the flags that the interpreter itself states."""
        sysroot = self.sysroot(job.platform)
        if sysroot:
            variables = sysroot.pythons[job.python].variables
            return run_paths_of(" ".join(str(variables.get(name, "")) for name in LINKER_FLAGS))
        answer = capture([self._interpreters[job.python].path, "-I", "-c", ASK_LINKER_FLAGS], env=self._environment)
        return run_paths_of(answer.tail[-1]) if answer.ok and answer.tail else ()

    def check(self, jobs: Sequence[Job], shell: Shell) -> None:
        """Compiler, Python headers, system packages, prefixes and, for CUDA sources, the toolkit; then `prepare`."""
        for job in jobs:
            compiler = self._compiler_version(job)
            if not compiler.ok:
                raise self._no_compiler(job, (compiler.tail or ("no output",))[-1])
            check_gcc(job, compiler.tail[0], f"install one and name it in {self._compiler_variables(job)}")
            if self.sysroot(job.platform):
                self._check_cross_build(job)
        if not self.project.settings.network and self._why_network:
            shell.say(
                f"builds can use the network, since this machine cannot start them without one ({self._why_network}): "
                "what compiles nothing is refused"
            )
        pythons = {job.python for job in jobs if self.sysroot(job.platform) is None}
        for python in sorted(pythons):
            self._check_headers(python)
        for platform in {job.platform: None for job in jobs}:
            system_packages.check(self.project.settings, self.sysroot(platform))
        _check_prefixes(self.project.settings)
        for job in jobs:
            if self._settings(job).cuda_arch_list and not job.variant.cuda_toolkit:  # else wheels bring the toolkit
                self._check_cuda(job)
        if self._prefix:
            self._prefix.make(self.store, shell)

    def _compiler_variables(self, job: Job) -> str:
        """What names a job's compiler, for people: CC and CXX of the caller are those for this machine."""
        if self.sysroot(job.platform):
            return (
                "environment = { CC = ..., CXX = ... } of an entry of [[tool.torch-build-farm.overrides]] with "
                f'platform = "{job.platform.name}"'
            )
        return "CXX and CC"

    def _no_compiler(self, job: Job, said: str) -> ToolError:
        packages = "Debian: apt install g++; Fedora: dnf install gcc-c++"
        if self.sysroot(job.platform):
            packages = f"Debian: apt install g++-{job.platform.name.replace('_', '-')}-linux-gnu"
        return ToolError(
            f"no C++ compiler for {job.platform.words}: {self._compiler(job)} does not run",
            where=said,
            next_step=f"install one ({packages}) or name it in {self._compiler_variables(job)}",
        )

    def _check_cross_build(self, job: Job) -> None:
        """Raise ToolError for what only a machine of the job's own kind can build."""
        settings = self._settings(job)
        reasons = {
            "its CUDA sources (cuda-arch-list) need a toolkit for that machine": bool(settings.cuda_arch_list),
            "prepare makes its dependencies for this machine": bool(settings.prepare),
            'torch-build = "full" runs torch, which is for that machine': settings.torch_build == "full",
        }
        for reason, applies in reasons.items():
            if applies:
                raise ToolError(
                    f"{job.id} cannot be cross-compiled: {reason}",
                    where=f"[tool.torch-build-farm] of {self.project.settings.name}",
                    next_step="build it in containers, --engine docker, or on a machine of that kind; or leave "
                    f"{job.platform.name} out",
                )

    def check_site(self, jobs: Sequence[Job]) -> None:
        """Whether the programs of each sysroot run here."""
        for job in {job.platform: job for job in jobs}.values():
            sysroot = self.sysroot(job.platform)
            if sysroot:
                sysroot.check_emulation(job.python, self._emulation_prefix(sysroot))

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
        remedy = f"install CUDA {job.variant.cuda_major} and point CUDA_HOME at it"
        match = re.search(r"release ((\d+)\.\d+)", release)
        if not match or match[2] != job.variant.cuda_major:
            installed = f"{nvcc} is CUDA {match[2]}" if match else "no nvcc is on PATH or in CUDA_HOME"
            raise no_cuda_toolkit(job, installed, remedy)
        check_nvcc(job, match[1], self._settings(job).cuda_arch_list, nvcc, remedy)

    def build(self, request: BuildRequest) -> Path:
        """Build one wheel; the environment is gone afterwards, the log stays."""
        home = self.store.environment(f"{request.job.id}-build")
        remove_tree(home)
        # What the kernel killed for want of memory does not always leave a word in the log, but the kernel counts it.
        before = oom_kills()
        job = request.job
        build_machine = BuildMachine(
            self._interpreters[job.python].path,
            self._name_spaces(home, request.scratch),
            self.sysroot(job.platform),
        )
        build = LocalBuild(self, self.project, request, home, build_machine)
        try:
            wheel = build.run()
            ninja_log.keep(request.scratch / "build", request.out)
            return wheel
        except subprocess.CalledProcessError:
            subdirectory = self.project.settings.subdirectory
            error = build.explained(diagnose(request.job.id, request.shell.log, oom_kills() - before, subdirectory))
            if self.isolated():
                error = no_network.explained(request.job.id, error, build.foreign_tail, request.tree / subdirectory)
            raise error from None
        finally:
            with to_be_finished():
                remove_tree(home)
                remove_tree(request.scratch)


def nvcc_release(nvcc: str, env: Mapping[str, str] | None = None) -> str:
    """The line of `nvcc --version` with the toolkit's release; empty if it prints none."""
    for line in capture([nvcc, "--version"], env=env).tail:
        if "release" in line:
            return line
    return ""


def _compiler_of(settings: Settings) -> str:
    return settings.environment.get("CXX") or os.environ.get("CXX") or "c++"


def _check_prefixes(settings: Settings) -> None:
    """Raise ToolError for a folder of `prefixes` that is not on this machine."""
    for prefix in settings.prefixes:
        if not Path(prefix).is_dir():
            raise ToolError(
                f"there is no folder {prefix}",
                where="[tool.torch-build-farm] prefixes",
                next_step="correct prefixes, or let prepare install what belongs there",
            )
