"""Runs stages over jobs, side by side: fresh results are kept, all other stages run, and each leaves its record."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from torch_build_farm.core import tools
from torch_build_farm.core.errors import CoreError, FarmError, InternalError, Interrupted, of_the_machine
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.pipeline import estimates, records, workfolder
from torch_build_farm.pipeline.records import WHEEL_STAGE, Record
from torch_build_farm.pipeline.results import JobResult, Progress, StageResult
from torch_build_farm.pipeline.shared_wheels import earlier_jobs, jobs_of_variant, serves
from torch_build_farm.pipeline.stage import RunContext, Stage, Step
from torch_build_farm.pipeline.stages.order import stages_of
from torch_build_farm.project.plan import Job

T = TypeVar("T")
_POLL_S = 0.2  # between two looks whether the run was cancelled


def run(context: RunContext, jobs: Sequence[Job], stages: Sequence[Stage], progress: Progress) -> tuple[JobResult, ...]:
    """Run every job's stages, all jobs side by side. A job that fails does not stop the others.

    Raises Interrupted when the run was cancelled; finished stages keep their records.
    """
    ranks = {}
    # Cores before all others, which wait for them.
    in_line = sorted(estimates.longest_first(jobs, context.work), key=lambda job: job.variant.needs_torch)
    for rank, job in enumerate(in_line):
        ranks[job.id] = rank

    # A thread for each job, since nearly all of its time a job waits: for its turn, or for a process that it started.
    with progress, ThreadPoolExecutor(max_workers=max(1, len(jobs)), thread_name_prefix="job") as pool:
        job_runs = {}
        for job in jobs:
            job_runs[job.id] = _JobRun(context, job, ranks[job.id], stages_of(job, stages), progress)
        cores = {(job.platform, job.python): job_runs[job.id] for job in jobs if not job.variant.needs_torch}
        for job in jobs:
            if job.variant.needs_torch:
                job_runs[job.id].core = cores.get((job.platform, job.python))
            job_runs[job.id].of_variant = [job_runs[other.id] for other in jobs_of_variant(jobs, job)]
        futures = [pool.submit(job_run.run) for job_run in job_runs.values()]
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
    fresh: dict[str, dict[str, Record]] = {}  # the records of each job by their stages
    core_of = {(job.platform, job.python): job.id for job in jobs if not job.variant.needs_torch}
    # The plan has the cores first.
    for job in jobs:
        stages_of_job = stages_of(job, stages)
        fresh_of_earlier = [fresh.get(other.id, {}) for other in earlier_jobs(jobs, job)]
        before = fresh[job.id] = _shared_records(stages_of_job, fresh_of_earlier, job)
        core_id = core_of.get((job.platform, job.python)) if job.variant.needs_torch else None
        beside_core = core_id is not None
        core = fresh[core_id].get(WHEEL_STAGE) if core_id is not None else None
        for stage in stages_of_job:
            if stage.name in before:
                continue
            record = None
            # What is done beside a core depends on a wheel that is still to be made.
            is_known = core is not None or not (beside_core and stage.beside_core)
            if is_known and not context.force:
                step = Step(context, job, before, lambda _: None, core)
                path = records.path_of(context.folder(job), stage.name)
                record = _fresh(context, path, records.digest(stage.inputs(step)))
            if record is None:
                # The inputs of later stages are not known before this one has run.
                first_stages[job.id] = stage
                break
            before[stage.name] = record
    return first_stages


def _shared_records(
    stages: Sequence[Stage], fresh_of_earlier: Iterable[Mapping[str, Record]], job: Job
) -> dict[str, Record]:
    """The records that a job has from the first of the earlier jobs whose wheel serves it; none where none does.

    `fresh_of_earlier` are the fresh records of each earlier job.
    """
    shared = [stage.name for stage in stages if not stage.per_cpython]
    for fresh in fresh_of_earlier:
        wheel = _wheel_of(stages, fresh.values())
        if wheel and serves(wheel, job.python) and all(name in fresh for name in shared):
            return {name: fresh[name] for name in shared}
    return {}


def _wheel_of(stages: Sequence[Stage], of_job: Iterable[Record]) -> str:
    """The file name of the finished wheel by the records of its job; empty where no stage has made it."""
    makers = {stage.name for stage in stages if stage.makes_wheel}
    for record in of_job:
        if record.stage in makers:
            return PurePosixPath(record.outputs[0].path).name
    return ""


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
        self.core: _JobRun | None = None  # the job of the core that this one is beside
        self.of_variant: Sequence[_JobRun] = ()  # the jobs of the same variant with this one, the oldest CPython first
        self.maker = self  # the job whose wheel this one tests: its own, or an earlier one that serves its CPython
        self.results: list[StageResult] = []
        self.error: FarmError | None = None
        self.proven = threading.Event()  # what others may share of the job is done, or the job has failed
        self.over = threading.Event()  # its stages are done, or it has failed

    def run(self) -> JobResult:
        """Run the stages, and deliver the wheel if all of them succeed. Errors are not raised: the result has them."""
        self._attempt(self._run_stages)
        self.proven.set()
        self.over.set()
        # Only a job that passed all its stages has a wheel in the dist folder.
        wheel: Path | None = None
        if not self.error:
            wheel = self._attempt(self._deliver)
        if self.error:
            self._withdraw()
            self.progress.ended(self.job, "failed", self.error.what)
        else:
            kept = all(result.kept for result in self.results)
            self.progress.ended(self.job, "kept" if kept else "done")

        # The result shows a failed job's wheel too, in the job's own folder, so that people can look at it.
        wheel = wheel or self._finished_wheel()
        artifact = records.artifact(wheel, self.context.work) if wheel and wheel.exists() else None
        return JobResult(self.job, tuple(self.results), artifact, self.error, str(self.context.log(self.job)))

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """What `work` returns. Whatever goes wrong becomes the job's error: the other jobs go on, and the report shows
        them all.
        """
        try:
            return work()
        except FarmError as caught:
            self.error = caught
        except OSError as caught:
            self.error = _disk_or_bug(caught, self.job, self.context)
        except Exception as caught:
            self.error = _bug(caught, self.job, self.context)
        return None

    def _run_stages(self) -> None:
        if self.core:
            self._await_core(self.core)
        if self.context.may_share_wheels or self._was_served():
            self._share_earlier_wheel()
        shared = [stage.name for stage in self.stages if not stage.per_cpython]
        for stage in self.stages:
            if self.maker is not self and stage.name in shared:
                continue
            self.results.append(self._stage(stage))
            # A tag for several CPythons that nothing announced: this wheel was built in vain, and the next run knows.
            if stage.makes_wheel and any(self._serves(run) for run in self._earlier):
                self._share_earlier_wheel()
            if stage.name == shared[-1]:
                self.proven.set()

    @property
    def _earlier(self) -> Sequence[_JobRun]:
        """The jobs of the same variant with an older CPython, the oldest first."""
        return self.of_variant[: self.of_variant.index(self)]

    def _serves(self, run: _JobRun) -> bool:
        """Whether this job's wheel is one for the CPython of another job."""
        wheel = _wheel_of(self.stages, [result.record for result in self.results])
        return bool(wheel) and serves(wheel, run.job.python)

    def _was_served(self) -> bool:
        """Whether an earlier job's wheel of the last run is one for this job's CPython."""
        makers = [stage.name for stage in self.stages if stage.makes_wheel]
        for run in self._earlier:
            for name in makers:
                record = records.read(records.path_of(self.context.folder(run.job), name))
                if record and serves(_wheel_of(self.stages, [record]), self.job.python):
                    return True
        return False

    def _share_earlier_wheel(self) -> None:
        """Take the wheel of the first earlier job that serves this one, with all that holds for every CPython.

        Raises that job's error where it failed after it had made the wheel.
        """
        shared = [stage.name for stage in self.stages if not stage.per_cpython]
        for run in self._earlier:
            self._wait(run.proven)
            if not run._serves(self):
                continue
            results = [result for result in run.results if result.record.stage in shared]
            if run.error and len(results) < len(shared):
                raise run.error
            self.maker = run.maker
            self.results = [replace(result, kept=True) for result in results]
            return

    def _await_core(self, core: _JobRun) -> None:
        """Wait until the core is done. Raises CoreError where it failed."""
        self._wait(core.over)
        if core.error:
            raise CoreError(
                f"{self.job.id}: not started, since {core.job.id} failed, which it adds to",
                where=str(self.context.log(core.job)),
                next_step=f"mend {core.job.id} first: {core.error.what}",
            )

    @property
    def _core_record(self) -> Record | None:
        """The record with the wheel of the core that this job is beside, if there is one, and its stages are run."""
        if self.core is None:
            return None
        records_of_core = {result.record.stage: result.record for result in self.core.results}
        return records_of_core.get(WHEEL_STAGE)

    def _wait(self, event: threading.Event) -> None:
        """Wait for another job. Raises Interrupted when the run is cancelled meanwhile."""
        while not event.wait(_POLL_S):
            self.context.runner.check()

    def _stage(self, stage: Stage) -> StageResult:
        """Keep the stage's record if it is fresh, else do the stage's work and write a new one."""
        self.context.runner.check()

        # Fresh is what was made from the same inputs; the inputs of a stage hold the digests of the stages before it.
        before = {result.record.stage: result.record for result in self.results}
        step = Step(
            self.context, self.job, before, lambda line: self.progress.printed(self.job, line), self._core_record
        )
        path = records.path_of(step.folder, stage.name)
        inputs = stage.inputs(step)
        digest = records.digest(inputs)
        fresh = None if self.context.force else _fresh(self.context, path, digest)
        if fresh:
            return StageResult(fresh, kept=True)

        # From here on the wheel in the dist folder, if there is one, no longer belongs to what the records say.
        self._withdraw()
        with stage.holding(self.context, self.job, self.rank):
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
        """Copy the wheel of a job that succeeded into the dist folder, atomically.

        A wheel for several CPythons gets there if the jobs of all of them succeeded.
        """
        wheel = self._finished_wheel()
        if wheel is None:
            return None
        sharing = [run for run in self.of_variant if run is not self and self._serves(run)]
        for run in sharing:
            self._wait(run.over)
        if any(run.error for run in sharing):
            self._withdraw()
            return None
        self.context.claim(wheel.name, self.maker.job)
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
