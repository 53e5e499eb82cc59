"""Which jobs the command line asks for."""

from __future__ import annotations

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.plan import Selection
from torch_build_farm.project.settings import Project


def selection(context: Context, project: Project) -> Selection:
    """What --torch, --python and --only ask for. Raises UsageError where no minor is named."""
    asked = tuple(context.options.torch or map(str, project.settings.torch))
    if not asked:
        raise UsageError(
            "which torch minors? none is named",
            where="--torch",
            next_step=f"--torch {' '.join(map(str, project.variants))}, some of these, or --torch all",
        )
    pythons = context.options.python
    if not pythons:
        return Selection(asked, only=tuple(context.options.only or ()))
    if "all" in pythons:
        return Selection(asked, "all", tuple(context.options.only or ()))
    try:
        named = tuple(CPython.parse(text) for text in pythons)
    except ValueError as error:
        raise UsageError(str(error), where="--python", next_step="such as --python 3.11 3.12, or all") from None
    return Selection(asked, named, tuple(context.options.only or ()))
