"""`doctor`: what this machine has and lacks, and what needs it."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.table import Table
from rich.text import Text

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import CommonOptions, Parser, add_base_image_argument, add_common_arguments
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.console import People
from torch_build_farm.cli.context import Context
from torch_build_farm.core import machine, tools
from torch_build_farm.core.errors import EngineError, FarmError, Interrupted, ToolError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import torch_downloads
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker.engine import open_engine
from torch_build_farm.engines.docker.images import Base
from torch_build_farm.engines.local import LocalEngine, nvcc_release
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project

State = Literal["ok", "absent", "missing"]
_STYLE = {"ok": "green", "absent": "yellow", "missing": "bold red"}


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(CommonOptions):
    """Options of `doctor`."""

    base_image: str | None


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    add_base_image_argument(parser)


@dataclass(frozen=True)
class Finding:
    """One thing that was examined. The farm can do without what is "absent", but not without what is "missing".

    `found` describes what is there, `needed_for` what needs it.
    """

    subject: str
    state: State
    found: str
    needed_for: str
    next_step: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorAnswer(Answer):
    """The document of `doctor`."""

    findings: tuple[Finding, ...]


def _tools() -> list[Finding]:
    """The tools that come with the farm, and those that some projects need."""
    findings = []
    for name, path in (("uv", tools.uv()), ("auditwheel", tools.scripts() / "auditwheel")):
        state: State = "ok" if path.is_file() else "missing"
        findings.append(Finding(name, state, f"{tools.versions().get(name)} at {path}", "every job", "pip install ."))
    search_path = tools.search_path(tools.scripts())
    for name, purpose in (("cmake", "CMake projects"), ("ninja", "CMake projects"), ("patchelf", "repair")):
        location = shutil.which(name, path=search_path)
        state = "ok" if location else "missing"
        findings.append(Finding(name, state, location or "not found", purpose, "pip install ."))
    # These do not come with the farm, and many projects need none of them.
    for name, purpose in (
        ("git", "versions from git tags, patches"),
        ("ccache", "compiling what is free of torch once for all minors"),
    ):
        location = shutil.which(name)
        findings.append(Finding(name, "ok" if location else "absent", location or "not found", purpose))
    nvcc = shutil.which("nvcc")
    cuda_release = nvcc_release(nvcc) if nvcc else ""
    purpose = "projects with CUDA sources only (cuda-arch-list)"
    findings.append(Finding("CUDA toolkit", "ok" if nvcc else "absent", cuda_release or "not found", purpose))
    return findings


def _local(engine: LocalEngine, project: Project, runner: Runner) -> Finding:
    """Whether the local engine can build: checked with a job for the running CPython, if a variant supports it."""
    running = CPython.running()
    jobs = []
    for variant in project.all_variants.values():
        if running in engine.interpreters(variant):
            jobs.append(Job(project.distribution(variant), "0", variant, running))
    shell = Shell(runner, {}, engine.store.root, Path(os.devnull), lambda _: None)
    try:
        engine.check(jobs[:1], shell)
        compiler = engine.toolchain(jobs[0])["compiler"] if jobs else "no CPython to build for"
        return Finding("local engine", "ok", compiler, "building on this machine")
    except FarmError as error:
        return Finding("local engine", "missing", error.what, "building on this machine", error.next_step)


def _docker(project: Project, store: TorchStore, base_image: str | None) -> list[Finding]:
    """The Docker engine, and the base image of each variant."""
    purpose = "building in containers"
    try:
        client = docker_client.connect()
        if client is None:
            return [Finding("Docker engine", "absent", "none answers", purpose)]
        engine = open_engine(project, store, client, base_image)
    except EngineError as error:
        return [Finding("Docker engine", "absent", error.what, purpose)]
    findings = [Finding("Docker engine", "ok", engine.version, purpose)]
    # Minors may share an image, which is then reported once.
    minors_by_base: dict[Base, list[str]] = {}
    for variant in project.all_variants.values():
        minors_by_base.setdefault(engine.base(variant), []).append(str(variant.torch))
    for base, minors in minors_by_base.items():
        state: State = "ok" if base.id else "absent"
        findings.append(Finding("container image", state, base.note, f"torch {', '.join(minors)} in containers"))
    return findings


def _interpreters(engine: LocalEngine, project: Project) -> list[Finding]:
    """The CPythons on this machine that some variant supports, and the variants that are left without one."""
    variants = list(project.all_variants.values())
    findings = []
    interpreters = engine.interpreters(variants[0])
    for python, interpreter in sorted(interpreters.items()):
        minors = [str(variant.torch) for variant in variants if python in variant.cpython]
        if not minors:  # no variant supports it
            continue
        description = f"{interpreter.version} at {interpreter.path}"
        state: State = "ok"
        if not engine.has_headers(python):
            description += ", without its headers"
            state = "absent"
        findings.append(Finding(f"CPython {python}", state, description, f"torch {', '.join(minors)}"))
    for variant in variants:
        if set(variant.cpython).isdisjoint(interpreters):
            supported = ", ".join(map(str, variant.cpython))
            purpose = f"torch {variant.torch}"
            next_step = f"uv python install {variant.cpython[-1]}"
            findings.append(Finding(f"CPython for {purpose}", "missing", f"none of {supported}", purpose, next_step))
    return findings


def _resources(project: Project, store: TorchStore) -> list[Finding]:
    """Disk space for every variant on the running CPython, and how many compilers may run at once."""
    store.make()
    free = shutil.disk_usage(store.root).free / 1e9
    # The downloads of a job depend on variant and CPython alone: name and version may be empty here.
    running = CPython.running()
    jobs = []
    for variant in project.all_variants.values():
        if running in variant.cpython:
            jobs.append(Job("", "", variant, running))
    full = project.settings.torch_build == "full"
    needed = torch_downloads.missing_gb(store, jobs, smoke=True, full=full, minors=project.described.values())
    memory_per_compile = project.settings.memory_per_compile_gb or DEFAULT_GB
    slots = compile_slots(memory_per_compile)
    state: State = "ok" if free > needed else "absent"
    return [
        Finding(
            "disk",
            state,
            f"{free:.0f} GB free at {store.root}",
            f"every torch minor on CPython {running}: {needed:.0f} GB more",
        ),
        Finding(
            "CPUs and memory",
            "ok",
            f"{slots} compilers at once on {os.cpu_count()} CPUs",
            f"memory-per-compile-gb = {memory_per_compile}",
        ),
    ]


def _index(store: TorchStore, project: Project, runner: Runner) -> Finding:
    """Whether the package index has the newest variant's torch, and how fast it answers."""
    start = time.monotonic()
    newest = list(project.variants.values())[-1]
    try:
        torch_downloads.check_index(store, newest.release, newest.cpython[0], newest, runner)
    except Interrupted:
        raise
    except FarmError as error:
        return Finding("package index", "missing", error.what, "downloading torch", error.next_step)
    seconds = time.monotonic() - start
    description = f"answers for torch {newest.release} in {seconds:.1f} s"
    return Finding("package index", "ok", description, "downloading torch and build tools")


