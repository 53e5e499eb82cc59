"""Which types' layout a library depends on: those that its names mention, and those of data/layout_rules.toml."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch_build_farm.core.resources import DATA
from torch_build_farm.releases.type_layouts import CALLS
from torch_build_farm.wheels.elf.library import Elf

# Types by their last component, each with the component before as a mangled name spells it, and its full name.
TypesByName = Mapping[str, tuple[tuple[str, str], ...]]

# A component of a mangled name is its length and itself (Itanium C++ ABI, "Mangling", <source-name>); one that was
# there before is S_, S0_ and so on.
_COMPONENT = re.compile(r"(?<!\d)([1-9]\d?)(?=[A-Za-z_])")
_SUBSTITUTION = re.compile(r"S[0-9A-Z]*_$")


@dataclass(frozen=True)
class Rule:
    """A library that has, or asks for, a name that `pattern` matches touches `types` inline."""

    types: frozenset[str]
    pattern: re.Pattern[str]
    evidence: str


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of data/layout_rules.toml."""
    rows = []
    for row in _table()["rule"]:
        pattern = "|".join(f"(?:{name})" for name in row["names"])
        rows.append(Rule(frozenset(row["types"]), re.compile(pattern), row["evidence"]))
    return tuple(rows)


def harmless(name: str, change: str) -> bool:
    """Whether no extension can see that change of type `name`; `change` is in the words of Layouts.differences."""
    return any(name in row["types"] and re.fullmatch(row["change"], change) for row in _table()["harmless"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((DATA / "layout_rules.toml").read_text("utf-8"))


def by_component(types: Iterable[str]) -> TypesByName:
    """Types by their last component, to be looked up in mangled names."""
    types_by_last = defaultdict[str, list[tuple[str, str]]](list)
    for name in types:
        *_, before, last = ["", *name.removesuffix(f" {CALLS}").split("::")]
        types_by_last[last].append((f"{len(before)}{before}" if before else "", name))
    return {last: tuple(entries) for last, entries in types_by_last.items()}


def mentioned(names: Iterable[str], types: TypesByName) -> set[str]:
    """The types that mangled names mention."""
    full_names: set[str] = set()
    for name in names:
        for match in _COMPONENT.finditer(name):
            length = int(match[1])
            component = name[match.end() : match.end() + length]
            for before, full_name in types.get(component, ()):
                # "Tensor" alone may be anybody's: the component before it has to fit, spelled out or substituted.
                head = name[: match.start()]
                if head.endswith(before) or _SUBSTITUTION.search(head):
                    full_names.add(full_name)
    return full_names


def types_of(elf: Elf, types: TypesByName) -> frozenset[str]:
    """The types whose layout a library depends on, by the names that it asks for and those that it has."""
    names = [*(symbol.name for symbol in elf.undefined), *elf.exported]
    touched = mentioned(names, types)
    text = "\n".join(names)
    for rule in rules():
        if rule.pattern.search(text):
            touched |= rule.types
    return frozenset(touched)
