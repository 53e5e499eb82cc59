"""Which engine builds, and the one line that explains the choice."""

from __future__ import annotations

from torch_build_farm.core.errors import EngineError, UsageError
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.base import Engine
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.project.settings import Project


def choose(name: str, project: Project, store: TorchStore, base_image: str | None) -> tuple[Engine, str]:
    """The engine called `name`, or with "auto" Docker where an engine answers; and a line for people.

    Raises EngineError where Docker is asked for and cannot be used.
    """
    local = LocalEngine(project, store)
    if name == "local":
        if base_image:
            raise UsageError(
                "--base-image is for containers", where="--engine local", next_step="leave one of them out"
            )
        return local, "engine: local, as asked"

    # Imported here: the docker SDK takes longer to import than a local run with nothing to do takes altogether.
    from torch_build_farm.engines.docker.client import connect  # noqa: PLC0415
    from torch_build_farm.engines.docker.engine import open_engine  # noqa: PLC0415

    try:
        client = connect()
        if client is None:
            raise EngineError(
                "no Docker engine answers",
                where="DOCKER_HOST, DOCKER_CONTEXT, the current docker context or the usual socket",
                next_step="start one (ci/docker-engine does on Debian), or build on this machine: --engine local",
            )
        engine = open_engine(project, store, client, base_image)
    except EngineError as error:
        # With "auto" an engine that cannot be used counts as absent; whoever names Docker or an image wants to know.
        if name == "docker" or base_image:
            raise
        return local, f"engine: local ({error.what})"
    return engine, f"engine: docker {engine.version}"
