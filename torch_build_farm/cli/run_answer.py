"""The documents of the commands that run stages: `run`, `render`, `build`, `smoke`, and `add --build`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.cli.answer import Answer, ErrorDetails
from torch_build_farm.pipeline.results import JobResult, RunResult, Status
from torch_build_farm.publish.publication import Publication


@dataclass(frozen=True)
class WheelRow:
    """A job's wheel: its path, absolute, its SHA-256, its size in bytes, and its platform tag."""

    path: str
    sha256: str
    size: int
    tag: str


@dataclass(frozen=True)
class StageRow:
    """A stage of a job: whether it was kept from an earlier run, its seconds, and what it found out, as text."""

    stage: str
    kept: bool
    seconds: float
    details: dict[str, str]


@dataclass(frozen=True)
class JobRow:
    """How a job ended. `stages` ends before the stage that failed; `seconds` leaves out waiting and what was kept."""

    job: str
    status: Status
    seconds: float
    log: str
    wheel: WheelRow | None
    stages: tuple[StageRow, ...]
    error: ErrorDetails | None

    @classmethod
    def of(cls, result: JobResult, work: Path) -> JobRow:
        """The row of a job of a run in the work folder `work`."""
        wheel = None
        if result.wheel:
            path = f"{work}/{result.wheel.path}"
            wheel = WheelRow(path, result.wheel.sha256, result.wheel.size, result.tag)
        stages = []
        for stage in result.stages:
            record = stage.record
            details = record.details.text() if record.details else {}
            stages.append(StageRow(record.stage, stage.kept, record.seconds, details))
        return cls(
            job=result.job.id,
            status=result.status,
            seconds=round(result.seconds, 2),
            log=result.log,
            wheel=wheel,
            stages=tuple(stages),
            error=ErrorDetails.of(result.error) if result.error else None,
        )


@dataclass(frozen=True, kw_only=True)
class RunAnswer(Answer):
    """The document of a run: its jobs in the order of the plan, and the seconds that it took as a whole."""

    seconds: float
    jobs: tuple[JobRow, ...]

    @classmethod
    def of(cls, result: RunResult) -> RunAnswer:
        """The document of a run that has ended."""
        jobs = tuple(JobRow.of(job, result.work) for job in result.jobs)
        return cls(seconds=round(result.seconds, 2), jobs=jobs)


@dataclass(frozen=True, kw_only=True)
class RunAndPublishAnswer(RunAnswer):
    """The document of `run --publish` if no job failed: `publish` is that of `publish`, without its `schema`."""

    publish: Publication
