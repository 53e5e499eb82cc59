"""The wheel against every release of its torch minor."""

from __future__ import annotations

from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline.recorded import built_against
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.releases.known import Knowledge, added_folder


def _audit_inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of("relocate"),
        "releases": step.job.variant.releases,
        "built": built_against(step.before["build"]),
        "knowledge": [sha256(path) for path in Knowledge.files(added_folder())],
    }


def _audit(step: Step) -> Outcome:
    # Imported here: a run with nothing to do audits nothing, and this room takes a sixth of its time to import.
    from torch_build_farm.audit import output, read_wheel, wheel_report  # noqa: PLC0415
    from torch_build_farm.audit.tables import AuditTables  # noqa: PLC0415

    known, path, own = AuditTables.load(added_folder()), step.output("relocate"), step.job.variant.releases
    if unknown := [release for release in own if release not in known.releases]:
        raise AuditError(
            f"{step.job.id}: nothing is known of torch {', '.join(unknown)}",
            where=str(added_folder()),
            next_step=f"build_farm.py index add {' '.join(unknown)}",
        )
    found = wheel_report.audit(read_wheel.read(path), known, known.releases, built_against(step.before["build"]))
    if broken := [release for release in own if release in found.releases and not found.works(release)]:
        reasons = "; ".join(f"torch {one}: {', '.join(output.reasons(found.releases[one]))}" for one in broken)
        raise AbiError(
            f"{step.job.id}: the wheel does not work with every release of its torch minor: {reasons}",
            where=str(path),
            next_step=f"build_farm.py audit {path} tells more",
        )
    step.say(f"works with torch {found.true_range}")
    matrix_text = " ".join(f"{release}={one.verdict.value}" for release, one in found.releases.items())
    return Outcome(details={"range": found.true_range, "releases": matrix_text, "asks-for": "; ".join(found.floors)})


AUDIT = Stage("audit", _audit_inputs, _audit)
