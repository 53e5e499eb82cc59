#!/usr/bin/env python3
"""Measure the farm against plain cibuildwheel, side by side in one call, and hold both against the goals.

Five scenarios build the embedded project (examples/pymomentum) for the same torch minors, on the CPython that runs
this script, in containers of the same base image. The sixth, start-up, needs no engine, and is measured first:

  a  plain cibuildwheel: its default front end with build isolation, one variant after the other, no test
  b  the farm with empty caches: torch is downloaded, every stage runs, smoke tests in full
  c  the farm with torch and tools at hand, --force and an empty work folder: no records (and it has no compiler cache)
  d  the same call once more, without --force: the median of several
  e  the farm with empty caches, `build` alone: as much of torch as compiling takes, and the audit, but no smoke test
  s  `--version`, and a local run with nothing to do, beside a Python that only imports what a run cannot do without

The base image is on the engine before anything starts, in every scenario: pulling it is no part of what is measured.
Everything lies in one scratch folder, some 20 GB at most, which is removed at the end however that comes; so are the
containers. The document goes to standard output or --output, all else to standard error. Exit code 1: a goal is missed.

  pip install . && python ci/benchmark.py --output benchmark.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import psutil
import tomlkit
from meter import SAMPLE_S, Meter, compiled, docker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore, default_folder
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines import ninja_log
from torch_build_farm.engines.docker.containers import Labels
from torch_build_farm.engines.docker.images import LABEL, STAND_INS
from torch_build_farm.engines.docker.pinned import identifiers, pins
from torch_build_farm.engines.variables import PRELUDE
from torch_build_farm.project import settings as config
from torch_build_farm.wheels import auditwheel

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = "abcdes"
FARM = (sys.executable, str(ROOT / "build_farm.py"))
REPEATS = 5  # of scenario d
STARTS = 9  # of scenario s
# Of the farm's dependencies those that take longest to import.
REFERENCE = "import pydantic, rich.console, docker, jinja2, packaging"
PATIENCE_S = 60  # for an interrupted command to clean up
CERTIFICATES = "/etc/benchmark-certificates.pem"
OBJECTS = "/tmp/objects"  # CMake's build folder in plain cibuildwheel's containers
HOW = {
    "compile": "From the start of ninja's first command to the end of its last, by the log of each build. `wall` is "
    "the time in which at least one build compiled, each placed by the clock time that ninja noted. `counted` is what "
    "the ratio leaves out: wall, but in b and c never more than the same compilations took in a, which has the CPUs "
    "to itself; what the farm's builds lose by sharing them counts as the farm's.",
    "downloaded_bytes": "Received by the interface of the default route; the whole machine's.",
    "disk_growth_bytes": "Used bytes of the file systems of scratch folder and engine above the start's, sampled every "
    f"{SAMPLE_S} s; the whole machine's. A hard link takes none. In a: the largest of the variants, one at a time.",
    "memory_peak_bytes": f"MemTotal less MemAvailable above the start's, sampled every {SAMPLE_S} s; the whole "
    "machine's, page cache left out.",
    "containers_started": "The engine's start events with the scenario's label.",
    "start": f"Seconds of a whole process, the least of {STARTS} rounds that start one of each after the other, with "
    "bytecode cached by a round before.",
    "phases": "Seconds between lines of the logs as they were written.",
    "beyond_torch_bytes": "Per variant: the peak growth of c; that of b less the unpacked wheels of torch and all that "
    "it requires. The goal takes the larger.",
}


def step(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bench:
    """What all scenarios share."""

    torch: tuple[str, ...]
    python: CPython
    image: str
    scratch: Path

    @property
    def store(self) -> Path:
        return self.scratch / "store"

    @property
    def work(self) -> Path:
        return self.scratch / "work"

    @property
    def label(self) -> str:
        """Of plain cibuildwheel's containers."""
        return f"{LABEL}-benchmark={self.scratch.name}"

    @property
    def farms_label(self) -> str:
        """Of every container that the farm starts with this store."""
        return f"{LABEL}.store={Labels.of(TorchStore.at(self.store, self.work), '').store}"

    def run(self, command: Sequence[str], log: Path, cwd: Path = ROOT) -> str:
        """Run a command, standard error into `log`; returns its standard output. Where it fails this script ends.

        It has a session of its own, so that an interrupted script asks it once to end, and it has time to clean up.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
        env[STORE_VARIABLE] = str(self.store)
        with log.open("w") as sink:
            child = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=sink, text=True, start_new_session=True
            )
            try:
                said = child.communicate()[0]
            except BaseException:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(PATIENCE_S)
                child.kill()
                raise
        if child.returncode:
            tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-40:])
            sys.exit(f"{shlex.join(command)}\nended with status {child.returncode}:\n{tail}")
        return said

    def farm(self, command: str, *options: str, log: str) -> Any:
        """Run the farm; returns its document."""
        asked = ["--torch", *self.torch, "--python", str(self.python), "--work", str(self.work), "--json"]
        return json.loads(self.run([*FARM, command, *options, *asked], self.scratch / "logs" / f"{log}.log"))

    def remove(self) -> None:
        """Remove everything that the scenarios left."""
        step("clean-up")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        for container in docker("ps", "--all", "--quiet", "--filter", f"label={self.label}").split():
            docker("rm", "--force", "--volumes", container)
        command = [*FARM, "clean", "--all", "--store", "--work", str(self.work)]
        env = {**os.environ, STORE_VARIABLE: str(self.store)}
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.scratch, ignore_errors=True)


def plain_configuration(bench: Bench, minor: str, objects: Path) -> str:
    """What a maintainer would tell cibuildwheel about a rendered tree, and where to leave ninja's log."""
    variant = config.load(ROOT, ROOT).variants[Minor.parse(minor)]
    arguments = [f"--label={bench.label}", f"--mount=type=bind,source={objects},target={OBJECTS}"]
    bundle = Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt").resolve()
    if bundle.is_file():
        arguments.append(f"--mount=type=bind,source={bundle},target={CERTIFICATES},readonly")
        arguments += [f"--env={name}={CERTIFICATES}" for name in ("SSL_CERT_FILE", "PIP_CERT")]
    arguments += [f"--env={name}" for name in os.environ if name.lower().endswith("_proxy")]
    command = auditwheel.command("auditwheel", "{wheel}", "{dest_dir}")
    defines = f"-DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=/project/{PRELUDE} -DCMAKE_CXX_STANDARD={variant.cxx_standard}"
    settings = {
        "manylinux-x86_64-image": pins(X86_64).get(bench.image, bench.image),
        "container-engine": {"name": "docker", "create-args": arguments, "disable-host-mount": True},
        "environment": {"CMAKE_ARGS": defines, "SKBUILD_BUILD_DIR": OBJECTS},
        "repair-wheel-command": " ".join(word if word[0] == "{" else shlex.quote(word) for word in command),
        "dependency-versions": "latest",
        "build-verbosity": 2,  # the least that tells what pip brought
    }
    return tomlkit.dumps({"tool": {"cibuildwheel": settings}})


