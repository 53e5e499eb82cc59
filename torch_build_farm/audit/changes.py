"""What broke from one torch release to another, in words: names that went, types that changed, whom it hits."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch_build_farm.audit import read_wheel, wheel_report
from torch_build_farm.audit.layout_rules import harmless
from torch_build_farm.audit.output import demangled, reasons
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import Finding
from torch_build_farm.audit.wheel_report import WheelReport

_SHOWN = 12
# Functions and variables of torch's own namespaces (Itanium C++ ABI, "Mangling"), and its C shim: what headers declare.
# What compilers and vendors' libraries leave behind besides, such as kernels' wrappers, no extension asks for.
_ASKED_FOR = re.compile(r"_Z(T[VTIS])?(N[VK]*[RO]?)?(3c10|2at|5torch|6caffe2)\d|(aoti_torch|torch)_")


@dataclass(frozen=True)
class Changes:
    """From release `old` to `new`: mangled names by library that is gone from all of torch, types and how they differ.

    `harmless` are changes of types that no extension can see. `wheels`: what the audit says of the project's wheels.
    """

    old: str
    new: str
    gone: Mapping[str, tuple[str, ...]]
    types: Mapping[str, str]
    harmless: Mapping[str, str]
    wheels: tuple[WheelReport, ...] = ()

    @property
    def names(self) -> list[str]:
        return sorted({name for names in self.gone.values() for name in names})

    @property
    def _hits(self) -> list[tuple[WheelReport, Finding | None]]:
        """Each wheel with its finding; none for one of a CPython that the new release has no wheel for."""
        return [(one, one.releases.get(self.new)) for one in self.wheels]

    def as_json(self) -> dict[str, Any]:
        return {
            "from": self.old,
            "to": self.new,
            "gone": {library: list(names) for library, names in self.gone.items()},
            "types": dict(self.types),
            "harmless": dict(self.harmless),
            "wheels": {
                one.file: {"verdict": found.verdict.value, "reasons": reasons(found)} if found else None
                for one, found in self._hits
            },
        }

    def markdown(self) -> str:
        """For people: everything that is counted, and the first few of what is many."""
        lines = [f"### What changed from torch {self.old} to {self.new}", ""]
        total = len(self.names)
        lines.append(f"{_count(total, 'name')} that extensions can ask for left torch{':' if total else '.'}")
        for library, names in self.gone.items():
            lines += ["", f"- `{library}`: {len(names)}"]
            # A constructor is several symbols with one name (complete object, base object: Itanium C++ ABI, 5.1.4.3).
            spelled = Counter(map(demangled, names)).items()
            shown = list(islice(spelled, _SHOWN))
            lines += [f"  - `{textwrap.shorten(name, 160)}`{f' ({n} symbols)' if n > 1 else ''}" for name, n in shown]
            left = len(names) - sum(n for _, n in shown)
            lines += [f"  - and {left} more"] if left else []
        lines += [
            "",
            f"{_count(len(self.types), 'type')} changed where extensions may touch them{':' if self.types else '.'}",
            "",
        ]
        lines += [f"- `{name}`: {how}" for name, how in self.types.items()]
        for report, found in self._hits:
            if found is None:
                lines += ["", f"`{report.file}` is for a CPython that torch {self.new} has no wheel for."]
                continue
            told = reasons(found)
            lines += ["", f"`{report.file}` would be {found.verdict.value} with torch {self.new}{':' if told else '.'}"]
            lines += [f"- {reason}" for reason in told]
        if not self.wheels:
            lines += ["", "No wheel of this project is at hand that could be hit."]
        return "\n".join(lines) + "\n"


def _count(number: int, what: str) -> str:
    return f"{number or 'No'} {what}{'' if number == 1 else 's'}"


def between(known: AuditTables, old: str, new: str, wheels: Sequence[Path] = ()) -> Changes:
    """Compare two releases that the audit knows, and audit wheels for the new one. Raises AuditError for a wheel."""
    pythons = known.index.pythons(old), known.index.pythons(new)
    both = pythons[0] & pythons[1]
    before, after = (known.index.exported(one, both or own) for one, own in zip((old, new), pythons, strict=True))
    there = frozenset().union(*after.values())
    gone = {}
    for library, names in sorted(before.items()):
        if left := sorted(name for name in names - there if _ASKED_FOR.match(name)):
            gone[library] = tuple(left)
    every = known.layouts.differences(old, new)
    seen = known.layouts.differences(old, new, harmless)
    return Changes(
        old,
        new,
        gone,
        seen,
        {name: how for name, how in every.items() if name not in seen},
        tuple(wheel_report.audit(read_wheel.read(path), known, [new]) for path in wheels),
    )
