"""`run`, `plan`, `render`, `build` and `smoke`: a run over jobs, or a part of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from torch_build_farm.cli import report
from torch_build_farm.cli.context import Context
from torch_build_farm.cli.selection import selection
from torch_build_farm.core.errors import UsageError
from torch_build_farm.pipeline.results import RunResult
from torch_build_farm.pipeline.run import Prepared, epoch_of, execute, prepare
from torch_build_farm.pipeline.stage import Mode, Stage
from torch_build_farm.pipeline.stages.order import ALL, AUDITED_WHEEL, TREE


def _prepare(context: Context) -> Prepared:
    """The run that the command line asks for, planned."""
    project, options = context.project, context.options
    asked = selection(context, project)
    return prepare(project, asked, context.place, engine=options.engine, base_image=options.base_image)


def show_plan(context: Context) -> int:
    """`plan`: the jobs, nothing run."""
    planned = _prepare(context).plan
    if context.options.json:
        context.answer(planned.matrix())
    else:
        report.plan_table(context.console, planned.jobs)
        for note in planned.notes:
            context.say(note)
    return 0


def _run(context: Context, stages: Sequence[Stage], smoke: Mode) -> int:
    result = carry_out(context, stages, smoke)
    if context.options.json:
        context.answer(result.as_json())
    return result.exit_code


def carry_out(context: Context, stages: Sequence[Stage], smoke: Mode) -> RunResult:
    """Plan, check, run `stages`, report; then publish, where that is asked for and nothing failed."""
    start = time.monotonic()
    prepared = _prepare(context)
    context.say(prepared.why)
    for note in prepared.plan.notes:
        context.say(note)
    jobs = execute(
        prepared,
        stages,
        smoke=smoke,
        epoch=epoch_of(prepared.source),
        progress=report.Progress(context.console, prepared.plan.jobs),
        force=context.options.force,
        most_builds=context.options.jobs,
        wait=context.options.wait,
    )
    result = RunResult(jobs, time.monotonic() - start, context.work)
    report.summary(context.console, result)
    if result.exit_code == 0 and getattr(context.options, "publish", None):
        from torch_build_farm.cli import publish  # noqa: PLC0415 (slow to import)

        result = replace(result, published=publish.carry_out(context))
    return result


def stages_with(smoke: Mode) -> tuple[Stage, ...]:
    """The stages that make and prove a wheel, the smoke test only where there is one."""
    return AUDITED_WHEEL if smoke == "none" else ALL


def run_all(context: Context) -> int:
    """The bare call: every stage up to the report."""
    smoke: Mode = context.options.smoke or "full"
    return _run(context, stages_with(smoke), smoke)


def render(context: Context) -> int:
    """`render`: the source trees alone."""
    return _run(context, TREE, "none")


def build(context: Context) -> int:
    """`build`: repaired wheels; smoke-tested only where --smoke says so."""
    smoke: Mode = context.options.smoke or "none"
    return _run(context, stages_with(smoke), smoke)


def smoke(context: Context) -> int:
    """`smoke`: test wheels, building those that are not there or not fresh."""
    mode: Mode = context.options.smoke or "full"
    if mode == "none":
        raise UsageError("smoke --smoke none has nothing to do", next_step="--smoke full or --smoke import")
    return _run(context, ALL, mode)
