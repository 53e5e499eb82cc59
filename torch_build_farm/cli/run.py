"""What each subcommand does."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.cli import doctor, report
from torch_build_farm.cli.context import Desk
from torch_build_farm.cli.selection import selection
from torch_build_farm.core.errors import EngineError, NotReproducedError, UsageError, exit_code
from torch_build_farm.core.files import remove, sha256, size_text
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker import containers
from torch_build_farm.pipeline import rebuild, records, workfolder
from torch_build_farm.pipeline.records import Record, Recorded
from torch_build_farm.pipeline.results import JobResult
from torch_build_farm.pipeline.run import Prepared, epoch_of, execute, prepare
from torch_build_farm.pipeline.stage import Mode, Stage
from torch_build_farm.pipeline.stages.order import MADE, WHEEL
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.stages.smoke import SMOKE
from torch_build_farm.project import scaffold, settings
from torch_build_farm.project.fetch import Fetcher, only_folder, unpack
from torch_build_farm.project.plan import Selection
from torch_build_farm.wheels.compare import differences


def _prepare(desk: Desk) -> Prepared:
    """The run that the command line asks for, planned."""
    project, options = desk.project, desk.options
    asked = selection(desk, project)
    return prepare(project, asked, desk.place, engine=options.engine, base_image=options.base_image)


def show_plan(desk: Desk) -> int:
    """`plan`: the jobs, nothing run."""
    planned = _prepare(desk).plan
    if desk.options.json:
        desk.answer(planned.matrix())
    else:
        report.plan_table(desk.console, planned.jobs)
        for note in planned.notes:
            desk.say(note)
    return 0


@dataclass(frozen=True)
class Outcome:
    """What a run came to; `document` is for programs."""

    results: tuple[JobResult, ...]
    document: dict[str, Any]
    code: int


def _run(desk: Desk, stages: Sequence[Stage], smoke: Mode) -> int:
    outcome = carry_out(desk, stages, smoke)
    if desk.options.json:
        desk.answer(outcome.document)
    return outcome.code


def carry_out(desk: Desk, stages: Sequence[Stage], smoke: Mode) -> Outcome:
    """Plan, check, run `stages`, report; then publish, where that is asked for and nothing failed."""
    start = time.monotonic()
    prepared = _prepare(desk)
    desk.say(prepared.why)
    for note in prepared.plan.notes:
        desk.say(note)
    results = execute(
        prepared,
        stages,
        smoke=smoke,
        epoch=epoch_of(prepared.source),
        progress=report.Progress(desk.console, prepared.plan.jobs),
        force=desk.options.force,
        most_builds=desk.options.jobs,
        wait=desk.options.wait,
    )
    seconds = time.monotonic() - start
    report.summary(desk.console, results, str(desk.work), seconds)
    document = {"schema": 1, "seconds": round(seconds, 2), "jobs": [r.as_json(str(desk.work)) for r in results]}
    code = next((exit_code(result.error) for result in results if result.error), 0)
    if code == 0 and getattr(desk.options, "publish", None):
        from torch_build_farm.cli import publish  # noqa: PLC0415 (slow to import)

        document["publish"] = publish.carry_out(desk)
    return Outcome(results, document, code)


def run_all(desk: Desk) -> int:
    """The bare call: every stage up to the report."""
    smoke: Mode = desk.options.smoke or "full"
    return _run(desk, [*WHEEL, *([SMOKE] if smoke != "none" else [])], smoke)


def render(desk: Desk) -> int:
    """`render`: the source trees alone."""
    return _run(desk, [RENDER], "none")


def build(desk: Desk) -> int:
    """`build`: repaired wheels; smoke-tested only where --smoke says so."""
    smoke: Mode = desk.options.smoke or "none"
    return _run(desk, [*WHEEL, *([SMOKE] if smoke != "none" else [])], smoke)


def smoke(desk: Desk) -> int:
    """`smoke`: test wheels, building those that are not there or not fresh."""
    mode: Mode = desk.options.smoke or "full"
    if mode == "none":
        raise UsageError("smoke --smoke none has nothing to do", next_step="--smoke full or --smoke import")
    return _run(desk, [*WHEEL, SMOKE], mode)


def verify(desk: Desk) -> int:
    """`verify`: build a wheel again from its record, in another folder, and compare."""
    wheel = Path(desk.options.wheel).resolve()
    recorded = records.find(wheel, desk.work)
    project = rebuild.at_commit(desk.project, recorded)
    selections = {
        f"{project.distribution(variant)}-{python.tag}": Selection((str(variant.torch),), (python,))
        for variant in project.variants.values()
        for python in variant.cpython
    }
    if recorded.job not in selections:
        raise UsageError(
            f"the wheel is of job {recorded.job}, which this project has not",
            where=str(desk.root),
            next_step="name the project that it was built from with --project DIR",
        )
    desk.work.mkdir(exist_ok=True)
    with (
        workfolder.locked(desk.work, desk.runner, desk.options.wait, desk.say),
        tempfile.TemporaryDirectory(prefix="verify-", dir=desk.work) as folder,
    ):
        details = recorded.build.details
        place = replace(desk.place, work=Path(folder), store=TorchStore.at(desk.store.root, Path(folder)))
        prepared = prepare(
            project,
            selections[recorded.job],
            place,
            engine=details["engine"],
            base_image=details.get("base-image") or desk.options.base_image,
            not_source=(desk.work,),
        )
        (render,) = _again(desk, prepared, [RENDER], recorded)
        trees = (desk.work / recorded.render.outputs[0].path, prepared.place.work / render.outputs[0].path)
        if moved := rebuild.changed_tree(recorded, render, trees):
            raise UsageError(
                moved,
                where=f"{prepared.source.root}, version {prepared.source.version}; it was "
                f"{recorded.render.details['source']}, version {recorded.render.details['version']}",
                next_step="check out what it was built from, and verify again",
            )
        prepared = replace(prepared, project=rebuild.in_environment(project, recorded))
        _, build, *_, relocate = _again(desk, prepared, MADE, recorded)
        found = differences(wheel, prepared.place.work / relocate.outputs[0].path)
    changed = rebuild.changed_inputs(recorded.build, build)
    if desk.options.json:
        desk.answer({"schema": 1, "wheel": wheel.name, "job": recorded.job, "identical": not found,
                     "differences": found, "changed": changed})  # fmt: skip
    if found:
        lines = "\n".join(f"  - {line}" for line in [*changed, *found])
        error = NotReproducedError(f"{wheel.name}, built again, differs:\n{lines}", where=str(wheel))
        desk.say(f"error: {error}")
        return exit_code(error)
    desk.say(f"identical: {wheel.name}, sha256 {sha256(wheel)}, built again by the {details['engine']} engine")
    return 0


def _again(desk: Desk, prepared: Prepared, stages: Sequence[Stage], recorded: Recorded) -> list[Record]:
    """The records of `stages`, run anew. Raises the job's own error."""
    progress = report.Progress(desk.console, prepared.plan.jobs)
    (result,) = execute(prepared, stages, smoke="none", epoch=recorded.epoch, progress=progress, force=True)
    if result.error:
        raise result.error
    return [stage.record for stage in result.stages]


