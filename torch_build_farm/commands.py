"""What each subcommand does: load, plan, check, run the stages, report."""

from __future__ import annotations

import contextlib
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from torch_build_farm import config, doctor, pipeline, report, source, workfolder
from torch_build_farm.config import Project
from torch_build_farm.engines import Engine
from torch_build_farm.engines.choice import choose
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker import containers
from torch_build_farm.errors import EngineError, SourceError, UsageError, exit_code
from torch_build_farm.jobserver import Jobserver
from torch_build_farm.names import CPython
from torch_build_farm.origin import EARLIEST, Fetcher, Origin
from torch_build_farm.pipeline import Farm, Stage
from torch_build_farm.plan import Job, Plan, Selection, plan
from torch_build_farm.process import Runner, Shell
from torch_build_farm.source import Source
from torch_build_farm.stages import BUILD, RENDER, REPAIR, SMOKE
from torch_build_farm.torch_store import STORE_VARIABLE, TorchStore, default_folder


@dataclass(frozen=True)
class Desk:
    """What every command has at hand. With --json, standard output is for the document alone."""

    options: Namespace
    root: Path
    builtin: Path
    runner: Runner
    console: Console

    @property
    def project(self) -> Project:
        return config.load(self.root, self.builtin)

    @property
    def work(self) -> Path:
        """The work folder. Raises UsageError for a place that cannot be one."""
        work = Path(self.options.work).resolve() if self.options.work else self.root / "work"
        if work.exists() and not work.is_dir():
            raise UsageError("the work folder is a file", where=str(work), next_step="name a folder with --work")
        for path, way in ((work, "--work DIR"), (default_folder(), f"{STORE_VARIABLE}=DIR")):
            if any(character.isspace() for character in str(path)):
                raise UsageError(
                    f"a path with a space: {path}",
                    where="MAKEFLAGS and compiler options cannot carry it",
                    next_step=f"use another folder: {way}",
                )
        return work

    @property
    def store(self) -> TorchStore:
        return TorchStore.at(default_folder(), self.work)

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def answer(self, document: dict[str, Any]) -> None:
        """The document for programs."""
        print(json.dumps(document, indent=2))  # noqa: T201


def builtin_folder() -> Path:
    """Where the built-in variants/ and templates/ lie: in the installed package, or in the checkout around it."""
    package = Path(__file__).resolve().parent
    return package / "builtin" if (package / "builtin").is_dir() else package.parent


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


def _plan(desk: Desk) -> tuple[Project, Source, Engine, str, Plan]:
    """Load everything and plan, without touching the work folder."""
    project = desk.project
    selection = _selection(desk, project)
    origin = Fetcher(desk.store.root / "sources", desk.runner, desk.say).obtain(project)
    exclude = (*_own_files(desk, project, origin), *project.settings.exclude)
    tree = source.read(origin, exclude, project.settings.version)
    if project.smoke_script and not project.smoke_script.is_file():
        raise SourceError(
            "the smoke script does not exist",
            where=str(project.smoke_script),
            next_step="correct smoke-script in [tool.torch-build-farm]",
        )
    engine, why = choose(desk.options.engine, project, desk.store, desk.options.base_image)
    planned = plan(
        project,
        selection,
        version=tree.version,
        requires_python=tree.metadata.requires_python,
        engine=lambda variant: {python: one.version for python, one in engine.interpreters(variant).items()},
        running=CPython.running(),
    )
    return project, tree, engine, why, planned


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


def show_plan(desk: Desk) -> int:
    """`plan`: the jobs, nothing run."""
    *_, planned = _plan(desk)
    if desk.options.json:
        desk.answer(planned.matrix())
    else:
        report.plan_table(desk.console, planned.jobs)
        for note in planned.notes:
            desk.say(note)
    return 0


def _epoch(tree: Source) -> int:
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
        farm.engine.check(to_build, Shell(farm.runner, {}, farm.store.root, log, say))
    store = farm.engine.store
    if due:
        store.check_disk(due, smoke, farm.project.variants.values(), farm.engine.free_gb())
    if missing := store.missing(due, smoke):
        farm.store.check_index(*missing[0], farm.runner)


