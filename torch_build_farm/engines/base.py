"""The interface of engines. An engine knows its interpreters, and turns a rendered source tree into a wheel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol

from torch_build_farm.core.errors import CudaToolkitError, ToolError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.slots import DEFAULT_GB
from torch_build_farm.project.cuda_architectures import number, refused
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant

if TYPE_CHECKING:
    from torch_build_farm.releases.sdk.cache import Sdk


@dataclass(frozen=True)
class Interpreter:
    """A CPython that an engine has: its full version, such as 3.12.1, and the executable, as the engine sees it."""

    version: str
    path: Path


@dataclass(frozen=True)
class BuildRequest:
    """One wheel to be built.

    `tree` is the rendered source tree, only read; `scratch` is an empty folder of the build's own; `out` is where the
    wheel goes; `makeflags` joins the shared jobserver, and `share` is how many compilers the build may start where no
    jobserver reaches it; `epoch` is SOURCE_DATE_EPOCH (Unix seconds); `shell` has the log; `sdk` is the part of torch
    that the build gets, None for all of it, or for none where the job needs no torch; `reuse`: ccache may be used.
    """

    job: Job
    tree: Path
    scratch: Path
    out: Path
    makeflags: str
    share: int
    epoch: int
    version_from_scm: bool
    shell: Shell
    sdk: Sdk | None = None
    reuse: bool = False

    @property
    def needs_full_torch(self) -> bool:
        """Whether the build gets all of torch."""
        return self.sdk is None and self.job.variant.needs_torch

    @property
    def sdk_misses(self) -> Path:
        """Where the engine leaves what the build requested of torch's SDK and did not get, a line each."""
        return self.out / "asked"

    @property
    def peak(self) -> Path:
        """Where the engine leaves the resident set of the build's largest process, in MB (10^6 bytes)."""
        return self.out / "peak"


def ccache_of(project: Project, store: TorchStore, engine: str) -> Path:
    """The folder of ccache's results in `store` that belongs to `project`, its source's place and an engine.

    A folder has a configuration too (ccache.conf), which may name commands: what a container leaves there must not run
    on this machine.
    """
    return store.ccache(project.settings.name, source_of(project), engine)


def source_of(project: Project) -> str:
    """Where a project's source comes from, as a text that tells it from others."""
    settings = project.settings
    return settings.git or settings.sdist or str((project.root / settings.source).resolve())


# Gets uv as $1, an interpreter as $2, the environment's folder as $3, an index that is asked first or nothing as $4,
# and what is installed.
_INSTALL = (
    'uv=$1 home=$3 index=$4 && "$uv" venv --clear --python "$2" "$home" && shift 4 '
    '&& exec "$uv" pip install --python "$home" ${index:+--index "$index"} -- "$@"'
)


@dataclass(frozen=True)
class Site:
    """Where a job's commands run, other than its build: on this machine, or in a container.

    `uv`, `python` and the paths of `store` are as the commands see them; `bring` makes a file or folder of the farm
    readable to them and returns its path there; `remove` deletes a folder of the store, at the latest when the
    site closes, however its commands end.

    `shell` is for the farm's own commands. `foreign` is a shell for foreign code in the environment that it is called
    with: it may write nothing that others use, or what it changes there fails the job when the `with` block ends
    (BuildError). It is opened once the farm's own commands in that environment are done. `written` is where the new
    files of an environment lie that foreign code wrote, until the site closes. `links`: an environment may have hard
    links to files of the store. `index` is the package index that is asked first, empty for none but uv's own.
    `platform` is the machine that its programs are for; another one than this runs them under QEMU.
    """

    shell: Shell
    uv: Path
    python: Interpreter
    store: TorchStore
    bring: Callable[[Path], Path]
    remove: Callable[[Path], None]
    foreign: Callable[[Path], AbstractContextManager[Shell]]
    written: Callable[[Path], Path]
    links: bool
    index: str = ""
    platform: Machine = X86_64

    def install(self, home: Path, *required: str | Path) -> Completed:
        """Make the environment `home` anew, with what is required in it: requirements, and files as commands see them.

        Both by one command, since each takes a tenth of a second to start in a container.
        """
        return self.shell.run("sh", "-c", _INSTALL, "sh", self.uv, self.python.path, home, self.index, *required)


