"""`verify`: build a wheel again from its record, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch_build_farm.cli import report
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import NotReproducedError, UsageError, exit_code
from torch_build_farm.core.files import sha256
from torch_build_farm.core.store import TorchStore
from torch_build_farm.pipeline import rebuild, records, workfolder
from torch_build_farm.pipeline.records import Record, WheelRecords
from torch_build_farm.pipeline.run import Prepared, execute, prepare
from torch_build_farm.pipeline.stage import Stage
from torch_build_farm.pipeline.stages.order import TREE, WHEEL
from torch_build_farm.project.plan import Selection
from torch_build_farm.wheels.compare import differences


def verify(context: Context) -> int:
    """`verify`: build a wheel again from its record, in another folder, and compare."""
    wheel = Path(context.options.wheel).resolve()
    recorded = records.find(wheel, context.work)
    project = rebuild.at_commit(context.project, recorded)
    selections = {
        f"{project.distribution(variant)}-{python.tag}": Selection((str(variant.torch),), (python,))
        for variant in project.variants.values()
        for python in variant.cpython
    }
    if recorded.job not in selections:
        raise UsageError(
            f"the wheel is of job {recorded.job}, which this project has not",
            where=str(context.root),
            next_step="name the project that it was built from with --project DIR",
        )
    context.work.mkdir(exist_ok=True)
    with (
        workfolder.locked(context.work, context.runner, context.options.wait, context.say),
        tempfile.TemporaryDirectory(prefix="verify-", dir=context.work) as folder,
    ):
        place = replace(context.place, work=Path(folder), store=TorchStore.at(context.store.root, Path(folder)))
        prepared = prepare(
            project,
            selections[recorded.job],
            place,
            engine=recorded.built.engine,
            base_image=recorded.built.base_image or context.options.base_image,
            not_source=(context.work,),
        )
        (render,) = _again(context, prepared, TREE, recorded)
        trees = (context.work / recorded.render.outputs[0].path, prepared.place.work / render.outputs[0].path)
        if moved := rebuild.changed_tree(recorded, render, trees):
            raise UsageError(
                moved,
                where=f"{prepared.source.root}, version {prepared.source.version}; it was "
                f"{recorded.rendered.source}, version {recorded.rendered.version}",
                next_step="check out what it was built from, and verify again",
            )
        prepared = replace(prepared, project=rebuild.in_environment(project, recorded))
        again = _again(context, prepared, WHEEL, recorded)
        found = differences(wheel, prepared.place.work / again[-1].outputs[0].path)
    (build,) = (record for record in again if record.stage == recorded.build.stage)
    changed = rebuild.changed_inputs(recorded.build, build)
    if context.options.json:
        context.answer({"schema": 1, "wheel": wheel.name, "job": recorded.job, "identical": not found,
                     "differences": found, "changed": changed})  # fmt: skip
    if found:
        lines = "\n".join(f"  - {line}" for line in [*changed, *found])
        error = NotReproducedError(f"{wheel.name}, built again, differs:\n{lines}", where=str(wheel))
        context.say(f"error: {error}")
        return exit_code(error)
    context.say(f"identical: {wheel.name}, sha256 {sha256(wheel)}, built again by the {recorded.built.engine} engine")
    return 0


def _again(context: Context, prepared: Prepared, stages: Sequence[Stage], recorded: WheelRecords) -> list[Record]:
    """The records of `stages`, run anew. Raises the job's own error."""
    progress = report.Progress(context.console, prepared.plan.jobs)
    (result,) = execute(prepared, stages, smoke="none", epoch=recorded.rendered.epoch, progress=progress, force=True)
    if result.error:
        raise result.error
    return [stage.record for stage in result.stages]
