"""A run: everything is loaded and planned before anything is touched, then carried out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch_build_farm.core.archives import EARLIEST
from torch_build_farm.core.errors import SourceError, UsageError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines import torch_downloads
from torch_build_farm.engines.base import Engine
from torch_build_farm.engines.choose import choose
from torch_build_farm.pipeline import estimates, records, rendered_tree, runner, sdk_build, workfolder
from torch_build_farm.pipeline.first_builds import FirstBuilds
from torch_build_farm.pipeline.jobserver import Jobserver
from torch_build_farm.pipeline.once import Once
from torch_build_farm.pipeline.results import JobResult, Progress
from torch_build_farm.pipeline.shared_wheels import may_be_shared
from torch_build_farm.pipeline.slots import Slots
from torch_build_farm.pipeline.stage import Mode, RunContext, Stage
from torch_build_farm.pipeline.stages.build import BUILD, may_reuse
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.workplace import Workplace
from torch_build_farm.project import checkout, cibuildwheel_table, source_size, tree
from torch_build_farm.project import core_source as core_check
from torch_build_farm.project.changes import Changes
from torch_build_farm.project.fetch import Fetcher, Origin
from torch_build_farm.project.plan import Job, Plan, Selection, check_architectures, plan
from torch_build_farm.project.settings import PUBLISHED_LIST, Project
from torch_build_farm.project.torch_in_source import TorchInSource, sources_without_torch, torch_in_source
from torch_build_farm.project.tree import Source
from torch_build_farm.project.variant import Variant
from torch_build_farm.releases.sdk import fallback
from torch_build_farm.releases.table_files import added_folder, files_read

if TYPE_CHECKING:
    from torch_build_farm.audit.tables import AuditTables


@dataclass(frozen=True)
class Prepared:
    """A run that is planned and has touched nothing yet. `why` names the engine, and why it is this one.

    `sources` are what each job builds, by the jobs' ids: the `source`, with the patches of overrides.
    """

    project: Project
    source: Source
    sources: Mapping[str, Source]
    engine: Engine
    why: str
    plan: Plan
    place: Workplace

    @property
    def may_share_wheels(self) -> bool:
        """Whether one of the sources names a tag for several CPythons, as `may_be_shared` has it."""
        return any(may_be_shared(source, self.project.settings) for source in _distinct(self.sources.values()))


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

    `engine` is an engine's name, or "auto". `not_source` are further folders of the farm that do not belong to the
    source tree even if they lie in it. Raises what loading and planning raise: UsageError, SourceError, EngineError.
    """
    # The source tree as it is now. A file that changes later in the run is noticed when it is copied.
    fetcher = Fetcher(place.store.root / "sources", place.runner, place.say)
    if project.settings.sdist or project.settings.git:
        with place.store.in_use():  # what is fetched is kept there
            origin = fetcher.obtain(project)
    else:
        origin = fetcher.obtain(project)

    # The farm's own files may lie within the source tree. A change to them must not count as a change of the source.
    farm_folders = (place.work, *not_source, project.root / "work", place.store.root)
    exclude = (*_farm_files(project, origin, farm_folders), *project.settings.exclude)
    read = partial(tree.read, origin, exclude, project.settings.version)
    source = read(project.changes)
    core_changes = _core_changes(project)
    core_source = read(core_changes) if core_changes else None
    large = source_size.notice(source)
    if large:
        place.say(large)
    for note in checkout.notes(source, exclude):
        place.say(note)
    if project.smoke_script and not project.smoke_script.is_file():
        raise SourceError(
            "the smoke script does not exist",
            where=str(project.smoke_script),
            next_step="correct smoke-script in [tool.torch-build-farm]",
        )

    # The engine decides which CPythons there are, so the jobs are known only once it is chosen.
    chosen, why = choose(engine, project, place.store, base_image)

    def pythons(variant: Variant) -> dict[CPython, str]:
        """The full versions of the CPythons that the engine has for a variant."""
        return {python: interpreter.version for python, interpreter in chosen.interpreters(variant).items()}

    # A variant is of no use where its core does not install.
    requires_python = [source.metadata.requires_python]
    if core_source:
        requires_python.append(core_source.metadata.requires_python)
        project = project.requiring_core(core_source.version)
    planned = plan(
        project,
        selection,
        version=source.version,
        requires_python=",".join(filter(None, requires_python)),
        engine=pythons,
        running=CPython.running(),
        core_version=core_source.version if core_source else "",
    )
    sources = _sources(project, planned.jobs, source, core_source, read)
    if project.settings.core and core_source:
        core_check.check(project, project.settings.core, core_source, planned.jobs, sources)
    check_architectures(project, planned.jobs)
    planned = replace(
        planned, notes=(*planned.notes, *_notes_on_variants(project, source, planned.jobs), *_unread(project, source))
    )
    return Prepared(project, source, sources, chosen, why, planned, place)


