"""The audit's findings for people: a table with releases across and wheels down, the reasons, and both as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from packaging.version import Version
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torch_build_farm.audit.verdict import Finding, LibraryKind, Verdict
from torch_build_farm.audit.wheel_report import LibraryReport, WheelReport, meant_for

_STYLE = {Verdict.OK: "green", Verdict.ENV: "yellow", Verdict.UNKNOWN: "magenta", Verdict.BROKEN: "bold red"}
_NAMES = 5  # shown of each list; --json has all
_WIDTH = 100  # of a name that is shown
_NAME_LIMIT = 4096  # bytes of a name that is worth demangling


def demangled(name: str) -> str:
    """A C++ name as people write it; unchanged if it is not mangled, or without a C++ library to demangle it."""
    if len(name) >= _NAME_LIMIT:
        return name
    import cxxfilt  # noqa: PLC0415 (looks for the C++ library when imported)

    try:
        return str(cxxfilt.demangle(name))
    except (cxxfilt.Error, OSError):
        return name


def _some(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _WIDTH else f"{name[:_WIDTH]}..." for name in names[:_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")


def reasons(found: Finding) -> list[str]:
    """Why a verdict is not OK, a sentence each."""
    lines = []
    if found.missing:
        lines.append(f"missing {_some([demangled(name) for name in found.missing])}")
    if found.libraries:
        lines.append(f"neither the wheel nor this torch brings {_some(found.libraries)}")
    if found.layout:
        lines.append(f"other layout of {_some(found.layout)}")
    if found.unknown:
        lines.append(f"unknown {_some([demangled(name) for name in found.unknown])}")
    return [*lines, *([found.note] if found.note else [])]


def _span(releases: Sequence[str]) -> str:
    return ", ".join(releases) if len(releases) < 3 else f"{releases[0]} to {releases[-1]}"


def stretches(releases: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Successive releases with the same verdict in every row, by their heading: so the table fits a terminal."""
    found: list[list[str]] = []
    for release in releases:
        if found and all(row.get(found[-1][0]) == row.get(release) for row in rows):
            found[-1].append(release)
        else:
            found.append([release])
    return {_span(one): one for one in found}


def cells(rows: Mapping[str, Mapping[str, str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Headings, and for each row (by its name) a verdict under each; `rows` have verdicts by release."""
    every = sorted({release for row in rows.values() for release in row}, key=Version)
    found = stretches(every, list(rows.values()))
    return list(found), {name: [row.get(one[0], "-") for one in found.values()] for name, row in rows.items()}


def _rows(reports: Sequence[WheelReport]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for one in reports:
        same = sum(name == one.file or name.startswith(f"{one.file} (") for name in rows)
        rows[f"{one.file} ({same + 1})" if same else one.file] = {
            release: found.verdict.value for release, found in one.releases.items()
        }
    return rows


def matrix_table(console: Console, rows: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Releases across, rows of `what` down."""
    heads, body = cells(rows)
    made = Table(box=None, pad_edge=False)
    made.add_column(f"{what}, torch", overflow="fold", min_width=16)
    for head in heads:
        made.add_column(head, justify="center", min_width=7)
    for name, verdicts in body.items():
        styled = [Text(cell, _STYLE[Verdict(cell)] if cell != "-" else "dim") for cell in verdicts]
        made.add_row(Text(name), *styled)
    console.print(made)


def table(console: Console, reports: Sequence[WheelReport]) -> None:
    """Releases across, wheels down."""
    matrix_table(console, _rows(reports), "wheel")


def _claim(report: WheelReport) -> str:
    declared = report.declared or "nothing, so any torch"
    words = {
        "true": "as it is",
        "wider": "wider than the truth",
        "narrower": "narrower than the truth",
        "wider and narrower": "wider than the truth, and narrower elsewhere",
        "unknown": "of no release that was judged",
    }
    return f"declared: {declared}; true: {report.true_range}: the claim is {words[report.claim]}"


def _by_reason(library: LibraryReport) -> dict[tuple[str, ...], list[str]]:
    """Releases of a library that are not OK, those together that are so for the same reasons."""
    found: dict[tuple[str, ...], list[str]] = {}
    for release, finding in library.releases.items():
        if finding.verdict is not Verdict.OK and meant_for(library.meant, release):
            found.setdefault((finding.verdict.value, *reasons(finding)), []).append(release)
    return found


def lines(report: WheelReport) -> list[str]:
    """What there is to say of a wheel: its claim, and each library with its reasons."""
    said = [_claim(report)]
    if report.left_out:
        said.append(f"torch {_span(report.left_out)}: no build for this wheel's CPython")
    if report.floors:
        said.append(f"asks for {', '.join(report.floors)}")
    for library in report.libraries:
        found = _by_reason(library)
        if library.kind is LibraryKind.NEUTRAL and not found:
            continue
        built = (
            f", built against {library.built.words} ({library.built.how})" if library.kind is LibraryKind.TORCH else ""
        )
        said.append(f"{library.path}: {library.kind.value}{built}")
        said += [f"  {why[0]} with {', '.join(who)}: {'; '.join(why[1:])}" for why, who in found.items()]
    return said


def details(console: Console, reports: Sequence[WheelReport]) -> None:
    """The lines of every wheel."""
    for report in reports:
        console.print(f"\n{report.file}", style="bold", markup=False, highlight=False)
        for line in lines(report):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def markdown(reports: Sequence[WheelReport]) -> str:
    """Table and lines, for a pull request."""
    heads, body = cells(_rows(reports))
    out = [f"| wheel | {' | '.join(f'torch {head}' for head in heads)} |", f"|---|{'---|' * len(heads)}"]
    out += [f"| {file} | {' | '.join(verdicts)} |" for file, verdicts in body.items()]
    for report in reports:
        out += ["", f"**{report.file}**", ""]
        out += [f"{'  ' if line.startswith('  ') else ''}- {line.strip()}" for line in lines(report)]
    return "\n".join(out) + "\n"


@dataclass(frozen=True)
class Unread:
    """A file that could not be audited, and why."""

    file: str
    what: str


@dataclass(frozen=True)
class Document:
    """What --json prints; docs/audit.schema.json is made of it."""

    wheels: tuple[WheelReport, ...]
    errors: tuple[Unread, ...] = ()
    schema: Literal[1] = 1

    def as_json(self) -> dict[str, Any]:
        from pydantic import TypeAdapter  # noqa: PLC0415 (slow to import)

        found: dict[str, Any] = TypeAdapter(Document).dump_python(self, mode="json")
        return found


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what --json prints."""
    from pydantic import TypeAdapter  # noqa: PLC0415 (slow to import)

    return TypeAdapter(Document).json_schema(mode="serialization")
