"""The options that select jobs: --torch, --python, --only and the engine's."""

from __future__ import annotations

from dataclasses import dataclass

from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_engine_arguments,
    add_list_argument,
    add_platforms_argument,
)


@dataclass(frozen=True, kw_only=True)
class SelectionOptions(CommonOptions):
    """Options of a command that plans jobs; values are as typed."""

    torch: tuple[str, ...]
    python: tuple[str, ...]
    platform: tuple[str, ...]
    only: tuple[str, ...]
    engine: str
    base_image: str | None


def add_selection_arguments(parser: Parser) -> None:
    """Add the arguments of SelectionOptions."""
    add_common_arguments(parser)
    add_list_argument(parser, "--torch", "MINOR", "torch minors such as 2.8 2.9, or all")
    add_list_argument(
        parser,
        "--python",
        "X.Y",
        "CPythons such as 3.11 3.12 3.13t, or all (default: the running one if torch supports it, else the newest)",
    )
    add_platforms_argument(parser, "this machine's")
    add_list_argument(parser, "--only", "JOB", "only jobs with such ids; * and ? match")
    add_engine_arguments(parser)