def _core_changes(project: Project) -> Changes | None:
    """What the jobs of the core change of the source; None for a project without a core."""
    if project.core is None:
        return None
    return project.changes_by(project.settings.for_job(project.core, project.core.cpython[0]))


def _sources(
    project: Project,
    jobs: Sequence[Job],
    source: Source,
    core_source: Source | None,
    read: Callable[[Changes], Source],
) -> dict[str, Source]:
    """The source of each job, by its id: `source`, read again for jobs that overrides change more of it for.

    Raises SourceError where that changes the source's name or version, which all jobs of variants share, and all jobs
    of the core.
    """
    by_changes = {project.changes: source}
    core_changes = _core_changes(project)
    if core_changes and core_source:
        by_changes[core_changes] = core_source
    sources = {}
    for job in jobs:
        changes = project.changes_by(project.settings.for_job(job.variant, job.python))
        if changes not in by_changes:
            changed = by_changes[changes] = read(changes)
            expected = core_source if core_source and not job.variant.needs_torch else source
            if (changed.metadata.name, changed.version) != (expected.metadata.name, expected.version):
                raise SourceError(
                    f"{job.id}: a patch of its own makes the source {changed.metadata.name} {changed.version}, and all "
                    f"jobs build {expected.metadata.name} {expected.version}",
                    where=", ".join(map(str, changes.patches)),
                    next_step="move the patch from overrides to the project's patches",
                )
        sources[job.id] = by_changes[changes]
    return sources


def _unread(project: Project, source: Source) -> list[str]:
    """What [tool.cibuildwheel] of the source says, and the farm's table does not."""
    keys = ", ".join(cibuildwheel_table.unread(source.pyproject, project.settings))
    if not keys:
        return []
    return [f"[tool.cibuildwheel] is not read; the farm's table has nothing for {keys}, as `init` would translate it"]


def _notes_on_variants(project: Project, source: Source, jobs: Sequence[Job]) -> list[str]:
    """What the source says of a project that may need fewer variants than this plan has, before they are all built."""
    if len({job.variant.torch for job in jobs if job.variant.needs_torch}) < 2:
        return []
    shown = torch_in_source(source.root, [file.path for file in source.files if not file.link])
    if shown is TorchInSource.NOTHING:
        return [
            "perhaps no variants are needed: the source includes no header of torch and links none of its libraries. "
            "A wheel without torch's C++ serves every torch; the audit of the first one says whether it is so"
        ]
    if shown is TorchInSource.STABLE and not project.settings.stable_abi:
        return [
            "perhaps fewer variants are needed: of torch's headers the source includes the stable ones alone. "
            "One wheel then serves every torch from a release on, which the setting stable-abi names; the audit of the "
            "first one says from which"
        ]
    return []


def _farm_files(project: Project, origin: Origin, folders: Sequence[Path]) -> list[str]:
    """Patterns for files of the farm inside the source tree: its folders, variants, templates and published.json.

    Raises UsageError where the first of `folders`, the work folder, holds the source tree.
    """
    work = folders[0]
    if origin.root.is_relative_to(work):
        raise UsageError("the work folder holds the source tree", where=str(work), next_step="--work DIR elsewhere")
    patterns = []
    for folder in folders:
        if folder.is_relative_to(origin.root):
            patterns.append(f"{tree.literal_pattern(str(folder.relative_to(origin.root)))}/")

    # By name, one by one: a project may well have folders of its own that are called variants and templates.
    if project.root.is_relative_to(origin.root):
        root = project.root.relative_to(origin.root)
        own = [root / "variants" / name for name in project.variants_files]
        own += [root / "templates" / template.name for template in project.template_folders[-1].glob("*.j2")]
        # `publish` writes it: a release must not make the next run build everything anew.
        own.append(root / PUBLISHED_LIST)
        # `init` puts the project file into a folder of its own beside a setup.py.
        if project.root != origin.project:
            own.append(root / "pyproject.toml")
        patterns += [tree.literal_pattern(str(path)) for path in own]
    return patterns


