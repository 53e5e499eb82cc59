"""How stages and jobs ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from torch_build_farm.core.errors import FarmError, exit_code
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
    """How a job ended: its stages in order, its wheel if it came so far, and the error if it failed."""

    job: Job
    stages: tuple[StageResult, ...]
    wheel: Artifact | None
    error: FarmError | None
    log: str

    @property
    def kept(self) -> bool:
        """Whether nothing had to be done."""
        return self.error is None and all(stage.kept for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Seconds that this run spent on the job's stages, waiting left out."""
        return sum(stage.record.seconds for stage in self.stages if not stage.kept)

    @property
    def tag(self) -> str:
        """The wheel's platform tag as PEP 600 spells it, without the older aliases."""
        tags = self.wheel.path.removesuffix(".whl").rsplit("-", 1)[1].split(".") if self.wheel else [""]
        return next((tag for tag in tags if tag.startswith("manylinux_")), tags[0])

    def detail(self, stage: str, key: str) -> str:
        """A fact from a stage's record; "" where there is none."""
        return next((s.record.details.get(key, "") for s in self.stages if s.record.stage == stage), "")

    def as_json(self, work: str) -> dict[str, Any]:
        """For programs; the wheel's path is absolute."""
        return {
            "job": self.job.id,
            "status": "failed" if self.error else "kept" if self.kept else "done",
            "seconds": round(self.seconds, 2),
            "log": self.log,
            "wheel": {**asdict(self.wheel), "path": f"{work}/{self.wheel.path}", "tag": self.tag}
            if self.wheel
            else None,
            "stages": [
                {"stage": s.record.stage, "kept": s.kept, "seconds": s.record.seconds, "details": s.record.details}
                for s in self.stages
            ],
            "error": {
                "kind": type(self.error).__name__,
                "exit_code": exit_code(self.error),
                "what": self.error.what,
                "where": self.error.where,
                "next": self.error.next_step,
            }
            if self.error
            else None,
        }


class Progress(Protocol):
    """Who is told how jobs come along, from several threads; a context manager around the whole run."""

    def __enter__(self) -> object:
        """The run begins."""

    def __exit__(self, *_: object) -> None:
        """The run is over."""

    def started(self, job: Job, stage: str) -> None:
        """A stage begins."""

    def said(self, job: Job, line: str) -> None:
        """What a job's command just printed."""

    def finished(self, job: Job, stage: str, seconds: float) -> None:
        """A stage is done."""

    def ended(self, job: Job, status: Status, line: str = "") -> None:
        """A job is over; `line` says why it failed."""
