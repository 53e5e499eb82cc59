"""The runner over stages of a test's own: what is kept, what runs again, and what gets into the dist folder."""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.pipeline.test_smoke import JOB, PROJECT
from tests.until import until
from torch_build_farm.core.errors import AbiError, CoreError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore
from torch_build_farm.pipeline import records, runner
from torch_build_farm.pipeline.first_builds import FirstBuilds
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.results import JobResult, Status
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.pipeline.stage import Outcome, RunContext, Stage, Step
from torch_build_farm.project.plan import Job
from torch_build_farm.project.variant import CoreVariant

NAME = "demo_torch29-1.0-cp311-cp311-manylinux_2_17_x86_64.whl"


class Quiet:
    """Progress that nobody sees."""

    def __enter__(self) -> object:
        return self

    def __exit__(self, *_: object) -> None: ...
    def started(self, job: Job, stage: str) -> None: ...
    def printed(self, job: Job, line: str) -> None: ...
    def finished(self, job: Job, stage: str, seconds: float) -> None: ...
    def ended(self, job: Job, status: Status, line: str = "") -> None: ...


def context(work: Path, *, force: bool = False, may_share_wheels: bool = False) -> RunContext:
    """What stages that need no engine run in."""
    engine: Any = SimpleNamespace(toolchain=lambda job: {"compiler": "g++"})
    source: Any = None
    return RunContext(
        project=PROJECT,
        source=source,
        engine=engine,
        store=TorchStore.at(work / "store", work),
        runner=Runner(),
        work=work,
        minors=frozenset({JOB.variant.torch}),
        smoke="none",
        force=force,
        epoch=315532800,
        jobserver=Jobserver(work / "fifo", 1),
        build_slots=Slots(1),
        smoke_slots=Slots(1),
        first_builds=FirstBuilds(lambda: False),
        compilers_per_build=1,
        trees={},
        audit_tables=Once(lambda: pytest.fail("no stage asks for them")),
        audit_tables_sha256=Once(list),
        announce=print,
        may_share_wheels=may_share_wheels,
    )


