"""`pack` and `accept`: finished jobs go from one machine to another, such as in CI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_list_argument,
    add_wait_argument,
    optional_path,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError, nearest
from torch_build_farm.core.machine import MACHINES, Machine
from torch_build_farm.pipeline import packs, workfolder
from torch_build_farm.pipeline.packs import SHA256, PackedWheel
from torch_build_farm.project.plan import parse_platforms, platform_of_job


@dataclass(frozen=True, kw_only=True)
class PackOptions(CommonOptions):
    """Options of `pack`."""

    only: tuple[str, ...]
    platform: tuple[str, ...]
    out: Path | None
    wait: bool


@dataclass(frozen=True, kw_only=True)
class AcceptOptions(CommonOptions):
    """Options of `accept`."""

    packs: tuple[Path, ...]
    digests: str | None
    sha256: str | None
    wait: bool


@dataclass(frozen=True, kw_only=True)
class PackAnswer(Answer):
    """The document of `pack`: the file, its SHA-256, and the wheels in it."""

    pack: Path
    sha256: str
    wheels: tuple[PackedWheel, ...]


@dataclass(frozen=True, kw_only=True)
class AcceptAnswer(Answer):
    """The document of `accept`: the wheels that the work folder has now."""

    wheels: tuple[PackedWheel, ...]


def _configure_pack(parser: Parser) -> None:
    add_common_arguments(parser)
    add_list_argument(parser, "--only", "JOB", "only jobs with such ids; * and ? match")
    add_list_argument(parser, "--platform", "PLATFORM", "only jobs for x86_64, aarch64 (arm64) or all (default: all)")
    parser.add_argument(
        "--out", type=optional_path, metavar="FILE", help="the pack (default: packs/JOB.tar in the work folder)"
    )
    add_wait_argument(parser)


def _configure_accept(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("packs", type=Path, nargs="+", metavar="PACK", help="files that `pack` wrote")
    parser.add_argument("--digests", metavar="JSON", help="an object with the SHA-256 of each job's pack, by job")
    parser.add_argument("--sha256", metavar="HEX", help="the SHA-256 of the one pack, of any jobs")
    add_wait_argument(parser)


def _pack(context: Context, options: PackOptions) -> int:
    """`pack`: write wheels and records of finished jobs into one file, and print its SHA-256."""
    with workfolder.locked(context.work, context.runner, options.wait, context.say):
        finished = packs.finished_jobs(context.work)
        jobs = _select_jobs(finished, options.only, parse_platforms(options.platform) or MACHINES)
        name = jobs[0] if len(jobs) == 1 else "jobs"
        pack = packs.write(context.work, jobs, options.out or context.work / "packs" / f"{name}.tar")
    context.answer(PackAnswer(pack=pack.path, sha256=pack.sha256, wheels=pack.wheels))
    if not context.json:
        context.say(pack.sha256)  # alone, for $(...)
    return 0


def _select_jobs(finished: Sequence[str], patterns: Sequence[str], platforms: Sequence[Machine]) -> list[str]:
    """The finished jobs for these platforms that patterns name, all without any. Raises UsageError for none."""
    if not finished:
        raise UsageError("no job in the work folder has made a wheel", next_step="build some first")
    finished = [job for job in finished if platform_of_job(job) in platforms]
    if not finished:
        words = " or ".join(platform.words for platform in platforms)
        raise UsageError(f"no job for {words} in the work folder has made a wheel", where="--platform")
    selected = [job for job in finished if not patterns or any(fnmatchcase(job, pattern) for pattern in patterns)]
    if not selected:
        raise UsageError(f"--only {' '.join(patterns)} matches no job; {nearest(patterns[0], finished)}")
    return selected


def _accept(context: Context, options: AcceptOptions) -> int:
    """`accept`: take over jobs from packs, each of which has the SHA-256 that its job vouches for."""
    if (options.digests is None) == (options.sha256 is None):
        raise UsageError("accept: which SHA-256 should the packs have?", next_step="--digests JSON, or --sha256 HEX")
    digests = _digests(options.digests) if options.digests is not None else _digest(options.sha256 or "", "--sha256")
    project = context.load_project()
    with workfolder.locked(context.work, context.runner, options.wait, context.say):
        wheels = packs.accept(options.packs, digests, project, context.work)
    context.answer(AcceptAnswer(wheels=wheels))
    for wheel in wheels:
        context.say(f"accepted {wheel.name} of {wheel.job}, sha256 {wheel.sha256}")
    return 0


def _digests(text: str) -> dict[str, str]:
    """SHA-256 by job, from a JSON object; a job without one is left out, as CI systems give what was never set.

    Raises UsageError for any other text, and where no job has one.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError("not a JSON object", where="--digests", next_step='such as {"demo-torch29-cp312": "0a1b..."}')
    digests = {job: _digest(digest, f"--digests, {job}") for job, digest in document.items() if digest}
    if not digests:
        raise UsageError("no job vouches for a pack", where="--digests")
    return digests


def _digest(text: object, where: str) -> str:
    if not isinstance(text, str) or not SHA256.fullmatch(text):
        raise UsageError("not a SHA-256 in hexadecimal", where=where, next_step="`pack` prints it")
    return text


COMMANDS = {
    "pack": Command(PackOptions, _configure_pack, _pack, PackAnswer),
    "accept": Command(AcceptOptions, _configure_accept, _accept, AcceptAnswer),
}
