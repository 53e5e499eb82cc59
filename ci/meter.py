"""What ci/benchmark.py measures with: the machine's counters, ninja's logs for compilers, log lines for phases."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from torch_build_farm.engines import ninja_log

SAMPLE_S = 0.1
BEGIN, END = "benchmark: begin", "benchmark: end"
# A phase begins with a line that the expression matches, and lasts until another begins.
_PHASES = [
    (re.compile(expression), phase)
    for expression, phase in (
        (BEGIN, "start"),
        (r"^#### torch-build-farm: render ", "render"),
        (r"^#### torch-build-farm: build ", "start of cibuildwheel"),
        (r"/uv pip install --python \S+ '?torch==", "download of torch"),
        (r"^\$ .* -m cibuildwheel ", "start of cibuildwheel"),
        (r"^Starting container image", "container"),
        (r"^\* Creating isolated environment", "build environment"),
        (r"^\* Building wheel", "configure"),
        (r"^\*\*\* Building project", "compile"),
        (r"^\*\*\* Installing project", "packing"),
        (r"^\*\*\* Created ", "removal of the build environment"),
        (r"^Repairing wheel", "auditwheel"),
        (r"^Copying wheels back", "removal of the container"),
        (r"^#### torch-build-farm: repair ", "checks of the wheel, wait for the smoke test's place"),
        (r"^#### torch-build-farm: smoke ", "smoke: container"),
        (r"/uv venv .*-smoke$", "smoke: install"),
        (r" -I -X faulthandler -c ", "smoke: imports"),
        (r" cp .*/source ", "smoke: script"),
        (r" pip install --dry-run ", "smoke: refusal"),
        (r"requirements are unsatisfiable", "smoke: clean-up"),
        (r": smoke done", "other jobs, report"),
        (END, ""),
    )
]


def docker(*arguments: str) -> str:
    """What a docker command prints; "" where it fails, or where there is none."""
    if not shutil.which("docker"):
        return ""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _outward() -> list[str]:
    """The interfaces of the default routes (proc(5), /proc/net/route)."""
    rows = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    return sorted({row[0] for row in rows if row[1] == "00000000"})


def _received() -> int:
    counters = psutil.net_io_counters(pernic=True)
    return sum(counters[name].bytes_recv for name in _outward())


def _memory() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


class Meter:
    """What happens on the machine while the `with` block lasts: bytes, disk, memory, containers with `label`.

    Moreover each line of the *.log files in `logs`, with the time at which it was seen first.
    """

    def __init__(self, scratch: Path, label: str, logs: Sequence[Path] = ()) -> None:
        self._label, self._logs = label, logs
        places = [scratch, Path(docker("info", "--format", "{{.DockerRootDir}}") or "/nowhere")]
        self._disks = {path.stat().st_dev: str(path) for path in places if path.exists()}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._read: dict[Path, int] = {}
        self._lines: dict[str, list[tuple[float, str]]] = {}
        self._load = os.getloadavg()[0]
        self._disk_peak = self._memory_peak = 0

    def lines(self, log: str, about: str = "") -> list[tuple[float, str]]:
        """The lines of a log (its name, without suffix) that contain `about`, each with its time."""
        return [one for one in self._lines.get(log, []) if about in one[1]]

    def _disk(self) -> int:
        return sum(psutil.disk_usage(path).used for path in self._disks.values())

    def _sample(self) -> None:
        while True:
            ended = self._done.is_set()
            self._disk_peak = max(self._disk_peak, self._disk())
            self._memory_peak = max(self._memory_peak, _memory())
            for path in [path for folder in self._logs for path in folder.glob("*.log")]:
                self._follow(path)
            if ended:
                return
            self._done.wait(SAMPLE_S)

    def _follow(self, path: Path) -> None:
        now = time.time()
        with contextlib.suppress(FileNotFoundError), path.open("rb") as stream:
            stream.seek(self._read.get(path, 0))
            data = stream.read()
            whole = data.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + whole
            lines = data[:whole].decode("utf-8", "replace").splitlines()
            self._lines.setdefault(path.stem, []).extend((now, line) for line in lines)

    def __enter__(self) -> Self:
        time.sleep(1)  # the engine's events have whole seconds here: none of a scenario before may count
        command = ["docker", "events", "--since", str(int(time.time())), "--filter", f"label={self._label}"]
        command += ["--filter", "type=container", "--filter", "event=start", "--format", "{{.ID}}"]
        self._events = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self._disk_start = self._disk()
        self._memory_start = _memory()
        self._disk_peak, self._memory_peak = self._disk_start, self._memory_start
        self._received_start = _received()
        self._thread.start()
        self.start = time.time()
        self._clock = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds = time.monotonic() - self._clock
        self._downloaded = _received() - self._received_start
        self._done.set()
        self._thread.join()
        self._disk_end = self._disk()
        time.sleep(0.5)  # the engine's last events
        self._events.terminate()
        self._containers = len(self._events.communicate()[0].splitlines())

    def phases(self, *lines: tuple[float, str]) -> dict[str, float]:
        """Seconds of each phase that these lines tell of, from the begin of the `with` block to its end."""
        return phases([(self.start, BEGIN), *lines, (self.start + self.seconds, END)])

    def report(self) -> dict[str, Any]:
        """What was measured."""
        disk = {"peak": self._disk_peak - self._disk_start, "left": self._disk_end - self._disk_start}
        return {
            "seconds": round(self.seconds, 2),
            "load_at_start": round(self._load, 2),
            "downloaded_bytes": self._downloaded,
            "disk_growth_bytes": disk,
            "memory_peak_bytes": self._memory_peak - self._memory_start,
            "containers_started": self._containers,
        }


def phases(lines: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Seconds of each phase that a job's lines tell of, in the order in which they appear first."""
    found: dict[str, float] = {}
    current, since = "", 0.0
    for at, line in sorted(lines, key=lambda one: one[0]):
        phase = next((phase for expression, phase in _PHASES if expression.search(line)), current)
        if phase != current:
            if current:
                found[current] = found.get(current, 0) + at - since
            current, since = phase, at
    return {phase: round(seconds, 2) for phase, seconds in found.items()}


def span(text: str) -> tuple[float, float]:
    """When the commands in a log of ninja's ran, in seconds of the machine's clock.

    Since 1.11 ninja notes the clock time at which each command started; that places the milliseconds it counts in.
    """
    edges = ninja_log.edges(text)
    first = min(edges, key=lambda edge: edge.start)
    began = first.noted / 1e9 - first.start / 1e3
    return began + first.start / 1e3, began + max(edge.end for edge in edges) / 1e3


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in at least one of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def compiled(logs: Mapping[str, Path]) -> dict[str, Any]:
    """The compile seconds of each job, by its log of ninja's, and in how many seconds on the wall some job compiled."""
    spans = {job: span(log.read_text("utf-8")) for job, log in logs.items()}
    jobs = {job: round(end - start, 2) for job, (start, end) in spans.items()}
    return {"jobs": jobs, "wall": round(union(spans.values()), 2)}
