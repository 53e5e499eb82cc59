"""Arguments, and how a run ends: exit codes, signals, one clear message for an error."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType

from rich.console import Console

from torch_build_farm import __version__
from torch_build_farm.cli.context import Context, builtin_folder
from torch_build_farm.core.errors import FarmError, UsageError, exit_code, nearest, out_of_reach
from torch_build_farm.core.process import Runner
from torch_build_farm.core.versions import ENGINES

# What a command is, and where it is done: imported when it is asked for, since a run that finds nothing to do is over
# in a fraction of the time that all of them take to import.
COMMANDS = {
    "run": ("cli.run:run_all", "all stages: render, build, repair, smoke, report (what a bare call does)"),
    "plan": ("cli.run:show_plan", "show the jobs; with --json as a CI matrix"),
    "render": ("cli.run:render", "write each job's source tree"),
    "build": ("cli.run:build", "render, build and repair wheels"),
    "smoke": ("cli.run:smoke", "smoke-test wheels, each in a fresh environment with its own torch"),
    "audit": (
        "cli.audit:audit",
        "say with which torch releases wheels load and compute, without running them",
    ),
    "index": ("cli.index:index", "what the audit knows of torch's releases: list them, add one"),
    "discover": (
        "cli.discover:discover",
        "what the package index has of torch, beside the variants: what is missing or new",
    ),
    "add": (
        "cli.add:add",
        "write a torch minor's variant from the release itself; with --build build and prove it",
    ),
    "sdk": ("cli.sdk:sdk", "make what compiling and linking takes of a torch release: 12 MB in place of 4 GB"),
    "meta": (
        "cli.publish:meta",
        "make the wheels behind the one name, of the variants that are built and published",
    ),
    "publish": ("cli.publish:publish", "publish what is built, and the wheels behind the one name"),
    "ci": ("cli.ci:write", "write workflows that build, prove and publish, and that watch for torch releases"),
    "init": ("cli.init:init", "write a project file for a source tree or an sdist"),
    "verify": ("cli.verify:verify", "build a wheel again from its record, and say whether it is the same"),
    "doctor": ("cli.doctor:examine", "what this machine has and lacks, for what"),
    "clean": ("cli.clean:clean", "remove what runs left"),
}
_SELECTS = ("run", "plan", "render", "build", "smoke")
_ENGINE = "where to build: in Docker containers, or on this machine (default: auto, docker where an engine answers)"
_BASE_IMAGE = "the containers' base: a name that cibuildwheel pins, such as manylinux_2_28, or an image"
_RUNS = ("run", "render", "build", "smoke")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--project", metavar="DIR", help="folder of the project's pyproject.toml, variants/, templates/"
    )
    parser.add_argument("--work", metavar="DIR", help="work folder: records, logs, wheels (default: PROJECT/work)")
    parser.add_argument("--json", action="store_true", help="a JSON document on standard output, the rest on stderr")


def _selecting(parser: argparse.ArgumentParser) -> None:
    def several(option: str, metavar: str, text: str) -> None:
        parser.add_argument(option, nargs="+", action="extend", metavar=metavar, help=text)

    several("--torch", "MINOR", "torch minors such as 2.8 2.9, or all")
    several("--python", "X.Y", "CPythons such as 3.11 3.12 3.13t, or all (default: the running one, else the newest)")
    several("--only", "JOB", "only jobs with such ids; * and ? match")
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help=_ENGINE)
    _base_image(parser)


def _base_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-image", metavar="IMAGE", help=_BASE_IMAGE)


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_positive, metavar="N", help="at most so many builds side by side")
    parser.add_argument("--smoke", choices=("full", "import", "none"), help="how much to test (default: full)")
    parser.add_argument("--force", action="store_true", help="do everything anew, whatever the records say")


def _publishing(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "publish":
        parser.add_argument("publish", metavar="INDEX", help="pypi, testpypi, or the URL that twine uploads to")
        parser.add_argument(
            "--only", dest="files", nargs="+", action="extend", metavar="FILE", help="only variants with such names"
        )
        parser.add_argument("--build-number", type=_positive, metavar="N", help="re-issue those of --only as build N")
        parser.add_argument(
            "--names", nargs="+", action="extend", metavar="NAME", help="upload these distributions alone"
        )
    else:
        parser.add_argument("--publish", metavar="INDEX", help="then publish: pypi, testpypi, or a URL for uploads")
        parser.set_defaults(files=None, build_number=None, names=None)
    parser.add_argument("--index-url", metavar="URL", help="where that index lists its files, if it is not obvious")
    parser.add_argument("--yes", action="store_true", help="upload; else, outside CI, only the plan is shown")


def _special(parser: argparse.ArgumentParser, name: str) -> None:
    """What one command alone takes."""
    if name in ("run", "publish"):
        _publishing(parser, name)
    if name == "audit":
        parser.add_argument("wheels", nargs="+", metavar="WHEEL", help="wheels for x86-64 Linux")
        parser.add_argument(
            "--torch", nargs="+", action="extend", metavar="RELEASE", help="releases (2.9.1), minors (2.8), or all"
        )
        parser.add_argument("--markdown", action="store_true", help="table and reasons as Markdown")
    if name in ("index", "sdk"):
        _of_releases(parser, name)
    if name in ("discover", "add"):
        parser.add_argument("--pre", action="store_true", help="pre-releases too, of minors without a final release")
    if name == "add":
        _adding(parser)
    if name == "ci":
        parser.add_argument("system", nargs="?", default="github", metavar="SYSTEM", help="github (default) or shell")
        parser.add_argument("--out", metavar="DIR", help="where to (default: .github/workflows, or ci for a script)")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
        parser.add_argument("--force", action="store_true", help="write over files that were changed by hand too")
    if name == "meta":
        parser.add_argument("--offline", action="store_true", help="do not ask the index for earlier variants")
    if name == "verify":
        parser.add_argument("wheel", metavar="WHEEL", help="a wheel that the farm made")
        parser.set_defaults(engine="auto", jobs=None, force=True)
    if name == "clean":
        parser.add_argument("--all", action="store_true", help="finished wheels too")
        parser.add_argument("--store", action="store_true", help="the store too: torch, tools, caches of all projects")


def _of_releases(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "sdk":
        parser.add_argument("torch", metavar="RELEASE", help="a torch release (2.9.1) or minor (2.9: its oldest one)")
    else:
        parser.add_argument(
            "action",
            choices=("list", "add", "learn", "make"),
            help="learn: add what is unknown; make: the tables that the farm ships",
        )
        parser.add_argument("releases", nargs="*", metavar="RELEASE", help="such as 2.16.0")
    own = "CPythons (default: the running one)" if name == "sdk" else "further CPythons to read libtorch_python for"
    parser.add_argument("--python", nargs="+", action="extend", metavar="X.Y", help=own)
    there = "unpack it there, for CMAKE_PREFIX_PATH" if name == "sdk" else "make: where to (default: the farm's own)"
    parser.add_argument("--out", metavar="DIR", help=there)


def _adding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("minors", nargs="*", metavar="MINOR", help="torch minors such as 2.16")
    parser.add_argument("--latest", action="store_true", help="the newest that the index has")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    parser.add_argument("--build", action="store_true", help="then build, audit and smoke-test it: work/evidence.md")
    parser.add_argument("--python", nargs="+", action="extend", metavar="X.Y", help="with --build: CPythons, or all")
    parser.add_argument("--engine", choices=("auto", *ENGINES), default="auto", help=_ENGINE)
    _base_image(parser)
    _running(parser)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="build_farm.py",
        description="One wheel per torch minor from one C++ source tree. Without a command: all stages.",
        epilog="exit codes: docs/reference/errors.md",
    )
    top.add_argument("--version", action="version", version=f"torch-build-farm {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text)
        if name == "init":
            sub.add_argument(
                "what", metavar="SOURCE", help="a source tree, an sdist on the index (NAME==VERSION) or its file"
            )
            sub.add_argument(
                "folder", metavar="DIR", nargs="?", help="where to (default: the tree itself, else ./NAME)"
            )
            sub.set_defaults(project=None, work=None, json=False)
            continue
        _common(sub)
        if name in _SELECTS:
            _selecting(sub)
        _special(sub, name)
        if name in ("doctor", "verify"):
            _base_image(sub)
        if name in _RUNS:
            _running(sub)
        if name in (*_RUNS, "add", "meta", "publish", "verify", "clean"):
            sub.add_argument("--wait", action="store_true", help="wait for another farm in the same work folder")
    return top


def _with_command(argv: Sequence[str]) -> list[str]:
    """A bare call means `run`. Raises UsageError for a first word that is no command."""
    first = argv[0] if argv else ""
    if first and not first.startswith("-") and first not in COMMANDS:
        raise UsageError(f"{first!r} is no command; {nearest(first, COMMANDS)}", next_step="--help lists them")
    if first not in COMMANDS and (
        late := [w for before, w in pairwise(argv) if w in COMMANDS and not before.startswith("-")]
    ):
        raise UsageError(f"the command comes first: {late[0]} {' '.join(word for word in argv if word != late[0])}")
    return list(argv) if first in (*COMMANDS, "-h", "--help", "--version") else ["run", *argv]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse, and name the nearest option where one is unknown."""
    top = parser()
    options, unknown = top.parse_known_args(argv)
    if unknown:
        subparsers = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
        sub = subparsers.choices[options.command]
        sub.error(f"{unknown[0]}: unknown; {nearest(unknown[0], [*COMMANDS, *sub._option_string_actions])}")
    return options


