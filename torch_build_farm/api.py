"""The Python API: what the commands `plan`, `run` and `audit` do, for other programs (docs/reference/api.md).

`import torch_build_farm` offers all of it, and imports this module when it is first needed. Nothing is printed, no
signal handler is installed, and nothing ends the process. Messages are those of the commands, so they name options: an
argument here has the name of its option.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from torch_build_farm.audit import read_wheel, wheel_report
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.wheel_report import LibraryReport, WheelReport
from torch_build_farm.core.errors import FarmError, UsageError, nearest, of_the_machine
from torch_build_farm.core.process import Runner
from torch_build_farm.core.resources import builtin_folder
from torch_build_farm.core.versions import ENGINES
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.results import JobResult, Progress, RunResult, StageResult, Status
from torch_build_farm.pipeline.run import Prepared, epoch_of, execute, prepare
from torch_build_farm.pipeline.stage import Mode
from torch_build_farm.pipeline.stages.order import stages_with
from torch_build_farm.pipeline.workplace import Workplace
from torch_build_farm.project import settings
from torch_build_farm.project.plan import Job, Plan, Selection
from torch_build_farm.releases.table_files import added_folder

__all__ = [
    "FarmError",
    "Job",
    "JobResult",
    "LibraryReport",
    "Plan",
    "Progress",
    "RunResult",
    "StageResult",
    "Status",
    "WheelReport",
    "audit_wheel",
    "plan",
    "run",
]

AnyPath = str | os.PathLike[str]
Words = str | Iterable[str]  # one word, or several
EngineName = Literal["auto", "docker", "local"]


def plan(
    project: AnyPath,
    *,
    torch: Words = (),
    python: Words = (),
    only: Words = (),
    platform: Words = (),
    engine: EngineName = "auto",
    base_image: str | None = None,
    work: AnyPath | None = None,
) -> Plan:
    """The jobs that `run` would run. Nothing is built; a source that lies elsewhere is fetched into the store.

    `project` is the folder whose pyproject.toml has the table [tool.torch-build-farm]. `torch` are minors such as
    "2.8", or "all"; without any, the project's settings name them. `python` are CPythons such as "3.12" and "3.13t", or
    "all"; without any it is the running one if the project and torch support it, else the newest that they do. `only`
    are patterns for job ids, such as "*-torch29-cp312". `platform` are "x86_64", "aarch64", or "all"; without any, the
    project's settings name them, else it is this machine's. `engine` is where to build: "auto" is Docker if an engine
    answers. `base_image` is the base image of containers. `work` is the work folder, PROJECT/work without it.

    Raises ConfigError for the settings or a variants file; SourceError and VersionError for the source tree;
    UnknownTorchError for a minor without a variant; NoPythonError for a variant without a CPython; EngineError if
    "docker" does not answer; UsageError for an argument that makes no sense.
    """
    with _system_errors():
        place = _workplace(project, work, _ignore)
        selected = {"torch": torch, "python": python, "only": only, "platform": platform}
        prepared = _prepare(project, place, selected, engine=engine, base_image=base_image)
        return prepared.plan


def run(
    project: AnyPath,
    *,
    torch: Words = (),
    python: Words = (),
    only: Words = (),
    platform: Words = (),
    engine: EngineName = "auto",
    base_image: str | None = None,
    work: AnyPath | None = None,
    smoke: Mode = "full",
    jobs: int | None = None,
    force: bool = False,
    wait: bool = False,
    on_message: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run all jobs side by side, each through all stages, and return how each ended, in the order of the plan.

    `smoke` is how much to test: "full", "import", or "none", with which a job ends after the audit. `jobs` is the most
    builds that run at a time; without it, as many as memory and processors allow. `force` does everything anew instead
    of keeping what has not changed since an earlier run. `wait` waits for another farm in the same work folder instead
    of raising LockedError. `on_message` is called with lines for people, such as which engine builds, and why.
    `progress` is called from several threads as jobs come along. The other arguments are those of `plan`.

    A job that fails raises nothing: its `error` is the FarmError, and the other jobs go on.

    Raises what `plan` raises; before anything is built, ToolError, DiskError, PackageIndexError, EngineError or
    ImageError for what the machine lacks; and LockedError. KeyboardInterrupt ends the commands that run; what is
    finished is kept for the next run.
    """
    _require_one_of(("full", "import", "none"), smoke, "smoke")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise UsageError(f"jobs={jobs!r}: a run takes at least one build at a time", where="jobs")
    start = time.monotonic()
    with _system_errors():
        place = _workplace(project, work, on_message or _ignore)
        selected = {"torch": torch, "python": python, "only": only, "platform": platform}
        prepared = _prepare(project, place, selected, engine=engine, base_image=base_image)
        for line in (prepared.why, *prepared.plan.notes):
            place.say(line)
        results = execute(
            prepared,
            stages_with(smoke),
            smoke=smoke,
            epoch=epoch_of(prepared.source),
            progress=progress or _NoProgress(),
            force=force,
            most_builds=jobs,
            wait=wait,
        )
    return RunResult(results, time.monotonic() - start, place.work)


