"""What a back end's own table says in place of [project]: [tool.poetry], [tool.flit.metadata], project() of Meson.

A variant's METADATA is not made of this: the back end writes it, from the table as it is. The farm needs the name, the
CPythons and the requirement on torch before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import is_normalized_name

from torch_build_farm.core.toml import table_in
from torch_build_farm.project import meson_file
from torch_build_farm.project.dynamic_version import back_end

_LONGEST = 500  # characters of a constraint
_CARET_OR_TILDE = re.compile(r"(?P<operator>\^|~(?!=))\s*(?P<version>\d{1,9}(?:\.\d{1,9}){0,9})(?P<rest>[\w.-]*)")


@dataclass(frozen=True)
class OwnTable:
    """Name, Requires-Python and Requires-Dist; empty where the back end has no table of its own, or it is silent."""

    name: str = ""
    requires_python: str = ""
    requires: tuple[str, ...] = ()


def read(root: Path, pyproject: Mapping[str, Any]) -> OwnTable:
    """What the own table of the source's back end says. Raises SourceError where meson.build cannot be read."""
    match back_end(pyproject):
        case "poetry" | "poetry_dynamic_versioning":
            return _poetry(table_in(pyproject, "tool", "poetry"))
        case "flit_core" | "flit":
            return _flit(table_in(pyproject, "tool", "flit", "metadata"))
        case "mesonpy":
            return OwnTable(meson_file.project(root).name)
    return OwnTable()


def _flit(table: Mapping[str, Any]) -> OwnTable:
    """[tool.flit.metadata] (flit's manual, "Old style metadata")."""
    requires = table.get("requires")
    return OwnTable(
        _text(table.get("dist-name")) or _text(table.get("module")),
        _text(table.get("requires-python")),
        tuple(filter(None, map(_text, requires))) if isinstance(requires, list) else (),
    )


def _poetry(table: Mapping[str, Any]) -> OwnTable:
    """[tool.poetry] (Poetry's manual, "The pyproject.toml file" and "Dependency specification")."""
    dependencies = table_in(table, "dependencies")
    requires = []
    for name, dependency in dependencies.items():
        # Several constraints, each for some machines: the first one is as good as any to plan by.
        first = dependency[0] if isinstance(dependency, list) and dependency else dependency
        details = first if isinstance(first, dict) else {"version": first}
        if name != "python" and is_normalized_name(name.lower().replace("_", "-")) and not details.get("optional"):
            extras = details.get("extras")
            bracketed = f"[{','.join(map(str, extras))}]" if isinstance(extras, list) and extras else ""
            requires.append(f"{name}{bracketed}{specifiers(_text(details.get('version')))}")
    python = specifiers(_text(dependencies.get("python")))
    return OwnTable(_text(table.get("name")), python, tuple(requires))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def specifiers(constraint: str) -> str:
    """A constraint of Poetry's as PEP 440 writes it: "^3.10" is ">=3.10,<4.0".

    Empty, for any version, where PEP 440 cannot say it ("^1 || ^2") or it is not valid.
    """
    if len(constraint) > _LONGEST or "||" in constraint:
        return ""
    # Commas and blanks both mean "and"; a blank may also stand behind an operator.
    joined = re.sub(r"([<>=!~^])\s+", r"\1", constraint.strip())
    parts = [part for word in re.split(r"[,\s]+", joined) for part in _translated(word)]
    try:
        SpecifierSet(",".join(parts))
    except InvalidSpecifier:
        return ""
    return ",".join(parts)


def _translated(constraint: str) -> Iterator[str]:
    """The specifiers for one constraint."""
    match = _CARET_OR_TILDE.fullmatch(constraint)
    if match:
        yield f">={match['version']}{match['rest']}"
        yield f"<{_next(match['version'], caret=match['operator'] == '^')}"
    elif constraint[:1].isdigit():
        yield f"=={constraint}"
    elif constraint not in ("", "*"):
        yield constraint


def _next(version: str, *, caret: bool) -> str:
    """The first version that ^ or ~ excludes: ^ keeps the first part that is not 0, ~ the first two parts."""
    parts = [int(part) for part in version.split(".")]
    kept = min(2, len(parts)) - 1
    if caret:
        kept = next((position for position, part in enumerate(parts) if part), len(parts) - 1)
    bumped = [*parts[:kept], parts[kept] + 1]
    return ".".join(map(str, bumped + [0] * (len(parts) - len(bumped))))
