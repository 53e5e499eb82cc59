"""How torch's C++ types lie in memory, release by release: computed from the headers, compared between two releases.

An extension has the offsets of the members that it touches, and the places of the virtual functions that it calls,
compiled into it. They are read from the debug information (DWARF) of a file that includes what extensions include, so
no member is named by hand; that file is compiled against the release's own headers, and never run.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from packaging.version import Version

_OURS = re.compile(r"(c10|at|torch)::|THP")
CALLS = "(virtual functions)"  # after a type's name: not its members, but what its virtual functions' slots are
# Ends of enums, which move with every value that is added; no tensor has them.
_ENDS = ("Undefined", "NumOptions")
_NOT_TOUCHED = re.compile(
    r"at::(_ops|native|functorch|meta)::|torch::(nn|jit|optim|data)::|.*[<(]|.*Interface$|.*HooksArgs$"
)


Harmless = Callable[[str, str], bool]


def _no_change(name: str, change: str) -> bool:  # noqa: ARG001
    return False


@dataclass(frozen=True, order=True)
class Member:
    """A member or a base class: offset and size in bytes; `type` is its type where that is one of torch's."""

    offset: int
    size: int
    name: str
    type: str = ""


@dataclass(frozen=True)
class Layout:
    """A type: size in bytes, members in the order of their offsets, virtual functions by slot, or an enum's values."""

    size: int
    members: tuple[Member, ...] = ()
    virtual: tuple[tuple[int, str], ...] = ()
    values: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Layouts:
    """The layouts of each release, by the types' qualified names."""

    of: Mapping[str, Mapping[str, Layout]]

    @cached_property
    def releases(self) -> frozenset[str]:
        return frozenset(self.of)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every class that some release has; enums, which names mention as parameters, have no layout to touch."""
        return frozenset(name for types in self.of.values() for name, one in types.items() if not one.values)

    def differences(self, one: str, other: str, harmless: Harmless = _no_change) -> Mapping[str, str]:
        """The types of release `one` that are others in release `other`, and how; so are types that hold such a one.

        `harmless` says of a type's own change, in these words, whether it is left out.
        """
        key = (one, other, harmless)
        if key not in self._compared:
            newer = Version(other) > Version(one)
            self._compared[key] = self._differences(self.of[one], self.of[other], newer, harmless)
        return self._compared[key]

    @cached_property
    def _compared(self) -> dict[tuple[str, str, Harmless], dict[str, str]]:
        return {}

    def _differences(
        self, before: Mapping[str, Layout], after: Mapping[str, Layout], newer: bool, harmless: Harmless
    ) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, layout in before.items():
            if (words := _words(layout, after.get(name), newer)) and not harmless(name, words):
                found[name] = words
            if layout.virtual and name in after and (words := _calls(layout, after[name])):
                found[f"{name} {CALLS}"] = words
        while True:
            more = {
                name: f"holds {inner}"
                for name, layout in before.items()
                if name not in found
                for inner in sorted({member.type for member in layout.members} & found.keys() & after.keys())
                if not harmless(name, f"holds {inner}")
            }
            if not more:
                return dict(sorted(found.items()))
            found |= more

    def with_those_of(self, other: Layouts) -> Layouts:
        """Both together; a release that both have is this one's."""
        return Layouts({**other.of, **self.of})

    def packed(self) -> bytes:
        """The layouts as a file: each once, with the releases that have it."""
        table: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
        for release in sorted(self.of):
            for name, layout in self.of[release].items():
                text = json.dumps(_as_json(layout), separators=(",", ":"))
                table[name].setdefault(text, []).append(release)
        rows = {
            name: [[releases, json.loads(text)] for text, releases in variants.items()]
            for name, variants in table.items()
        }
        text = json.dumps({"releases": sorted(self.of), "types": rows}, sort_keys=True, separators=(",", ":"))
        return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def _as_json(layout: Layout) -> list[Any]:
    members = [[one.offset, one.size, one.name, one.type] for one in layout.members]
    return [layout.size, members, layout.virtual, layout.values]


def unpack(content: bytes) -> Layouts:
    """The layouts in a file's content."""
    table = json.loads(lzma.decompress(content))
    found: dict[str, dict[str, Layout]] = {release: {} for release in table["releases"]}
    for name, variants in table["types"].items():
        for releases, (size, members, virtual, values) in variants:
            layout = Layout(
                size,
                tuple(Member(*member) for member in members),
                tuple((slot, function) for slot, function in virtual),
                tuple((value, number) for value, number in values),
            )
            for release in releases:
                found[release][name] = layout
    return Layouts(found)


