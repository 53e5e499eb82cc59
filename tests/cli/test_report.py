"""What people see: a live table on a terminal, plain lines elsewhere and in CI."""

import io
import json
import platform
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.family import describe_arm64
from tests.pipeline.test_smoke import JOB
from tests.until import until
from torch_build_farm.cli.console import People
from torch_build_farm.cli.install_lines import install_lines
from torch_build_farm.cli.main import main
from torch_build_farm.cli.report import Progress, plan_table, summary
from torch_build_farm.core.errors import CompileError
from torch_build_farm.core.machine import ARM64, X86_64, Machine, running
from torch_build_farm.pipeline.facts import (
    AuditFacts,
    BuildFacts,
    CoreAuditFacts,
    CoreSmokeFacts,
    Facts,
    RepairFacts,
    SmokeFacts,
)
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.pipeline.results import JobResult, RunResult, StageResult
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load
from torch_build_farm.project.variant import CoreVariant

OTHER = replace(JOB, distribution="demo-torch28")


def watch(terminal: bool, wait_for: str = "") -> str:
    """What is shown of two jobs; while the first builds, `wait_for` must come up."""
    stream = io.StringIO()
    with Progress(People(stream, force_terminal=terminal, width=100), [JOB, OTHER]) as progress:
        progress.started(JOB, "build")
        progress.printed(JOB, "[3/9] Building [bold]core.o[/]")
        until(lambda: wait_for in stream.getvalue(), stream.getvalue)
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
    shown = watch(terminal=True, wait_for="[3/9] Building [bold]core.o[/]")  # what commands print is not markup
    assert "last line" in shown
    assert "\x1b[" in shown


def test_ci_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert "last line" not in watch(terminal=True)


def test_the_summary_has_path_size_hash_and_tag() -> None:
    stream = io.StringIO()
    name = "dist/demo_torch29-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
    good = JobResult(JOB, (), Artifact(name, "ab" * 32, 1_500_000), None, "log")
    bad = JobResult(OTHER, (), None, CompileError("core.cpp:1:1: error: no", where="log", next_step="mend"), "log")
    summary(People(stream, width=100), RunResult((good, bad), 1.0, Path("/work")))
    text = stream.getvalue()
    for words in (f"/work/{name}", "manylinux_2_17_x86_64", "1.5 MB", "ab" * 32, "FAILED", "error: no", "1 failed"):
        assert words in text


def test_the_summary_has_what_each_stage_found_out() -> None:
    def ran(stage: str, facts: Facts, *, kept: bool = False) -> StageResult:
        return StageResult(Record(stage, JOB.id, "", (), 2.0, "", details=facts), kept)

    build = BuildFacts("local", "", "torch's SDK 2.9.0", 812, 17.5, ())
    audit = AuditFacts("2.9", {"2.8.0": "BROKEN", "2.9.0": "OK"}, ("GLIBC_2.32", "GLIBCXX_3.4.21"))
    smoke = SmokeFacts(
        "2.9.1", "12.8", ("cpu", "H100"), ("demo", "demo.more"), "gradients agree", "torch 2.10",
        tests=("3 passed",), stubs=("libcuda.so.1",),
    )  # fmt: skip
    repair = RepairFacts("manylinux_2_28_x86_64", cpu_level="x86-64-v3", device_code=("compute_90", "sm_90"))
    stages = (ran("build", build), ran("repair", repair), ran("audit", audit), ran("smoke", smoke))
    stream = io.StringIO()
    summary(People(stream, width=100), RunResult((JobResult(JOB, stages, None, None, "log"),), 6.5, Path("/work")))
    lines = stream.getvalue().splitlines()
    assert lines[1:12] == [
        "demo-torch29-cp311  8.0 s, 17.5 s of it compiling",
        "  built   with torch's SDK 2.9.0",
        "  cuda    has code for compute_90, sm_90",
        "  cpu     needs x86-64-v3: an older CPU ends the process with SIGILL",
        "  audit   works with torch 2.9; needs GLIBC_2.32, GLIBCXX_3.4.21",
        "  smoke   torch 2.9.1 on cpu, H100; imports demo, demo.more; refuses torch 2.10",
        "          beside a stub of libcuda.so.1: a test on a machine with a GPU is missing",
        "          gradients agree",
        "          3 passed",
        "",
        "audit, torch         2.8.0    2.9.0 ",
    ]
    assert lines[-1] == "1 done, 0 kept, 0 failed, in 6.5 s"

    # A build that was kept compiled in an earlier run.
    kept_build = (ran("build", build, kept=True), ran("audit", audit))
    stream = io.StringIO()
    summary(People(stream, width=100), RunResult((JobResult(JOB, kept_build, None, None, "log"),), 6.5, Path("/work")))
    assert stream.getvalue().splitlines()[1] == "demo-torch29-cp311  2.0 s"


