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

# A component of a mangled name is its length and itself (Itanium C++ ABI, "Mangling", <source-name>); one that was
# there before is S_, S0_ and so on.
_COMPONENT = re.compile(r"(?<!\d)([1-9]\d?)(?=[A-Za-z_])")
_SUBSTITUTION = re.compile(r"S[0-9A-Z]*_$")


@dataclass(frozen=True)
class Rule:
    """A library with a name that `pattern` matches touches `types` inline."""

    types: frozenset[str]
    pattern: re.Pattern[str]
    evidence: str


@cache
def rules() -> tuple[Rule, ...]:
    return tuple(
        Rule(frozenset(row["types"]), re.compile("|".join(f"(?:{name})" for name in row["names"])), row["evidence"])
        for row in _table()["rule"]
    )


def harmless(name: str, change: str) -> bool:
    """Whether no extension can see that change of a type."""
    return any(name in row["types"] and re.fullmatch(row["change"], change) for row in _table()["harmless"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((DATA / "layout_rules.toml").read_text("utf-8"))


def by_component(types: Iterable[str]) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Types by their last component: each with the component before, as a mangled name spells it."""
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in types:
        *_, before, last = ["", *name.removesuffix(f" {CALLS}").split("::")]
        found[last].append((f"{len(before)}{before}" if before else "", name))
    return {last: tuple(entries) for last, entries in found.items()}


def mentioned(names: Iterable[str], types: Mapping[str, tuple[tuple[str, str], ...]]) -> set[str]:
    """The types that mangled names mention; `types` as `by_component` has them."""
    found: set[str] = set()
    for name in names:
        for match in _COMPONENT.finditer(name):
            for before, full in types.get(name[match.end() : match.end() + int(match[1])], ()):
                head = name[: match.start()]
                if head.endswith(before) or _SUBSTITUTION.search(head):
                    found.add(full)
    return found


def types_of(elf: Elf, types: Mapping[str, tuple[tuple[str, str], ...]]) -> frozenset[str]:
    """The types whose layout a library depends on, by the names that it takes and those that it has."""
    names = [*(one.name for one in elf.undefined), *elf.exported]
    text = "\n".join(names)
    ruled = (rule.types for rule in rules() if rule.pattern.search(text))
    return frozenset().union(mentioned(names, types), *ruled)
