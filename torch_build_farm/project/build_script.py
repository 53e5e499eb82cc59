"""Which file of a source says what its build compiles: setup.py, or the one of another back end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch_build_farm.core.toml import table_in
from torch_build_farm.project.dynamic_version import back_end


def name(pyproject: Mapping[str, Any]) -> str:
    """The file's path in the project's folder, setup.py where no other is named; there may be no such file."""
    named = ""
    match back_end(pyproject):
        case "poetry" | "poetry_dynamic_versioning":
            named = _of_poetry(table_in(pyproject, "tool", "poetry"))
        case "hatchling":
            named = _of_hatch(table_in(pyproject, "tool", "hatch", "build"))
        case "pdm":
            named = str(table_in(pyproject, "tool", "pdm", "build").get("custom-hook", "pdm_build.py"))
        case "mesonpy":
            named = "meson.build"
    return named or "setup.py"


def _of_poetry(table: Mapping[str, Any]) -> str:
    """`build` (Poetry's manual, "Building extension modules"): a path, or a table with one."""
    build = table.get("build", "")
    return build if isinstance(build, str) else str(table_in(table, "build").get("script", ""))


def _of_hatch(table: Mapping[str, Any]) -> str:
    """The file of the custom hook, for the wheel or for every target (Hatch's manual, "Custom build hook")."""
    for hooks in (table_in(table, "targets", "wheel", "hooks"), table_in(table, "hooks")):
        if "custom" in hooks:
            return str(table_in(hooks, "custom").get("path", "hatch_build.py"))
    return ""
