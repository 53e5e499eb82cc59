"""What people read of a run: a live table or plain lines while jobs run, and a summary at the end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from torch_build_farm.cli.console import People, in_ci
from torch_build_farm.core.files import size_text
from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.text import printable
from torch_build_farm.pipeline.facts import (
    AuditFacts,
    BuildFacts,
    CoreAuditFacts,
    CoreSmokeFacts,
    RepairFacts,
    SmokeFacts,
)
from torch_build_farm.pipeline.results import JobResult, RunResult, Status, audit_verdicts
from torch_build_farm.project.plan import Job

_SHOWN = 500  # characters of a line that a job prints; no terminal is wider
_STYLE = {"waiting": "dim", "running": "cyan", "done": "green", "kept": "green", "failed": "red"}


@dataclass
class _Row:
    stage: str = ""
    status: Status = "waiting"
    since: float = field(default_factory=time.monotonic)
    line: str = ""


class Progress:
    """Shows jobs while they run: on a terminal a table with a row for each job, else a line for each step.

    Thread-safe. Use as a context manager around the work.
    """

    def __init__(self, console: People, jobs: Sequence[Job]) -> None:
        self._console = console
        self._rows = {job.id: _Row() for job in jobs}
        self._lock = threading.Lock()
        self._start = time.monotonic()
        # A CI system may offer a terminal, but its log cannot redraw lines.
        self._live: Live | None = None
        if console.is_terminal and not in_ci():
            self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, expand=True)
        table.add_column("job", no_wrap=True)
        table.add_column("stage", width=8)
        table.add_column("elapsed", justify="right", width=9)
        table.add_column("last line", ratio=1, no_wrap=True, overflow="ellipsis")
        with self._lock:
            for job, row in self._rows.items():
                elapsed = f"{time.monotonic() - row.since:.0f} s" if row.status == "running" else ""
                stage = row.stage if row.status == "running" else row.status
                table.add_row(job, Text(stage, _STYLE[row.status]), elapsed, row.line)
        return table

    def _plain(self, text: str) -> None:
        if self._live is None:
            stamp = f"[{time.monotonic() - self._start:6.1f} s]"
            self._console.say(f"{stamp} {text}")

    def started(self, job: Job, stage: str) -> None:
        """A stage begins."""
        with self._lock:
            self._rows[job.id] = _Row(stage, "running")
        self._plain(f"{job.id}: {stage} ...")

    def printed(self, job: Job, line: str) -> None:
        """A job's command printed a line."""
        with self._lock:
            self._rows[job.id].line = printable(line.strip(), _SHOWN)

    def finished(self, job: Job, stage: str, seconds: float) -> None:
        """A stage is done."""
        with self._lock:
            self._rows[job.id] = _Row()  # until the next stage has what it waits for
        self._plain(f"{job.id}: {stage} done in {seconds:.1f} s")

    def ended(self, job: Job, status: Status, line: str = "") -> None:
        """A job is over."""
        # A table's row has place for one line only; the summary has the whole error.
        first_line = line.splitlines()[0] if line else ""
        with self._lock:
            self._rows[job.id] = _Row("", status, line=first_line)
        self._plain(f"{job.id}: {status}{': ' + line if line else ''}")


def summary(console: People, run: RunResult) -> None:
    """Print the closing summary: a block for each job, the audit's table, then one line for all."""
    say = console.say
    say("")
    for result in run.jobs:
        if result.error:
            say(f"{result.job.id}  FAILED", "bold red")
            say("  " + str(result.error).replace("\n", "\n  "), "red")
        else:
            say(f"{result.job.id}  {_duration(result)}", "bold green")
            for line in _lines(result, run.work):
                say(f"  {line}")
    _audit_table(console, run.jobs)
    _fewer_variants(console, run.jobs)

    statuses = Counter(result.status for result in run.jobs)
    if statuses["kept"] == len(run.jobs):
        outcome = "nothing to do: every job is as it was"
    else:
        outcome = f"{statuses['done']} done, {statuses['kept']} kept, {statuses['failed']} failed"
    say(f"\n{outcome}, in {run.seconds:.1f} s", "bold red" if statuses["failed"] else "bold")


def _duration(result: JobResult) -> str:
    """How long a job took, and how much of that its compilers did."""
    if result.status == "kept":
        return "kept from an earlier run"
    for stage in result.stages:
        facts = stage.record.details
        # A build that was kept compiled in an earlier run.
        if isinstance(facts, BuildFacts) and facts.compile_seconds is not None and not stage.kept:
            return f"{result.seconds:.1f} s, {facts.compile_seconds:.1f} s of it compiling"
    return f"{result.seconds:.1f} s"


