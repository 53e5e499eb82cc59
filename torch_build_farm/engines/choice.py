"""Which engine builds, and the one line that says why."""

from __future__ import annotations

import os
from pathlib import Path

from torch_build_farm.config import Project
from torch_build_farm.engines import Engine
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.torch_store import TorchStore

ENGINES = ("local",)


def docker_answer() -> str | None:
    """Version of the Docker engine that answers at DOCKER_HOST or the usual socket; None where none does."""
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock"
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists() and not rootless.exists():
        return None
    import docker  # noqa: PLC0415 (slow to import)

    try:
        client = docker.from_env(timeout=3)
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except docker.errors.DockerException:
        return None


def choose(name: str, project: Project, store: TorchStore) -> tuple[Engine, str]:
    """The engine called `name`, or with "auto" the best there is; and a line for people."""
    local = LocalEngine(project, store)
    if name == "local":
        return local, "engine: local, as asked"
    answer = docker_answer()
    if answer is None:
        return local, "engine: local (no Docker engine answers)"
    return local, f"engine: local (Docker engine {answer} answers, but this version builds on this machine only)"
