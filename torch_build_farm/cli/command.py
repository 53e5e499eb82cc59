"""What a command consists of: its arguments, its options as typed fields, and its work.

A command's module declares all three side by side and lists its commands in `COMMANDS`, by name. It is imported when
one of them is invoked, so it may import whatever that needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch_build_farm.cli.arguments import CommonOptions, Parser
from torch_build_farm.cli.context import Context

OptionsType = TypeVar("OptionsType", bound=CommonOptions)


@dataclass(frozen=True)
class Command(Generic[OptionsType]):
    """A command.

    `options` is the dataclass of its options, `configure_parser` adds an argument for each of its fields, and `execute`
    does the work and returns the exit code; it raises FarmError. `answer` is the type of the document for --json,
    None if there is no such document.
    """

    options: type[OptionsType]
    configure_parser: Callable[[Parser], None]
    execute: Callable[[Context, OptionsType], int]
    answer: Any = None

    def parse(self, parser: Parser, words: Sequence[str], other_names: Sequence[str] = ()) -> OptionsType:
        """The options that `words` give. `parser` is a new one; `other_names` and errors as in Parser.parse."""
        self.configure_parser(parser)
        values: dict[str, Any] = {}
        for name, value in vars(parser.parse(words, other_names)).items():
            values[name] = tuple(value) if isinstance(value, list) else value
        return self.options(**values)
