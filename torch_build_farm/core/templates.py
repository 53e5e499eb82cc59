"""Jinja as the farm's templates expect it."""

from __future__ import annotations

from pathlib import Path

import jinja2

from torch_build_farm.core.text import Markdown, code, fenced, markdown


def markdown_environment(*folders: Path) -> jinja2.Environment:
    """Like `strict_environment`, for Markdown: every value is escaped, unless it is `Markdown` already.

    The filters `code` and `fenced` make code of a value.
    """
    environment = strict_environment(*folders)
    environment.finalize = _escaped
    environment.filters["code"] = lambda value: code(str(value))
    environment.filters["fenced"] = lambda value, language="": fenced(str(value), language)
    return environment


def _escaped(value: object) -> Markdown:
    return value if isinstance(value, Markdown) else markdown(str(value))


def strict_environment(*folders: Path) -> jinja2.Environment:
    """An environment in which a misspelt name is an error, and not an empty text in what is rendered.

    Lines that hold a block alone leave no trace. A template in an earlier folder wins over its namesake in a later one.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
