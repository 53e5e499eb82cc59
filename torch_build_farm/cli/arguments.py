"""The parser of a command's arguments, and the arguments that several commands share.

Every start of the farm imports this, so it imports little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch_build_farm.cli.console import print_help
from torch_build_farm.core.errors import UsageError, nearest
from torch_build_farm.core.machine import MACHINES, X86_64
from torch_build_farm.core.versions import ENGINES


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest option for an unknown one. `arguments` are its own, in order."""

    def __init__(self, **settings: Any) -> None:
        self.arguments: list[argparse.Action] = []  # set first: argparse's own constructor adds --help
        super().__init__(**settings)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        action = super().add_argument(*names, **settings)
        self.arguments.append(action)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, where argparse would print and exit; --json then has its document."""
        raise UsageError(message, where=self.prog, next_step=f"{self.prog} --help says what it takes")

    def _print_message(self, message: str, file: object = None) -> None:  # noqa: ARG002 (argparse passes it)
        """Print --help and --version, which are all that is left to argparse."""
        print_help(message)

    def parse(self, words: Sequence[str], other_names: Sequence[str] = ()) -> argparse.Namespace:
        """Parse `words`. Raises UsageError; --help and --version end the process.

        For an unknown word the message suggests the nearest of this parser's options and of `other_names`.
        """
        namespace, unknown = self.parse_known_args(words)
        if unknown:
            names = list(other_names)
            for argument in self.arguments:
                names.extend(argument.option_strings)
            self.error(f"{unknown[0]}: unknown; {nearest(unknown[0], names)}")
        return namespace


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of every command. A command adds its own as further fields, named as argparse names them."""

    project: Path | None = None
    work: Path | None = None
    json: bool = False


def add_common_arguments(parser: Parser) -> None:
    """Add --project, --work and --json: the fields of CommonOptions."""
    parser.add_argument(
        "--project",
        type=optional_path,
        metavar="DIR",
        help="folder of the project: its pyproject.toml, variants/ and templates/",
    )
    parser.add_argument(
        "--work",
        type=optional_path,
        metavar="DIR",
        help="work folder: records, logs, wheels (default: PROJECT/work)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON document on standard output, everything else on stderr"
    )


def add_list_argument(parser: Parser, option: str, metavar: str, help_text: str) -> None:
    """Add an option that takes one or more values; where it is given several times, the values add up."""
    parser.add_argument(option, nargs="+", action="extend", default=[], metavar=metavar, help=help_text)


def add_engine_arguments(parser: Parser) -> None:
    """Add --engine and --base-image."""
    parser.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default="auto",
        help="where to build: in Docker containers or on this machine (default: auto, Docker if an engine answers)",
    )
    add_base_image_argument(parser)


def add_base_image_argument(parser: Parser) -> None:
    """Add --base-image."""
    parser.add_argument(
        "--base-image",
        metavar="IMAGE",
        help="the containers' base image: a name that cibuildwheel pins, such as manylinux_2_28, or any image",
    )


def add_pre_argument(parser: Parser) -> None:
    """Add --pre."""
    parser.add_argument("--pre", action="store_true", help="include pre-releases of minors without a final release")


def add_platform_argument(parser: Parser) -> None:
    """Add --platform."""
    parser.add_argument(
        "--platform",
        choices=[machine.name for machine in MACHINES],
        default=X86_64.name,
        help="whose torch: x86_64 (default) or aarch64, which is arm64",
    )


def add_platforms_argument(parser: Parser, default: str) -> None:
    """Add --platform for several platforms; `default` says which they are without it."""
    add_list_argument(
        parser,
        "--platform",
        "PLATFORM",
        f"x86_64, aarch64 (arm64) or all (default: the project's platforms, else {default})",
    )


def add_flavours_index_argument(parser: Parser) -> None:
    """Add --index."""
    parser.add_argument(
        "--index",
        metavar="URL",
        default="",
        help="an index with flavours of torch: other CUDAs than uv's own index has",
    )


def add_index_url_argument(parser: Parser) -> None:
    """Add --index-url."""
    parser.add_argument("--index-url", metavar="URL", help="where that index lists its files, if it is not obvious")


def add_upload_arguments(parser: Parser) -> None:
    """Add --index-url and --yes."""
    add_index_url_argument(parser)
    parser.add_argument("--yes", action="store_true", help="upload; without it, outside CI, only the plan is shown")


def add_wait_argument(parser: Parser) -> None:
    """Add --wait."""
    parser.add_argument(
        "--wait", action="store_true", help="wait if another farm works in the same work folder, instead of failing"
    )


def optional_path(text: str) -> Path | None:
    """The path that `text` names; None for the empty string, which scripts pass for an unset variable."""
    return Path(text) if text else None


def positive(text: str) -> int:
    """A positive integer, such as a number of jobs."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