def epoch_of(source: Source) -> int:
    """SOURCE_DATE_EPOCH in Unix seconds, from the environment, else the source's own. Raises UsageError."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(source.origin.epoch))
    if not text.isdigit() or int(text) < EARLIEST:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={text} is not a date that a wheel can store",
            where="environment",
            next_step=f"Unix seconds from {EARLIEST} (1980-01-01) on, or unset it",
        )
    return int(text)


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

    `epoch` is SOURCE_DATE_EPOCH in Unix seconds. With `force` nothing is kept. At most `most_builds` builds run side by
    side. With `wait`, wait for another farm in the same work folder instead of raising LockedError.
    """
    engine, jobs, place = prepared.engine, prepared.plan.jobs, prepared.place

    # Slots are compilers, and a build has at least one: more builds than slots would not compile faster.
    slots = engine.slots(estimates.memory_per_compile_gb(place.work))
    at_once = min(most_builds or slots, slots)
    trees = {}
    for job in jobs:
        trees[job.id] = Once(partial(rendered_tree.render, prepared.project, prepared.sources[job.id], job))
    place.runner.check()

    # The locks come first: sweeping takes every container of this work folder for one that a killed farm left.
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(place.work, place.runner, wait, place.say))
        stack.enter_context(place.store.in_use())
        stack.enter_context(place.store.environments())
        swept = engine.sweep()
        if swept:
            place.say(f"removed {swept} containers that killed farms had left")
        jobserver = stack.enter_context(Jobserver(place.store.environment("jobserver"), slots))
        context = RunContext(
            project=prepared.project,
            source=prepared.source,
            engine=engine,
            store=place.store,
            runner=place.runner,
            work=place.work,
            minors=frozenset(job.variant.torch for job in jobs if job.variant.needs_torch),
            smoke=smoke,
            force=force,
            epoch=epoch,
            jobserver=jobserver,
            build_slots=Slots(at_once),
            first_builds=FirstBuilds(partial(_one_build_first, prepared, slots, force)),
            smoke_slots=Slots(at_once),  # environments are hard links: several take no more disk than one
            compilers_per_build=max(1, slots // min(at_once, max(1, len(jobs)))),
            trees=trees,
            audit_tables=Once(_audit_tables),
            audit_tables_sha256=Once(_audit_tables_sha256),
            announce=place.say,
            may_share_wheels=prepared.may_share_wheels,
        )

        # What would fail after minutes of building is found out before it, but only where something has to be built.
        first = runner.pending(context, jobs, stages)
        if not force:
            _say_why_again(context, first, place.say)
        if first and BUILD in stages:
            _check(context, jobs, first, place.say)
        return runner.run(context, jobs, stages, progress)


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """Each source once: jobs that differ in nothing have the same one."""
    return list({id(source): source for source in sources}.values())


def _one_build_first(prepared: Prepared, slots: int, force: bool) -> bool:
    """Whether one build can keep all compilers busy with what the others then get from ccache."""
    if not (may_reuse(force=force) and prepared.engine.shares_compilations):
        return False
    source = prepared.source
    return sources_without_torch(source.root, [file.path for file in source.files if not file.link]) > slots


def _say_why_again(context: RunContext, first: Mapping[str, Stage], say: Callable[[str], None]) -> None:
    """Say, in one line, which record is there and no proof, so that its stage runs again."""
    doubts = []
    for job, stage in first.items():
        why = records.doubt(records.path_of(context.work / "jobs" / job, stage.name))
        if why:
            doubts.append(f"{job}: the record of {stage.name} is {why}, so it runs again")
    if doubts:
        say(doubts[0] + (f"; the same goes for {len(doubts) - 1} other jobs" if len(doubts) > 1 else ""))


def _check(context: RunContext, jobs: Sequence[Job], first: Mapping[str, Stage], say: Callable[[str], None]) -> None:
    """Find out before anything starts whether the stages that have to run can run.

    `first` has the first stage to run of each job that is not all fresh. Raises what is missing: ToolError, DiskError,
    PackageIndexError and their kin.
    """
    due = [job for job in jobs if job.id in first]
    to_build = [job for job in due if first[job.id] in (RENDER, BUILD)]
    with_torch = [job for job in to_build if job.variant.needs_torch]
    smoke = context.smoke != "none"
    if to_build:
        (context.work / "logs").mkdir(parents=True, exist_ok=True)
        log = context.work / "logs" / "engine.log"
        log.unlink(missing_ok=True)
        # First, since making an SDK is all download, and making an image takes minutes of other work.
        sdk_build.make_sdks_ahead(context, with_torch, log)
        context.engine.check(to_build, Shell(context.runner, {}, context.store.root, log, say))
    if due and smoke:
        context.engine.check_site(due)

    # The engine's store, which is known only once the engine is checked: it may lie on another machine's disk.
    store = context.engine.store
    full = bool(fallback.reason_for_full_torch(context.project.settings, context.source.root))
    due_with_torch = [job for job in due if job.variant.needs_torch]
    if due:
        torch_downloads.check_disk(
            store,
            due_with_torch,
            smoke=smoke,
            full=full,
            minors=[
                variant for of_platform in context.project.by_platform.values() for variant in of_platform.values()
            ],
            free=context.engine.free_gb(),
        )

    # One request shows whether the index answers; each job's own download shows the rest.
    missing = torch_downloads.missing(store, due_with_torch, smoke, full)
    if missing:
        torch_downloads.check_index(context.store, *missing[0], context.runner)
    elif with_torch and not full:
        sdk_build.check_index(context, with_torch[0])


def _audit_tables() -> AuditTables:
    from torch_build_farm.audit.tables import AuditTables  # noqa: PLC0415 (a run with nothing to do needs none)

    return AuditTables.load(added_folder())


def _audit_tables_sha256() -> list[str]:
    return [sha256(path) for path in files_read(added_folder())]