def plain_variant(bench: Bench, minor: str) -> tuple[str, Path, dict[str, Any]]:
    """One variant of scenario a: its job, ninja's log, and what was measured."""
    (tree,) = bench.work.glob(f"jobs/*-{Minor.parse(minor).tag}-*/source")
    job, folder = tree.parent.name, bench.scratch / "plain" / minor
    objects, settings, log = folder / "objects", folder / "cibuildwheel.toml", folder / "cibuildwheel.log"
    objects.mkdir(parents=True)
    settings.write_text(plain_configuration(bench, minor, objects), "utf-8")
    step(f"a: plain cibuildwheel, {job}")
    words = [sys.executable, "-I", "-m", "cibuildwheel", ".", "--only", identifiers(X86_64)[bench.python]]
    words += ["--config-file", str(settings), "--output-dir", str(folder / "wheels")]
    with Meter(bench.scratch, bench.label, [folder]) as meter:
        bench.run(["sh", "-c", f"exec {shlex.join(words)} >&2"], log, tree)
    brought = re.findall(r"\b(?:torch|triton|nvidia_\w+)-[\d.]+(?=\S*\.whl)", log.read_text("utf-8", "replace"))
    told = {"phases": meter.phases(*meter.lines(log.stem)), "downloaded": sorted(set(brought))}
    return job, objects / ninja_log.NAME, {**meter.report(), **told}


