"""The farm's containers: how they are confined and labelled, what the engine says of them, and that none is left."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import requests

from torch_build_farm.core.errors import EngineError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.images import LABEL

if TYPE_CHECKING:
    from docker import DockerClient

_PIDS = 4096
_OVERHEAD = 1_000_000_000  # bytes of a container beyond its compilers: uv, the front end, the linker
_OPENING_S = 20.0
_ERRAND_S = 120  # the farm's errands take a second or two
_WORDS_S = 0.5
_LOOK_S = 1.0
_SHUTDOWN_S = 3.0
_PATIENCE_S = 20.0  # how long an engine that went away is waited for, to clean up on it


@dataclass(frozen=True)
class Labels:
    """Whose a container is: `store` stands for this machine and its store, `scope` for the work folder, `run` for the
    run.
    """

    store: str
    scope: str
    run: str

    @classmethod
    def of(cls, store: TorchStore, run: str) -> Labels:
        """The labels of a run with `store`."""
        machine = Path("/etc/machine-id")
        name = (machine.read_text("utf-8") if machine.is_file() else "") + socket.gethostname()
        owner = hashlib.sha256(f"{name}\n{store.root}".encode()).hexdigest()[:12]
        return cls(owner, store.scope, run)

    def all(self, job: str = "") -> dict[str, str]:
        """As the engine takes them; `job` is empty for what no job owns."""
        labels = {LABEL: "yes", f"{LABEL}.store": self.store, f"{LABEL}.scope": self.scope, f"{LABEL}.run": self.run}
        return {**labels, f"{LABEL}.job": job} if job else labels

    def filters(self, job: str = "") -> list[str]:
        """As the engine's filters, for this run (and job)."""
        wanted = {f"{LABEL}.run": self.run} | ({f"{LABEL}.job": job} if job else {})
        return [f"{name}={value}" for name, value in wanted.items()]


def mount(**fields: str) -> str:
    """The value of --mount: fields as CSV (Docker's manual, "docker run --mount"); an empty value is a flag."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow([f"{k}={v}" if v else k for k, v in fields.items()])
    return stream.getvalue()


@dataclass(frozen=True)
class Confinement:
    """What a container may use: mounts (values of --mount), a user, compilers' memory in bytes, the environment.

    `passed` are names of variables whose values the docker command takes from its own environment, so that no
    credentials stand in a command line.
    """

    mounts: tuple[str, ...]
    user: str
    userns_host: bool
    compilers: int
    environment: Mapping[str, str]
    passed: tuple[str, ...]

    @property
    def memory(self) -> int:
        """The container's limit in bytes, swap included."""
        return self.compilers + _OVERHEAD

    def arguments(self, labels: Mapping[str, str], more: Mapping[str, str]) -> list[str]:
        """Options of `docker create`; `more` are further variables."""
        words = [f"--label={name}={value}" for name, value in labels.items()]
        words += ["--security-opt=no-new-privileges", f"--pids-limit={_PIDS}"]
        words += [f"--memory={self.memory}", f"--memory-swap={self.memory}"]
        words += [f"--mount={one}" for one in self.mounts]
        words += [f"--user={self.user}"] if self.user else []
        words += ["--userns=host"] if self.userns_host else []
        words += [f"--env={name}={value}" for name, value in {**self.environment, **more}.items()]
        return [*words, *(f"--env={name}" for name in self.passed if name not in more)]


