"""The one place that reads TOML, whoever wrote it: every failure is a TomlError with one line.

tomllib parses by recursion, takes time by the square of a key's parts, and returns integers that no other TOML writer
takes. tomlkit is slower, and as deep. A document that anybody writes by hand is far from each of these limits.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_build_farm.core import foreign_files

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

LARGEST = 256 << 10  # bytes; the largest files that projects have take a third
_DEEPEST = 50  # tables and arrays within one another
_NUMBERS = range(-(2**63), 2**63)  # TOML 1.0, "Integer"
# A key of more parts than that, in a table's header or before an `=`. A part may be quoted.
_LONG_KEY = re.compile(rf"""(?:(?:(?<![\w-])[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""")


class TomlError(ValueError):
    """A text is not TOML, or larger, deeper or longer than the farm reads; its message is one line."""


def loads(text: str, limit: int = LARGEST) -> dict[str, Any]:
    """The document in `text`, of at most `limit` characters. Raises TomlError."""
    if len(text) > limit:
        raise TomlError(f"it has more than {limit} characters")
    if _LONG_KEY.search(text):
        raise TomlError(f"a key has more than {_DEEPEST} parts")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TomlError(_one_line(error)) from None
    except RecursionError:
        raise TomlError(_too_deep()) from None
    except ValueError as error:  # an integer of thousands of digits
        raise TomlError(_one_line(error)) from None
    _check(document)
    return document


def load(path: Path) -> dict[str, Any]:
    """The document in a file. Raises TomlError, and OSError where the file cannot be read."""
    return loads(decoded(foreign_files.content(path, LARGEST)))


def decoded(content: bytes) -> str:
    """The text of a TOML file, its line ends as they are. Raises TomlError where it is not UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TomlError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None


def editable(text: str) -> TOMLDocument:
    """The document in `text` with its comments, to be changed and written again. Raises TomlError."""
    import tomlkit  # noqa: PLC0415 (slow to import)

    loads(text)  # within the limits, and valid
    try:
        return tomlkit.parse(text)
    except (ValueError, RecursionError) as error:  # tomlkit's errors are ValueErrors
        raise TomlError(_one_line(error)) from None


def _check(document: dict[str, Any]) -> None:
    """Raise TomlError for a document that is too deep or has a number that TOML does not know."""
    pending: list[tuple[Any, int]] = [(document, 0)]
    while pending:
        value, depth = pending.pop()
        if depth > _DEEPEST:
            raise TomlError(_too_deep())
        if isinstance(value, dict):
            pending += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            pending += [(item, depth + 1) for item in value]
        elif isinstance(value, int) and value not in _NUMBERS:
            raise TomlError("an integer has more than 64 bits")


def _too_deep() -> str:
    return f"tables or arrays lie more than {_DEEPEST} deep in one another"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def table_in(value: object, *names: str) -> dict[str, Any]:
    """The table under `names` in another one; empty where something else, or nothing, is there."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