class Bench:
    """A job with two stages of the test's own: `carve`, which makes the wheel, and `weigh`, which may refuse it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.content = "wheel"
        self.prints = ""
        self.refuse = False
        self.ran: list[str] = []
        self.carve = Stage("carve", self._carve_inputs, self._carve, makes_wheel=True)
        self.weigh = Stage("weigh", self._weigh_inputs, self._weigh)

    def _carve_inputs(self, step: Step) -> Mapping[str, Any]:
        return {"content": self.content}

    def _carve(self, step: Step) -> Outcome:
        self.ran.append("carve")
        wheel = step.folder / "carved" / NAME
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_text(self.content)
        if self.prints:
            step.context.store.make()
            step.shell.run("printf", "%s", self.prints)
        return Outcome((wheel,))

    def _weigh_inputs(self, step: Step) -> Mapping[str, Any]:
        return {"wheel": step.digest_of(self.carve), "refuse": self.refuse}

    def _weigh(self, step: Step) -> Outcome:
        self.ran.append("weigh")
        assert step.output(self.carve).read_text() == self.content
        if self.refuse:
            raise AbiError("too heavy", where="scales")
        return Outcome()

    def run(self, *, force: bool = False) -> JobResult:
        (result,) = runner.run(context(self.work, force=force), [JOB], [self.carve, self.weigh], Quiet())
        return result

    @property
    def delivered(self) -> list[str]:
        return [path.name for path in self.work.glob("dist/*")]


def test_the_stage_that_makes_the_wheel_is_found_by_its_mark(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    result = bench.run()
    assert (result.status, bench.ran, bench.delivered) == ("done", ["carve", "weigh"], [NAME])
    assert result.wheel is not None
    assert result.wheel.path == f"dist/{NAME}"
    again = bench.run()
    assert (again.status, bench.ran) == ("kept", ["carve", "weigh"])
    assert bench.run(force=True).status == "done"


def test_a_wheel_that_a_later_stage_refuses_is_not_in_dist(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.refuse = True
    result = bench.run()
    assert (result.status, bench.ran[2:], bench.delivered) == ("failed", ["weigh"], [])
    assert result.wheel is not None, "it lies in the job's folder, for whoever wants to look"
    bench.refuse = False
    assert bench.run().status == "kept", "the first run's record speaks of the same bytes"
    assert bench.delivered == [NAME]


def test_a_stage_that_prints_a_heading_cuts_no_log(tmp_path: Path) -> None:
    """A stage that runs again takes the place of its own part of the log, wherever a build says that this begins."""
    bench = Bench(tmp_path)
    bench.prints = "before\n\n#### torch-build-farm: weigh demo now\nafter\n"
    bench.run()
    bench.refuse = True
    bench.run()
    (log,) = tmp_path.glob("logs/*.log")
    assert "\nafter\n" in log.read_text()


def test_a_stage_runs_again_for_other_inputs_a_damaged_output_and_an_older_record(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.content = "another"
    bench.run()
    assert bench.ran[2:] == ["carve", "weigh"]

    (tmp_path / "jobs" / JOB.id / "carved" / NAME).write_text("damaged")
    bench.run()
    assert bench.ran[4:] == ["carve"], "what came of it is the same again, so the next stage is kept"

    path = records.path_of(tmp_path / "jobs" / JOB.id, "weigh")
    path.write_text(path.read_text().replace('"schema": 3', '"schema": 2'))
    bench.run()
    assert bench.ran[5:] == ["weigh"]


def test_jobs_that_wait_for_one_value_make_it_once() -> None:
    asking: list[int] = []
    made: list[int] = []
    values: list[int] = []

    def make() -> int:
        until(lambda: len(asking) == 8)
        made.append(1)
        return len(made)

    value = Once(make)

    def get() -> None:
        asking.append(1)
        values.append(value.get())

    threads = [threading.Thread(target=get, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (values, made) == ([1] * 8, [1])


class CoreBench:
    """A core and a variant of one CPython, whose one stage notes what it sees."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.core_content = "core"
        self.refuse = False
        self.ran: list[str] = []
        self.seen: list[str] = []
        self.core = Job("demo-core", "1.0", CoreVariant.of(JOB.variant, [JOB.python]), JOB.python)
        # The name by which the runner knows the finished wheel.
        self.carve = Stage(records.WHEEL_STAGE, self._inputs, self._carve, makes_wheel=True, beside_core=True)

    def _inputs(self, step: Step) -> Mapping[str, Any]:
        return {"content": "" if step.job.variant.needs_torch else self.core_content, "core": step.core_digest}

    def _carve(self, step: Step) -> Outcome:
        self.ran.append(step.job.distribution)
        if self.refuse and not step.job.variant.needs_torch:
            raise AbiError("not today")
        if step.core_wheel:
            self.seen.append(step.core_wheel.read_text())
        wheel = step.folder / f"{step.job.distribution.replace('-', '_')}-1.0-cp311-cp311-linux_x86_64.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_text(self.core_content)
        return Outcome((wheel,))

    def run(self, monkeypatch: pytest.MonkeyPatch) -> tuple[JobResult, ...]:
        monkeypatch.setattr(runner, "stages_of", lambda job, stages: tuple(stages))
        self.ran.clear()
        # The variant first: what waits is not decided by the order.
        return runner.run(context(self.work), [JOB, self.core], [self.carve], Quiet())

    def pending(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr(runner, "stages_of", lambda job, stages: tuple(stages))
        return list(runner.pending(context(self.work), [self.core, JOB], [self.carve]))


def test_a_variant_waits_for_its_core_and_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CoreBench(tmp_path)
    assert bench.pending(monkeypatch) == [bench.core.id, JOB.id]
    variant, core = bench.run(monkeypatch)
    assert (core.error, variant.error) == (None, None)
    assert bench.ran == ["demo-core", "demo-torch29"]
    assert bench.seen == ["core"]
    bench.run(monkeypatch)
    assert bench.ran == []
    assert bench.pending(monkeypatch) == []
    bench.core_content = "another core"
    # Which stages of the variant run is known once the core is there.
    assert bench.pending(monkeypatch) == [bench.core.id, JOB.id]
    bench.run(monkeypatch)
    assert bench.ran == ["demo-core", "demo-torch29"]


def test_a_variant_of_a_core_that_fails_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = CoreBench(tmp_path)
    bench.refuse = True
    variant, core = bench.run(monkeypatch)
    assert bench.ran == ["demo-core"]
    assert isinstance(core.error, AbiError)
    assert isinstance(variant.error, CoreError)
    assert variant.error.what == f"{JOB.id}: not started, since {bench.core.id} failed, which it adds to"
    assert "not today" in variant.error.next_step
