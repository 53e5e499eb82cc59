"""Stages over jobs: what is fresh is kept, what is not is run, side by side, and every stage leaves its record."""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch_build_farm.cli.report import JobResult, Progress, StageResult
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.errors import DiskError, FarmError, InternalError, Interrupted, RepairError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.base import Engine
from torch_build_farm.pipeline import estimates as history
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.stages.smoke import Mode
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project
from torch_build_farm.project.tree import Source


class Slots:
    """So many places, given to those who wait in the order of their numbers, lowest first."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: set[int] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, number: int, runner: Runner) -> Iterator[None]:
        """Hold a place; waits for one. Raises Interrupted when the run is cancelled."""
        with self._changed:
            self._waiting.add(number)
            try:
                while not (self._free and number == min(self._waiting)):
                    self._changed.wait(0.2)
                    runner.check()
                self._free -= 1
            finally:
                self._waiting.remove(number)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()


@dataclass(frozen=True)
class Farm:
    """Everything that the stages of a run share."""

    project: Project
    source: Source
    engine: Engine
    store: TorchStore
    runner: Runner
    work: Path
    smoke: Mode
    force: bool
    epoch: int
    jobserver: Jobserver
    build_slots: Slots
    smoke_slots: Slots
    share: int  # of the compilers, for a build that no jobserver reaches
    claimed: dict[str, str] = field(default_factory=dict)  # file name in dist -> job
    lock: threading.Lock = field(default_factory=threading.Lock)

    def folder(self, job: Job) -> Path:
        """The job's folder under the work folder."""
        return self.work / "jobs" / job.id

    @property
    def dist(self) -> Path:
        """Where finished wheels go."""
        return self.work / "dist"

    def claim(self, wheel: str, job: Job) -> None:
        """Note that `job` makes the wheel of that name. Raises RepairError where another job does too."""
        with self.lock:
            owner = self.claimed.setdefault(wheel, job.id)
        if owner != job.id:
            raise RepairError(
                f"{job.id} and {owner} both make {wheel}",
                where="the wheel's tag serves both CPythons (abi3 or py3)",
                next_step="build one of them: --python, or --only",
            )

    def log(self, job: Job) -> Path:
        """The job's log."""
        return self.work / "logs" / f"{job.id}.log"


@dataclass(frozen=True)
class Step:
    """A stage at work on a job: what it may read, and how it tells what it does.

    `before` are the records of the stages before it.
    """

    farm: Farm
    job: Job
    before: Mapping[str, Record]
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.farm.folder(self.job)

    @property
    def log(self) -> Path:
        return self.farm.log(self.job)

    @property
    def shell(self) -> Shell:
        """Where the stage's commands run: the store, which is outside every project, so that uv finds no settings."""
        env = toolbox.environment(self.farm.store.uv_cache, self.farm.store.root)
        return Shell(self.farm.runner, env, self.farm.store.root, self.log, self.say)

    def output(self, stage: str) -> Path:
        """The one file or folder that an earlier stage made."""
        (artifact,) = self.before[stage].outputs
        return self.farm.work / artifact.path

    def digest_of(self, stage: str) -> str:
        """SHA-256 of what an earlier stage made."""
        (artifact,) = self.before[stage].outputs
        return artifact.sha256


@dataclass(frozen=True)
class Outcome:
    """What a stage made, and facts worth telling."""

    outputs: tuple[Path, ...] = ()
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A named stage: its inputs, which decide whether it is fresh; its work; and what it must hold meanwhile.

    `holding` is given the job's place in the plan.
    """

    name: str
    inputs: Callable[[Step], Mapping[str, Any]]
    work: Callable[[Step], Outcome]
    holding: Callable[[Farm, int], contextlib.AbstractContextManager[object]] = lambda *_: contextlib.nullcontext()


def _fresh(farm: Farm, path: Path, digest: str) -> Record | None:
    """The stage's record, if it was made from the same inputs and its outputs are still there, byte for byte."""
    record = records.read(path)
    if record and record.digest == digest and all(records.intact(output, farm.work) for output in record.outputs):
        return record
    return None


def pending(farm: Farm, jobs: Sequence[Job], stages: Sequence[Stage]) -> dict[str, str]:
    """Jobs that are not all fresh, by id, each with its first stage that has to run."""
    found = {}
    for job in jobs:
        before: dict[str, Record] = {}
        for stage in stages:
            step = Step(farm, job, before, lambda _: None)
            path = records.path_of(farm.folder(job), stage.name)
            record = None if farm.force else _fresh(farm, path, records.digest(stage.inputs(step)))
            if record is None:
                found[job.id] = stage.name
                break
            before[stage.name] = record
    return found


