"""`verify`: rebuild a wheel from its record, and compare the new one with it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch_build_farm.cli import report
from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_base_image_argument,
    add_common_arguments,
    add_wait_argument,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import NotReproducedError, UsageError, exit_code
from torch_build_farm.core.files import sha256
from torch_build_farm.core.store import TorchStore
from torch_build_farm.pipeline import rebuild, records, workfolder
from torch_build_farm.pipeline.records import Record, WheelRecords
from torch_build_farm.pipeline.run import Prepared, execute, prepare
from torch_build_farm.pipeline.stage import Stage
from torch_build_farm.pipeline.stages.order import TREE, WHEEL
from torch_build_farm.project.plan import Selection, jobs_of, selecting_word
from torch_build_farm.project.settings import Project
from torch_build_farm.wheels.compare import differences


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(CommonOptions):
    """Options of `verify`."""

    wheel: Path
    base_image: str | None
    wait: bool


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="a wheel that the farm built")
    add_base_image_argument(parser)
    add_wait_argument(parser)


@dataclass(frozen=True, kw_only=True)
class VerifyAnswer(Answer):
    """The document of `verify`: `differences` of the two wheels, and what `changed` between the two builds' inputs."""

    wheel: str
    job: str
    identical: bool
    differences: tuple[str, ...]
    changed: tuple[str, ...]


def selection_of(job: str, project: Project) -> Selection:
    """The selection of one job, by its id. Raises UsageError if the project has no such job."""
    jobs = jobs_of(project)
    if job in jobs:
        variant, python = jobs[job]
        return Selection((selecting_word(variant),), (python,), (job,), (variant.platform,))
    raise UsageError(
        f"this project has no job {job}, which built the wheel",
        where=str(project.root),
        next_step="name the project that it was built from with --project DIR",
    )


def _run_again(context: Context, prepared: Prepared, stages: Sequence[Stage], recorded: WheelRecords) -> list[Record]:
    """Run `stages` anew, and return their records in order. Raises the job's own error.

    The job of a variant takes along the core's, which it is beside.
    """
    # The date of the recorded build goes into the new wheel too: it must not be what makes them differ.
    results = execute(
        prepared,
        stages,
        smoke="none",
        epoch=recorded.rendered.epoch,
        progress=report.Progress(context.console, prepared.plan.jobs),
        force=True,
    )
    (result,) = [result for result in results if result.job.id == recorded.job]
    if result.error:
        raise result.error
    return [stage.record for stage in result.stages]


def _verify(context: Context, options: VerifyOptions) -> int:
    """`verify`: rebuild a wheel in another folder from its record, and compare.

    Returns NotReproducedError's exit code if the wheels differ.
    """
    wheel = options.wheel.resolve()
    recorded = records.find(wheel, context.work)
    rebuild.require_plausible(recorded)
    if not recorded.proven:
        context.say(
            f"the record of {recorded.job} is not sealed by this user's farm: it is taken as a claim, and the wheel is "
            f"built as it says, from {recorded.rendered.source}"
        )
    project = rebuild.at_commit(context.load_project(), recorded)
    selected = selection_of(recorded.job, project)
    context.work.mkdir(exist_ok=True)
    with (
        workfolder.locked(context.work, context.runner, options.wait, context.say),
        tempfile.TemporaryDirectory(prefix="verify-", dir=context.work) as folder,
    ):
        place = replace(context.place, work=Path(folder), store=TorchStore.at(context.store.root, Path(folder)))
        prepared = prepare(
            project,
            selected,
            place,
            engine=recorded.built.engine,
            base_image=recorded.built.base_image or options.base_image,
            not_source=(context.work,),
        )

        # Render first, and compare the trees: if the source has moved on, a build is a waste of time.
        render = _run_again(context, prepared, TREE, recorded)[-1]
        trees = (context.work / recorded.render.outputs[0].path, place.work / render.outputs[0].path)
        tree_change = rebuild.changed_tree(recorded, render, trees)
        if tree_change:
            raise UsageError(
                tree_change,
                where=f"{prepared.source.root}, version {prepared.source.version}; it was "
                f"{recorded.rendered.source}, version {recorded.rendered.version}",
                next_step="check out what it was built from, and verify again",
            )

        # Then build, with the packages that the recorded build environment had.
        prepared = replace(prepared, project=rebuild.in_environment(prepared.project, recorded))
        new_records = _run_again(context, prepared, WHEEL, recorded)
        new_wheel = place.work / new_records[-1].outputs[0].path
        wheel_differences = differences(wheel, new_wheel)

    (new_build,) = (record for record in new_records if record.stage == recorded.build.stage)
    changed_inputs = rebuild.changed_inputs(recorded.build, new_build)
    return _report(context, wheel, recorded, wheel_differences, changed_inputs)


def _report(
    context: Context,
    wheel: Path,
    recorded: WheelRecords,
    wheel_differences: Sequence[str],
    changed_inputs: Sequence[str],
) -> int:
    """Print how the rebuilt wheel compares, for programs and for people; returns the exit code."""
    context.answer(
        VerifyAnswer(
            wheel=wheel.name,
            job=recorded.job,
            identical=not wheel_differences,
            differences=tuple(wheel_differences),
            changed=tuple(changed_inputs),
        )
    )
    if wheel_differences:
        message = f"{wheel.name}, built again, differs:"
        for line in (*changed_inputs, *wheel_differences):
            message += f"\n  - {line}"
        error = NotReproducedError(message, where=str(wheel))
        # Not raised: the document for programs is printed already.
        context.say(f"error: {error}")
        return exit_code(error)
    context.say(f"identical: {wheel.name}, sha256 {sha256(wheel)}, built again by the {recorded.built.engine} engine")
    return 0


COMMANDS = {"verify": Command(VerifyOptions, _configure_parser, _verify, VerifyAnswer)}