def init(desk: Desk) -> int:
    """`init`: write a project file for a source tree or an sdist."""
    what = Path(desk.options.what)
    if what.is_dir():
        return _write_project(desk, scaffold.look(what), {}, Path(desk.options.folder or what), what)
    fetcher = Fetcher(desk.store.root / "sources", desk.runner, desk.say)
    with desk.store.in_use(), fetcher.scratch() as scratch:
        archive = what
        if not what.is_file():
            try:
                wanted = Requirement(desk.options.what)
            except InvalidRequirement:
                raise UsageError(
                    f"{what} is neither a folder, nor a file, nor the name of an sdist",
                    next_step="such as `init .`, `init torch-cluster==1.6.3`, `init torch_cluster-1.6.3.tar.gz`",
                ) from None
            archive = fetcher.download(wanted, scratch)
        unpack(archive, scratch / "tree")
        found = scaffold.look(only_folder(scratch / "tree"))
        if not (found.name and found.version):
            raise UsageError(
                f"{archive.name} does not say its name and version, so it is no sdist",
                next_step="unpack it and init the folder, or use git and revision",
            )
        origin = {"sdist": f"{canonicalize_name(found.name)}=={found.version}", "sdist-sha256": sha256(archive)}
        return _write_project(desk, found, origin, Path(desk.options.folder or canonicalize_name(found.name)))


def _write_project(
    desk: Desk, found: scaffold.Found, origin: dict[str, str], folder: Path, source: Path | None = None
) -> int:
    """Write the table to the folder's pyproject.toml: a new one, or at the end of one that has none."""
    if source and folder.resolve() != source.resolve():
        origin = {"source": os.path.relpath(source, folder)}
    variants = list(settings.variants_of((desk.builtin / "variants",)).values())
    text = scaffold.project_file(found, origin, variants)
    path = folder / "pyproject.toml"
    try:
        old = path.read_bytes().decode("utf-8") if path.is_file() else ""
        table = tomllib.loads(old).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path), next_step="mend it, then init again") from None
    if settings.TABLE in table:
        raise UsageError(
            f"there is a [tool.{settings.TABLE}] already", where=str(path), next_step="edit it, or remove it"
        )
    added = f"\n{text}".replace("\n", "\r\n") if "\r\n" in old else f"\n{text}"
    scratch = path.with_suffix(".new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes((old + added if old else text).encode())
        scratch.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), next_step="name another DIR"
        ) from None
    desk.say(f"wrote {path}:\n\n{text}")
    marks = text.count(scaffold.MARK) - 1
    desk.say(f"{marks} lines to check; then: build_farm.py --project {folder} --torch {variants[-1].torch}")
    return 0


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
        folders = [desk.work / "jobs", desk.work / "logs", *desk.work.glob("verify-*")]
        folders += [desk.work / "dist"] if desk.options.all else []
        stack.enter_context(store.environments())
        _clean_engine(desk)
        folders += [store.root] if desk.options.store else []
        for folder in folders:
            desk.runner.check()
            desk.say(f"removed {folder} ({size_text(remove(folder))})")
    return 0
