"""How torch's C++ types lie in memory, release by release: computed from the headers, compared between two releases.

The offsets of the members that an extension touches, and the slots of the virtual functions that it calls, are compiled
into it. They are read from the debug information (DWARF) of a file that includes what extensions include, so no member
is named by hand. That file is compiled against the release's own headers and never run.

The file of layouts is LZMA-compressed JSON: the releases, and by type each different layout with the releases that have
it.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from packaging.version import Version

_OF_TORCH = re.compile(r"(c10|at|torch)::|THP")
# After a type's name: not its members, but the slots of its virtual functions.
VIRTUAL_FUNCTIONS = "(virtual functions)"
# The last values of enums, which move with every value that is added; no tensor has them.
_LAST_VALUES = ("Undefined", "NumOptions")
_NOT_TOUCHED = re.compile(
    r"at::(_ops|native|functorch|meta)::|torch::(nn|jit|optim|data)::|.*[<(]|.*Interface$|.*HooksArgs$"
)


IsHarmless = Callable[[str, str], bool]


def _none_is_harmless(name: str, change: str) -> bool:  # noqa: ARG001
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

    @classmethod
    def from_json(cls, row: list[Any]) -> Self:
        """The layout that `as_json` gave. Raises ValueError or TypeError for a row of another shape."""
        size, members, virtual, values = row
        return cls(
            size,
            tuple(Member(*member) for member in members),
            tuple((slot, function) for slot, function in virtual),
            tuple((value, number) for value, number in values),
        )

    def as_json(self) -> list[Any]:
        """Size, members, virtual functions and values, as lists."""
        members = [[member.offset, member.size, member.name, member.type] for member in self.members]
        return [self.size, members, self.virtual, self.values]


@dataclass(frozen=True)
class Layouts:
    """The layouts of each release: `by_release[release][type]`, types by their qualified names."""

    by_release: Mapping[str, Mapping[str, Layout]]

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The layouts in a file's content.

        Raises lzma.LZMAError, ValueError, KeyError or TypeError for content of another kind.
        """
        table = json.loads(lzma.decompress(content))
        by_release: dict[str, dict[str, Layout]] = {release: {} for release in table["releases"]}
        for name, rows in table["types"].items():
            for releases, row in rows:
                layout = Layout.from_json(row)
                for release in releases:
                    by_release[release][name] = layout
        return cls(by_release)

    @cached_property
    def releases(self) -> frozenset[str]:
        return frozenset(self.by_release)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every class of any release. Enums are left out: names mention them as parameters and touch no layout."""
        names = set()
        for layouts in self.by_release.values():
            for name, layout in layouts.items():
                if not layout.values:
                    names.add(name)
        return frozenset(names)

    def differences(self, built: str, loaded: str, harmless: IsHarmless = _none_is_harmless) -> Mapping[str, str]:
        """The types whose layout in release `loaded` breaks an extension built against release `built`, and why.

        A type that holds such a type by value is one too. `harmless(name, change)` decides whether a type's change,
        in the words of this function, is left out. Raises KeyError for a release without layouts.
        """
        key = (built, loaded, harmless)
        if key not in self._differences_so_far:
            is_newer = Version(loaded) > Version(built)
            differences = _differences(self.by_release[built], self.by_release[loaded], is_newer, harmless)
            self._differences_so_far[key] = differences
        return self._differences_so_far[key]

    @cached_property
    def _differences_so_far(self) -> dict[tuple[str, str, IsHarmless], dict[str, str]]:
        return {}

    def extended_by(self, other: Layouts) -> Layouts:
        """Both together. The layouts of a release that both have are this one's."""
        return Layouts({**other.by_release, **self.by_release})

    def to_bytes(self) -> bytes:
        """The layouts as a file's content: each once, with the releases that have it."""
        releases_by_layout: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
        for release in sorted(self.by_release):
            for name, layout in self.by_release[release].items():
                layout_as_json = json.dumps(layout.as_json(), separators=(",", ":"))
                releases_by_layout[name].setdefault(layout_as_json, []).append(release)
        rows: defaultdict[str, list[Any]] = defaultdict(list)
        for name, layouts in releases_by_layout.items():
            for layout_as_json, releases in layouts.items():
                rows[name].append([releases, json.loads(layout_as_json)])
        document = {"releases": sorted(self.by_release), "types": rows}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


