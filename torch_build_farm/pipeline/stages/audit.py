"""The wheel against every release of its torch minor."""

from __future__ import annotations

from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.pipeline.facts import AuditFacts, BuildFacts
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.releases.table_files import added_folder


def _inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of(RELOCATE),
        "releases": step.job.variant.releases,
        "built": step.facts(BUILD, BuildFacts).torch_release,
        "external-libraries": dict(step.context.project.settings.external_libraries),
        "knowledge": step.context.audit_tables_sha256.get(),
    }


def _work(step: Step) -> Outcome:
    # Imported here: a run with nothing to do audits nothing, and this room takes a sixth of its time to import.
    from torch_build_farm.audit import lines, read_wheel, reasons, wheel_report  # noqa: PLC0415

    tables = step.context.audit_tables.get()
    releases_of_minor = step.job.variant.releases
    unknown = [release for release in releases_of_minor if release not in tables.releases]
    if unknown:
        raise AuditError(
            f"{step.job.id}: nothing is known of torch {', '.join(unknown)}",
            where=str(added_folder()),
            next_step=f"build_farm.py index add {' '.join(unknown)}",
        )

    # All known releases are audited, since the record and the report show them; only the minor's own must work.
    path, built_against = step.output(RELOCATE), step.facts(BUILD, BuildFacts).torch_release
    external_libraries = step.context.project.settings.external_libraries
    report = wheel_report.audit(read_wheel.read(path), tables, tables.releases, built_against, external_libraries)
    broken = [release for release in releases_of_minor if release in report.releases and not report.works(release)]
    if broken:
        sentences = []
        for release in broken:
            reasons_of_release = ", ".join(reasons.reasons(report.releases[release]))
            sentences.append(f"torch {release}: {reasons_of_release}")
        raise AbiError(
            f"{step.job.id}: the wheel does not work with every release of its torch minor: {'; '.join(sentences)}",
            where=str(path),
            next_step=f"build_farm.py audit {path} shows the details",
        )
    step.say(f"works with torch {report.true_range}")
    for need in lines.needs_of_others(report):
        step.say(need)
    verdicts = {release: on_release.verdict.value for release, on_release in report.releases.items()}
    if report.fewer_variants and len(step.context.minors) > 1:
        words = f"{step.job.id}: the wheel uses {report.fewer_variants}"
        step.context.announce_once(
            "fewer variants", f"{words}. The other minors are built all the same; Ctrl-C ends it"
        )
    return Outcome(facts=AuditFacts(report.true_range, verdicts, tuple(report.floors), report.fewer_variants))


AUDIT = Stage("audit", _inputs, _work)
