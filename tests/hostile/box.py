"""Runs hostile inputs of one kind in a process of its own, where time, memory and files are watched.

    python -m tests.hostile.box KIND FIRST LAST

prints one line of JSON for each input that goes wrong and one line of figures at the end. A seed makes the same input
every time, so a line is all that is needed to see a fault again. More than the default tests' few hundred, by hand:

    python -m tests.hostile.box --all 10000
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests import hostile
from torch_build_farm.core.errors import FarmError

CPU_SECONDS = 5.0  # of processor time for one input, which does not depend on what else the machine does
WALL_SECONDS = 120.0  # without a sign of life: the input waits for something, or hangs in C code
MEMORY = 500_000_000  # bytes that one input may take on top of the modules


class TooSlowError(BaseException):
    """An input takes too long. Not an Exception, so that no `except Exception` of the farm hides it."""


@dataclass
class Outcome:
    """What came of inputs of one kind."""

    kind: str
    inputs: int = 0
    slowest_s: float = 0.0
    memory_mb: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)


def kinds() -> list[str]:
    """The kinds of input that there are generators for."""
    modules = {module.name for module in pkgutil.iter_modules(hostile.__path__)}
    return sorted(modules - {"box", "damage", "faults_on_purpose", "slow_sources"})


# ---- in the process that reads the inputs


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def _listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and date of everything in a folder, the inputs' own folder left out."""
    listing = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "inside" or "inside" in path.relative_to(folder).parts:
            continue
        status = path.lstat()
        # A folder's own date and size change with the inputs' folder in it.
        content = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        listing[path.relative_to(folder).as_posix()] = (status.st_mode, *content)
    return listing


def _peak_bytes() -> int:
    """The most memory that this process has had (resident set)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _read_inputs(kind: str, first: int, last: int) -> None:
    """Make the inputs of these seeds and hand each to the farm; print what goes wrong."""
    generator = importlib.import_module(f"tests.hostile.{kind}")
    box = Path(tempfile.mkdtemp(prefix="hostile-"))
    inside = box / "around" / "inside"
    home = box / "home"
    inside.mkdir(parents=True)
    home.mkdir()
    (box / "around" / "sentinel").write_text("untouched")
    os.environ["HOME"] = str(home)
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TORCH_BUILD_FARM_STORE"):
        os.environ.pop(name, None)
    tempfile.tempdir = str(box / "home")
    signal.signal(signal.SIGPROF, _too_slow)

    # The modules that only the first input loads are not what an input takes.
    with_limits(generator, 0, inside)
    start = _peak_bytes()
    # On top of what the process has now: an input that wants more gets a MemoryError, not the machine.
    data = int(Path("/proc/self/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_DATA, (data + 2 * MEMORY, resource.RLIM_INFINITY))
    before = _listing(box)
    try:
        for seed in range(first, last):
            fault, seconds = with_limits(generator, seed, inside)
            grown = _peak_bytes() - start
            if grown > MEMORY:
                fault = fault or f"takes {grown / 1e6:.0f} MB"
                start = _peak_bytes()  # the mark stays high: the next input is not to blame
            after = _listing(box)
            if after != before:
                changed = sorted({name for name, _ in before.items() ^ after.items()})
                fault = fault or f"writes outside of its folder: {changed[:5]}"
                before = after
            print(json.dumps({"seed": seed, "s": seconds, "mb": max(grown, 0) / 1e6, "fault": fault}), flush=True)
    finally:
        shutil.rmtree(box, ignore_errors=True)


def with_limits(generator: Any, seed: int, inside: Path) -> tuple[str, float]:
    """Hand one input to the farm; returns what is wrong (empty if nothing is) and the seconds of processor time."""
    data = generator.examples(seed)
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    fault = ""
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        generator.check(data, inside)
    except FarmError:
        pass
    except TooSlowError:
        fault = f"takes over {CPU_SECONDS:.0f} s"
    except BaseException:
        lines = traceback.format_exc().splitlines()
        fault = "\n".join([lines[-1], *lines[-9:-1]])[:2000]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return fault, time.process_time() - begin


# ---- in the process that watches


def run(kind: str, first: int, last: int) -> Outcome:
    """Run the inputs of these seeds. A process that dies or hangs costs the input that it was at, and no other."""
    outcome = Outcome(kind)
    seed = first
    while seed < last:
        seen = 0
        for line in _lines_of_process(kind, seed, last):
            seen += 1
            outcome.slowest_s = max(outcome.slowest_s, line["s"])
            outcome.memory_mb = max(outcome.memory_mb, line["mb"])
            if line["fault"]:
                outcome.faults.append(line)
        seed += seen
        if seed < last:
            outcome.faults.append({"seed": seed, "fault": "the process died, or gave no sign of life"})
            seed += 1
    outcome.inputs = last - first
    return outcome


def _lines_of_process(kind: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.hostile.box", kind, str(first), str(last)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        watchdog = _Watchdog(process)
        for line in process.stdout:
            watchdog.alive()
            if line.startswith('{"seed"'):
                yield json.loads(line)
        watchdog.end()


class _Watchdog:
    """Kills a process that gives no sign of life."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._last = time.monotonic()
        self._ended = False
        self._pool = ThreadPoolExecutor(1)
        self._pool.submit(self._watch)

    def alive(self) -> None:
        self._last = time.monotonic()

    def end(self) -> None:
        self._ended = True
        self._pool.shutdown()

    def _watch(self) -> None:
        while not self._ended and self._process.poll() is None:
            if time.monotonic() - self._last > WALL_SECONDS:
                self._process.kill()
            time.sleep(0.2)


def main(arguments: list[str]) -> int:
    if arguments[0] != "--all":
        kind, first, last = arguments
        _read_inputs(kind, int(first), int(last))
        return 0
    number = int(arguments[1])
    chosen = arguments[2:] or kinds()
    faults = 0
    with ThreadPoolExecutor(2) as pool:
        for outcome in pool.map(lambda kind: run(kind, 0, number), chosen):
            print(
                f"{outcome.kind:16} {outcome.inputs} inputs, slowest {outcome.slowest_s:.2f} s, "
                f"most {outcome.memory_mb:.0f} MB, {len(outcome.faults)} faults",
                flush=True,
            )
            for fault in outcome.faults[:20]:
                print(f"  seed {fault['seed']}: {fault['fault'].splitlines()[0]}", flush=True)
            faults += len(outcome.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
