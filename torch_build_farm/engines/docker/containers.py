"""The farm's containers: their confinement and labels, the engine's events about them, and their removal."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import requests

from torch_build_farm.core import process_identity
from torch_build_farm.core.errors import EngineError
from torch_build_farm.core.process import Runner, to_be_finished
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.images import LABEL

if TYPE_CHECKING:
    from docker import DockerClient

_PIDS = 4096  # processes and threads; a build that forks without end must not take the machine with it
_OVERHEAD = 1_000_000_000  # bytes of a container beyond its compilers: uv, the front end, the linker
_OPENING_S = 20.0  # for the engine to open the stream of events
_ERRAND_S = 120  # the farm's errands take a second or two
_LAST_EVENTS_S = 0.5  # for events of a container that has just ended
_SHUTDOWN_S = 3.0  # the same, where the engine may be shutting down
_SAMPLE_S = 1.0  # between two looks at a container's processes
_RETURN_S = 20.0  # for an engine that went away to come back and be cleaned up


@dataclass(frozen=True)
class Labels:
    """Who owns a container: `store` identifies this machine and its store, `scope` the work folder, `run` the run.

    `process` is the farm's own, as `process_identity.of` has it.
    """

    store: str
    scope: str
    run: str
    process: str = ""

    @classmethod
    def of(cls, store: TorchStore, run: str) -> Labels:
        """The labels of a run with `store`."""
        machine = Path("/etc/machine-id")
        machine_id = machine.read_text("utf-8") if machine.is_file() else ""
        identity = f"{machine_id}{socket.gethostname()}\n{store.root}"
        process = process_identity.of(os.getpid())
        return cls(hashlib.sha256(identity.encode()).hexdigest()[:12], store.scope, run, process)

    def all(self, job: str = "") -> dict[str, str]:
        """As the engine takes them; `job` is empty for containers that belong to no job."""
        labels = {LABEL: "yes", f"{LABEL}.store": self.store, f"{LABEL}.scope": self.scope, f"{LABEL}.run": self.run}
        if self.process:
            labels[f"{LABEL}.process"] = self.process
        if job:
            labels[f"{LABEL}.job"] = job
        return labels

    def filters(self, job: str = "") -> list[str]:
        """As the engine's filters, for this run (and job)."""
        filters = [f"{LABEL}.run={self.run}"]
        if job:
            filters.append(f"{LABEL}.job={job}")
        return filters


def mount(volume_options: Mapping[str, str] | None = None, **fields: str) -> str:
    """The value of --mount: fields as CSV (Docker's manual, "docker run --mount"); an empty value is a flag.

    `volume_options` are mount(8)'s type, device and o, for a volume that lasts as long as its container.
    """
    stream = io.StringIO()
    row = [f"{name}={value}" if value else name for name, value in fields.items()]
    if volume_options:
        row += ["type=volume", "volume-driver=local"]
        row += [f"volume-opt={name}={value}" for name, value in volume_options.items()]
    csv.writer(stream, lineterminator="").writerow(row)
    return stream.getvalue()


# What a container's root may do: packages are unpacked with their owners and modes. Docker would also let it make
# device nodes, send raw packets and change its user.
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
# Package managers download as a user of their own; without a network there is nothing to download.
_WITH_NETWORK = ("SETGID", "SETUID")


@dataclass(frozen=True)
class Confinement:
    """What a container may use: mounts (values of --mount), a user, compilers' memory in bytes, the environment.

    `passed` are names of variables whose values the docker command takes from its own environment, so that no
    credentials stand in a command line. Without `network` it has no interface but its own loopback.
    """

    mounts: tuple[str, ...]
    user: str
    userns_host: bool
    compilers: int
    environment: Mapping[str, str]
    passed: tuple[str, ...]
    network: bool = True

    @property
    def memory(self) -> int:
        """The container's limit in bytes, swap included."""
        return self.compilers + _OVERHEAD

    def arguments(self, labels: Mapping[str, str], more_variables: Mapping[str, str]) -> list[str]:
        """Options of `docker create`; `more_variables` override those of `environment` and `passed`."""
        options = []
        for name, value in labels.items():
            options.append(f"--label={name}={value}")
        options += ["--security-opt=no-new-privileges", f"--pids-limit={_PIDS}", "--cap-drop=ALL"]
        capabilities = (*_CAPABILITIES, *_WITH_NETWORK) if self.network else _CAPABILITIES
        options += [f"--cap-add={name}" for name in capabilities]
        if not self.network:
            options.append("--network=none")
        # --memory-swap is memory and swap together, so the same number means no swap.
        options += [f"--memory={self.memory}", f"--memory-swap={self.memory}"]
        for mount_text in self.mounts:
            options.append(f"--mount={mount_text}")
        if self.user:
            options.append(f"--user={self.user}")
        if self.userns_host:
            options.append("--userns=host")
        for name, value in {**self.environment, **more_variables}.items():
            options.append(f"--env={name}={value}")
        # A name without a value: the docker command fills it in from its own environment.
        for name in self.passed:
            if name not in more_variables:
                options.append(f"--env={name}")
        return options


