"""Jinja as the farm's templates expect it."""

from __future__ import annotations

from pathlib import Path

import jinja2


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