class Watch:
    """What the engine tells of a job's containers while the `with` block lasts: whether one ran out of memory, was
    killed, or the engine itself went away.
    """

    def __init__(self, client: DockerClient, labels: Labels, job: str, runner: Runner) -> None:
        self._client = client
        self._filters = {"type": ["container"], "event": ["oom", "die"], "label": labels.filters(job)}
        self._runner = runner
        self._stream: Any = None
        self._opened = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.oom = 0
        self.killed = 0
        self.lost = False

    def _listen(self) -> None:
        with contextlib.suppress(Exception):  # whatever ends the stream, its end is all that counts
            self._stream = self._client.events(decode=True, filters=self._filters)
            self._opened.set()
            for event in self._stream:
                # A build's container ends with status 0 when cibuildwheel is done with it, however the build went.
                status = event["Actor"]["Attributes"].get("exitCode", "0")
                self.oom += event["Action"] == "oom"
                self.killed += event["Action"] == "die" and status != "0"
        self.lost = not self._closed

    def __enter__(self) -> Self:
        self._thread.start()
        end = time.monotonic() + _OPENING_S
        while not self._opened.wait(0.1):
            self._runner.check()
            if time.monotonic() > end or self.lost:
                raise EngineError("the Docker engine does not tell its events", next_step="restart it, and run again")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        with contextlib.suppress(Exception):
            self._stream.close()

    def settle(self) -> None:
        """Give the engine's last words time to arrive.

        They follow a container's end within milliseconds; but an engine that shuts down kills the containers first, and
        goes away itself only then.
        """
        start = time.monotonic()
        while not (self.oom or self.lost) and time.monotonic() - start < (_SHUTDOWN_S if self.killed else _WORDS_S):
            time.sleep(0.05)


class Peak:
    """The largest process of a job's containers while the `with` block lasts, by looking at them now and then."""

    def __init__(self, client: DockerClient, filters: list[str]) -> None:
        self._client, self._filters = client, filters
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.megabytes = 0.0  # resident set, 10^6 bytes; 0 where nothing was seen

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # an engine that goes away, or has no ps: then nothing is known
            while not self._over.wait(_LOOK_S):
                for container in self._client.api.containers(filters={"label": self._filters}):
                    found = self._client.api.top(container["Id"], ps_args="-eo pid,rss")
                    sizes = [int(row[found["Titles"].index("RSS")]) for row in found["Processes"]]
                    self.megabytes = max(self.megabytes, max(sizes, default=0) * 1024 / 1e6)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()


def alive(client: DockerClient) -> bool:
    """Whether the engine answers."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        return bool(client.ping())
    except (DockerException, requests.RequestException, OSError):
        return False


def remove(client: DockerClient, filters: list[str]) -> None:
    """Remove all containers with these labels and their anonymous volumes, running or not.

    Waits for an engine that does not answer; gives up after a while and leaves them to the next sweep.
    """
    from docker.errors import DockerException  # noqa: PLC0415

    end = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(DockerException, requests.RequestException, OSError):
            found = client.api.containers(all=True, filters={"label": filters})
            for container in found:
                client.api.remove_container(container["Id"], force=True, v=True)
            if not found:
                return
        if time.monotonic() > end:
            return
        time.sleep(0.1)


def sweep(client: DockerClient, store: TorchStore, errand_s: float = _ERRAND_S) -> int:
    """Remove what farms of this machine left that are no more; returns how many containers.

    Needs the store's lock on its scope. A container of no job counts as a live farm's for `errand_s` seconds.
    """
    from docker.errors import APIError  # noqa: PLC0415

    owner = Labels.of(store, "").store
    found = client.api.containers(all=True, filters={"label": [f"{LABEL}.store={owner}"]})
    removed = 0
    for container in found:
        labels = container["Labels"]
        # An errand of no job may be a live farm's that plans, and holds no lock yet.
        at_work = f"{LABEL}.job" not in labels and time.time() - container["Created"] < errand_s
        if at_work or store.in_work(labels.get(f"{LABEL}.scope", "")):
            continue
        try:
            client.api.remove_container(container["Id"], force=True, v=True)
            removed += 1
        except APIError as error:
            if error.status_code not in (404, 409):  # somebody else removes it just now
                raise
    return removed


def forget(client: DockerClient, store: TorchStore) -> int:
    """Remove the farm's images and volumes of this store; returns how many. Images that a container uses stay."""
    from docker.errors import APIError  # noqa: PLC0415

    owner = {"label": f"{LABEL}.store={Labels.of(store, '').store}"}
    removed = 0
    for image in client.images.list(filters=owner):
        with contextlib.suppress(APIError):
            client.images.remove(str(image.id), force=True)
            removed += 1
    for volume in client.volumes.list(filters=owner):
        with contextlib.suppress(APIError):
            volume.remove(force=True)
            removed += 1
    return removed
