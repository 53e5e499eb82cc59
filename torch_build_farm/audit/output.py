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

from torch_build_farm.audit.lines import lines, span
from torch_build_farm.audit.verdict import Verdict
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.core.text import markdown as escaped
from torch_build_farm.core.text import printable

_STYLE = {Verdict.OK: "green", Verdict.ENV: "yellow", Verdict.UNKNOWN: "magenta", Verdict.BROKEN: "bold red"}
_MARKDOWN_WIDTH = 160  # columns of a line, which a browser wraps


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
    return {span(column): column for column in columns}


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
        judged = bool(report.libraries or report.other_machines)
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


def details(console: Console, reports: Sequence[WheelReport], *, verbose: bool = False) -> None:
    """Print the lines of every wheel, each below the wheel's file name."""
    for report in reports:
        console.print(Text(f"\n{printable(report.file)}", "bold"))
        for line in lines(report, console.width - 2, verbose=verbose):
            console.print(Text(f"  {printable(line)}"), soft_wrap=True)


def markdown(reports: Sequence[WheelReport], *, verbose: bool = False) -> str:
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
        for line in lines(report, _MARKDOWN_WIDTH, verbose=verbose):
            words = line.lstrip(" ")
            indent = line.removesuffix(words)
            text.append(f"{indent}- {escaped(words)}")
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
