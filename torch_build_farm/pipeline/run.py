"""A run: everything is loaded and planned before anything is touched, then carried out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.cli import report
from torch_build_farm.cli.context import Desk
from torch_build_farm.core.errors import SourceError, UsageError
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Engine
from torch_build_farm.engines.choose import choose
from torch_build_farm.pipeline import estimates as history
from torch_build_farm.pipeline import runner as pipeline
from torch_build_farm.pipeline import workfolder
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.runner import Farm, Stage
from torch_build_farm.pipeline.stages import build as building
from torch_build_farm.pipeline.stages.order import BUILD
from torch_build_farm.pipeline.stages.smoke import Mode
from torch_build_farm.project import tree as source
from torch_build_farm.project.fetch import EARLIEST, Fetcher, Origin
from torch_build_farm.project.plan import Job, Plan, Selection, plan
from torch_build_farm.project.settings import Project
from torch_build_farm.project.tree import Source
from torch_build_farm.releases.sdk import fallback as choice


def _selection(desk: Desk, project: Project) -> Selection:
    asked = tuple(desk.options.torch or map(str, project.settings.torch))
    if not asked:
        raise UsageError(
            "which torch minors? none is named",
            where="--torch",
            next_step=f"--torch {' '.join(map(str, project.variants))}, some of these, or --torch all",
        )
    pythons = desk.options.python
    if not pythons:
        return Selection(asked, only=tuple(desk.options.only or ()))
    if "all" in pythons:
        return Selection(asked, "all", tuple(desk.options.only or ()))
    try:
        named = tuple(CPython.parse(text) for text in pythons)
    except ValueError as error:
        raise UsageError(str(error), where="--python", next_step="such as --python 3.11 3.12, or all") from None
    return Selection(asked, named, tuple(desk.options.only or ()))


@dataclass(frozen=True)
class Prepared:
    """A run that is planned and has touched nothing yet."""

    project: Project
    source: Source
    engine: Engine
    why: str  # the engine, and why this one
    plan: Plan
    work: Path
    store: TorchStore


def prepare(
    desk: Desk,
    selection: Selection | None = None,
    *,
    project: Project | None = None,
    engine: str = "",
    base_image: str | None = None,
    work: Path | None = None,
) -> Prepared:
    """Load everything and plan, without touching the work folder; the keywords win over the command line."""
    project = project or desk.project
    selection = selection or _selection(desk, project)
    fetched = project.settings.sdist or project.settings.git  # a path leaves the store alone
    with desk.store.in_use() if fetched else contextlib.nullcontext():
        origin = Fetcher(desk.store.root / "sources", desk.runner, desk.say).obtain(project)
    exclude = (*_own_files(desk, project, origin), *project.settings.exclude)
    tree = source.read(origin, exclude, project.settings.version)
    if project.smoke_script and not project.smoke_script.is_file():
        raise SourceError(
            "the smoke script does not exist",
            where=str(project.smoke_script),
            next_step="correct smoke-script in [tool.torch-build-farm]",
        )
    store = TorchStore.at(default_folder(), work) if work else desk.store
    chosen, why = choose(engine or desk.options.engine, project, store, base_image or desk.options.base_image)
    planned = plan(
        project,
        selection,
        version=tree.version,
        requires_python=tree.metadata.requires_python,
        engine=lambda variant: {python: one.version for python, one in chosen.interpreters(variant).items()},
        running=CPython.running(),
    )
    return Prepared(project, tree, chosen, why, planned, work or desk.work, store)


def _own_files(desk: Desk, project: Project, origin: Origin) -> list[str]:
    """What of the farm lies inside the source tree and is no part of it: work folder, variants, templates."""
    if origin.root.is_relative_to(desk.work):
        raise UsageError(
            "the work folder holds the source tree", where=str(desk.work), next_step="--work DIR elsewhere"
        )
    ours = (desk.work, desk.root / "work", desk.store.root)
    inside = [path for path in ours if path.is_relative_to(origin.root)]
    patterns = [f"/{path.relative_to(origin.root)}/" for path in inside]
    if project.root.is_relative_to(origin.root):
        root = project.root.relative_to(origin.root)
        patterns += [f"/{root / 'variants' / (variant.tag + '.toml')}" for variant in project.variants.values()]
        patterns += [f"/{root / 'templates' / path.name}" for path in (desk.builtin / "templates").glob("*.j2")]
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


def _check(farm: Farm, jobs: Sequence[Job], first: dict[str, str], say: Callable[[str], None]) -> None:
    """Find out before anything starts whether what has to run can run."""
    due = [job for job in jobs if job.id in first]
    to_build = [job for job in due if first[job.id] in ("render", "build")]
    smoke = farm.smoke != "none"
    if to_build:
        (farm.work / "logs").mkdir(parents=True, exist_ok=True)
        log = farm.work / "logs" / "engine.log"
        log.unlink(missing_ok=True)
        building.ahead(farm, to_build, log)
        farm.engine.check(to_build, Shell(farm.runner, {}, farm.store.root, log, say))
    store, full = farm.engine.store, bool(choice.why_full(farm.project.settings, farm.source.root))
    if due:
        store.check_disk(due, smoke, full, farm.project.variants.values(), farm.engine.free_gb())
    if missing := store.missing(due, smoke, full):
        farm.store.check_index(*missing[0], farm.runner)
    elif to_build and not full:
        building.check_index(farm, to_build[0])


def execute(
    desk: Desk, prepared: Prepared, stages: Sequence[Stage], smoke: Mode, epoch: int
) -> tuple[report.JobResult, ...]:
    """Run `stages` over the plan: what is fresh is kept, everything else is checked and run."""
    options, engine, jobs = desk.options, prepared.engine, prepared.plan.jobs
    slots = engine.slots(history.memory_per_compile_gb(prepared.work))
    at_once = min(options.jobs or slots, slots)
    desk.runner.check()
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(prepared.work, desk.runner, options.wait, desk.say))
        stack.enter_context(prepared.store.in_use())
        stack.enter_context(prepared.store.environments())
        if swept := engine.sweep():
            desk.say(f"removed {swept} containers that killed farms had left")
        jobserver = stack.enter_context(Jobserver(prepared.store.environment("jobserver"), slots))
        farm = Farm(
            project=prepared.project,
            source=prepared.source,
            engine=engine,
            store=prepared.store,
            runner=desk.runner,
            work=prepared.work,
            smoke=smoke,
            force=options.force,
            epoch=epoch,
            jobserver=jobserver,
            build_slots=pipeline.Slots(at_once),
            smoke_slots=pipeline.Slots(at_once),  # environments are hard links: several take no more disk than one
            share=max(1, slots // min(at_once, max(1, len(jobs)))),
        )
        first = pipeline.pending(farm, jobs, stages)
        if first and BUILD in stages:
            _check(farm, jobs, first, desk.say)
        return pipeline.run(farm, jobs, stages, report.Progress(desk.console, jobs))
