"""`run`, `plan`, `render`, `build` and `smoke`: a run of all stages over jobs, or of some."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch_build_farm.cli import report
from torch_build_farm.cli.arguments import Parser, add_upload_arguments, add_wait_argument, positive
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.cli.install_lines import install_lines
from torch_build_farm.cli.run_answer import RunAndPublishAnswer, RunAnswer
from torch_build_farm.cli.selection import SelectionOptions, add_selection_arguments
from torch_build_farm.core.errors import UsageError
from torch_build_farm.pipeline.results import RunResult
from torch_build_farm.pipeline.run import Prepared, epoch_of, execute, prepare
from torch_build_farm.pipeline.stage import Mode, Stage
from torch_build_farm.pipeline.stages.order import ALL, TREE, stages_with
from torch_build_farm.project.plan import Selection


@dataclass(frozen=True, kw_only=True)
class StageOptions(SelectionOptions):
    """Options of a command that runs stages."""

    jobs: int | None
    smoke: Mode | None
    force: bool
    wait: bool


@dataclass(frozen=True, kw_only=True)
class RunOptions(StageOptions):
    """Options of `run`: it can publish what it built."""

    publish: str | None
    index_url: str | None
    yes: bool


def add_stage_arguments(parser: Parser) -> None:
    """Add the arguments that StageOptions has beyond SelectionOptions."""
    parser.add_argument("--jobs", type=positive, metavar="N", help="run at most N builds side by side")
    parser.add_argument("--smoke", choices=("full", "import", "none"), help="how much to test (default: full)")
    parser.add_argument("--force", action="store_true", help="do everything anew, whatever the records say")
    add_wait_argument(parser)


def _configure_stages(parser: Parser) -> None:
    add_selection_arguments(parser)
    add_stage_arguments(parser)


def _configure_run(parser: Parser) -> None:
    _configure_stages(parser)
    parser.add_argument("--publish", metavar="INDEX", help="then publish to pypi, testpypi, or a URL for uploads")
    add_upload_arguments(parser)


def _prepare(context: Context, options: SelectionOptions) -> Prepared:
    """Plan the run that the options select."""
    project = context.load_project()
    return prepare(
        project,
        Selection.parse(project, options.torch, options.python, options.only, options.platform),
        context.place,
        engine=options.engine,
        base_image=options.base_image,
    )


@dataclass(frozen=True)
class PlannedJob:
    """An entry of a CI matrix: a job, or the jobs of a variant that may share one wheel, called after the first.

    `torch` is their minor, or "all" for the core's. `python` are their CPythons and `releases` are torch's, with spaces
    between.
    """

    job: str
    distribution: str
    version: str
    variant: str
    torch: str
    python: str
    releases: str
    cuda: str
    image: str
    platform: str


@dataclass(frozen=True)
class PlanAnswer:
    """The document of `plan`: a CI matrix, in the form of GitHub Actions' strategy.matrix."""

    include: tuple[PlannedJob, ...]


def _show_plan(context: Context, options: SelectionOptions) -> int:
    """`plan`: show the jobs; nothing runs."""
    prepared = _prepare(context, options)
    plan = prepared.plan
    if context.json:
        matrix = plan.matrix(prepared.project, shared_wheels=prepared.may_share_wheels)
        context.answer(PlanAnswer(tuple(PlannedJob(**job) for job in matrix["include"])))
    else:
        report.plan_table(context.console, plan.jobs)
        for note in plan.notes:
            context.say(note)
    return 0


def run_stages(context: Context, options: StageOptions, stages: Sequence[Stage], smoke: Mode) -> RunResult:
    """Plan, check, run `stages`, and print a summary.

    A job's failure is part of the result, and the other jobs go on. Raises FarmError for what concerns all jobs.
    """
    start = time.monotonic()
    prepared = _prepare(context, options)
    source = prepared.source
    identity = str(source.project) if source.origin.identity == "path" else source.origin.identity
    context.say(f"{prepared.project.settings.name} {source.version}, from {identity}")
    context.say(prepared.why)
    for note in prepared.plan.notes:
        context.say(note)
    jobs = execute(
        prepared,
        stages,
        smoke=smoke,
        epoch=epoch_of(prepared.source),
        progress=report.Progress(context.console, prepared.plan.jobs),
        force=options.force,
        most_builds=options.jobs,
        wait=options.wait,
    )
    result = RunResult(jobs, time.monotonic() - start, context.work)
    report.summary(context.console, result)
    for line in install_lines(context, prepared.project, result):
        context.say(line)
    return result


def _answer(context: Context, result: RunResult) -> int:
    """Print the run's document for programs; returns the exit code."""
    context.answer(RunAnswer.of(result))
    return result.exit_code


def _run(context: Context, options: RunOptions) -> int:
    """`run`: all stages; then publish, if --publish names an index and no job failed."""
    smoke = options.smoke or "full"
    result = run_stages(context, options, stages_with(smoke), smoke)
    if options.publish and result.exit_code == 0:
        from torch_build_farm.cli import publish  # noqa: PLC0415 (slow to import)

        upload = publish.PublishOptions(
            index=options.publish, index_url=options.index_url, yes=options.yes, wait=options.wait
        )
        publication = publish.publish_built(context, upload)
        answer = RunAnswer.of(result)
        context.answer(RunAndPublishAnswer(seconds=answer.seconds, jobs=answer.jobs, publish=publication))
        return 0
    return _answer(context, result)


def _render(context: Context, options: StageOptions) -> int:
    """`render`: only the source trees."""
    return _answer(context, run_stages(context, options, TREE, "none"))


def _build(context: Context, options: StageOptions) -> int:
    """`build`: repaired and audited wheels; smoke-tested only if --smoke is given."""
    smoke = options.smoke or "none"
    return _answer(context, run_stages(context, options, stages_with(smoke), smoke))


def _smoke(context: Context, options: StageOptions) -> int:
    """`smoke`: test wheels, and build those that are missing or out of date first."""
    smoke = options.smoke or "full"
    if smoke == "none":
        raise UsageError("smoke --smoke none has nothing to do", next_step="--smoke full or --smoke import")
    return _answer(context, run_stages(context, options, ALL, smoke))


COMMANDS = {
    "run": Command(RunOptions, _configure_run, _run, RunAndPublishAnswer | RunAnswer),
    "plan": Command(SelectionOptions, add_selection_arguments, _show_plan, PlanAnswer),
    "render": Command(StageOptions, _configure_stages, _render, RunAnswer),
    "build": Command(StageOptions, _configure_stages, _build, RunAnswer),
    "smoke": Command(StageOptions, _configure_stages, _smoke, RunAnswer),
}