def _words(before: Layout, after: Layout | None, newer: bool) -> str:
    """How a type's size, members or values changed; empty where they did not. `newer`: `after` is a later release's."""
    if after is None:
        return "is gone"
    said = [f"size {before.size} -> {after.size}"] if before.size != after.size else []
    old, new = ({member.name: member for member in layout.members} for layout in (before, after))
    for name in (name for name in old if name in new):
        if old[name].offset != new[name].offset:
            said.append(f"{name} at {old[name].offset} -> {new[name].offset}")
        elif old[name].size != new[name].size:
            said.append(f"{name} of size {old[name].size} -> {new[name].size}")
    gone, added = ([name for name in one if name not in other] for one, other in ((old, new), (new, old)))
    # A member that later releases have in the padding: they may read what an extension has left unset there, while an
    # earlier release never looks at what an extension has set.
    if said or newer or (gone and added):
        said += [*(f"{name} gone" for name in gone), *(f"{name} new" for name in added)]
    values = dict(after.values)
    said += [
        f"{name} = {number} -> {values[name]}"
        for name, number in before.values
        if values.get(name, number) != number and name not in _ENDS
    ]
    return ", ".join(said)


def _calls(before: Layout, after: Layout) -> str:
    """How the slots of virtual functions changed for those who call them; functions after the last are no change."""
    if after.virtual[: len(before.virtual)] == before.virtual:
        return ""
    slots = dict(reversed([(name, slot) for slot, name in after.virtual]))
    moved = [f"{name} in slot {slot} -> {slots.get(name)}" for slot, name in before.virtual if slots.get(name) != slot]
    return ", ".join(moved) or "overloads moved"


def types_in(debug: Any) -> dict[str, Layout]:
    """The layouts of torch's types in a file's debug information, as pyelftools has it."""
    found: dict[str, Layout] = {}
    for unit in debug.iter_CUs():
        for name, die in _types(unit.get_top_DIE(), ""):
            if _OURS.match(name) and not _NOT_TOUCHED.match(name) and "DW_AT_byte_size" in die.attributes:
                found.setdefault(name, _layout(die))
    return dict(sorted(found.items()))


_CLASSES = ("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type", "DW_TAG_enumeration_type")


def _name(die: Any) -> str:
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode() if attribute else ""


def _types(die: Any, scope: str) -> Iterator[tuple[str, Any]]:
    """Every type in a namespace or class, with its qualified name; other libraries' namespaces are passed by."""
    for child in die.iter_children():
        name = _name(child)
        full = f"{scope}::{name}" if scope else name
        if child.tag == "DW_TAG_namespace" and (scope or name in ("c10", "at", "torch")):
            yield from _types(child, full)
        elif child.tag in _CLASSES and name and (scope or name.startswith("THP")):
            yield full, child
            if child.tag != "DW_TAG_enumeration_type" and "<" not in name:
                yield from _types(child, full)


def _layout(die: Any) -> Layout:
    members, virtual, values = [], [], []
    for child in die.iter_children():
        if child.tag in ("DW_TAG_member", "DW_TAG_inheritance") and "DW_AT_data_member_location" in child.attributes:
            type_name, size = _type_of(child)
            name = _name(child) or f"base {type_name}".strip()
            offset = child.attributes["DW_AT_data_member_location"].value
            members.append(Member(offset if isinstance(offset, int) else -1, size, name, type_name))
        elif child.tag == "DW_TAG_subprogram" and "DW_AT_vtable_elem_location" in child.attributes:
            slot = child.attributes["DW_AT_vtable_elem_location"].value
            virtual.append((slot[1] if isinstance(slot, list) else int(slot), _name(child)))
        elif child.tag == "DW_TAG_enumerator":
            values.append((_name(child), int(child.attributes["DW_AT_const_value"].value)))
    size = int(die.attributes["DW_AT_byte_size"].value)
    return Layout(size, tuple(sorted(members)), tuple(sorted(virtual)), tuple(values))


def _type_of(die: Any) -> tuple[str, int]:
    """The qualified name of a member's type, if it is one of torch's, and its size in bytes; pointers are pointers."""
    wraps = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
    die = die.get_DIE_from_attribute("DW_AT_type")
    while die.tag in wraps and "DW_AT_type" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_type")
    size = int(die.attributes["DW_AT_byte_size"].value) if "DW_AT_byte_size" in die.attributes else 0
    if die.tag == "DW_TAG_array_type":
        return _array(die)
    if die.tag not in _CLASSES:
        return "", size
    name, parent = _name(die), die.get_parent()
    while parent is not None and parent.tag != "DW_TAG_compile_unit":
        name, parent = f"{_name(parent)}::{name}", parent.get_parent()
    return (name if _OURS.match(name) and "<" not in name else ""), size


def _array(die: Any) -> tuple[str, int]:
    name, size = _type_of(die)
    for child in die.iter_children():
        if child.tag == "DW_TAG_subrange_type" and "DW_AT_upper_bound" in child.attributes:
            size *= int(child.attributes["DW_AT_upper_bound"].value) + 1
    return name, size
