"""The Docker engine that answers, and the command line client that cibuildwheel drives it with."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from torch_build_farm.core import tools
from torch_build_farm.core.errors import EngineError
from torch_build_farm.core.process import capture

if TYPE_CHECKING:
    from docker import DockerClient

_ANSWER_S = 5
_OLDEST_API = (1, 41)  # cibuildwheel 4.3: Docker 20.10
_NEXT = "start or update the engine, or build on this machine: --engine local"


def connect() -> DockerClient | None:
    """The engine of DOCKER_HOST, DOCKER_CONTEXT or the current context, as the docker command finds it; None where
    none answers. Raises EngineError where this user may not speak to it.
    """
    if not _named() and not any(path.exists() for path in _sockets()):
        return None
    import docker  # noqa: PLC0415 (slow to import)
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=_ANSWER_S, use_ssh_client=True)
        client.ping()
    except (DockerException, OSError, ValueError) as error:
        if "Permission denied" in str(error):
            raise EngineError(
                "the Docker engine's socket may not be used: permission denied",
                next_step="add yourself to the group docker and log in anew, or build on this machine: --engine local",
            ) from None
        return None
    client.api.timeout = 30
    return client


def _named() -> bool:
    """Whether somebody said which engine to use."""
    config = Path(os.environ.get("DOCKER_CONFIG", Path.home() / ".docker")) / "config.json"
    return any(os.environ.get(name) for name in ("DOCKER_HOST", "DOCKER_CONTEXT")) or config.exists()


def _sockets() -> tuple[Path, ...]:
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock"
    return Path("/var/run/docker.sock"), rootless


@dataclass(frozen=True)
class Daemon:
    """What an engine says of itself: its ID, version, CPUs, memory (bytes), how it treats users, and whether NVIDIA's
    runtime is registered, so that it may have GPUs.
    """

    id: str
    version: str
    cpus: int
    memory: int
    rootless: bool
    userns: bool
    gpus: bool

    @classmethod
    def ask(cls, client: DockerClient) -> Daemon:
        """Ask the engine. Raises EngineError where it is none that can build the wheels of this machine."""
        info: dict[str, Any] = client.info()
        version: dict[str, Any] = client.version()
        problem = None
        if tuple(map(int, version["ApiVersion"].split("."))) < _OLDEST_API:
            problem = f"it speaks API {version['ApiVersion']}, and cibuildwheel needs 1.41 (Docker 20.10)"
        elif (info["OSType"], info["Architecture"]) != ("linux", "x86_64"):
            problem = f"it runs {info['OSType']}/{info['Architecture']} containers, not linux/x86_64"
        elif not cli():
            problem = "the docker command is not on PATH, and cibuildwheel needs it"
        if problem:
            raise EngineError(f"the Docker engine {version['Version']} cannot be used: {problem}", next_step=_NEXT)
        security = " ".join(info.get("SecurityOptions") or ())
        return cls(
            id=str(info.get("ID") or info.get("Name")),
            version=str(version["Version"]),
            cpus=int(info["NCPU"]),
            memory=int(info["MemTotal"]),
            rootless="name=rootless" in security,
            userns="name=userns" in security,
            gpus="nvidia" in (info.get("Runtimes") or {}),
        )

    @property
    def user(self) -> str:
        """The user:group that a container's processes need so that what they write into the store is the farm's own;
        empty where the container's root is that already.
        """
        return "" if self.rootless or os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """Turn what goes wrong between the farm and the engine into an EngineError."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise EngineError(
            f"the Docker engine went away or refused: {error}",
            next_step="run the same command again when it answers, or build on this machine: --engine local",
        ) from error


def on_local_socket(client: DockerClient) -> bool:
    """Whether the engine is this machine's, or one that listens as if it were (docker SDK 7.2: its unix socket)."""
    return client.api.base_url == "http+docker://localhost"


def same_engine(daemon: Daemon, environment: Mapping[str, str]) -> None:
    """Raise EngineError where the docker command speaks to another engine than the SDK does."""
    asked = capture([cli(), "info", "--format", "{{.ID}}"], env=environment)
    if not asked.ok or not asked.tail or asked.tail[0] not in (daemon.id, ""):
        raise EngineError(
            f"the docker command speaks to another engine than {daemon.version}, which answered the farm",
            where=(asked.tail or ("it printed nothing",))[-1],
            next_step="name the engine in DOCKER_HOST, or make a context current: docker context use NAME",
        )


def cli() -> str:
    """The docker command; empty where there is none."""
    return shutil.which("docker") or ""


def cli_environment(uv_cache: Path, scratch: Path) -> dict[str, str]:
    """The environment of the docker command: the farm's usual one, and what says which engine and how to reach it."""
    engine = {k: v for k, v in os.environ.items() if k.startswith("DOCKER_")}
    engine |= {k: os.environ[k] for k in ("XDG_RUNTIME_DIR", "SSH_AUTH_SOCK") if k in os.environ}
    return {**tools.environment(uv_cache, scratch), **engine}
