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
from torch_build_farm.core.home import home
from torch_build_farm.core.machine import ARM64, MACHINES, X86_64, Machine, named
from torch_build_farm.core.process import capture

if TYPE_CHECKING:
    from docker import DockerClient

_ANSWER_S = 5  # for an engine to answer at all: a hanging one must not hold up --engine auto
_WORK_S = 30  # for one answer of an engine that is known to work, which may be busy
_OLDEST_API = (1, 41)  # cibuildwheel 4.3: Docker 20.10
# The platforms that torch has Linux wheels for, as Docker calls them.
ARCHITECTURES = {X86_64: "amd64", ARM64: "arm64"}
_NEXT = "start or update the engine, or build on this machine: --engine local"


def oci_platform(platform: Machine) -> str:
    """A platform as `--platform` takes it, such as linux/arm64."""
    return f"linux/{ARCHITECTURES[platform]}"


def connect() -> DockerClient | None:
    """A client of the engine that the docker command uses: DOCKER_HOST, DOCKER_CONTEXT or the current context.

    None where no engine answers. Raises EngineError where this user lacks the permission.
    """
    # Without a name or a socket there is nothing to connect to, and the SDK need not be imported.
    sockets = [path for path in _sockets() if path.exists()]
    if not sockets and not _engine_is_named():
        return None
    import docker  # noqa: PLC0415
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        # For DOCKER_HOST=ssh://... the user's own ssh, which has the keys and the settings.
        client = docker.from_env(timeout=_ANSWER_S, use_ssh_client=True)
        client.ping()
    except (DockerException, OSError, ValueError) as error:
        # The socket is there and an engine probably too, so the person should know why it is not used.
        if "Permission denied" in str(error):
            raise EngineError(
                "this user may not use the Docker engine's socket: permission denied",
                next_step="add yourself to the group docker and log in anew, or build on this machine: --engine local",
            ) from None
        return None
    client.api.timeout = _WORK_S
    return client


def _engine_is_named() -> bool:
    """Whether the environment or docker's configuration names an engine."""
    if os.environ.get("DOCKER_HOST") or os.environ.get("DOCKER_CONTEXT"):
        return True
    named = os.environ.get("DOCKER_CONFIG")
    folder = Path(named) if named else (home() or Path("/nonexistent")) / ".docker"
    return (folder / "config.json").exists()


def _sockets() -> tuple[Path, ...]:
    """Where engines listen on this machine: the system's, and a rootless one of this user."""
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")) / "docker.sock"
    return Path("/var/run/docker.sock"), rootless


@dataclass(frozen=True)
class Daemon:
    """An engine's own description: ID, version, its machine's platform, CPUs, memory (bytes), how it maps users.

    `gpus`: NVIDIA's runtime is registered, so that it may have GPUs.
    """

    id: str
    version: str
    platform: Machine
    cpus: int
    memory: int
    rootless: bool
    userns: bool
    gpus: bool

    @classmethod
    def ask(cls, client: DockerClient) -> Daemon:
        """Ask the engine. Raises EngineError where it cannot build Linux wheels for torch with this cibuildwheel."""
        info: dict[str, Any] = client.info()
        version: dict[str, Any] = client.version()
        names = [known.name for known in MACHINES]
        problem = None
        if tuple(map(int, version["ApiVersion"].split("."))) < _OLDEST_API:
            problem = f"it speaks API {version['ApiVersion']}, and cibuildwheel needs 1.41 (Docker 20.10)"
        elif info["OSType"] != "linux" or info["Architecture"] not in names:
            problem = (
                f"it runs {info['OSType']}/{info['Architecture']} containers, not "
                f"{' or '.join(f'linux/{name}' for name in names)}"
            )
        elif not cli():
            problem = "the docker command is not on PATH, and cibuildwheel needs it"
        if problem:
            raise EngineError(f"the Docker engine {version['Version']} cannot be used: {problem}", next_step=_NEXT)
        # Such as "name=seccomp,profile=default" and "name=rootless".
        security = " ".join(info.get("SecurityOptions") or ())
        return cls(
            id=str(info.get("ID") or info.get("Name")),
            version=str(version["Version"]),
            platform=named(str(info["Architecture"])),
            cpus=int(info["NCPU"]),
            memory=int(info["MemTotal"]),
            rootless="name=rootless" in security,
            userns="name=userns" in security,
            gpus="nvidia" in (info.get("Runtimes") or {}),
        )

    @property
    def user(self) -> str:
        """The user:group that containers run as, so that files they write into the store belong to this user.

        Empty where the container's root already is this user.
        """
        return "" if self.rootless or os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the docker SDK's and the connection's errors into an EngineError."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise EngineError(
            f"the Docker engine went away or refused: {error}",
            next_step="run the same command again when it answers, or build on this machine: --engine local",
        ) from error


def on_local_socket(client: DockerClient) -> bool:
    """Whether the engine listens on a unix socket, as this machine's does (docker SDK 7.2: its base_url then)."""
    return client.api.base_url == "http+docker://localhost"


def same_engine(daemon: Daemon, environment: Mapping[str, str]) -> None:
    """Raise EngineError where the docker command and the SDK reach two different engines."""
    # An engine without an ID prints an empty line, and cannot be compared.
    answer = capture([cli(), "info", "--format", "{{.ID}}"], env=environment)
    if not answer.ok or not answer.tail or answer.tail[0] not in (daemon.id, ""):
        raise EngineError(
            f"the docker command reaches another engine than Docker {daemon.version}, which answered the farm",
            where=(answer.tail or ("it printed nothing",))[-1],
            next_step="name the engine in DOCKER_HOST, or make a context current: docker context use NAME",
        )


def cli() -> str:
    """Path of the docker command; empty where it is not on PATH."""
    return shutil.which("docker") or ""


def cli_environment(uv_cache: Path, scratch: Path) -> dict[str, str]:
    """The docker command's environment: the farm's usual one, and the variables that select and reach an engine."""
    environment = tools.environment(uv_cache, scratch)
    for name, value in os.environ.items():
        if name.startswith("DOCKER_") or name in ("XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"):
            environment[name] = value
    return environment