def _lines(result: JobResult, work: Path) -> list[str]:
    """The wheel of a job, and what each stage found out about it."""
    lines = []
    if result.wheel:
        lines.append(f"wheel   {work}/{result.wheel.path}")
        lines.append(f"tag     {result.tag}    size {size_text(result.wheel.size)}")
        lines.append(f"sha256  {result.wheel.sha256}")
    build, repair = result.facts(BuildFacts), result.facts(RepairFacts)
    audit, smoke = result.facts(AuditFacts), result.facts(SmokeFacts)
    if build:
        lines.append(f"built   with {build.built_with}")
    if repair:
        lines += _machine_lines(repair)
    if audit:
        lines.append(f"audit   works with torch {audit.true_range}{_needs(audit.symbol_versions)}")
    if smoke:
        lines += _smoke_lines(smoke)
    return lines + _core_lines(result)


def _smoke_lines(smoke: SmokeFacts) -> list[str]:
    """What a variant did beside its torch."""
    torch = f"{smoke.oldest} and {smoke.torch}" if smoke.oldest else smoke.torch
    parts = [f"torch {torch} on {', '.join(smoke.devices)}", f"imports {', '.join(smoke.imports)}"]
    if smoke.refuses:
        parts.append(f"refuses {smoke.refuses}")
    lines = [f"smoke   {'; '.join(parts)}"]
    if smoke.core:
        lines.append(f"        beside {smoke.core}")
    if smoke.stubs:
        lines.append(f"        beside a stub of {', '.join(smoke.stubs)}: a test on a machine with a GPU is missing")
    if smoke.script:
        lines.append(f"        {smoke.script}")
    for last_line in smoke.tests:
        lines.append(f"        {last_line}")
    return lines


def _core_lines(result: JobResult) -> list[str]:
    """What the stages of a core found out about it."""
    audit, smoke = result.facts(CoreAuditFacts), result.facts(CoreSmokeFacts)
    lines = []
    if audit:
        lines.append(f"audit   needs no torch{_needs(audit.symbol_versions)}")
    if smoke:
        lines.append(f"smoke   without torch; imports {', '.join(smoke.imported_without_torch)}")
    return lines


def _needs(symbol_versions: Sequence[str]) -> str:
    """What a wheel needs of the C and C++ libraries, as the end of a sentence."""
    return f"; needs {', '.join(symbol_versions)}" if symbol_versions else ""


def _machine_lines(repair: RepairFacts) -> list[str]:
    """What a wheel's code asks of GPUs, and of CPUs where not everybody's will do."""
    lines = []
    if repair.device_code:
        lines.append(f"cuda    has code for {', '.join(repair.device_code)}")
    if repair.cpu_level != "x86-64":
        lines.append(f"cpu     needs {repair.cpu_level}: an older CPU ends the process with SIGILL")
    return lines


def _audit_table(console: People, results: Sequence[JobResult]) -> None:
    """Print the audit's verdict on every job and torch release, if it ran for one."""
    rows = audit_verdicts(results)
    if rows:
        from torch_build_farm.audit import output  # noqa: PLC0415 (a run without audit needs none of that room)

        console.print()
        output.matrix_table(console, rows, "audit")


def _fewer_variants(console: People, results: Sequence[JobResult]) -> None:
    """Say what the wheels use of torch, if their project needs fewer variants than it has."""
    audits = [audit for audit in (result.facts(AuditFacts) for result in results) if audit]
    minors = {result.job.variant.torch for result in results if result.job.variant.needs_torch}
    words = {audit.fewer_variants for audit in audits}
    # One wheel that does use torch's C++ interface needs its variant.
    if len(minors) > 1 and len(words) == 1 and "" not in words:
        console.say(f"\nthe wheels use {words.pop()}", "bold")


def plan_table(console: People, jobs: Sequence[Job]) -> None:
    """Print the jobs of a plan."""
    # Who builds for x86-64 alone need not read of platforms.
    with_platforms = any(job.platform != X86_64 for job in jobs)
    table = Table(box=None, pad_edge=False)
    for column in (
        "job",
        *(["platform"] if with_platforms else []),
        "version",
        "torch",
        "built against",
        "CUDA",
        "C++",
    ):
        table.add_column(column, no_wrap=True)
    for job in jobs:
        variant = job.variant
        torch = ("none", "-", "-")
        if variant.needs_torch:
            torch = (variant.pin, variant.release, variant.cuda or "none")
        platform = [job.platform.words] if with_platforms else []
        table.add_row(job.id, *platform, job.version, *torch, str(variant.cxx_standard))
    console.print(table)