def audit_wheel(wheel: AnyPath, *, torch: Words = (), work: AnyPath | None = None) -> WheelReport:
    """Which torch releases a wheel loads and computes with, judged without running any of it.

    `wheel` is any wheel for x86-64 or arm64 Linux; it is judged against torch for the same machine. `torch` are
    releases such as "2.9.1", minors such as "2.8", or "all", which is what it is without any. `work` is the work folder
    of the run that built the wheel: its records say what the wheel was built against, which is inferred otherwise.

    The report's `ok` is false if METADATA allows a torch release that the wheel does not work with. The tables of
    torch's releases are read at the first call and kept: some 100 MB.

    Raises AuditError for a file that cannot be read as a wheel, UnknownTorchError for a release without tables.
    """
    with _system_errors():
        path = Path(wheel)
        audited = read_wheel.read(path)
        tables = _audit_tables(added_folder()).for_machine(audited.machine)
        releases = tables.select(_words("torch", torch))
        built_against = records.torch_built_against(path, Path(work)) if work is not None else ""
        external = records.external_libraries(path, Path(work)) if work is not None else {}
        return wheel_report.audit(audited, tables, releases, built_against, external)


@functools.cache
def _audit_tables(added: Path) -> AuditTables:
    return AuditTables.load(added)


def _workplace(project: AnyPath, work: AnyPath | None, say: Callable[[str], None]) -> Workplace:
    root = Path(project).resolve()
    return Workplace.of(root, None if work is None else Path(work), Runner(), say)


def _prepare(
    project: AnyPath,
    place: Workplace,
    selected: Mapping[str, Words],
    *,
    engine: EngineName,
    base_image: str | None,
) -> Prepared:
    """Load the project and plan, as the commands do. `selected` are the arguments of Selection.parse."""
    _require_one_of(("auto", *ENGINES), engine, "engine")
    words = {argument: _words(argument, given) for argument, given in selected.items()}
    loaded = settings.load(Path(project).resolve(), builtin_folder())
    selection = Selection.parse(loaded, **words)
    return prepare(loaded, selection, place, engine=engine, base_image=base_image)


def _words(argument: str, words: Words) -> tuple[str, ...]:
    """The words of an argument that takes one or several. Raises UsageError for anything but text."""
    if isinstance(words, str):
        return (words,)
    several = tuple(words) if isinstance(words, Iterable) else (words,)
    for word in several:
        # A number would be another minor: 2.10 is 2.1.
        if not isinstance(word, str):
            raise UsageError(f"{argument}: {word!r} is not text", where=argument, next_step='use text, such as "2.10"')
    return several


def _require_one_of(names: Iterable[str], value: str, argument: str) -> None:
    """Raise UsageError for a value that a type checker would have refused."""
    if value not in names:
        raise UsageError(f"{argument}={value!r}: {nearest(str(value), names)}", where=argument)


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    """Raise DiskError or LimitError for what the machine is to blame for, as the command line does."""
    try:
        yield
    except (OSError, MemoryError) as error:
        problem = of_the_machine(error)
        if problem is None:
            raise
        raise problem from error


def _ignore(line: str) -> None:
    """Drop a line for people."""


class _NoProgress:
    """A Progress that shows nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def started(self, job: Job, stage: str) -> None: ...

    def printed(self, job: Job, line: str) -> None: ...

    def finished(self, job: Job, stage: str, seconds: float) -> None: ...

    def ended(self, job: Job, status: Status, line: str = "") -> None: ...