def plain(bench: Bench) -> dict[str, Any]:
    """Scenario a. The trees are rendered before the clock runs."""
    bench.farm("render", "--engine", "local", log="render")
    done = [plain_variant(bench, minor) for minor in bench.torch]
    reports = [report for *_, report in done]
    peaks = [report["disk_growth_bytes"]["peak"] for report in reports]
    return {
        "seconds": round(sum(report["seconds"] for report in reports), 2),
        "load_at_start": reports[0]["load_at_start"],
        "compile": compiled({job: log for job, log, _ in done}),
        "downloaded_bytes": sum(report["downloaded_bytes"] for report in reports),
        "disk_growth_bytes": {"peak": max(peaks), "per_variant": round(statistics.mean(peaks))},
        "memory_peak_bytes": max(report["memory_peak_bytes"] for report in reports),
        "containers_started": sum(report["containers_started"] for report in reports),
        "jobs": {job: report for job, _, report in done},
    }


def torch_bytes(store: Path) -> int:
    """What torch and all that it requires take in uv's cache, where each wheel is unpacked in a folder of its own."""
    wheels = [(path, one) for path in store.glob("uv/archive-*/*") for one in distributions(path=[str(path)])]
    itself, more = set[str](), set[str](("torch",))
    while more:
        itself |= more
        required = [text for _, one in wheels if canonicalize_name(one.name) in itself for text in one.requires or ()]
        named = {str(canonicalize_name(Requirement(text).name)) for text in required if "extra ==" not in text}
        more = named - itself
    folders = [path for path, one in wheels if canonicalize_name(one.name) in itself]
    return sum(file.lstat().st_blocks * 512 for folder in folders for file in folder.rglob("*"))


def farm(bench: Bench, command: str, *more: str) -> dict[str, Any]:
    """Scenarios b, c and e: the stages of a command, in an empty work folder."""
    shutil.rmtree(bench.work, ignore_errors=True)
    (bench.scratch / "logs" / "farm.log").unlink(missing_ok=True)  # of the scenario before
    with Meter(bench.scratch, bench.farms_label, [bench.work / "logs", bench.scratch / "logs"]) as meter:
        options = ("--engine", "docker", "--base-image", bench.image, *more)
        document = bench.farm(command, *options, log="farm")
    report = meter.report()
    report["disk_growth_bytes"]["per_variant"] = report["disk_growth_bytes"]["peak"] // len(bench.torch)
    logs = {job["job"]: bench.work / "jobs" / job["job"] / "raw" / ninja_log.NAME for job in document["jobs"]}
    report["compile"] = compiled(logs)
    report["jobs"] = {}
    for job in document["jobs"]:
        name = job["job"]
        stages = {stage["stage"]: stage["seconds"] for stage in job["stages"]}
        beyond = sum(stages.values()) - stages.get("smoke", 0) - report["compile"]["jobs"][name]
        report["jobs"][name] = {
            "stages": stages,
            "beyond_compile_and_smoke": round(beyond, 2),
            "phases": meter.phases(*meter.lines("farm", f"{name}: {[*stages][-1]} done"), *meter.lines(name)),
            "tag": job["wheel"]["tag"],
        }
    return report


def cold(bench: Bench) -> dict[str, Any]:
    """Scenario b."""
    step("b: the farm, empty caches")
    shutil.rmtree(bench.store, ignore_errors=True)
    layers = docker("images", "--quiet", "--filter", f"label={LABEL}=yes").split()
    report = farm(bench, "run", "--smoke", "full")
    made = set(docker("images", "--quiet", "--filter", f"label={LABEL}=yes").split()) - set(layers)
    itself = torch_bytes(bench.store)
    report["disk_growth_bytes"]["torch_itself"] = itself
    report["disk_growth_bytes"]["beyond_torch"] = (report["disk_growth_bytes"]["peak"] - itself) // len(bench.torch)
    return {**report, "made_the_farms_layer_over_the_base_image": bool(made)}


