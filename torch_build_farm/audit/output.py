"""The audit's findings for people: a table with releases across and wheels down, the reasons, and both as Markdown."""

from __future__ import annotations

from collections import Counter
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


def _first_names(names: Sequence[str]) -> str:
    """The first names, each of them shortened, and how many more there are."""
    shown = [name if len(name) <= _WIDTH else f"{name[:_WIDTH]}..." for name in names[:_NAMES]]
    text = ", ".join(shown)
    if len(names) > _NAMES:
        text += f" and {len(names) - _NAMES} more"
    return text


def reasons(finding: Finding) -> list[str]:
    """Why a verdict is not OK, a sentence each."""
    sentences = []
    if finding.missing:
        sentences.append(f"missing {_first_names([demangled(name) for name in finding.missing])}")
    if finding.libraries:
        sentences.append(f"neither the wheel nor this torch brings {_first_names(finding.libraries)}")
    if finding.layout:
        sentences.append(f"other layout of {_first_names(finding.layout)}")
    if finding.unknown:
        sentences.append(f"unknown {_first_names([demangled(name) for name in finding.unknown])}")
    if finding.note:
        sentences.append(finding.note)
    return sentences


def _span(releases: Sequence[str]) -> str:
    if len(releases) < 3:
        return ", ".join(releases)
    return f"{releases[0]} to {releases[-1]}"


def stretches(releases: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Successive releases with the same verdict in every row, by their heading: so the table fits a terminal."""
    columns: list[list[str]] = []
    for release in releases:
        if columns and all(row.get(columns[-1][0]) == row.get(release) for row in rows):
            columns[-1].append(release)
        else:
            columns.append([release])
    return {_span(column): column for column in columns}


def cells(rows: Mapping[str, Mapping[str, str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Headings, and for each row (by its name) a verdict under each; `rows` have verdicts by release."""
    every = sorted(set().union(*rows.values()), key=Version)
    columns = stretches(every, list(rows.values()))
    body = {}
    for name, row in rows.items():
        body[name] = [row.get(releases[0], "-") for releases in columns.values()]
    return list(columns), body


def _rows(reports: Sequence[WheelReport]) -> dict[str, dict[str, str]]:
    """Verdicts by wheel and release; wheels of the same file name are numbered."""
    rows: dict[str, dict[str, str]] = {}
    seen = Counter[str]()
    for report in reports:
        seen[report.file] += 1
        number = seen[report.file]
        name = report.file if number == 1 else f"{report.file} ({number})"
        rows[name] = {release: finding.verdict.value for release, finding in report.releases.items()}
    return rows


def matrix_table(console: Console, rows: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Releases across, rows of `what` down."""
    heads, body = cells(rows)
    matrix = Table(box=None, pad_edge=False)
    matrix.add_column(f"{what}, torch", overflow="fold", min_width=16)
    for head in heads:
        matrix.add_column(head, justify="center", min_width=7)
    for name, verdicts in body.items():
        styled = [Text(cell, _STYLE[Verdict(cell)] if cell != "-" else "dim") for cell in verdicts]
        matrix.add_row(Text(name), *styled)
    console.print(matrix)


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
        "unknown": "not about any release that was judged",
    }
    return f"declared: {declared}; true: {report.true_range}: the claim is {words[report.claim]}"


def _by_reason(library: LibraryReport) -> dict[tuple[str, ...], list[str]]:
    """Releases with which a library is not OK, by the verdict and its reasons."""
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for release, finding in library.releases.items():
        if finding.verdict is not Verdict.OK and meant_for(library.meant, release):
            by_reason.setdefault((finding.verdict.value, *reasons(finding)), []).append(release)
    return by_reason


def lines(report: WheelReport) -> list[str]:
    """The lines about a wheel: its claim, and each library with its reasons."""
    text = [_claim(report)]
    if report.left_out:
        text.append(f"torch {_span(report.left_out)}: no build for this wheel's CPython")
    if report.floors:
        text.append(f"asks for {', '.join(report.floors)}")
    for library in report.libraries:
        by_reason = _by_reason(library)
        if library.kind is LibraryKind.NEUTRAL and not by_reason:
            continue
        heading = f"{library.path}: {library.kind.value}"
        if library.kind is LibraryKind.TORCH:
            heading += f", built against {library.built.words} ({library.built.how})"
        text.append(heading)
        for (verdict, *why), releases in by_reason.items():
            text.append(f"  {verdict} with {', '.join(releases)}: {'; '.join(why)}")
    return text


def details(console: Console, reports: Sequence[WheelReport]) -> None:
    """The lines of every wheel."""
    for report in reports:
        console.print(f"\n{report.file}", style="bold", markup=False, highlight=False)
        for line in lines(report):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def markdown(reports: Sequence[WheelReport]) -> str:
    """Table and lines, for a pull request."""
    heads, body = cells(_rows(reports))
    text = [f"| wheel | {' | '.join(f'torch {head}' for head in heads)} |", f"|---|{'---|' * len(heads)}"]
    for file, verdicts in body.items():
        text.append(f"| {file} | {' | '.join(verdicts)} |")
    for report in reports:
        text += ["", f"**{report.file}**", ""]
        for line in lines(report):
            indent = "  " if line.startswith("  ") else ""
            text.append(f"{indent}- {line.strip()}")
    return "\n".join(text) + "\n"


@dataclass(frozen=True)
class Unread:
    """A file that could not be audited, and why."""

    file: str
    what: str


@dataclass(frozen=True)
class Document:
    """What --json prints; docs/schemas/answers/audit.schema.json is made of it."""

    wheels: tuple[WheelReport, ...]
    errors: tuple[Unread, ...] = ()
    schema: Literal[1] = 1

    def as_json(self) -> dict[str, Any]:
        from pydantic import TypeAdapter  # noqa: PLC0415 (slow to import)

        document: dict[str, Any] = TypeAdapter(Document).dump_python(self, mode="json")
        return document
