"""The audit's findings for people: a table with a column per release and a row per wheel, the reasons, and Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from packaging.version import Version
from rich.console import Console
from rich.table import Table
from rich.text import Text

from torch_build_farm.audit.demangle import demangled, prepare
from torch_build_farm.audit.verdict import Finding, LibraryKind, Verdict
from torch_build_farm.audit.wheel_report import LibraryReport, WheelReport, meant_for
from torch_build_farm.core.text import markdown as escaped
from torch_build_farm.core.text import printable

_STYLE = {Verdict.OK: "green", Verdict.ENV: "yellow", Verdict.UNKNOWN: "magenta", Verdict.BROKEN: "bold red"}
_NAMES = 5  # shown of each list; --json has all
_WIDTH = 100  # characters of a name that is shown


def _first_demangled(names: Sequence[str]) -> str:
    """As `_first_names`, of mangled names."""
    prepare(names[:_NAMES])
    return _first_names([demangled(name) for name in names[:_NAMES]], len(names))


def _first_names(names: Sequence[str], count: int = 0) -> str:
    """The first names, each of them shortened, and how many more there are; `count` is their number."""
    shown = []
    for name in names[:_NAMES]:
        shown.append(name if len(name) <= _WIDTH else f"{name[:_WIDTH]}...")
    text = ", ".join(shown)
    count = count or len(names)
    if count > _NAMES:
        text += f" and {count - _NAMES} more"
    return text


def reasons(finding: Finding) -> list[str]:
    """Why a verdict is not OK, one sentence each."""
    sentences = []
    if finding.missing:
        sentences.append(f"missing {_first_demangled(finding.missing)}")
    if finding.libraries:
        sentences.append(f"neither the wheel nor this torch brings {_first_names(finding.libraries)}")
    if finding.layout:
        sentences.append(f"different layout of {_first_names(finding.layout)}")
    if finding.unknown:
        sentences.append(f"unknown {_first_demangled(finding.unknown)}")
    if finding.note:
        sentences.append(finding.note)
    return sentences


def _span(releases: Sequence[str]) -> str:
    if len(releases) < 3:
        return ", ".join(releases)
    return f"{releases[0]} to {releases[-1]}"


def stretches(releases: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Columns of a table, by their headings: successive releases with the same verdict in every row share one.

    Thirty releases would not fit a terminal. `releases` are oldest first; `rows` map releases to verdicts.
    """
    columns: list[list[str]] = []
    verdicts_before: list[str | None] = []
    for release in releases:
        verdicts = [row.get(release) for row in rows]
        if columns and verdicts == verdicts_before:
            columns[-1].append(release)
        else:
            columns.append([release])
        verdicts_before = verdicts
    return {_span(column): column for column in columns}


def cells(rows: Mapping[str, Mapping[str, str]]) -> tuple[list[str], dict[str, list[str]]]:
    """The headings, and for each row (by its name) a verdict under each of them.

    `rows` map a row's name to its verdicts by release; "-" stands where a row has no verdict for a release.
    """
    releases = sorted(set().union(*rows.values()), key=Version)
    columns = stretches(releases, list(rows.values()))
    body: dict[str, list[str]] = {}
    for name, row in rows.items():
        body[name] = []
        for oldest, *_ in columns.values():  # the others of the column have the same verdict
            body[name].append(row.get(oldest, "-"))
    return list(columns), body


def _rows(reports: Sequence[WheelReport]) -> dict[str, dict[str, str]]:
    """Verdicts by wheel and release, "-" for a wheel without a library.

    Wheels with the same file name, from different folders, are numbered.
    """
    rows: dict[str, dict[str, str]] = {}
    seen = Counter[str]()
    for report in reports:
        seen[report.file] += 1
        number = seen[report.file]
        name = report.file if number == 1 else f"{report.file} ({number})"
        judged = bool(report.libraries)
        rows[name] = {}
        for release, finding in report.releases.items():
            rows[name][release] = finding.verdict.value if judged else "-"
    return rows


