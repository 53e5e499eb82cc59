"""What `audit` does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_build_farm.audit import output, read_wheel, wheel_report
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import AbiError, AuditError, UnknownTorchError, nearest
from torch_build_farm.releases.known import added_folder


def chosen(asked: Iterable[str], known: Sequence[str]) -> list[str]:
    """The releases that are meant by 2.8 (a minor), 2.9.1 (a release) or all, oldest first.

    Raises UnknownTorchError for one that the farm knows nothing of.
    """
    wanted: set[str] = set()
    for text in asked or ["all"]:
        found = [one for one in known if text in ("all", one) or one.startswith(f"{text}.")]
        if not found:
            raise UnknownTorchError(
                f"nothing is known of torch {text}; {nearest(text, known)}",
                where="--torch",
                next_step=f"index add {text if text.count('.') > 1 else text + '.0'} reads it from the package index"
                if re.fullmatch(r"\d+\.\d+(\.\d+)?", text)
                else "releases such as 2.9.1, minors such as 2.9, or all",
            )
        wanted.update(found)
    return [one for one in known if one in wanted]


def _built_against(wheel: Path, work: Path) -> str:
    """The torch release that a wheel of the farm was built against; empty for other wheels."""
    if not (work / "jobs").is_dir():
        return ""
    from torch_build_farm.pipeline import records  # noqa: PLC0415 (slow to import)

    return records.torch_built_against(wheel, work)


def audit(context: Context) -> int:
    """`audit WHEEL...`: print findings. The exit code is AbiError's for a claim that is wider than the truth."""
    known = AuditTables.load(added_folder())
    releases = chosen(context.options.torch or (), known.releases)
    reports: list[WheelReport] = []
    refused: list[AuditError] = []
    for name in context.options.wheels:
        context.runner.check()
        try:
            path = Path(name)
            built_against = _built_against(path, context.work)
            reports.append(wheel_report.audit(read_wheel.read(path), known, releases, built_against))
        except AuditError as error:
            refused.append(error)
    if context.options.json:
        failed = [output.Unread(Path(one.where).name, one.what) for one in refused]
        context.answer(output.Document(tuple(reports), tuple(failed)).as_json())
    if context.options.markdown:
        context.say(output.markdown(reports))
    elif reports:
        output.table(context.console, reports)
        output.details(context.console, reports)
    for one in refused:
        context.console.print(f"error: {one}", style="red", markup=False, soft_wrap=True)
    if refused:
        return AuditError.exit_code
    return 0 if all(report.ok for report in reports) else AbiError.exit_code
