"""The JSON documents for programs: one frozen dataclass per command, declared beside the command.

Every start of the farm imports this, so it imports little. cli/schemas.py writes the documents' JSON Schemas.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch_build_farm.core.errors import FarmError, exit_code

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A command's document. `schema` is the version of its form: it rises if a key goes or changes its meaning."""

    schema: Literal[1] = 1


@dataclass(frozen=True)
class ErrorDetails:
    """What failed, where, and what to do next; `kind` is the error's name in the reference of errors."""

    kind: str
    exit_code: int
    what: str
    where: str
    next: str

    @classmethod
    def of(cls, error: FarmError) -> ErrorDetails:
        """The details of `error`."""
        return cls(type(error).__name__, exit_code(error), error.what, error.where, error.next_step)


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer(Answer):
    """The document of a command that failed."""

    error: ErrorDetails

    @classmethod
    def of(cls, error: FarmError) -> ErrorAnswer:
        """The document for `error`."""
        return cls(error=ErrorDetails.of(error))


def as_text(answer: DataclassInstance | dict[str, Any]) -> str:
    """The document as it is printed. Raises TypeError for a value that has no JSON form."""
    document = answer if isinstance(answer, dict) else asdict(answer)
    # GitHub takes `##[` for a command wherever it stands in a log. Only a string can hold it, where the escape is the
    # same character.
    return json.dumps(document, indent=2, default=_path_text).replace("##[", r"#\u0023[")


def _path_text(value: object) -> str:
    if not isinstance(value, Path):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return str(value)
