"""`audit`: report which torch releases wheels load and compute with. It imports little: it takes about a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.audit import output, read_wheel, wheel_report
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.cli.arguments import CommonOptions, Parser, add_common_arguments, add_list_argument
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.releases.table_files import added_folder


@dataclass(frozen=True, kw_only=True)
class AuditOptions(CommonOptions):
    """Options of `audit`."""

    wheels: tuple[Path, ...]
    torch: tuple[str, ...]
    markdown: bool
    verbose: bool


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("wheels", type=Path, nargs="+", metavar="WHEEL", help="wheels for x86-64 or arm64 Linux")
    add_list_argument(parser, "--torch", "RELEASE", "releases (2.9.1), minors (2.8), or all (default: all)")
    parser.add_argument("--markdown", action="store_true", help="print the table and the reasons as Markdown")
    parser.add_argument("--verbose", action="store_true", help="print every library and every name, however many")


def _recorded(wheel: Path, work: Path) -> tuple[str, Mapping[str, str]]:
    """The torch release that a wheel of the farm was built against, and its external-libraries; empty for others."""
    if not (work / "jobs").is_dir():
        return "", {}
    from torch_build_farm.pipeline import records  # noqa: PLC0415 (slow to import)

    return records.torch_built_against(wheel, work), records.external_libraries(wheel, work)


def _audit(context: Context, options: AuditOptions) -> int:
    """`audit`: print findings. Returns AbiError's exit code if a wheel claims more releases than it works with.

    If a file cannot be read the others are still audited, and the exit code is AuditError's.
    """
    known = AuditTables.load(added_folder())
    reports: list[WheelReport] = []
    unreadable: list[AuditError] = []
    for path in options.wheels:
        context.runner.check()
        try:
            built_against, external_libraries = _recorded(path, context.records_folder)
            wheel = read_wheel.read(path)
            releases = known.for_machine(wheel.machine).select(options.torch)
            reports.append(wheel_report.audit(wheel, known, releases, built_against, external_libraries))
        except AuditError as error:
            unreadable.append(error)

    if not reports:
        known.select(options.torch)  # a word that selects nothing is an error even if there is nothing to judge
    # With --json standard output is for the document; the table below then goes to standard error.
    if context.json:
        unread = []
        for problem in unreadable:
            unread.append(output.Unread(Path(problem.where).name, problem.what))
        context.answer(output.Document(tuple(reports), tuple(unread)).as_json())
    if options.markdown:
        context.say(output.markdown(reports, verbose=options.verbose))
    elif reports:
        output.table(context.console, reports)
        output.details(context.console, reports, verbose=options.verbose)
    for problem in unreadable:
        context.console.say(f"error: {problem}", "red")
    if unreadable:
        return AuditError.exit_code
    return 0 if all(report.ok for report in reports) else AbiError.exit_code


COMMANDS = {"audit": Command(AuditOptions, _configure_parser, _audit, output.Document)}
