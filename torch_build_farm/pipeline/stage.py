"""What a stage is, and what it works from."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch_build_farm.core import tools
from torch_build_farm.core.errors import (
    RepairError,
)
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.base import Engine
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project
from torch_build_farm.project.tree import Source

Mode = Literal["full", "import", "none"]


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
        env = tools.environment(self.farm.store.uv_cache, self.farm.store.root)
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