class Engine(Protocol):
    """The interface of all engines."""

    @property
    def name(self) -> str:
        """Its name for --engine."""

    @property
    def base_image(self) -> str:
        """The image that --base-image names; empty without --base-image, or where builds need no image."""

    @property
    def repairs_itself(self) -> bool:
        """Whether `build` runs auditwheel itself, where the libraries are that it may have to graft."""

    def build_folders(self, source_folders: Sequence[str]) -> Sequence[PurePath]:
        """Folders that exist in this engine's builds alone, beside those of the store: no wheel may name them.

        `source_folders` are the names of the folders at the top of the source tree.
        """

    @property
    def shares_compilations(self) -> bool:
        """Whether builds find in ccache what those of other minors compiled, by what is known before one starts."""

    @property
    def prefixes(self) -> Sequence[PurePath]:
        """Folders in which its builds find dependencies, as they see them."""

    def library_folders(self, job: Job) -> Sequence[PurePath]:
        """Where the loader finds what the job's libraries need, beside its usual folders."""

    @property
    def store(self) -> TorchStore:
        """The store that its jobs use."""

    def free_gb(self) -> float:
        """Free in that store, in GB (10^9 bytes)."""

    def slots(self, compile_gb: float = DEFAULT_GB) -> int:
        """How many compilers may run at once, by its CPUs and memory.

        A compiler takes memory-per-compile-gb of the project, else `compile_gb` GB (10^9 bytes), as measured.
        """

    def interpreters(self, variant: Variant) -> Mapping[CPython, Interpreter]:
        """Every CPython that this engine can build the variant for."""

    def check(self, jobs: Sequence[Job], shell: Shell) -> None:
        """Raise ToolError or a related error, before anything is built, where something that `jobs` need is missing.

        What all jobs share (images) is built here, with `shell`.
        """

    def check_site(self, jobs: Sequence[Job]) -> None:
        """Raise ToolError or a related error, before anything is built, where `jobs` cannot be tested."""

    def toolchain(self, job: Job) -> Mapping[str, str]:
        """What identifies the compiler and interpreter of a job; a change means another wheel."""

    def interpreter_run_paths(self, job: Job) -> Sequence[str]:
        """Folders that the linker flags of the job's CPython put into what is linked by them, though nothing asks it.

        A CPython with a shared libpython, such as pyenv's, names its own folder of libraries there.
        """

    def build(self, request: BuildRequest) -> Path:
        """Build the wheel and return its path. Raises BuildError or one of its kinds.

        The log of a build that used ninja lies beside the wheel, if it can be read.
        """

    def sweep(self) -> int:
        """Remove what killed farms left with the engine; returns how many containers."""

    def site(self, job: Job, shell: Shell) -> AbstractContextManager[Site]:
        """A place for the commands of `job`, for as long as the `with` block lasts."""


def no_cuda_toolkit(job: Job, installed: str, remedy: str) -> CudaToolkitError:
    """The error for a job with CUDA sources whose minor has no toolkit wheels; `installed` is what there is instead."""
    return CudaToolkitError(
        f"{job.id}: cuda-arch-list is set, and CUDA sources need a toolkit of torch's CUDA {job.variant.cuda_major}",
        where=installed,
        next_step=f"{remedy}, or leave torch {job.variant.torch} out",
    )


def check_nvcc(job: Job, release: str, architectures: Sequence[str], whose: str, remedy: str) -> None:
    """Raise CudaToolkitError where an nvcc, by its release such as "12.4", does not compile for all `architectures`.

    A toolkit of torch's CUDA major may be older than torch's, and the plan goes by torch's. `whose` nvcc it is.
    """
    lacking = refused(architectures, release, job.variant.torch).by_toolkit
    if lacking:
        raise CudaToolkitError(
            f"{job.id}: nvcc {release} does not compile for {', '.join(lacking)} of cuda-arch-list",
            where=f"{whose}; torch {job.variant.torch} is built with CUDA {job.variant.cuda}",
            next_step=f"{remedy}, or list for it what its nvcc knows, up to {max(lacking.values(), key=number)}",
        )


_GCC = re.compile(r"^\S*(?:g\+\+|gcc|c\+\+)\S* \(.*\) (\d+)\.\d")  # first line of --version; clang's is another


def check_gcc(job: Job, compiler: str, remedy: str) -> None:
    """Raise ToolError for a GCC, by the first line of its --version, that is older than a job's torch builds with."""
    # Of other compilers, such as clang, no oldest version is known.
    match = _GCC.match(compiler)
    if match and int(match[1]) < job.variant.gcc:
        raise ToolError(
            f"{job.id}: torch {job.variant.torch} needs GCC {job.variant.gcc} or newer",
            where=compiler,
            next_step=f"{remedy}, or leave torch {job.variant.torch} out",
        )
