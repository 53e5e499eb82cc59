"""The Docker engine as the pipeline sees it: checks images, lets cibuildwheel build in them, opens containers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

from packaging.version import Version

from torch_build_farm.core.errors import ImageError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import BuildRequest, Interpreter, Site, check_gcc, check_nvcc, no_cuda_toolkit
from torch_build_farm.engines.docker import cibuildwheel_config, containers, images
from torch_build_farm.engines.docker.build import ContainerBuild
from torch_build_farm.engines.docker.client import Daemon, same_engine, translated_errors
from torch_build_farm.engines.docker.images import Base
from torch_build_farm.engines.docker.pinned import identifiers
from torch_build_farm.engines.docker.session import DockerSession
from torch_build_farm.engines.docker.site import open_site
from torch_build_farm.engines.interpreters import run_paths_of
from torch_build_farm.engines.prefixes import library_folders
from torch_build_farm.engines.slots import DEFAULT_GB
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant, file_name

if TYPE_CHECKING:
    from docker import DockerClient

_AUDITWHEEL = Version("6.4")  # the first whose --exclude takes patterns as the farm's policy has them


class DockerEngine:
    """Builds in containers of the engine that `client` speaks to."""

    name = "docker"
    repairs_itself = True

    def __init__(
        self, project: Project, store: TorchStore, client: DockerClient, daemon: Daemon, base_image: str | None
    ) -> None:
        self.project = project
        self.base_image = base_image or ""
        self.session = DockerSession(project, store, client, daemon, self.base_image)

    @property
    def version(self) -> str:
        """The engine's version."""
        return self.session.daemon.version

    @property
    def store(self) -> TorchStore:
        """The store as containers see it; until `check` has found out whether they share it, this machine's."""
        access = self.session.access
        return access.store if access else self.session.host_store

    def build_folders(self, source_folders: Sequence[str]) -> Sequence[PurePath]:
        """CMake's build folder, and the folders of the source tree as cibuildwheel places it in the container."""
        project = PurePosixPath(cibuildwheel_config.PROJECT)
        return (PurePosixPath(cibuildwheel_config.BUILD), *(project / name for name in source_folders))

    @property
    def shares_compilations(self) -> bool:
        """Whether the project brings ccache into its images."""
        packages = self.project.settings.system_packages
        return "ccache" in (*packages.apt, *packages.dnf)

    @property
    def prefixes(self) -> Sequence[PurePath]:
        """By the image's layer and the settings."""
        return images.prefixes_of(self.project.settings)

    def free_gb(self) -> float:
        """Free in the store, GB (10^9 bytes)."""
        access = self.session.access
        return access.free_gb if access else self.session.host_store.free_gb()

    def slots(self, compile_gb: float = DEFAULT_GB) -> int:
        """By the engine's CPUs and memory, and by this machine's where it is the same."""
        self.session.measured_gb = max(self.session.measured_gb, compile_gb)
        return self.session.compile_slots(self.project.settings.memory_per_compile_gb or compile_gb)

    def base(self, variant: Variant) -> Base:
        """The base image for a variant."""
        with translated_errors():
            return self.session.base(variant)

    @translated_errors()
    def interpreters(self, variant: Variant) -> Mapping[CPython, Interpreter]:
        """The CPythons of the variant's image; until it is pulled, those that cibuildwheel expects there."""
        base = self.session.base(variant)
        if base.id:
            return self.session.contents(base).interpreters(variant.platform)
        # Which patch release the image has is not known yet; 99 passes a requires-python that names one.
        expected = {}
        for python in identifiers(variant.platform):
            expected[python] = Interpreter(f"{python.release}.99", Path("python"))
        return expected

    def library_folders(self, job: Job) -> Sequence[PurePath]:  # noqa: ARG002 (the same for all)
        """Those of the prefixes."""
        return library_folders(self.prefixes)

    def check_site(self, jobs: Sequence[Job]) -> None:
        """Nothing more than `check`: tests run in the images that wheels are built in."""

    @translated_errors()
    def toolchain(self, job: Job) -> Mapping[str, str]:
        """Image, compiler and interpreter of a job."""
        base = self.session.base(job.variant)
        # The layer's tag stands for the farm's tools and the system packages, the base for all that it holds itself.
        facts = {
            "image": self.session.layer(base).tag,
            "base": base.id or base.reference,
            "cibuildwheel": version("cibuildwheel"),
        }
        if not base.id:
            return facts
        contents = self.session.contents(base)
        python_version, _, build_version = contents.pythons.get(job.python.tag, ("", "", ""))
        return {
            **facts,
            "compiler": contents.compiler,
            "python": python_version,
            "build": build_version,
            "auditwheel": contents.auditwheel,
            "nvcc": contents.nvcc,
        }

    @translated_errors()
    def interpreter_run_paths(self, job: Job) -> Sequence[str]:
        """By the flags that the image's interpreter states."""
        contents = self.session.contents(self.session.base(job.variant))
        return run_paths_of(contents.linker_flags.get(job.python.tag, ""))

    @translated_errors()
    def check(self, jobs: Sequence[Job], shell: Shell) -> None:
        """Pull and make the images of `jobs`, and see that each has what its jobs need."""
        session = self.session
        shell = replace(shell, env=session.cli_environment, cwd=session.host_store.root)
        # The SDK looks after images and events, the docker command starts containers: both must mean one engine.
        same_engine(session.daemon, session.cli_environment)
        # All base images are checked before the first layer is built over one: a refusal then costs no build.
        for job in jobs:
            self._check_contents(job, session.pulled(job.variant, shell))
        variants = {job.variant.tag: job.variant for job in jobs}
        for variant in variants.values():
            session.prepare(variant, shell)
        notes = {session.base(variant).note for variant in variants.values()}
        for note in sorted(notes):
            shell.say(f"image: {note}")
        if session.access and not session.access.shared:
            shell.say("the engine does not share this machine's files: it keeps torch in a volume of its own")

    def _check_contents(self, job: Job, base: Base) -> None:
        """Raise ImageError, or ToolError or CudaToolkitError, where the image lacks what `job` needs."""
        contents = self.session.contents(base)
        if contents.lacking:
            raise ImageError(
                f"the image {base.reference} lacks {', '.join(contents.lacking)}",
                where="cibuildwheel and the farm need them",
                next_step=images.ways_out(base.requested, base.platform),
            )
        if Version(contents.auditwheel or "0") < _AUDITWHEEL:
            raise ImageError(
                f"the image {base.reference} has auditwheel {contents.auditwheel or 'of an unknown version'}, "
                f"and {_AUDITWHEEL} is needed",
                next_step=images.ways_out(base.requested, base.platform),
            )
        pythons = sorted(contents.interpreters(job.platform))
        if job.python not in pythons:
            raise ImageError(
                f"{job.id}: the image {base.reference} has no CPython {job.python} with headers and `build`",
                where=f"it has {', '.join(map(str, pythons)) or 'none'}",
                next_step="choose another with --python, or name another image with --base-image",
            )
        check_gcc(job, contents.compiler, "name another image with --base-image")
        if self.project.settings.for_job(job.variant, job.python).cuda_arch_list:
            self._check_cuda(job, base)

    def _check_cuda(self, job: Job, base: Base) -> None:
        """Raise where the image cannot compile CUDA sources for `job`."""
        contents = self.session.contents(base)
        if job.variant.cuda_toolkit:
            # The toolkit's wheels are build requirements, and CUDA_HOME must name their folder before they are there.
            # So the front end has to make its environment in a folder that is known beforehand.
            _, _, build_version = contents.pythons[job.python.tag]
            if Version(build_version) < cibuildwheel_config.ENV_DIR:
                raise ImageError(
                    f"{job.id}: CUDA's toolkit wheels need `build` {cibuildwheel_config.ENV_DIR}, and "
                    f"CPython {job.python} of the image {base.reference} has {build_version}",
                    next_step="choose another with --python, or name another image with --base-image",
                )
            return
        major = job.variant.cuda_major
        variants_file = file_name(job.variant.torch, job.platform)
        remedy = f"name an image with CUDA {major} (--base-image, or cuda-image in variants/{variants_file})"
        if contents.nvcc.split(".")[0] != major:
            nvcc = f"nvcc {contents.nvcc}" if contents.nvcc else "no nvcc"
            raise no_cuda_toolkit(job, f"the image {base.reference} has {nvcc}", remedy)
        architectures = self.project.settings.for_job(job.variant, job.python).cuda_arch_list
        check_nvcc(job, contents.nvcc, architectures, f"the image {base.reference}", remedy)

    @translated_errors()
    def build(self, request: BuildRequest) -> Path:
        """Let cibuildwheel build and repair one wheel, in a container without network."""
        session = self.session
        shell = replace(request.shell, env=session.cli_environment, cwd=session.host_store.root)
        image, access = session.prepare(request.job.variant, shell)
        return ContainerBuild(session, request, image, access).run()

    def site(self, job: Job, shell: Shell) -> AbstractContextManager[Site]:
        """A container of the job's image, for commands beside its build."""
        return open_site(self.session, job, shell)

    @translated_errors()
    def sweep(self) -> int:
        """Remove containers that killed farms of this machine left; returns how many."""
        return containers.sweep(self.session.client, self.session.host_store)


@translated_errors()
def open_engine(project: Project, store: TorchStore, client: DockerClient, base_image: str | None) -> DockerEngine:
    """The engine that `client` speaks to. Raises EngineError where it cannot be used."""
    return DockerEngine(project, store, client, Daemon.ask(client), base_image)
