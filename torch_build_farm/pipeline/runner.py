"""Runs stages over jobs, side by side: fresh results are kept, all other stages run, and each leaves its record."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from torch_build_farm.core import tools
from torch_build_farm.core.errors import FarmError, InternalError, Interrupted, of_the_machine
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.pipeline import estimates, records, workfolder
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.results import JobResult, Progress, StageResult
from torch_build_farm.pipeline.stage import RunContext, Stage, Step
from torch_build_farm.project.plan import Job


def run(context: RunContext, jobs: Sequence[Job], stages: Sequence[Stage], progress: Progress) -> tuple[JobResult, ...]:
    """Run every job's stages, all jobs side by side. A job that fails does not stop the others.

    Raises Interrupted when the run was cancelled; finished stages keep their records.
    """
    ranks = {}
    for rank, job in enumerate(estimates.longest_first(jobs, context.work)):
        ranks[job.id] = rank

    # A thread for each job, since nearly all of its time a job waits: for its turn, or for a process that it started.
    with progress, ThreadPoolExecutor(max_workers=max(1, len(jobs)), thread_name_prefix="job") as pool:
        futures = []
        for job in jobs:
            job_run = _JobRun(context, job, ranks[job.id], stages, progress)
            futures.append(pool.submit(job_run.run))
        try:
            while wait(futures, timeout=0.2).not_done:
                pass
        except BaseException:
            # Without this, leaving the pool would wait until every job has run to its end.
            context.runner.cancel(2)
            raise

    results = tuple(future.result() for future in futures)
    if context.runner.cancelled:
        # A job's own error has the signal that arrived, and with it the exit code.
        for result in results:
            if isinstance(result.error, Interrupted):
                raise result.error
        raise Interrupted
    return results


def pending(context: RunContext, jobs: Sequence[Job], stages: Sequence[Stage]) -> dict[str, Stage]:
    """The first stage that has to run of each job, by the job's id; jobs that are all fresh are left out."""
    first_stages = {}
    for job in jobs:
        before: dict[str, Record] = {}
        for stage in stages:
            record = None
            if not context.force:
                step = Step(context, job, before, lambda _: None)
                path = records.path_of(context.folder(job), stage.name)
                record = _fresh(context, path, records.digest(stage.inputs(step)))
            if record is None:
                # The inputs of later stages are not known before this one has run.
                first_stages[job.id] = stage
                break
            before[stage.name] = record
    return first_stages


def _fresh(context: RunContext, path: Path, digest: str) -> Record | None:
    """The stage's record, if it was made from the same inputs and its outputs still exist, byte for byte."""
    record = records.read(path)
    if record is None or record.digest != digest:
        return None
    for output in record.outputs:
        if not records.intact(output, context.work):
            return None
    return record