class Watch:
    """Listens to the engine's events about a job's containers while the `with` block lasts.

    `oom` and `killed` count containers that ran out of memory or were killed; `lost`: the engine itself went away.
    `removed` has the names of those that the farm itself removes, which nobody killed.
    """

    def __init__(self, client: DockerClient, labels: Labels, job: str, runner: Runner) -> None:
        self._client = client
        self._filters = {"type": ["container"], "event": ["oom", "die"], "label": labels.filters(job)}
        self._runner = runner
        self._stream: Any = None
        self._opened = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self.removed: set[str] = set()
        self.oom = 0
        self.killed = 0
        self.lost = False

    def _listen(self) -> None:
        """Count events until the stream ends."""
        with contextlib.suppress(Exception):  # however the stream ends, only that it ended counts
            self._stream = self._client.events(decode=True, filters=self._filters)
            self._opened.set()
            for event in self._stream:
                # A build's container ends with status 0 when cibuildwheel is done with it, however the build went.
                attributes = event["Actor"]["Attributes"]
                status = attributes.get("exitCode", "0")
                if event["Action"] == "oom":
                    self.oom += 1
                elif event["Action"] == "die" and status != "0" and attributes["name"] not in self.removed:
                    self.killed += 1
        # Only the engine, or `__exit__`, ends the stream.
        self.lost = not self._closed

    def __enter__(self) -> Self:
        self._thread.start()
        # Returns once the engine has begun to report: an event before that would be missed.
        deadline = time.monotonic() + _OPENING_S
        while not self._opened.wait(0.1):
            self._runner.check()
            if time.monotonic() > deadline or self.lost:
                raise EngineError("the Docker engine does not report events", next_step="restart it, and run again")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        with contextlib.suppress(Exception):
            self._stream.close()

    def settle(self) -> None:
        """Give the engine's last events time to arrive.

        They follow a container's end within milliseconds; but an engine that shuts down kills the containers first, and
        goes away itself only then.
        """
        start = time.monotonic()
        while not (self.oom or self.lost):
            patience_s = _SHUTDOWN_S if self.killed else _LAST_EVENTS_S
            if time.monotonic() - start >= patience_s:
                return
            time.sleep(0.05)


class Peak:
    """The largest process of a job's containers while the `with` block lasts, sampled once a second."""

    def __init__(self, client: DockerClient, filters: list[str]) -> None:
        self._client, self._filters = client, filters
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.megabytes = 0.0  # resident set, 10^6 bytes; 0 where nothing was seen

    def _sample(self) -> None:
        """Look at the containers' processes once a second until the block ends."""
        with contextlib.suppress(Exception):  # an engine that goes away, or has no ps: the peak stays unknown
            while not self._ended.wait(_SAMPLE_S):
                for container in self._client.api.containers(filters={"label": self._filters}):
                    table = self._client.api.top(container["Id"], ps_args="-eo pid,rss")
                    column = table["Titles"].index("RSS")
                    for row in table["Processes"]:
                        self.megabytes = max(self.megabytes, int(row[column]) * 1024 / 1e6)  # ps counts in KiB

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()


def alive(client: DockerClient) -> bool:
    """Whether the engine answers."""
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        return bool(client.ping())
    except (DockerException, requests.RequestException, OSError):
        return False


@to_be_finished()
def remove(client: DockerClient, filters: list[str]) -> None:
    """Remove all containers with these labels and their anonymous volumes, running or not.

    Waits for an engine that does not answer; gives up after a while and leaves them to the next sweep.
    """
    from docker.errors import DockerException  # noqa: PLC0415

    deadline = time.monotonic() + _RETURN_S
    while True:
        # A request also fails where cibuildwheel is removing the same container; then the list is read anew.
        with contextlib.suppress(DockerException, requests.RequestException, OSError):
            remaining = client.api.containers(all=True, filters={"label": filters})
            for container in remaining:
                client.api.remove_container(container["Id"], force=True, v=True)
            if not remaining:
                return
        if time.monotonic() > deadline:
            return
        time.sleep(0.1)


def sweep(client: DockerClient, store: TorchStore, errand_s: float = _ERRAND_S) -> int:
    """Remove containers that killed farms of this machine left; returns how many.

    Needs the store's lock on its scope. Of other stores those are removed whose farm is gone, by its process. In this
    store a container without a job may belong to a live farm for `errand_s` seconds.
    """
    from docker.errors import APIError  # noqa: PLC0415

    owner = Labels.of(store, "").store
    removed = 0
    for container in client.api.containers(all=True, filters={"label": [f"{LABEL}=yes"]}):
        labels = container["Labels"]
        if not process_identity.is_gone(labels.get(f"{LABEL}.process", "")):
            if labels.get(f"{LABEL}.store") != owner:
                continue
            # A farm that plans runs errands without a job, and holds no lock yet.
            recent_errand = f"{LABEL}.job" not in labels and time.time() - container["Created"] < errand_s
            if recent_errand or store.in_work(labels.get(f"{LABEL}.scope", "")):
                continue
        try:
            client.api.remove_container(container["Id"], force=True, v=True)
            removed += 1
        except APIError as error:
            if error.status_code not in (404, 409):  # somebody else is removing it
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