def examine(project: Project, store: TorchStore, runner: Runner, base_image: str | None) -> list[Finding]:
    """Examine everything that a run may need."""
    docker = _docker(project, store, base_image)
    engine = LocalEngine(project, store)
    local = [_local(engine, project, runner), *_interpreters(engine, project)]
    findings = list(docker)
    can_use_containers = all(finding.state == "ok" for finding in docker)
    for finding in local:
        if can_use_containers and finding.state == "missing":
            # Containers bring their own compiler and CPythons: the farm can do without this machine's.
            findings.append(replace(finding, state="absent"))
        else:
            findings.append(finding)
    findings += _tools()
    findings += _resources(project, store)
    findings.append(_index(store, project, runner))
    return findings


def _show(findings: list[Finding], console: People) -> None:
    """Print the findings as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found", "for"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        description = finding.found
        if finding.state == "missing" and finding.next_step:
            description += f"\nnext: {finding.next_step}"
        state = Text(finding.state, _STYLE[finding.state])
        table.add_row(state, finding.subject, description, finding.needed_for)
    console.print(table, soft_wrap=False)


def _doctor(context: Context, options: DoctorOptions) -> int:
    """`doctor`: report what is there and what is not. Returns ToolError's exit code if something is missing."""
    # What this machine lacks for its own wheels: those for another one may be built elsewhere.
    project = context.load_project().on(machine.running())
    findings = examine(project, context.store, context.runner, options.base_image)
    if context.json:
        context.answer(DoctorAnswer(findings=tuple(findings)))
    else:
        _show(findings, context.console)
    missing = any(finding.state == "missing" for finding in findings)
    return ToolError.exit_code if missing else 0


COMMANDS = {"doctor": Command(DoctorOptions, _configure_parser, _doctor, DoctorAnswer)}