class _JobRun:
    """One job through all its stages, in a thread of its own."""

    def __init__(self, farm: Farm, job: Job, number: int, stages: Sequence[Stage], progress: Progress) -> None:
        self.farm, self.job, self.number, self.stages, self.progress = farm, job, number, stages, progress
        self.results: list[StageResult] = []

    def run(self) -> JobResult:
        error: FarmError | None = None
        wheel: Path | None = None
        try:
            for stage in self.stages:
                self.results.append(self._stage(stage))
            wheel = self._deliver()
        except FarmError as caught:
            error = caught
        except OSError as caught:
            error = _disk_or_bug(caught, self.job, self.farm)
        except Exception as caught:  # one job's bug must not cost the others their report
            error = _bug(caught, self.job, self.farm)
        if error:
            self._withdraw()
            self.progress.ended(self.job, "failed", error.what)
        else:
            self.progress.ended(self.job, "kept" if all(r.kept for r in self.results) else "done")
        wheel = wheel or self._finished()
        artifact = records.artifact(wheel, self.farm.work) if wheel and wheel.exists() else None
        return JobResult(self.job, tuple(self.results), artifact, error, str(self.farm.log(self.job)))

    def _stage(self, stage: Stage) -> StageResult:
        self.farm.runner.check()
        before = {result.record.stage: result.record for result in self.results}
        step = Step(self.farm, self.job, before, lambda line: self.progress.said(self.job, line))
        path = records.path_of(step.folder, stage.name)
        inputs = stage.inputs(step)
        digest = records.digest(inputs)
        if not self.farm.force and (record := _fresh(self.farm, path, digest)):
            return StageResult(record, kept=True)
        self._withdraw()
        with stage.holding(self.farm, self.number):
            self.progress.started(self.job, stage.name)
            start = time.monotonic()
            self._log_heading(stage)
            outcome = stage.work(step)
            seconds = time.monotonic() - start
        record = Record(
            stage=stage.name,
            job=self.job.id,
            digest=digest,
            outputs=tuple(records.artifact(output, self.farm.work) for output in outcome.outputs),
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            tools={**toolbox.versions(), **self.farm.engine.toolchain(self.job)},
            details=outcome.details,
            inputs={name: records.digest(value) for name, value in inputs.items()},
        )
        records.write(record, path)
        self.progress.finished(self.job, stage.name, seconds)
        return StageResult(record, kept=False)

    def _log_heading(self, stage: Stage) -> None:
        """Begin the stage's part of the log; those of kept stages stay, those of this stage and later ones go."""
        log = self.farm.log(self.job)
        log.parent.mkdir(parents=True, exist_ok=True)
        text = log.read_text("utf-8", "replace") if log.exists() else ""
        later = [s.name for s in self.stages[self.stages.index(stage) :]]
        place = min((p for name in later if (p := text.find(f"{STAGE_MARK}{name} ")) >= 0), default=len(text))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        log.write_text(f"{text[:place]}{STAGE_MARK}{stage.name} {self.job.id} {now}\n", "utf-8")

    def _finished(self) -> Path | None:
        """The job's relocated wheel, in the job's own folder."""
        made = [result.record.outputs for result in self.results if result.record.stage == "relocate"]
        return self.farm.work / made[0][0].path if made else None

    def _deliver(self) -> Path | None:
        """Put the wheel of a job that went well into the dist folder, whole or not at all."""
        wheel = self._finished()
        if wheel is None:
            return None
        self.farm.claim(wheel.name, self.job)
        final = self.farm.dist / wheel.name
        if not (final.exists() and sha256(final) == sha256(wheel)):
            self.farm.dist.mkdir(exist_ok=True)
            scratch = self.farm.dist / f".{self.job.id}"
            shutil.copyfile(wheel, scratch)
            scratch.replace(final)
        delivered = self.farm.folder(self.job) / "delivered"
        if not delivered.exists() or delivered.read_text("utf-8") != wheel.name:
            delivered.write_text(wheel.name, "utf-8")
        return final

    def _withdraw(self) -> None:
        """Take the job's wheel out of the dist folder: what lies there has passed every stage it was to pass."""
        with contextlib.suppress(OSError):
            delivered = self.farm.folder(self.job) / "delivered"
            (self.farm.dist / delivered.read_text("utf-8")).unlink(missing_ok=True)
            delivered.unlink()


def _disk_or_bug(error: OSError, job: Job, farm: Farm) -> FarmError:
    # shutil.Error, which copytree raises, has no errno but the messages of all its files.
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return DiskError(
            f"{job.id}: the disk is full: {error.strerror or 'No space left on device'}",
            where=str(farm.work),
            next_step="free some and run again",
        )
    return _bug(error, job, farm)


def _bug(error: Exception, job: Job, farm: Farm) -> FarmError:
    log = farm.log(job)
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    return InternalError(
        f"{job.id}: {type(error).__name__}: {error}", where=str(log), next_step="a bug in the farm: please report it"
    )


def run(farm: Farm, jobs: Sequence[Job], stages: Sequence[Stage], progress: Progress) -> tuple[JobResult, ...]:
    """Run every job's stages, all jobs side by side. A job that fails does not stop the others.

    Raises Interrupted when the run was cancelled; finished stages keep their records.
    """
    with progress, ThreadPoolExecutor(max_workers=max(1, len(jobs)), thread_name_prefix="job") as pool:
        rank = {job.id: number for number, job in enumerate(history.longest_first(jobs, farm.work))}
        runs = [_JobRun(farm, job, rank[job.id], stages, progress) for job in jobs]
        futures = [pool.submit(one.run) for one in runs]
        try:
            while wait(futures, timeout=0.2).not_done:
                pass
        except BaseException:
            farm.runner.cancel(2)
            raise
    results = tuple(future.result() for future in futures)
    if farm.runner.cancelled:
        raise next((r.error for r in results if isinstance(r.error, Interrupted)), Interrupted())
    return results
