"""What people see: a live table on a terminal, plain lines elsewhere and in CI."""

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.pipeline.test_smoke import JOB
from torch_build_farm.cli.report import Progress, summary
from torch_build_farm.core.errors import CompileError
from torch_build_farm.pipeline.records import Artifact
from torch_build_farm.pipeline.results import JobResult, RunResult

OTHER = replace(JOB, distribution="demo-torch28")


def watch(terminal: bool) -> str:
    stream = io.StringIO()
    with Progress(Console(file=stream, force_terminal=terminal, width=100), [JOB, OTHER]) as progress:
        progress.started(JOB, "build")
        progress.printed(JOB, "[3/9] Building [bold]core.o[/]")
        time.sleep(0.3)
        progress.finished(JOB, "build", 1.25)
        progress.ended(JOB, "done")
        progress.ended(OTHER, "failed", "core.cpp:1:1: error: no")
    return stream.getvalue()


def test_plain_lines_without_a_terminal() -> None:
    lines = [line.split("] ")[1] for line in watch(terminal=False).splitlines()]
    assert lines == [
        "demo-torch29-cp311: build ...",
        "demo-torch29-cp311: build done in 1.2 s",
        "demo-torch29-cp311: done",
        "demo-torch28-cp311: failed: core.cpp:1:1: error: no",
    ]


def test_a_live_table_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    shown = watch(terminal=True)
    assert "last line" in shown
    assert "[3/9] Building [bold]core.o[/]" in shown, "what commands print is no markup"
    assert "\x1b[" in shown


def test_ci_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert "last line" not in watch(terminal=True)


def test_the_summary_has_path_size_hash_and_tag() -> None:
    stream = io.StringIO()
    name = "dist/demo_torch29-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    good = JobResult(JOB, (), Artifact(name, "ab" * 32, 1_500_000), None, "log")
    bad = JobResult(OTHER, (), None, CompileError("core.cpp:1:1: error: no", where="log", next_step="mend"), "log")
    summary(Console(file=stream, width=100), RunResult((good, bad), 1.0, Path("/work")))
    text = stream.getvalue()
    for words in (f"/work/{name}", "manylinux_2_17_x86_64", "1.5 MB", "ab" * 32, "FAILED", "error: no", "1 failed"):
        assert words in text