def warm(bench: Bench) -> dict[str, Any]:
    """Scenario c."""
    step("c: the farm, torch and tools at hand, --force")
    report = farm(bench, "run", "--smoke", "full", "--force")
    report["disk_growth_bytes"]["beyond_torch"] = report["disk_growth_bytes"]["per_variant"]
    return report


def compiled_only(bench: Bench) -> dict[str, Any]:
    """Scenario e."""
    step("e: the farm, empty caches, build and audit alone")
    shutil.rmtree(bench.store, ignore_errors=True)
    if layers := docker("images", "--quiet", "--filter", f"label={LABEL}=yes").split():
        docker("rmi", "--force", *set(layers))  # each store's farm makes its own anew
    return farm(bench, "build", "--smoke", "none")


def again(bench: Bench) -> dict[str, Any]:
    """Scenario d: the whole process, several times."""
    step("d: once more")
    walls = []
    options = ("--engine", "docker", "--base-image", bench.image, "--smoke", "full")
    with Meter(bench.scratch, bench.farms_label) as meter:
        for _ in range(REPEATS):
            start = time.monotonic()
            document = bench.farm("run", *options, log="again")
            walls.append(round(time.monotonic() - start, 3))
            if {job["status"] for job in document["jobs"]} != {"kept"}:
                sys.exit("a second run did something")
    return {**meter.report(), "seconds": statistics.median(walls), "runs": walls}


def start_up(bench: Bench) -> dict[str, float]:
    """Scenario s: seconds of the reference, of `--version` and of a local run with nothing to do."""
    step("s: start-up")
    work, project = bench.scratch / "start", ROOT / "tests" / "projects" / "tiny"
    render = [*FARM, "render", "--engine", "local", "--project", str(project), "--work", str(work)]
    commands = {
        "reference": [sys.executable, "-c", REFERENCE],
        "version": [*FARM, "--version"],
        "nothing_to_do": [*render, "--torch", bench.torch[0], "--python", str(bench.python)],
    }
    # Installers compile to bytecode, and developers' shells may forbid Python to: here all have it, from one place.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {STORE_VARIABLE: str(bench.store), "PYTHONPYCACHEPREFIX": str(bench.scratch / "bytecode")}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(1 + STARTS):
        for name, command in commands.items():
            start = time.perf_counter()
            output = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
            if number == 0:  # renders, and caches bytecode
                continue
            seconds[name].append(time.perf_counter() - start)
            if name == "nothing_to_do" and "nothing to do" not in output:
                sys.exit(f"a second render did something:\n{output}")
    return {name: round(min(values), 3) for name, values in seconds.items()}


def count_compile(found: Mapping[str, dict[str, Any]]) -> None:
    """Add to each scenario what of its wall time counts as compiling (see HOW)."""
    most = found["a"]["compile"]["wall"] if "a" in found else float("inf")
    for name in {"a", "b", "c", "e"}.intersection(found):
        compiling = found[name]["compile"]
        compiling["counted"] = min(compiling["wall"], most)
        found[name]["beyond_compile"] = round(found[name]["seconds"] - compiling["counted"], 2)


