"""A run: everything is loaded and planned before anything is touched, then carried out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import SourceError, UsageError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import torch_downloads
from torch_build_farm.engines.base import Engine
from torch_build_farm.engines.choose import choose
from torch_build_farm.pipeline import estimates, rendered_tree, runner, sdk_build, workfolder
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.results import JobResult, Progress
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.pipeline.stage import Mode, RunContext, Stage
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.workplace import Workplace
from torch_build_farm.project import tree as source
from torch_build_farm.project.fetch import EARLIEST, Fetcher, Origin
from torch_build_farm.project.plan import Job, Plan, Selection, plan
from torch_build_farm.project.settings import Project
from torch_build_farm.project.tree import Source
from torch_build_farm.releases.known import Knowledge, added_folder
from torch_build_farm.releases.sdk import fallback

if TYPE_CHECKING:
    from torch_build_farm.audit.tables import AuditTables


@dataclass(frozen=True)
class Prepared:
    """A run that is planned and has touched nothing yet."""

    project: Project
    source: Source
    engine: Engine
    why: str  # the engine, and why this one
    plan: Plan
    place: Workplace


def prepare(
    project: Project,
    selection: Selection,
    place: Workplace,
    *,
    engine: str,
    base_image: str | None = None,
    not_source: Sequence[Path] = (),
) -> Prepared:
    """Load everything and plan, without touching the work folder.

    `engine` is the name of one, or "auto". `not_source` are further folders of the farm that are no part of the source
    tree, wherever they lie.
    """
    fetched = project.settings.sdist or project.settings.git  # a path leaves the store alone
    with place.store.in_use() if fetched else contextlib.nullcontext():
        origin = Fetcher(place.store.root / "sources", place.runner, place.say).obtain(project)
    farms_folders = (place.work, *not_source, project.root / "work", place.store.root)
    exclude = (*_own_files(project, origin, farms_folders), *project.settings.exclude)
    tree = source.read(origin, exclude, project.settings.version)
    if project.smoke_script and not project.smoke_script.is_file():
        raise SourceError(
            "the smoke script does not exist",
            where=str(project.smoke_script),
            next_step="correct smoke-script in [tool.torch-build-farm]",
        )
    chosen, why = choose(engine, project, place.store, base_image)
    planned = plan(
        project,
        selection,
        version=tree.version,
        requires_python=tree.metadata.requires_python,
        engine=lambda variant: {python: one.version for python, one in chosen.interpreters(variant).items()},
        running=CPython.running(),
    )
    return Prepared(project, tree, chosen, why, planned, place)


def _own_files(project: Project, origin: Origin, folders: Sequence[Path]) -> list[str]:
    """Patterns for what of the farm lies inside the source tree: its folders, variants and templates.

    Raises UsageError where the first of `folders`, the work folder, holds the source tree.
    """
    work = folders[0]
    if origin.root.is_relative_to(work):
        raise UsageError("the work folder holds the source tree", where=str(work), next_step="--work DIR elsewhere")
    inside = [path for path in folders if path.is_relative_to(origin.root)]
    patterns = [f"/{path.relative_to(origin.root)}/" for path in inside]
    if project.root.is_relative_to(origin.root):
        root = project.root.relative_to(origin.root)
        patterns += [f"/{root / 'variants' / (variant.tag + '.toml')}" for variant in project.variants.values()]
        patterns += [f"/{root / 'templates' / path.name}" for path in project.template_folders[-1].glob("*.j2")]
    return patterns


def epoch_of(tree: Source) -> int:
    """SOURCE_DATE_EPOCH of the caller, else the source's own."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(tree.origin.epoch))
    if not text.isdigit() or int(text) < EARLIEST:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={text} is no date that a wheel can hold",
            where="environment",
            next_step=f"Unix seconds from {EARLIEST} (1980-01-01) on, or unset it",
        )
    return int(text)


def _check(context: RunContext, jobs: Sequence[Job], first: Mapping[str, Stage], say: Callable[[str], None]) -> None:
    """Find out before anything starts whether what has to run can run; `first` has each job's first stage to run."""
    due = [job for job in jobs if job.id in first]
    to_build = [job for job in due if first[job.id] in (RENDER, BUILD)]
    smoke = context.smoke != "none"
    if to_build:
        (context.work / "logs").mkdir(parents=True, exist_ok=True)
        log = context.work / "logs" / "engine.log"
        log.unlink(missing_ok=True)
        sdk_build.make_sdks_ahead(context, to_build, log)
        context.engine.check(to_build, Shell(context.runner, {}, context.store.root, log, say))
    store, full = context.engine.store, bool(fallback.why_full(context.project.settings, context.source.root))
    if due:
        torch_downloads.check_disk(
            store,
            due,
            smoke=smoke,
            full=full,
            variants=context.project.variants.values(),
            free=context.engine.free_gb(),
        )
    if missing := torch_downloads.missing(store, due, smoke, full):
        torch_downloads.check_index(context.store, *missing[0], context.runner)
    elif to_build and not full:
        sdk_build.check_index(context, to_build[0])


def _audit_tables() -> AuditTables:
    from torch_build_farm.audit.tables import AuditTables  # noqa: PLC0415 (a run with nothing to do needs none)

    return AuditTables.load(added_folder())


def execute(
    prepared: Prepared,
    stages: Sequence[Stage],
    *,
    smoke: Mode,
    epoch: int,
    progress: Progress,
    force: bool = False,
    most_builds: int | None = None,
    wait: bool = False,
) -> tuple[JobResult, ...]:
    """Run `stages` over the plan: what is fresh is kept, everything else is checked and run.

    At most `most_builds` run side by side; `wait` is for another farm in the same work folder, where LockedError would
    be raised.
    """
    engine, jobs, place = prepared.engine, prepared.plan.jobs, prepared.place
    slots = engine.slots(estimates.memory_per_compile_gb(place.work))
    at_once = min(most_builds or slots, slots)
    place.runner.check()
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(place.work, place.runner, wait, place.say))
        stack.enter_context(place.store.in_use())
        stack.enter_context(place.store.environments())
        if swept := engine.sweep():
            place.say(f"removed {swept} containers that killed farms had left")
        jobserver = stack.enter_context(Jobserver(place.store.environment("jobserver"), slots))
        context = RunContext(
            project=prepared.project,
            source=prepared.source,
            engine=engine,
            store=place.store,
            runner=place.runner,
            work=place.work,
            smoke=smoke,
            force=force,
            epoch=epoch,
            jobserver=jobserver,
            build_slots=Slots(at_once),
            smoke_slots=Slots(at_once),  # environments are hard links: several take no more disk than one
            compilers_per_build=max(1, slots // min(at_once, max(1, len(jobs)))),
            trees={job.id: Once(partial(rendered_tree.render, prepared.project, prepared.source, job)) for job in jobs},
            audit_tables=Once(_audit_tables),
            audit_tables_sha256=Once(lambda: [sha256(path) for path in Knowledge.files(added_folder())]),
        )
        first = runner.pending(context, jobs, stages)
        if first and BUILD in stages:
            _check(context, jobs, first, place.say)
        return runner.run(context, jobs, stages, progress)
