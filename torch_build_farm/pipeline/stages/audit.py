"""The wheel against every release of the torch minors that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from torch_build_farm import __version__
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.pipeline.facts import AuditFacts, BuildFacts
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.project.plan import Job
from torch_build_farm.project.variant import StableVariant, Variant, platform_option
from torch_build_farm.releases.table_files import added_folder

if TYPE_CHECKING:
    from torch_build_farm.audit.read_wheel import AuditedWheel


def _releases(variant: Variant) -> list[str]:
    """The releases that the variants files have of the minors that a variant serves, oldest first."""
    return [release for minor in variant.minors for release in minor.public_releases]


def _inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of(RELOCATE),
        "releases": _releases(step.job.variant),
        "stable-abi": isinstance(step.job.variant, StableVariant),
        "built": step.facts(BUILD, BuildFacts).torch_release,
        "external-libraries": dict(step.context.project.settings.external_libraries),
        "knowledge": step.context.audit_tables_sha256.get(),
    }


def _require_stable(job: Job, wheel: AuditedWheel, problems: Sequence[str]) -> None:
    """Raise AbiError for a wheel that `problems` keep from serving every later torch."""
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise AbiError(
            f"{job.id}: the wheel cannot serve torch {job.variant.torch} and every later one:\n{listed}",
            where=str(wheel.path),
            next_step="keep to torch/csrc/stable and torch/headeronly in the sources, or remove stable-abi",
        )


def _work(step: Step) -> Outcome:
    # Imported here: a run with nothing to do audits nothing, and this room takes a sixth of its time to import.
    from torch_build_farm.audit import lines, read_wheel, reasons, stable_only, wheel_report  # noqa: PLC0415

    variant = step.job.variant
    tables = step.context.audit_tables.get().for_machine(variant.platform)
    to_serve = _releases(variant)
    unknown = [release for release in to_serve if release not in tables.releases]
    if unknown:
        raise AuditError(
            f"{step.job.id}: nothing is known of torch {', '.join(unknown)}",
            where=str(added_folder()),
            next_step=f"build_farm.py index add {' '.join(unknown)}{platform_option(variant.platform)}",
        )

    # All known releases are audited, since the record and the report show them; only the variant's own must work.
    path, built_against = step.output(RELOCATE), step.facts(BUILD, BuildFacts).torch_release
    wheel = read_wheel.read(path)
    if isinstance(variant, StableVariant):
        _require_stable(step.job, wheel, stable_only.problems(wheel, tables))
        # Also those of minors that no variants file describes yet.
        to_serve = [release for release in tables.releases if Version(release) >= Version(variant.release)]
    external_libraries = step.context.project.settings.external_libraries
    report = wheel_report.audit(wheel, tables, tables.releases, built_against, external_libraries)
    broken = [release for release in to_serve if release in report.releases and not report.works(release)]
    if broken:
        sentences = []
        for release in broken:
            reasons_of_release = ", ".join(reasons.reasons(report.releases[release]))
            sentences.append(f"torch {release}: {reasons_of_release}")
        raise AbiError(
            f"{step.job.id}: the wheel does not work with every release of torch{variant.pin}: {'; '.join(sentences)}",
            where=str(path),
            next_step=f"build_farm.py audit {path} shows the details",
        )
    step.say(f"works with torch {report.true_range}")
    for need in lines.needs_of_others(report):
        step.say(need)
    verdicts = {release: on_release.verdict.value for release, on_release in report.releases.items()}
    # The wheel of the stable ABI is the one that others are told of.
    fewer_variants = "" if isinstance(variant, StableVariant) else report.fewer_variants
    if fewer_variants and len(step.context.minors) > 1:
        words = f"{step.job.id}: the wheel uses {fewer_variants}"
        step.context.announce_once(
            "fewer variants", f"{words}. The other minors are built all the same; Ctrl-C ends it"
        )
    return Outcome(facts=AuditFacts(report.true_range, verdicts, tuple(report.floors), fewer_variants))


AUDIT = Stage("audit", _inputs, _work)