def goals(found: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What could be measured, with what it was to be."""
    rows: list[tuple[str, float, float]] = []
    if {"a", "c"} <= found.keys():
        rows.append(
            ("(c - compile) / (a - compile)", found["c"]["beyond_compile"] / found["a"]["beyond_compile"], 0.15)
        )
    if {"a", "b"} <= found.keys():
        rows.append(("b / a", found["b"]["seconds"] / found["a"]["seconds"], 0.7))
    if {"a", "e"} <= found.keys():
        # Not e / a: compiling alone is more than a quarter of a where the index is fast (0.27 at 120 MB/s).
        rows.append(
            ("(e - compile) / (a - compile)", found["e"]["beyond_compile"] / found["a"]["beyond_compile"], 0.25)
        )
        rows.append(("e / a, bytes", found["e"]["downloaded_bytes"] / found["a"]["downloaded_bytes"], 0.02))
    if grown := [found[name]["disk_growth_bytes"]["beyond_torch"] / 1e6 for name in ("b", "c") if name in found]:
        rows.append(("growth per variant beyond torch itself, MB", max(grown), 200))
    if "d" in found:
        rows.append(("d, seconds", found["d"]["seconds"], 1))
        rows.append(("d, containers", found["d"]["containers_started"], 0))
    if "s" in found:
        start = found["s"]
        rows.append(("start of --version / reference", start["version"] / start["reference"], 0.5))
        rows.append(("run with nothing to do / reference", start["nothing_to_do"] / start["reference"], 2.0))
    return [
        {"what": what, "value": round(value, 3), "at_most": most, "met": value <= most} for what, value, most in rows
    ]


def machine(bench: Bench) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "engine": docker("version", "--format", "{{.Server.Version}}"),
        "storage_driver": docker("info", "--format", "{{.Driver}}"),
        "image": {bench.image: docker("image", "inspect", "--format", "{{.Id}}", bench.image)},
        "cpython": platform.python_version(),
        "tools": {
            name: version(name) for name in ("torch-build-farm", "cibuildwheel", "build", "uv", "cmake", "ninja")
        },
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip(),
    }


def measure(bench: Bench, scenarios: str) -> dict[str, Any]:
    """Run the scenarios. c needs what b leaves, and d what b or c leaves: b runs for them, whether asked for or not."""
    found: dict[str, dict[str, Any]] = {}
    if "s" in scenarios:
        found["s"] = start_up(bench)
    if "a" in scenarios:
        found["a"] = plain(bench)
        step(f"a took {found['a']['seconds']:.1f} s")
    for name, scenario in (("b", cold), ("c", warm), ("d", again)):
        if name in scenarios or (name == "b" and set(scenarios) & set("cd")):
            found[name] = scenario(bench)
            step(f"{name} took {found[name]['seconds']:.2f} s")
    if "e" in scenarios:
        found["e"] = compiled_only(bench)
        step(f"e took {found['e']['seconds']:.1f} s")
    found = {name: report for name, report in found.items() if name in scenarios}
    count_compile(found)
    return {"schema": 1, "torch": bench.torch, "scenarios": found, "goals": goals(found), "how": HOW}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", nargs="+", default=["2.8", "2.9"], metavar="MINOR", help="default: 2.8 2.9")
    parser.add_argument("--scenarios", default=SCENARIOS, help="which of them (default: %(default)s)")
    parser.add_argument(
        "--base-image", default=STAND_INS[X86_64], help="base image of all containers (default: %(default)s)"
    )
    parser.add_argument("--scratch", type=Path, help="folder to work in (default: one beside the farm's store)")
    parser.add_argument("--output", type=Path, help="file for the document (default: standard output)")
    options = parser.parse_args()
    if not options.scenarios or set(options.scenarios) - set(SCENARIOS):
        parser.error(f"--scenarios takes letters of {SCENARIOS}")
    reference = pins(X86_64).get(options.base_image, options.base_image)
    needs_engine = set(options.scenarios) != {"s"}
    if needs_engine and not docker("image", "inspect", "--format", "{{.Id}}", reference):
        sys.exit(f"the engine has no image {reference}: ci/base-image makes one, docker pull brings one")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    beside = (options.scratch or default_folder().parent).resolve()
    beside.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="torch-build-farm-benchmark-", dir=beside))
    bench = Bench(tuple(options.torch), CPython.running(), options.base_image, scratch)
    try:
        document = {"machine": machine(bench), **measure(bench, options.scenarios)}
    finally:
        bench.remove()
    text = json.dumps(document, indent=2)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")
    else:
        print(text)
    for goal in document["goals"]:
        step(f"{'met   ' if goal['met'] else 'MISSED'} {goal['what']}: {goal['value']} (at most {goal['at_most']})")
    return 0 if all(goal["met"] for goal in document["goals"]) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        sys.exit(130)
