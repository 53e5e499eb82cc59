"""A container for a job's commands beside its build: smoke tests, and fetching what the build requires."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch_build_farm.core.errors import FarmError, Interrupted
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.engines.base import Site
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.engines.docker import containers, images
from torch_build_farm.engines.docker.client import cli, translated_errors
from torch_build_farm.engines.docker.containers import Watch
from torch_build_farm.engines.docker.session import DockerSession
from torch_build_farm.project.plan import Job


@dataclass(frozen=True)
class ContainerShell(Shell):
    """Runs its commands in a container; `env` and `cwd` are those of the docker command."""

    container: str = ""

    def run(self, *command: str | Path) -> Completed:  # type: ignore[override]
        """Run a command in the container. Raises Interrupted when the run is cancelled."""
        return super().run(cli(), "exec", self.container, *command)


@contextlib.contextmanager
def open_site(session: DockerSession, job: Job, shell: Shell) -> Iterator[Site]:
    """A container of the job's image; it, and what `Site.remove` was called for, are gone afterwards."""
    shell = replace(shell, env=session.cli_environment, cwd=session.host_store.root)
    with translated_errors():
        image, access = session.prepare(job.variant, shell)

    # Another farm may run the same job on this engine, in another work folder.
    name = f"torch-build-farm-{job.id}-{uuid.uuid4().hex[:12]}"
    folders_to_remove: list[Path] = []
    try:
        with translated_errors(), Watch(session.client, session.labels, job.id, shell.runner) as watch:
            options = access.confinement.arguments(session.labels.all(job.id), {})
            if not _start(session, name, options, image, shell):
                raise session.failure_from_events(job.id, watch, shell.log) or diagnose(job.id, shell.log)
            inside = ContainerShell(shell.runner, shell.env, shell.cwd, shell.log, shell.say, container=name)
            python = session.contents(session.base(job.variant)).interpreters()[job.python]
            # What fails in here may fail because the container does, and the engine's events know better then.
            try:
                yield Site(
                    shell=inside,
                    uv=images.UV,
                    python=python,
                    store=access.store,
                    bring=lambda path: _copy_in(path, name, shell),
                    remove=folders_to_remove.append,
                    foreign=lambda _: contextlib.nullcontext(inside),
                )
            except Interrupted:
                raise
            except FarmError as error:
                watch.settle()
                raise session.failure_from_events(job.id, watch, shell.log) or error from None
    finally:
        # Only now: a command that was interrupted may write into these folders until its container is gone.
        containers.remove(session.client, session.labels.filters(job.id))
        for folder in folders_to_remove:
            session.remove_folder(folder, image)


def _start(session: DockerSession, name: str, options: Sequence[str], image: str, shell: Shell) -> bool:
    """Start a container that waits for commands, with the engine's GPUs if it has any; returns whether it started."""
    start = (cli(), "run", "--detach", "--init", f"--name={name}")
    # `sleep` keeps the container open: each command runs as a process of its own and may end.
    image_and_command = (*options, image, "sleep", "infinity")
    if session.daemon.gpus:
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
