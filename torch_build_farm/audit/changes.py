"""What broke from one torch release to another: names that are gone, types that changed, wheels that break."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from typing_extensions import TypedDict  # typing.TypedDict would need Python 3.12 for pydantic

from torch_build_farm.audit import read_wheel, wheel_report
from torch_build_farm.audit.demangle import demangled, prepare
from torch_build_farm.audit.layout_rules import harmless
from torch_build_farm.audit.reasons import reasons
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import Finding, Verdict
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.core.text import code, markdown

_SHOWN = 12  # names of each library in Markdown; --json has all
# Functions and variables of torch's own namespaces (Itanium C++ ABI, "Mangling"), and its C shim: what headers declare.
# Torch also exports what compilers and vendors' libraries leave behind, such as kernels' wrappers; extensions do not
# need it.
_DECLARED = re.compile(r"_Z(T[VTIS])?(N[VK]*[RO]?)?(3c10|2at|5torch|6caffe2)\d|(aoti_torch|torch)_")


class WheelChange(TypedDict):
    """The audit of a wheel of the project with the new release."""

    verdict: Verdict
    reasons: list[str]


# `from` is a keyword, so these keys cannot be fields of a class. A value of `wheels` is null for a wheel of a CPython
# that the new release has no wheel for.
ChangesDocument = TypedDict(
    "ChangesDocument",
    {
        "from": str,
        "to": str,
        "gone": dict[str, list[str]],
        "types": dict[str, str],
        "harmless": dict[str, str],
        "wheels": dict[str, WheelChange | None],
    },
)


@dataclass(frozen=True)
class Changes:
    """From release `old` to `new`: names that are gone, types that differ, and the audit of the project's wheels.

    `gone` maps a library of torch to the mangled names that it exported and that no library of torch exports any more.
    `types` and `harmless` map a type to a description of how it differs; no extension can see a harmless change.
    """

    old: str
    new: str
    gone: Mapping[str, tuple[str, ...]]
    types: Mapping[str, str]
    harmless: Mapping[str, str]
    wheels: tuple[WheelReport, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names that are gone, without repetition, sorted."""
        return sorted(set().union(*self.gone.values()))

    @property
    def _findings(self) -> list[tuple[WheelReport, Finding | None]]:
        """Each wheel with its finding; None for a wheel of a CPython that the new release has no wheel for."""
        return [(report, report.releases.get(self.new)) for report in self.wheels]

    def document(self) -> ChangesDocument:
        """The document for programs."""
        wheels: dict[str, WheelChange | None] = {}
        for report, finding in self._findings:
            if finding is None:
                wheels[report.file] = None
            else:
                wheels[report.file] = {"verdict": finding.verdict, "reasons": reasons(finding)}
        gone = {}
        for library, names in self.gone.items():
            gone[library] = list(names)
        return {
            "from": self.old,
            "to": self.new,
            "gone": gone,
            "types": dict(self.types),
            "harmless": dict(self.harmless),
            "wheels": wheels,
        }

    def markdown(self) -> str:
        """The text for people: everything is counted, and the first names of each library are listed."""
        total = len(self.names)
        lines = [f"### What changed from torch {self.old} to {self.new}", ""]
        lines.append(f"{_count(total, 'name')} that extensions can use left torch{':' if total else '.'}")
        for library, names in self.gone.items():
            lines += ["", f"- {code(library)}: {len(names)}", *_names_lines(names)]
        changed = _count(len(self.types), "type")
        lines += ["", f"{changed} changed where extensions may touch them{':' if self.types else '.'}", ""]
        for name, how in self.types.items():
            lines.append(f"- {code(name)}: {markdown(how)}")
        for report, finding in self._findings:
            lines.append("")
            if finding is None:
                lines.append(f"{code(report.file)} is for a CPython that torch {self.new} has no wheel for.")
                continue
            why = reasons(finding)
            end = ":" if why else "."
            lines.append(f"{code(report.file)} would be {finding.verdict.value} with torch {self.new}{end}")
            for reason in why:
                lines.append(f"- {markdown(reason)}")
        if not self.wheels:
            lines += ["", "This project has no wheel that could break."]
        return "\n".join(lines) + "\n"


def _names_lines(names: Sequence[str]) -> list[str]:
    """The first names, demangled, and how many more there are."""
    # A constructor is several symbols with one name (complete object, base object: Itanium C++ ABI, 5.1.4.3).
    prepare(names)
    symbols_by_name = Counter(map(demangled, names))
    lines = []
    remaining = len(names)
    for name, count in islice(symbols_by_name.items(), _SHOWN):
        several = f" ({count} symbols)" if count > 1 else ""
        lines.append(f"  - {code(textwrap.shorten(name, 160))}{several}")
        remaining -= count
    if remaining:
        lines.append(f"  - and {remaining} more")
    return lines


def _count(number: int, what: str) -> str:
    """No names, 1 name, 2 names."""
    return f"{number or 'No'} {what}{'' if number == 1 else 's'}"


def between(known: AuditTables, old: str, new: str, wheels: Sequence[Path] = ()) -> Changes:
    """Compare two releases that the audit knows, and audit `wheels` for the new one.

    Raises AuditError for a wheel that cannot be read.
    """
    # libtorch_python differs between CPythons, so the ones that both releases were read for are compared. If there is
    # none, any is compared with any: the few names that differ are a smaller error than no answer.
    pythons_of_old = known.symbols.pythons(old)
    pythons_of_new = known.symbols.pythons(new)
    common = pythons_of_old & pythons_of_new
    before = known.symbols.exported(old, common or pythons_of_old)
    after = known.symbols.exported(new, common or pythons_of_new)

    # A name that moved to another library of torch is not gone: every extension loads all of them.
    exported_now = frozenset().union(*after.values())
    gone = {}
    for library, names in sorted(before.items()):
        gone_here = [name for name in names - exported_now if _DECLARED.match(name)]
        if gone_here:
            gone[library] = tuple(sorted(gone_here))

    visible = known.layouts.differences(old, new, harmless)
    invisible = {}
    for name, how in known.layouts.differences(old, new).items():
        if name not in visible:
            invisible[name] = how

    reports = []
    for path in wheels:
        wheel = read_wheel.read(path)
        reports.append(wheel_report.audit(wheel, known, [new]))
    return Changes(old, new, gone, types=visible, harmless=invisible, wheels=tuple(reports))
