"""Containers for a job's commands beside its build: smoke tests, and installing what the build requires.

The farm's own commands (uv) and foreign code run in containers of their own: see store_access.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch_build_farm.core.errors import EngineError, FarmError, Interrupted
from torch_build_farm.core.process import Completed, Shell, to_be_finished
from torch_build_farm.engines.base import Site
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import containers, images
from torch_build_farm.engines.docker.client import cli, oci_platform, translated_errors
from torch_build_farm.engines.docker.containers import Confinement, Watch
from torch_build_farm.engines.docker.session import DockerSession
from torch_build_farm.engines.docker.store_access import StoreAccess
from torch_build_farm.project.plan import Job

# The engine sends a command's two streams side by side, and their lines would be read in any order.
_IN_ONE_STREAM = ("sh", "-c", 'exec "$@" 2>&1', "sh")


@dataclass(frozen=True)
class ContainerShell(Shell):
    """Runs its commands in a container; `env` and `cwd` are those of the docker command."""

    container: str = ""

    def _run(self, *command: str | os.PathLike[str]) -> Completed:
        return super()._run(cli(), "exec", self.container, *_IN_ONE_STREAM, *command)


@contextlib.contextmanager
def open_site(session: DockerSession, job: Job, shell: Shell) -> Iterator[Site]:
    """A container of the job's image for the farm's own commands, and more for foreign code when it is called for.

    They, and what `Site.remove` was called for, are gone afterwards.
    """
    shell = replace(shell, env=session.cli_environment, cwd=session.host_store.root)
    with translated_errors():
        image, access = session.prepare(job.variant, shell)
    folders_to_remove: list[Path] = []
    try:
        with translated_errors(), Watch(session.client, session.labels, job.id, shell.runner) as watch:
            place = _Place(session, job, shell, image, access, watch)
            inside = place.start(access.confinement)
            python = session.contents(session.base(job.variant)).interpreters(job.platform)[job.python]
            # What fails in here may fail because the container does, and the engine's events know better then.
            try:
                yield Site(
                    shell=inside,
                    uv=images.UV,
                    python=python,
                    store=access.store,
                    bring=place.bring,
                    remove=folders_to_remove.append,
                    foreign=partial(_foreign, place, folders_to_remove),
                    written=partial(_written, access),
                    links=access.overlay is not None,
                    index=job.variant.index,
                    platform=job.platform,
                )
            except Interrupted:
                raise
            except FarmError as error:
                watch.settle()
                raise session.failure_from_events(job.id, watch, shell.log) or error from None
    finally:
        with to_be_finished():
            # Only now: a command that was interrupted may write into these folders until its container is gone.
            containers.remove(session.client, session.labels.filters(job.id))
            for folder in folders_to_remove:
                session.remove_folder(folder, image)


@contextlib.contextmanager
def _foreign(place: _Place, folders_to_remove: list[Path], home: Path) -> Iterator[Shell]:
    """A shell in a container that has the environment `home` and nothing else of the store.

    What it changes in the environment goes to a folder that is removed with it.
    """
    changes = _changes(home)
    folders_to_remove.append(changes)
    _make_changes(place, changes)
    network = place.session.project.settings.network
    mounts = [place.access.environment(home, changes), *place.session.emulation_mounts(place.job.platform)]
    confinement = place.access.foreign(mounts, network)
    shell = place.start(confinement, gpus=place.session.daemon.gpus)
    try:
        yield shell
    finally:
        place.stop()


def _changes(home: Path) -> Path:
    return home.with_name(f"{home.name}-changes")


def _written(access: StoreAccess, home: Path) -> Path:
    """Where the new files of the environment `home` lie that foreign code wrote."""
    return home if access.overlay is None else _changes(home) / "upper"


def _make_changes(place: _Place, changes: Path) -> None:
    """Make the folders that an overlay keeps its changes in. Raises DiskError or another error where that fails."""
    folders = [changes / "upper", changes / "work"]
    if place.access.shared:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return
    shell = place.shells[0]
    if not shell.run("mkdir", "-p", *folders).ok:
        raise diagnose(str(changes), shell.log)


@dataclass(frozen=True)
class _Place:
    """The containers of one job beside its build; `shells` are those that run, the farm's own first."""

    session: DockerSession
    job: Job
    shell: Shell
    image: str
    access: StoreAccess
    watch: Watch
    shells: list[ContainerShell] = field(default_factory=list)

    def start(self, confinement: Confinement, gpus: bool = False) -> ContainerShell:
        """Start a container. Raises the error that the engine's events or the log explain."""
        # Another farm may run the same job on this engine, in another work folder.
        name = f"torch-build-farm-{self.job.id}-{uuid.uuid4().hex[:12]}"
        platform = f"--platform={oci_platform(self.job.platform)}"
        options = (platform, *confinement.arguments(self.session.labels.all(self.job.id), {}))
        shell = self.shell
        if not _start(name, options, self.image, shell, gpus):
            error = self.session.failure_from_events(self.job.id, self.watch, shell.log)
            raise error or diagnose(self.job.id, shell.log)
        self.shells.append(ContainerShell(shell.runner, shell.env, shell.cwd, shell.log, shell.say, container=name))
        return self.shells[-1]

    def stop(self) -> None:
        """Remove the container that was started last; one that is already gone is no error here."""
        container = self.shells.pop().container
        self.watch.removed.add(container)
        with contextlib.suppress(EngineError), translated_errors():
            self.session.client.api.remove_container(container, force=True, v=True)

    def bring(self, path: Path) -> Path:
        """Copy a file or folder into the container that was started last; returns where it lies there."""
        return _copy_in(path, self.shells[-1].container, self.shell)


def _start(name: str, options: Sequence[str], image: str, shell: Shell, gpus: bool) -> bool:
    """Start a container that waits for commands, with the engine's GPUs if it may; returns whether it started."""
    start = (cli(), "run", "--detach", "--init", f"--name={name}")
    # `sleep` keeps the container open: each command runs as a process of its own and may end.
    image_and_command = (*options, image, "sleep", "infinity")
    if gpus:
        # The runtime may be registered on a machine without a GPU, which only the start of a container shows.
        if shell.run(*start, "--gpus=all", *image_and_command).ok:
            return True
        shell.say("the engine has NVIDIA's runtime but gives no GPU: testing without one")
        # It was created under this name all the same.
        shell.run(cli(), "rm", "--force", name)
    return shell.run(*start, *image_and_command).ok


def _copy_in(path: Path, container: str, shell: Shell) -> Path:
    """Copy a file or folder into a container, its owner's number kept; returns where it lies there."""
    target = Path("/tmp") / path.name
    done = shell.run(cli(), "cp", path, f"{container}:{target}")
    if not done.ok:
        raise diagnose(container, shell.log)
    return target