def _run(desk: Desk, stages: Sequence[Stage], smoke: str) -> int:
    """Plan, check, run `stages`, report."""
    start = time.monotonic()
    options = desk.options
    project, tree, engine, why, planned = _plan(desk)
    desk.say(why)
    for note in planned.notes:
        desk.say(note)
    slots = engine.slots()
    at_once = min(options.jobs or slots, slots)
    desk.runner.check()
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(desk.work, desk.runner, options.wait, desk.say))
        stack.enter_context(desk.store.in_use())
        stack.enter_context(desk.store.environments())
        if swept := engine.sweep():
            desk.say(f"removed {swept} containers that killed farms had left")
        with Jobserver(desk.store.environment("jobserver"), slots) as jobserver:
            farm = Farm(
                project=project,
                source=tree,
                engine=engine,
                store=desk.store,
                runner=desk.runner,
                work=desk.work,
                smoke=smoke,  # type: ignore[arg-type]
                force=options.force,
                epoch=_epoch(tree),
                jobserver=jobserver,
                build_slots=pipeline.Slots(at_once),
                share=max(1, slots // min(at_once, max(1, len(planned.jobs)))),
            )
            first = pipeline.pending(farm, planned.jobs, stages)
            if first and BUILD in stages:
                _check(farm, planned.jobs, first, desk.say)
            progress = report.Progress(desk.console, planned.jobs)
            results = pipeline.run(farm, planned.jobs, stages, progress)
    seconds = time.monotonic() - start
    report.summary(desk.console, results, str(desk.work), seconds)
    if options.json:
        document = {"schema": 1, "seconds": round(seconds, 2), "jobs": [r.as_json(str(desk.work)) for r in results]}
        desk.answer(document)
    return next((exit_code(result.error) for result in results if result.error), 0)


def run_all(desk: Desk) -> int:
    """The bare call: every stage up to the report."""
    smoke = desk.options.smoke or "full"
    return _run(desk, [RENDER, BUILD, REPAIR, *([SMOKE] if smoke != "none" else [])], smoke)


def render(desk: Desk) -> int:
    """`render`: the source trees alone."""
    return _run(desk, [RENDER], "none")


def build(desk: Desk) -> int:
    """`build`: repaired wheels; smoke-tested only where --smoke says so."""
    smoke = desk.options.smoke or "none"
    return _run(desk, [RENDER, BUILD, REPAIR, *([SMOKE] if smoke != "none" else [])], smoke)


def smoke(desk: Desk) -> int:
    """`smoke`: test wheels, building those that are not there or not fresh."""
    mode = desk.options.smoke or "full"
    if mode == "none":
        raise UsageError("smoke --smoke none has nothing to do", next_step="--smoke full or --smoke import")
    return _run(desk, [RENDER, BUILD, REPAIR, SMOKE], mode)


def examine(desk: Desk) -> int:
    """`doctor`: what is there and what is missing."""
    findings = doctor.examine(desk.project, desk.store, desk.runner, desk.options.base_image)
    if desk.options.json:
        desk.answer(doctor.as_json(findings))
    else:
        doctor.show(findings, desk.console)
    return 8 if any(finding.state == "missing" for finding in findings) else 0


def _clean_engine(desk: Desk) -> None:
    """Remove what killed farms left on the Docker engine, if one answers; with --store its images and volumes too."""
    try:
        client = docker_client.connect()
    except EngineError as error:
        desk.say(f"containers, if any, are left: {error.what}")
        return
    if client is None:
        return
    with docker_client.speaking():
        left = containers.sweep(client, desk.store)
        desk.say(f"removed {left} containers from the Docker engine")
        if desk.options.store:
            desk.say(f"removed {containers.forget(client, desk.store)} images and volumes from the Docker engine")


def clean(desk: Desk) -> int:
    """`clean`: what runs left, except finished wheels; with --all those too, with --store torch and the caches."""
    store, _ = desk.store, desk.project
    if not (desk.work / "lock").exists() and desk.work.exists():
        raise UsageError("this is no work folder of the farm", where=str(desk.work), next_step="name one with --work")
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(desk.work, desk.runner, desk.options.wait, desk.say))
        if desk.options.store:
            stack.enter_context(store.in_use(alone=True))
        folders = [desk.work / "jobs", desk.work / "logs"]
        folders += [desk.work / "dist"] if desk.options.all else []
        stack.enter_context(store.environments())
        _clean_engine(desk)
        folders += [store.root] if desk.options.store else []
        for folder in folders:
            desk.runner.check()
            desk.say(f"removed {folder} ({report.size_text(workfolder.remove(folder))})")
    return 0
