"""The command line: which commands there are, and how a call ends (exit codes, signals, one clear error message)."""

from __future__ import annotations

import gc
import os
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.cli import signals
from torch_build_farm.cli.answer import ErrorAnswer, as_text
from torch_build_farm.cli.arguments import CommonOptions, Parser
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.console import Output, open_standard_streams
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import (
    FarmError,
    Interrupted,
    ToolError,
    UsageError,
    exit_code,
    nearest,
    of_the_machine,
)
from torch_build_farm.core.process import Runner
from torch_build_farm.core.resources import builtin_folder
from torch_build_farm.core.text import is_utf8, printable

_PROGRAM = "build_farm.py"


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
    "adopt": Entry("adopt", "record the files that a package index has of a name as this project's, once"),
    "check": Entry(
        "check", "install what users get from a package index, compare it with what was published, import it"
    ),
    "pack": Entry("handover", "write wheels and records of finished jobs into one file, to go to another machine"),
    "accept": Entry("handover", "take over jobs that other machines packed, by the SHA-256 of each pack"),
    "ci": Entry("ci", "write CI workflows that build, prove and publish wheels and watch for torch releases"),
    "init": Entry("init", "write a project file for a source tree or an sdist"),
    "verify": Entry("verify", "rebuild a wheel from its record and report whether it is identical"),
    "doctor": Entry("doctor", "report what this machine has and lacks, and what for"),
    "clean": Entry("clean", "remove what earlier runs left"),
}


def load_command(name: str) -> Command[Any]:
    """The command of that name, from its module, which is imported."""
    # Modules stay as long as the process: to look for garbage among them finds none, and takes a tenth of a short run.
    gc.disable()
    try:
        commands: dict[str, Command[Any]] = import_module(f"torch_build_farm.cli.{COMMANDS[name].module}").COMMANDS
    finally:
        gc.freeze()
        gc.enable()
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


def main(argv: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run the farm, and return the exit code. Every failure is a message, whatever it is; no traceback is printed.

    `root` is the project to serve where --project does not name one (default: the current folder).
    """
    # Not everybody may write what the farm makes, whatever the caller's umask: it refuses such folders.
    os.umask(os.umask(0o077) | stat.S_IWOTH)
    open_standard_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    runner = Runner()
    output = Output(runner, json="--json" in words)

    def report_interruption(number: int) -> int:
        return _report_error(Interrupted(number), output)

    try:
        # A signal may come at any time from here on, also while the command's module is imported.
        with signals.handled(runner, report_interruption):
            return _main(words, root, runner, output)
    except KeyboardInterrupt:
        return report_interruption(runner.signal_number or signal.SIGINT)


def _main(words: Sequence[str], root: Path | None, runner: Runner, output: Output) -> int:
    """As `main`, where a signal raises KeyboardInterrupt."""
    try:
        code = _execute(words, root, runner, output)
        runner.check()
        return code
    except FarmError as error:
        return _report_error(output.failure or error, output)
    except ImportError as error:
        return _report_error(_incomplete(error), output)
    except Exception as error:
        from torch_build_farm.cli.traceback_file import unexpected  # noqa: PLC0415 (seldom needed)

        # What comes here is the machine's fault, or a bug of the farm's: the user's mistakes have errors of their own.
        return _report_error(output.failure or of_the_machine(error) or unexpected(error), output)


def _execute(words: Sequence[str], root: Path | None, runner: Runner, output: Output) -> int:
    """Parse the words and do what they say; returns the exit code. Raises FarmError, and what the command raises."""
    for word in words:
        if not is_utf8(word):
            raise UsageError(f"an argument is not UTF-8: {printable(word)}", next_step="rename what it names")
    name, command_words = _split_command(words)
    command = load_command(name)
    options = command.parse(command_parser(name), command_words, other_names=list(COMMANDS))
    return int(command.execute(_context(options, root, runner, output), options))


def _context(options: CommonOptions, default_root: Path | None, runner: Runner, output: Output) -> Context:
    """What the command works with. --project may also name the folder's pyproject.toml."""
    root = options.project.resolve() if options.project else default_root or _current_folder()
    if root.name == "pyproject.toml" and root.is_file():
        root = root.parent
    if not is_utf8(str(root)):
        raise UsageError(f"the project's folder is not UTF-8: {printable(str(root))}", next_step="rename the folder")
    return Context(root, options.work, options.json, builtin_folder(), runner, output)


def _current_folder() -> Path:
    """The current folder. Raises UsageError if it was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder is gone", next_step="change to one, or name --project DIR") from None


def _incomplete(error: ImportError) -> FarmError:
    """The error for a module that is not there, or cannot be loaded."""
    return ToolError(
        f"the farm's installation is incomplete: {error}",
        where=sys.executable,
        next_step=f"{sys.executable} -m pip install --force-reinstall torch-build-farm",
    )


def _report_error(error: FarmError, output: Output) -> int:
    """Print what went wrong, for people and for programs; returns the exit code."""
    if exit_code(error) != 128 + signal.SIGPIPE:  # else nobody reads
        output.errors.say(f"error: {error}", "red")
        output.document(as_text(ErrorAnswer.of(error)))
    return exit_code(error)
