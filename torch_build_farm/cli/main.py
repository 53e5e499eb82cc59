"""The command line: which commands there are, and how a call ends (exit codes, signals, one clear error message)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from torch_build_farm import __version__
from torch_build_farm.cli.answer import ErrorAnswer
from torch_build_farm.cli.arguments import CommonOptions, Parser
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import FarmError, UsageError, exit_code, nearest, out_of_reach
from torch_build_farm.core.process import Runner
from torch_build_farm.core.resources import builtin_folder

_PROGRAM = "build_farm.py"
_LOG_WIDTH = 240  # columns of a log or a file, where no line has to be folded


@dataclass(frozen=True)
class Entry:
    """A command in the list: the module in cli/ that declares it, and a summary for --help."""

    module: str
    summary: str


# A command's module is imported when the command is invoked: importing all of them takes many times longer than a run
# that has nothing to do.
COMMANDS = {
    "run": Entry("run", "run all stages: render, build, repair, relocate, audit, smoke (the default command)"),
    "plan": Entry("run", "show the jobs; with --json, as a CI matrix"),
    "render": Entry("run", "write each job's source tree"),
    "build": Entry("run", "render, build, repair and audit wheels"),
    "smoke": Entry("run", "smoke-test wheels, each in a fresh environment with its own torch"),
    "audit": Entry("audit", "report which torch releases wheels load and compute with, without running them"),
    "index": Entry("index", "list the torch releases that the audit knows, or add one"),
    "discover": Entry("discover", "compare torch on the package index with the variants: what is missing or new"),
    "add": Entry("add", "write a torch minor's variant from the release itself; with --build, build and prove it"),
    "sdk": Entry("sdk", "make an SDK of a torch release for compiling and linking: 12 MB instead of 4 GB"),
    "meta": Entry("publish", "make the wheels behind the one name, for the variants that are built and published"),
    "publish": Entry("publish", "publish built variants and the wheels behind the one name"),
    "check": Entry(
        "check", "install what users get from a package index, compare it with what was published, import it"
    ),
    "ci": Entry("ci", "write CI workflows that build, prove and publish wheels and watch for torch releases"),
    "init": Entry("init", "write a project file for a source tree or an sdist"),
    "verify": Entry("verify", "rebuild a wheel from its record and report whether it is identical"),
    "doctor": Entry("doctor", "report what this machine has and lacks, and what for"),
    "clean": Entry("clean", "remove what earlier runs left"),
}


def load_command(name: str) -> Command[Any]:
    """The command of that name, from its module, which is imported."""
    commands: dict[str, Command[Any]] = import_module(f"torch_build_farm.cli.{COMMANDS[name].module}").COMMANDS
    return commands[name]


def command_parser(name: str) -> Parser:
    """A new parser for a command's arguments, still without any."""
    return Parser(prog=f"{_PROGRAM} {name}", description=COMMANDS[name].summary)


def _top_parser() -> Parser:
    """The parser for --help and --version, and the list of commands."""
    parser = Parser(
        prog=_PROGRAM,
        description="One wheel per torch minor from one C++ source tree. Without a command: all stages.",
        epilog="exit codes: docs/reference/errors.md",
    )
    parser.add_argument("--version", action="version", version=f"torch-build-farm {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, entry in COMMANDS.items():
        subparsers.add_parser(name, help=entry.summary)
    return parser


def _split_command(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name, and its arguments. A call that names no command means `run`.

    Raises UsageError for a first word that is not a command, and for a command after its options. --help and --version
    at the front end the process.
    """
    first = words[0] if words else ""
    if first in COMMANDS:
        return first, list(words[1:])
    if first in ("-h", "--help", "--version"):
        _top_parser().parse(words)
    if first and not first.startswith("-"):
        raise UsageError(f"unknown command {first!r}; {nearest(first, COMMANDS)}", next_step="--help lists them")
    # `--torch 2.8 plan`: argparse would take "plan" for a torch minor. The word right after an option is its value.
    for position in range(1, len(words)):
        name = words[position]
        if name in COMMANDS and not words[position - 1].startswith("-"):
            other_words = [word for word in words if word != name]
            raise UsageError(f"the command comes first: {name} {' '.join(other_words)}")
    return "run", list(words)


def _handle_signals(runner: Runner) -> None:
    """The first SIGINT or SIGTERM ends the run in order; the second ends the farm at once."""

    def handle(number: int, _: FrameType | None) -> None:
        if runner.cancelled:
            os._exit(128 + number)
        runner.cancel(number)

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


class _Output(Console):
    """What people read. If its reader goes away, as `| head` does, the run ends in order.

    SIGPIPE itself stays ignored, as Python has it: it would also come from an index that hangs up in mid-upload.
    """

    def __init__(self, runner: Runner, *, stderr: bool) -> None:
        super().__init__(stderr=stderr, highlight=False)
        # Rich would fold lines at 80 columns, and logs are searched by line.
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _LOG_WIDTH
        self._runner = runner

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard_output()
        self._runner.cancel(signal.SIGPIPE)


def _discard_output() -> None:
    """Send standard output to nowhere, so that the interpreter's last flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _context(options: CommonOptions, default_root: Path, runner: Runner) -> Context:
    """What the command works with. --project may also name the folder's pyproject.toml."""
    root = options.project.resolve() if options.project else default_root
    if root.name == "pyproject.toml" and root.is_file():
        root = root.parent
    console = _Output(runner, stderr=options.json)
    return Context(root, options.work, options.json, builtin_folder(), runner, console)


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the farm, and return the exit code.

    `root` is the project to serve where --project does not name one (default: the current folder).
    """
    try:
        name, words = _split_command(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_code(error)

    # A signal may come at any time from here on, also while the command's module is imported.
    runner = Runner()
    _handle_signals(runner)
    command = load_command(name)
    options = command.parse(command_parser(name), words, other_names=list(COMMANDS))
    context = _context(options, root or Path.cwd(), runner)

    try:
        code = command.execute(context, options)
        runner.check()
        return code
    except BrokenPipeError:  # of the document for --json; the farm's own connections raise their own errors
        _discard_output()
        runner.cancel(signal.SIGPIPE)
        return 128 + signal.SIGPIPE
    except FarmError as error:
        return _report_error(error, context)
    except OSError as error:
        if not error.filename:  # a bug: the user has no file to look after
            raise
        return _report_error(out_of_reach(error), context)


def _report_error(error: FarmError, context: Context) -> int:
    """Print what went wrong, for people and for programs; returns the exit code."""
    if exit_code(error) == 128 + signal.SIGPIPE:
        return exit_code(error)  # nobody reads
    Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    context.answer(ErrorAnswer.of(error))
    return exit_code(error)