def _first_heading(log: BinaryIO, stages: Iterable[str]) -> int:
    """Where in a log the first part of one of these stages begins, in bytes; the log's end where there is none."""
    end = log.seek(0, os.SEEK_END)
    if not end:
        return 0
    first = end
    # Mapped and not read: a build may have printed hundreds of megabytes.
    with mmap.mmap(log.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name in stages:
            heading = content.find(f"{STAGE_MARK}{name} ".encode())
            if heading >= 0:
                first = min(first, heading)
    return first


class _JobRun:
    """One job through all its stages, in a thread of its own.

    `rank` is the job's place in line for build and smoke slots, 0 first.
    """

    def __init__(self, context: RunContext, job: Job, rank: int, stages: Sequence[Stage], progress: Progress) -> None:
        self.context = context
        self.job = job
        self.rank = rank
        self.stages = stages
        self.progress = progress
        self.results: list[StageResult] = []

    def run(self) -> JobResult:
        """Run the stages, and deliver the wheel if all of them succeed. Errors are not raised: the result has them."""
        # Whatever goes wrong becomes the job's error: the other jobs go on, and the report shows them all.
        error: FarmError | None = None
        wheel: Path | None = None
        try:
            for stage in self.stages:
                self.results.append(self._stage(stage))
            wheel = self._deliver()
        except FarmError as caught:
            error = caught
        except OSError as caught:
            error = _disk_or_bug(caught, self.job, self.context)
        except Exception as caught:
            error = _bug(caught, self.job, self.context)

        # Only a job that passed all its stages has a wheel in the dist folder.
        if error:
            self._withdraw()
            self.progress.ended(self.job, "failed", error.what)
        else:
            kept = all(result.kept for result in self.results)
            self.progress.ended(self.job, "kept" if kept else "done")

        # The result shows a failed job's wheel too, in the job's own folder, so that people can look at it.
        wheel = wheel or self._finished_wheel()
        artifact = records.artifact(wheel, self.context.work) if wheel and wheel.exists() else None
        return JobResult(self.job, tuple(self.results), artifact, error, str(self.context.log(self.job)))

    def _stage(self, stage: Stage) -> StageResult:
        """Keep the stage's record if it is fresh, else do the stage's work and write a new one."""
        self.context.runner.check()

        # Fresh is what was made from the same inputs; the inputs of a stage hold the digests of the stages before it.
        before = {result.record.stage: result.record for result in self.results}
        step = Step(self.context, self.job, before, lambda line: self.progress.printed(self.job, line))
        path = records.path_of(step.folder, stage.name)
        inputs = stage.inputs(step)
        digest = records.digest(inputs)
        fresh = None if self.context.force else _fresh(self.context, path, digest)
        if fresh:
            return StageResult(fresh, kept=True)

        # From here on the wheel in the dist folder, if there is one, no longer belongs to what the records say.
        self._withdraw()
        with stage.holding(self.context, self.rank):
            self.progress.started(self.job, stage.name)
            start = time.monotonic()
            self._log_heading(stage)
            outcome = stage.work(step)
            seconds = time.monotonic() - start  # of work alone: waiting in line came before

        # The record is the last thing to be written: a stage that was interrupted has none, and runs again.
        record = Record(
            stage=stage.name,
            job=self.job.id,
            digest=digest,
            outputs=tuple(records.artifact(output, self.context.work) for output in outcome.outputs),
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            tools={**tools.versions(), **self.context.engine.toolchain(self.job)},
            details=outcome.facts,
            inputs={name: records.digest(value) for name, value in inputs.items()},
        )
        records.write(record, path)
        self.progress.finished(self.job, stage.name, seconds)
        return StageResult(record, kept=False)

    def _log_heading(self, stage: Stage) -> None:
        """Begin the stage's part of the log. Parts of kept stages stay; parts of this and later stages are removed."""
        log = self.context.log(self.job)
        log.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with log.open("a+b") as stream:
            stream.truncate(_first_heading(stream, [later.name for later in self.stages[self.stages.index(stage) :]]))
            stream.write(f"{STAGE_MARK}{stage.name} {self.job.id} {now}\n".encode())

    def _finished_wheel(self) -> Path | None:
        """The job's finished wheel, in the job's own folder; None where no stage has made it."""
        makers = {stage.name for stage in self.stages if stage.makes_wheel}
        for result in self.results:
            if result.record.stage in makers:
                return self.context.work / result.record.outputs[0].path
        return None

    def _deliver(self) -> Path | None:
        """Copy the wheel of a job that succeeded into the dist folder, atomically."""
        wheel = self._finished_wheel()
        if wheel is None:
            return None
        self.context.claim(wheel.name, self.job)
        return workfolder.deliver(wheel, self.context.folder(self.job), self.context.work)

    def _withdraw(self) -> None:
        """Take the job's wheel out of the dist folder."""
        workfolder.withdraw(self.context.folder(self.job), self.context.work)


def _disk_or_bug(error: OSError, job: Job, context: RunContext) -> FarmError:
    """The error for an OSError that no stage expects: the machine is to blame, or the farm has a bug."""
    known = of_the_machine(error)
    if known is None or (
        error.errno == errno.ENOENT and error.filename
    ):  # a file that the farm itself should have made
        return _bug(error, job, context)
    return type(known)(f"{job.id}: {known.what}", where=known.where or str(context.work), next_step=known.next_step)


def _bug(error: Exception, job: Job, context: RunContext) -> FarmError:
    """The error for an exception that no stage expects; the traceback goes into the job's log."""
    log = context.log(job)
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as stream:
        traceback.print_exception(error, file=stream)
    return InternalError(
        f"{job.id}: {type(error).__name__}: {error}", where=str(log), next_step="a bug in the farm: please report it"
    )