def matrix_table(console: Console, rows: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Print a column per stretch of releases and a row per name in `rows`; `what` says what the rows are."""
    heads, body = cells(rows)
    matrix = Table(box=None, pad_edge=False)
    matrix.add_column(f"{what}, torch", overflow="fold", min_width=16)
    for head in heads:
        matrix.add_column(head, justify="center", min_width=7)
    for name, verdicts in body.items():
        styled = []
        for verdict in verdicts:
            style = "dim" if verdict == "-" else _STYLE[Verdict(verdict)]
            styled.append(Text(verdict, style))
        matrix.add_row(Text(printable(name)), *styled)
    console.print(matrix)


def table(console: Console, reports: Sequence[WheelReport]) -> None:
    """Print the wheels' verdicts, a column per stretch of releases and a row per wheel."""
    matrix_table(console, _rows(reports), "wheel")


def _claim(report: WheelReport) -> str:
    """The sentence which compares METADATA's range with the true one."""
    declared = report.declared or "nothing, so any torch"
    if report.claim == "nothing to judge":
        return f"declared: {declared}; it has no compiled library: there is nothing to judge"
    words = {
        "true": "as it is",
        "wider": "wider than the truth",
        "narrower": "narrower than the truth",
        "wider and narrower": "wider than the truth, and narrower elsewhere",
        "unknown": "about none of the releases that were judged",
    }
    return f"declared: {declared}; true: {report.true_range}: the claim is {words[report.claim]}"


def needs_of_others(report: WheelReport) -> list[str]:
    """What the wheel needs of the distributions that it requires, a sentence for each library."""
    brought: dict[str, str] = {}
    for library in report.libraries:
        brought |= library.companions
    sentences = []
    for soname, distribution in sorted(brought.items()):
        sentences.append(f"needs {soname}, which its requirement {distribution} brings")
    return sentences


def _by_reason(library: LibraryReport) -> dict[tuple[str, ...], list[str]]:
    """Releases with which a library is not OK, by the verdict followed by its reasons."""
    by_reason: dict[tuple[str, ...], list[str]] = {}
    for release, finding in library.releases.items():
        if finding.verdict is not Verdict.OK and meant_for(library.meant, release):
            by_reason.setdefault((finding.verdict.value, *reasons(finding)), []).append(release)
    return by_reason


def lines(report: WheelReport) -> list[str]:
    """The lines about a wheel: its claim, and each library with its reasons, indented by two spaces."""
    # All names at once: for each release and library alone they would be a process each.
    names: list[str] = []
    for library in report.libraries:
        for finding in library.releases.values():
            names += [*finding.missing[:_NAMES], *finding.unknown[:_NAMES]]
    prepare(names)
    text = [_claim(report)]
    if report.libraries and report.use.kind is not LibraryKind.TORCH:
        text.append(f"uses {report.use.words}")
    if report.left_out:
        text.append(f"torch {_span(report.left_out)}: no build for this wheel's CPython")
    if report.floors:
        text.append(f"needs {', '.join(report.floors)}")
    text += needs_of_others(report)
    for library in report.libraries:
        by_reason = _by_reason(library)
        # A wheel may hold dozens of libraries that have nothing to do with torch.
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
    """Print the lines of every wheel, each below the wheel's file name."""
    for report in reports:
        console.print(Text(f"\n{printable(report.file)}", "bold"))
        for line in lines(report):
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)


def markdown(reports: Sequence[WheelReport]) -> str:
    """The table and the lines as Markdown, for a pull request."""
    heads, body = cells(_rows(reports))
    titles = ["wheel"]
    for head in heads:
        titles.append(escaped(f"torch {head}"))
    text = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for file, verdicts in body.items():
        text.append(f"| {escaped(file)} | {' | '.join(verdicts)} |")
    for report in reports:
        text += ["", f"**{escaped(report.file)}**", ""]
        for line in lines(report):
            indent = "  " if line.startswith("  ") else ""
            text.append(f"{indent}- {escaped(line)}")
    return "\n".join(text) + "\n"


@dataclass(frozen=True)
class Unread:
    """A file that could not be audited, and why."""

    file: str
    what: str


@dataclass(frozen=True)
class Document:
    """What --json prints; docs/schemas/answers/audit.schema.json is generated from it."""

    wheels: tuple[WheelReport, ...]
    errors: tuple[Unread, ...] = ()
    schema: Literal[1] = 1

    def as_json(self) -> dict[str, Any]:
        from pydantic import TypeAdapter  # noqa: PLC0415 (slow to import)

        document: dict[str, Any] = TypeAdapter(Document).dump_python(self, mode="json")
        return document