# ---- what changed


def _differences(
    before: Mapping[str, Layout], after: Mapping[str, Layout], is_newer: bool, harmless: IsHarmless
) -> dict[str, str]:
    """The changed types and how they changed, sorted by name; see `Layouts.differences`."""
    changes: dict[str, str] = {}
    for name, layout in before.items():
        change = _changes_of_data(layout, after.get(name), is_newer)
        if change and not harmless(name, change):
            changes[name] = change
        # Its members may be the same and its virtual functions moved: that only breaks those who call these.
        if layout.virtual and name in after:
            change = _changes_of_virtual_functions(layout, after[name])
            if change:
                changes[f"{name} {VIRTUAL_FUNCTIONS}"] = change

    # A type that holds a changed type changes with it, and so does a type that holds that one: until none is left.
    while True:
        holders = _holders(before, after, changes, harmless)
        if not holders:
            return dict(sorted(changes.items()))
        changes |= holders


def _holders(
    before: Mapping[str, Layout], after: Mapping[str, Layout], changes: Mapping[str, str], harmless: IsHarmless
) -> dict[str, str]:
    """The types that are not in `changes` and have a member of a type that is, with the words for it."""
    holders: dict[str, str] = {}
    for name, layout in before.items():
        if name in changes:
            continue
        member_types = {member.type for member in layout.members}
        # A type that is gone does not count here: what took its place shows in the sizes and offsets of its holders.
        for changed_type in sorted(member_types & changes.keys() & after.keys()):
            change = f"holds {changed_type}"
            if not harmless(name, change):
                holders[name] = change
    return holders


def _changes_of_data(before: Layout, after: Layout | None, is_newer: bool) -> str:
    """How a type's size, members or values changed, in words; empty if they did not.

    `is_newer`: `after` is a later release's.
    """
    if after is None:
        return "is gone"
    changes: list[str] = []
    if before.size != after.size:
        changes.append(f"size {before.size} -> {after.size}")

    old_members = {member.name: member for member in before.members}
    new_members = {member.name: member for member in after.members}
    gone = []
    for name, old in old_members.items():
        new = new_members.get(name)
        if new is None:
            gone.append(f"{name} gone")
        elif old.offset != new.offset:
            changes.append(f"{name} at {old.offset} -> {new.offset}")
        elif old.size != new.size:
            changes.append(f"{name} of size {old.size} -> {new.size}")

    added = [f"{name} new" for name in new_members if name not in old_members]
    # A member that later releases have in the padding: they may read what an extension has left unset there, while an
    # earlier release never looks at what an extension has set.
    if changes or is_newer or (gone and added):
        changes += [*gone, *added]

    new_values = dict(after.values)
    for name, number in before.values:
        new_number = new_values.get(name, number)
        if new_number != number and name not in _LAST_VALUES:
            changes.append(f"{name} = {number} -> {new_number}")
    return ", ".join(changes)


def _changes_of_virtual_functions(before: Layout, after: Layout) -> str:
    """How the slots of virtual functions changed for their callers; new functions after the last are not a change."""
    if after.virtual[: len(before.virtual)] == before.virtual:
        return ""
    new_slots: dict[str, int] = {}
    for slot, name in after.virtual:
        new_slots.setdefault(name, slot)  # of overloads, the first slot
    moved = []
    for slot, name in before.virtual:
        if new_slots.get(name) != slot:
            moved.append(f"{name} in slot {slot} -> {new_slots.get(name)}")
    return ", ".join(moved) or "overloads moved"


# ---- out of debug information


