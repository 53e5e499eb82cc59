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
from torch_build_farm.releases.type_layouts import VIRTUAL_FUNCTIONS
from torch_build_farm.wheels.elf.library import Elf

# Types by the last component of their names. Each entry has the component before it, as a mangled name spells it, and
# the full name: c10::TensorImpl lies under "TensorImpl" as ("3c10", "c10::TensorImpl").
TypesByName = Mapping[str, tuple[tuple[str, str], ...]]

# A component of a mangled name is its length and itself (Itanium C++ ABI, "Mangling", <source-name>); one that was
# there before is S_, S0_ and so on.
_COMPONENT = re.compile(r"(?<!\d)([1-9]\d?)(?=[A-Za-z_])")
_SUBSTITUTION = re.compile(r"S[0-9A-Z]{0,6}_$")
_BEFORE = 200  # characters before a component in which the one before it stands; torch's longest has 60


@dataclass(frozen=True)
class Rule:
    """A library that defines or needs a name that `pattern` matches touches `types` inline."""

    types: frozenset[str]
    pattern: re.Pattern[str]
    evidence: str


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of data/layout_rules.toml."""
    rows = []
    for row in _table()["rule"]:
        # Any of the row's expressions counts; a group each, since an expression may hold a "|" of its own.
        alternatives = [f"(?:{expression})" for expression in row["names"]]
        pattern = re.compile("|".join(alternatives))
        rows.append(Rule(frozenset(row["types"]), pattern, row["evidence"]))
    return tuple(rows)


def harmless(name: str, change: str) -> bool:
    """Whether no extension can see a change of the type `name`.

    `change` is a description as Layouts.differences writes it; the rows of data/layout_rules.toml match all of it.
    """
    return any(name in row["types"] and re.fullmatch(row["change"], change) for row in _table()["harmless"])


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((DATA / "layout_rules.toml").read_text("utf-8"))


def by_component(types: Iterable[str]) -> TypesByName:
    """Index full names of types, such as c10::TensorImpl, by their last component, for `mentioned` to look up."""
    types_by_last = defaultdict[str, list[tuple[str, str]]](list)
    for name in types:
        # The slots of a type's virtual functions are an entry of their own, and belong to the type's name.
        qualified = name.removesuffix(f" {VIRTUAL_FUNCTIONS}")
        outer, _, last = qualified.rpartition("::")
        before = outer.rpartition("::")[2]
        mangled_before = f"{len(before)}{before}" if before else ""
        types_by_last[last].append((mangled_before, name))
    return {last: tuple(entries) for last, entries in types_by_last.items()}


def mentioned(names: Iterable[str], types: TypesByName) -> set[str]:
    """The full names of the types that mangled names mention."""
    full_names: set[str] = set()
    for name in names:
        for match in _COMPONENT.finditer(name):
            # "6Tensor" is the component Tensor: six letters after the number.
            length = int(match[1])
            component = name[match.end() : match.end() + length]
            for before, full_name in types.get(component, ()):
                # "Tensor" alone may be anybody's: the component before it has to match, spelled out or substituted.
                head = name[max(0, match.start() - _BEFORE) : match.start()]
                if head.endswith(before) or _SUBSTITUTION.search(head):
                    full_names.add(full_name)
    return full_names


def types_of(elf: Elf, types: TypesByName) -> frozenset[str]:
    """The types whose layout a library depends on, judged by the names that it needs and those that it exports."""
    names = elf.undefined_names | elf.exported
    touched = mentioned(names, types)
    # One search through all names at once: a library may have tens of thousands.
    text = "\n".join(names)
    for rule in rules():
        if rule.pattern.search(text):
            touched |= rule.types
    return frozenset(touched)
