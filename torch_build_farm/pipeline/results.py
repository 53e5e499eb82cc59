"""How stages, jobs and runs ended, and who is shown how they come along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch_build_farm.core.errors import FarmError, exit_code
from torch_build_farm.pipeline.facts import AuditFacts, SomeFacts
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.project.plan import Job

Status = Literal["waiting", "running", "done", "kept", "failed"]


@dataclass(frozen=True)
class StageResult:
    """One stage of one job: its record, and whether it ran now or was kept from an earlier run."""

    record: Record
    kept: bool


@dataclass(frozen=True)
class JobResult:
    """How a job ended: its stages in order, its wheel if one was made, and the error if it failed.

    `stages` ends before the stage that failed.
    """

    job: Job
    stages: tuple[StageResult, ...]
    wheel: Artifact | None
    error: FarmError | None
    log: str

    @property
    def status(self) -> Status:
        """Failed, kept where nothing had to be done, else done."""
        if self.error:
            return "failed"
        return "kept" if all(stage.kept for stage in self.stages) else "done"

    @property
    def seconds(self) -> float:
        """Seconds that this run spent on the job's stages, waiting left out."""
        return sum(stage.record.seconds for stage in self.stages if not stage.kept)

    @property
    def tag(self) -> str:
        """The wheel's platform tag as PEP 600 spells it, without the older aliases; empty without a wheel."""
        if self.wheel is None:
            return ""
        # auditwheel compresses tags: "manylinux2014_x86_64.manylinux_2_17_x86_64" is one platform under two names.
        tags = self.wheel.path.removesuffix(".whl").rsplit("-", 1)[1].split(".")
        for tag in tags:
            if tag.startswith("manylinux_"):
                return tag
        return tags[0]

    def facts(self, kind: type[SomeFacts]) -> SomeFacts | None:
        """What the stage with facts of this kind found out; None where it did not run."""
        for stage in self.stages:
            if isinstance(stage.record.details, kind):
                return stage.record.details
        return None


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its jobs in the order of the plan, the seconds that it took as a whole, and its work folder."""

    jobs: tuple[JobResult, ...]
    seconds: float
    work: Path

    @property
    def wheels(self) -> tuple[Path, ...]:
        """The wheels of the jobs that did not fail."""
        return tuple(self.work / job.wheel.path for job in self.jobs if job.wheel and not job.error)

    @property
    def exit_code(self) -> int:
        """The first failed job's, 0 where no job failed."""
        # Of the plan's first, and not of whichever job happened to fail first.
        for job in self.jobs:
            if job.error:
                return exit_code(job.error)
        return 0


def audit_verdicts(results: Iterable[JobResult]) -> dict[str, Mapping[str, str]]:
    """The audit's verdicts by torch release, of each job that was audited, by its ID."""
    verdicts = {}
    for result in results:
        audit = result.facts(AuditFacts)
        if audit:
            verdicts[result.job.id] = audit.releases
    return verdicts


class Progress(Protocol):
    """Shows how jobs come along; called from several threads. A context manager around the whole run."""

    def __enter__(self) -> object:
        """The run begins."""

    def __exit__(self, *_: object) -> None:
        """The run is over."""

    def started(self, job: Job, stage: str) -> None:
        """A stage begins."""

    def printed(self, job: Job, line: str) -> None:
        """A job's command printed a line."""

    def finished(self, job: Job, stage: str, seconds: float) -> None:
        """A stage is done."""

    def ended(self, job: Job, status: Status, line: str = "") -> None:
        """A job is over; `line` says why it failed."""