def types_in(debug_info: Any) -> dict[str, Layout]:
    """The layouts of torch's types in a file's debug information, which is pyelftools' DWARFInfo."""
    layouts: dict[str, Layout] = {}
    for unit in debug_info.iter_CUs():
        for name, die in _types(unit.get_top_DIE(), ""):
            if name in layouts or not _OF_TORCH.match(name) or _NOT_TOUCHED.match(name):
                continue
            # A type may be in several units; one without a size is only declared there.
            if "DW_AT_byte_size" in die.attributes:
                layouts[name] = _layout(die)
    return dict(sorted(layouts.items()))


_CLASSES = ("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type", "DW_TAG_enumeration_type")


def _name(die: Any) -> str:
    """The name of a debug information entry (DIE); empty for an anonymous one."""
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode() if attribute else ""


def _types(die: Any, scope: str) -> Iterator[tuple[str, Any]]:
    """Every type in a namespace or class, with its qualified name; other libraries' namespaces are left out."""
    for child in die.iter_children():
        name = _name(child)
        qualified_name = f"{scope}::{name}" if scope else name
        if child.tag == "DW_TAG_namespace" and (scope or name in ("c10", "at", "torch")):
            yield from _types(child, qualified_name)
        elif child.tag in _CLASSES and name and (scope or name.startswith("THP")):
            yield qualified_name, child
            if child.tag != "DW_TAG_enumeration_type" and "<" not in name:
                yield from _types(child, qualified_name)


def _layout(die: Any) -> Layout:
    """The layout of the type that a DIE describes."""
    members, virtual, values = [], [], []
    for child in die.iter_children():
        if child.tag in ("DW_TAG_member", "DW_TAG_inheritance") and "DW_AT_data_member_location" in child.attributes:
            type_name, size = _type_of(child)
            name = _name(child) or f"base {type_name}".strip()
            offset = child.attributes["DW_AT_data_member_location"].value
            # The offset of a virtual base class depends on the object: an expression, and no number.
            members.append(Member(offset if isinstance(offset, int) else -1, size, name, type_name))
        elif child.tag == "DW_TAG_subprogram" and "DW_AT_vtable_elem_location" in child.attributes:
            slot = child.attributes["DW_AT_vtable_elem_location"].value
            # GCC writes an expression: DW_OP_constu, then the slot, which is one byte as long as it is below 128.
            virtual.append((slot[1] if isinstance(slot, list) else int(slot), _name(child)))
        elif child.tag == "DW_TAG_enumerator":
            values.append((_name(child), int(child.attributes["DW_AT_const_value"].value)))
    size = int(die.attributes["DW_AT_byte_size"].value)
    return Layout(size, tuple(sorted(members)), tuple(sorted(virtual)), tuple(values))


def _type_of(die: Any) -> tuple[str, int]:
    """The qualified name of a member's type, empty unless it is one of torch's classes, and its size in bytes.

    What a pointer or reference points to does not count.
    """
    wrappers = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
    die = die.get_DIE_from_attribute("DW_AT_type")
    while die.tag in wrappers and "DW_AT_type" in die.attributes:
        die = die.get_DIE_from_attribute("DW_AT_type")
    if die.tag == "DW_TAG_array_type":
        return _array(die)
    size = int(die.attributes["DW_AT_byte_size"].value) if "DW_AT_byte_size" in die.attributes else 0
    if die.tag not in _CLASSES:
        return "", size
    name, parent = _name(die), die.get_parent()
    while parent is not None and parent.tag != "DW_TAG_compile_unit":
        name, parent = f"{_name(parent)}::{name}", parent.get_parent()
    # Templates have no layouts here (see _NOT_TOUCHED), so a member of such a type is compared by its size alone.
    is_of_torch = _OF_TORCH.match(name) and "<" not in name
    return name if is_of_torch else "", size


def _array(die: Any) -> tuple[str, int]:
    """The name of an array's element type, as `_type_of` gives it, and the array's size in bytes."""
    name, size = _type_of(die)
    for child in die.iter_children():
        if child.tag == "DW_TAG_subrange_type" and "DW_AT_upper_bound" in child.attributes:
            size *= int(child.attributes["DW_AT_upper_bound"].value) + 1
    return name, size
