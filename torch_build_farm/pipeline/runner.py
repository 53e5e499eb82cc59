"""Stages over jobs: what is fresh is kept, what is not is run, side by side, and every stage leaves its record."""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

from torch_build_farm.core import tools
from torch_build_farm.core.errors import DiskError, FarmError, InternalError, Interrupted
from torch_build_farm.core.files import copy_whole, sha256
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.pipeline import estimates, records
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.results import JobResult, Progress, StageResult
from torch_build_farm.pipeline.stage import Farm, Stage, Step
from torch_build_farm.project.plan import Job


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
            tools={**tools.versions(), **self.farm.engine.toolchain(self.job)},
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
            copy_whole(wheel, final)
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
        rank = {job.id: number for number, job in enumerate(estimates.longest_first(jobs, farm.work))}
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