def test_the_summary_of_a_core_and_of_a_variant_beside_it() -> None:
    core = Job("demo-core", "1.0", CoreVariant.of(JOB.variant, [JOB.python]), JOB.python)

    def result(job: Job, **facts: Facts) -> JobResult:
        stages = [StageResult(Record(name, job.id, "", (), 1.0, "", details=it), False) for name, it in facts.items()]
        return JobResult(job, tuple(stages), None, None, "log")

    name = "demo_core-1.0-cp311-cp311-linux_x86_64.whl"
    beside = SmokeFacts("2.9.1", "12.8", ("cpu",), ("demo",), "agrees", "torch 2.10", core=name)
    results = (
        result(core, audit=CoreAuditFacts(("GLIBC_2.32",), ()), smoke=CoreSmokeFacts(("base",))),
        result(JOB, smoke=beside),
    )
    stream = io.StringIO()
    summary(People(stream, width=100), RunResult(results, 6.5, Path("/work")))
    assert stream.getvalue().splitlines()[1:7] == [
        "demo-core-cp311  2.0 s",
        "  audit   needs no torch; needs GLIBC_2.32",
        "  smoke   without torch; imports base",
        "demo-torch29-cp311  1.0 s",
        "  smoke   torch 2.9.1 on cpu; imports demo; refuses torch 2.10",
        f"          beside {name}",
    ]


def on(job: Job, platform: Machine) -> Job:
    return replace(job, variant=replace(job.variant, platform=platform, cuda="" if platform == ARM64 else "12.8"))


def test_a_plan_names_platforms_where_it_has_others_than_x86_64() -> None:
    def shown(*jobs: Job) -> list[list[str]]:
        stream = io.StringIO()
        plan_table(People(stream, width=120), jobs)
        return [line.split() for line in stream.getvalue().splitlines()]

    x86_64, arm64 = on(JOB, X86_64), on(JOB, ARM64)
    assert "platform" not in shown(x86_64)[0]
    header, *rows = shown(x86_64, arm64)
    assert header[:3] == ["job", "platform", "version"]
    assert [row[:2] for row in rows] == [[x86_64.id, "x86-64"], [arm64.id, "arm64"]]
    assert [row[5] for row in rows] == ["12.8", "none"]


def test_the_lines_to_install_say_where_they_work(tiny: Farm) -> None:
    project = load(tiny.project, CHECKOUT)
    context = SimpleNamespace(root=tiny.project, work_option=None)
    elsewhere = X86_64 if running() == ARM64 else ARM64

    def title(*platforms: Machine) -> str:
        wheel = Artifact("dist/demo.whl", "ab" * 32, 1)
        results = [JobResult(on(JOB, platform), (), wheel, None, "log") for platform in platforms]
        return install_lines(context, project, RunResult(tuple(results), 1.0, Path("/work")))[0]  # type: ignore[arg-type]

    assert title(running()) == title(running(), elsewhere) == "install it with"
    assert title(elsewhere) == f"install it on a machine of {elsewhere.words} with"


@pytest.mark.parametrize("here", [X86_64, ARM64], ids=str)
def test_doctor_looks_for_what_this_machine_s_wheels_need(
    tiny: Farm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: Machine
) -> None:
    """Of a torch that has no CPython of this machine for arm64 alone only an arm64 machine is told."""
    describe_arm64(tiny.project, "torch29")
    path = tiny.project / "variants" / "torch29-aarch64.toml"
    path.write_text(re.sub("(?m)^cpython = .*$", 'cpython = ["cp39t"]', path.read_text()))
    monkeypatch.setattr(platform, "machine", lambda: here.name)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple/")  # nobody is asked
    main(tiny.command("doctor", "--json")[2:])
    subjects = [finding["subject"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert ("CPython for torch 2.9" in subjects) == (here == ARM64)