def _on_signals(runner: Runner) -> None:
    """The first SIGINT or SIGTERM ends the run in order; the second ends the farm at once."""

    def handle(number: int, _: FrameType | None) -> None:
        if runner.cancelled:
            os._exit(128 + number)
        runner.cancel(number)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


_WIDE = 240  # columns of a log or a file, where nothing has to be folded


class _Output(Console):
    """What people read. Where its reader goes away, as `| head` does, the run ends in order.

    SIGPIPE itself stays ignored, as Python has it: it would also come from an index that hangs up in mid-upload.
    """

    def __init__(self, runner: Runner, *, stderr: bool) -> None:
        super().__init__(stderr=stderr, highlight=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _WIDE
        self._runner = runner

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard_output()
        self._runner.cancel(signal.SIGPIPE)


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _command(name: str) -> Callable[[Context], int]:
    found: Callable[[Context], int] = resolve_name(f"torch_build_farm.{COMMANDS[name][0]}")
    return found


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the farm; `root` is the project that is meant where --project names none (default: the current folder)."""
    try:
        options = _parse(_with_command(sys.argv[1:] if argv is None else argv))
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_code(error)
    runner = Runner()
    console = _Output(runner, stderr=options.json)
    _on_signals(runner)
    folder = Path(options.project).resolve() if options.project else (root or Path.cwd())
    if folder.name == "pyproject.toml" and folder.is_file():
        folder = folder.parent
    context = Context(options, folder, builtin_folder(), runner, console)
    try:
        code = _command(options.command)(context)
        runner.check()
        return code
    except BrokenPipeError:  # of the answer to --json; the farm's own connections raise their own errors
        _discard_output()
        runner.cancel(signal.SIGPIPE)
        return 128 + signal.SIGPIPE
    except FarmError as error:
        return _told(error, context)
    except OSError as error:
        if not error.filename:
            raise
        return _told(out_of_reach(error), context)


def _told(error: FarmError, context: Context) -> int:
    """Say what went wrong, to people and to programs; returns the exit code."""
    if exit_code(error) == 128 + signal.SIGPIPE:
        return exit_code(error)  # nobody reads
    Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    if context.options.json:
        context.answer({"schema": 1, "error": {"kind": type(error).__name__, "exit_code": exit_code(error),
                     "what": error.what, "where": error.where, "next": error.next_step}})  # fmt: skip
    return exit_code(error)
