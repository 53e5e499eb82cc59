"""What a stage is, and what it works from."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch_build_farm.core import tools
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import Minor
from torch_build_farm.engines.base import Engine
from torch_build_farm.pipeline.facts import Facts, SomeFacts
from torch_build_farm.pipeline.first_builds import FirstBuilds
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.records import Record
from torch_build_farm.pipeline.rendered_tree import Tree
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, Settings
from torch_build_farm.project.tree import Source

if TYPE_CHECKING:
    from torch_build_farm.audit.tables import AuditTables

Mode = Literal["full", "import", "none"]


@dataclass(frozen=True)
class RunContext:
    """What all jobs and stages of a run share.

    `trees` has each job's rendered tree by the job's id; `audit_tables` take about 80 MB once an audit has used
    them, and `audit_tables_sha256` is over their files. `announce` shows people a line that concerns all jobs.
    """

    project: Project
    source: Source
    engine: Engine
    store: TorchStore
    runner: Runner
    work: Path
    minors: frozenset[Minor]  # of the run's jobs
    smoke: Mode
    force: bool
    epoch: int  # SOURCE_DATE_EPOCH, Unix seconds
    jobserver: Jobserver
    build_slots: Slots
    first_builds: FirstBuilds
    smoke_slots: Slots
    compilers_per_build: int  # for a build that no jobserver reaches
    trees: Mapping[str, Once[Tree]]
    audit_tables: Once[AuditTables]
    audit_tables_sha256: Once[list[str]]
    announce: Callable[[str], None]
    may_share_wheels: bool = False  # shared_wheels.may_be_shared
    announced: set[str] = field(default_factory=set)
    claimed: dict[str, str] = field(default_factory=dict)  # file name in dist -> job
    lock: threading.Lock = field(default_factory=threading.Lock)

    def folder(self, job: Job) -> Path:
        """The job's folder under the work folder."""
        return self.work / "jobs" / job.id

    def tree(self, job: Job) -> Tree:
        """The job's source tree, rendered in memory. Raises RenderError."""
        return self.trees[job.id].get()

    @property
    def dist(self) -> Path:
        """Where finished wheels go."""
        return self.work / "dist"

    def claim(self, wheel: str, job: Job) -> None:
        """Note that `job` makes the wheel of that name. Raises RepairError where another job does too."""
        # Jobs run in threads of their own, and two may finish their wheels at the same time.
        with self.lock:
            owner = self.claimed.setdefault(wheel, job.id)
        if owner != job.id:
            # The later one would overwrite the other's wheel in the dist folder.
            raise RepairError(
                f"{job.id} and {owner} both make {wheel}",
                where="the wheel's tag serves both CPythons (abi3 or py3)",
                next_step="build one of them: --python, or --only",
            )

    def announce_once(self, topic: str, line: str) -> None:
        """Show people a line, unless another job has announced the same topic."""
        with self.lock:
            is_new = topic not in self.announced
            self.announced.add(topic)
        if is_new:
            self.announce(line)

    def log(self, job: Job) -> Path:
        """The job's log."""
        return self.work / "logs" / f"{job.id}.log"


@dataclass(frozen=True)
class Step:
    """A stage at work on a job.

    `before` has the records of the job's earlier stages by their names; `say` shows a line to people. `core` is the
    record with the wheel of the core for the job's CPython; None for a job that is not beside one.
    """

    context: RunContext
    job: Job
    before: Mapping[str, Record]
    say: Callable[[str], None]
    core: Record | None = None

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return self.context.folder(self.job)

    @property
    def log(self) -> Path:
        """The job's log."""
        return self.context.log(self.job)

    @property
    def shell(self) -> Shell:
        """Where the stage's commands run: the store, which is outside every project, so that uv finds no settings."""
        store = self.context.store
        env = tools.environment(store.uv_cache, store.root)
        return Shell(self.context.runner, env, store.root, self.log, self.say)

    def output(self, stage: Stage) -> Path:
        """The one file or folder that an earlier stage made."""
        (artifact,) = self.before[stage.name].outputs
        return self.context.work / artifact.path

    def digest_of(self, stage: Stage) -> str:
        """SHA-256 of what an earlier stage made."""
        (artifact,) = self.before[stage.name].outputs
        return artifact.sha256

    @property
    def core_wheel(self) -> Path | None:
        """The wheel of the core for the job's CPython; None for a job that is not beside one."""
        return self.context.work / self.core.outputs[0].path if self.core else None

    @property
    def core_digest(self) -> str:
        """SHA-256 of the core's wheel; empty where there is none."""
        return self.core.outputs[0].sha256 if self.core else ""

    @property
    def settings(self) -> Settings:
        """The settings of the job."""
        return self.context.project.settings.for_job(self.job.variant, self.job.python)

    def facts(self, stage: Stage, kind: type[SomeFacts]) -> SomeFacts:
        """What an earlier stage found out."""
        return self.before[stage.name].facts(kind)


@dataclass(frozen=True)
class Outcome:
    """What a stage made, and its facts."""

    outputs: tuple[Path, ...] = ()
    facts: Facts | None = None


@dataclass(frozen=True)
class Stage:
    """A named stage: its inputs, which decide whether it is fresh; its work; and what it holds meanwhile.

    `holding` is given the job and its rank, the lowest first in line. The first output of a stage that `makes_wheel` is
    the job's finished wheel. What a stage `per_cpython` finds out holds for the job's CPython alone, also where several
    jobs share a wheel. A stage `beside_core` looks at the core's wheel too, where the project has a core.
    """

    name: str
    inputs: Callable[[Step], Mapping[str, Any]]
    work: Callable[[Step], Outcome]
    holding: Callable[[RunContext, Job, int], contextlib.AbstractContextManager[object]] = lambda *_: (
        contextlib.nullcontext()
    )
    makes_wheel: bool = False
    per_cpython: bool = False
    beside_core: bool = False
