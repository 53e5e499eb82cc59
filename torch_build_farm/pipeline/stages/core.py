"""The stages of a core where they differ from a variant's: no relocation, an audit and a test without torch."""

from __future__ import annotations

import shutil
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core.errors import CoreError
from torch_build_farm.core.files import clear, link_or_copy
from torch_build_farm.pipeline.core_test import CoreTest
from torch_build_farm.pipeline.facts import CoreAuditFacts
from torch_build_farm.pipeline.records import WHEEL_STAGE
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.pipeline.stages.smoke import smoke_slot
from torch_build_farm.wheels.beside_core import members_of_variants
from torch_build_farm.wheels.wheel import read_wheel


def _wheel_inputs(step: Step) -> dict[str, Any]:
    packages = step.context.project.settings.packages
    return {"farm": __version__, "wheel": step.digest_of(REPAIR), "packages-of-variants": packages}


def _wheel_work(step: Step) -> Outcome:
    # Its packages are its own: no variant moves what belongs to it.
    repaired, out = step.output(REPAIR), step.folder / "finished"
    clear(out)
    packages = step.context.project.settings.packages
    members = members_of_variants(read_wheel(repaired), packages)
    if members:
        more = f" and {len(members) - 1} more" if members[1:] else ""
        raise CoreError(
            f"{step.job.id}: the core has {members[0]}{more}, which the variants bring with {', '.join(packages)}",
            where=str(repaired),
            next_step="leave it out of the core's wheel, by the settings of the build back end in its pyproject file "
            "(scikit-build-core: wheel.exclude)",
        )
    link_or_copy(repaired, out / repaired.name)
    return Outcome((out / repaired.name,))


CORE_WHEEL = Stage(WHEEL_STAGE, _wheel_inputs, _wheel_work, makes_wheel=True)


def _audit_inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of(CORE_WHEEL),
        "knowledge": step.context.audit_tables_sha256.get(),
    }


def _audit_work(step: Step) -> Outcome:
    # Imported here, as in the audit of a variant.
    from torch_build_farm.audit import symbol_versions, torch_free  # noqa: PLC0415
    from torch_build_farm.audit.read_wheel import read as read_for_audit  # noqa: PLC0415

    wheel = read_for_audit(step.output(CORE_WHEEL))
    problems = torch_free.problems(wheel, step.context.audit_tables.get())
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise CoreError(
            f"{step.job.id}: the core is not without torch:\n{listed}",
            where=str(wheel.path),
            next_step="move what uses torch to the packages of the variants",
        )
    ids = sorted({internals_id for ids in wheel.pybind11.values() for internals_id in ids})
    return Outcome(facts=CoreAuditFacts(symbol_versions.floors(wheel), tuple(ids)))


CORE_AUDIT = Stage("audit", _audit_inputs, _audit_work)


def _smoke_inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of(CORE_WHEEL),
        "mode": step.context.smoke,
        "imports": step.settings.imports,
    }


def _smoke_work(step: Step) -> Outcome:
    # A folder of its own, since a container gets folders.
    wheels = step.folder / "wheels"
    clear(wheels)
    wheel = step.output(CORE_WHEEL)
    link_or_copy(wheel, wheels / wheel.name)
    try:
        with step.context.engine.site(step.job, step.shell) as site:
            return Outcome(facts=CoreTest(step.job, step.settings.imports, wheels / wheel.name, site).run())
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


CORE_SMOKE = Stage("smoke", _smoke_inputs, _smoke_work, smoke_slot, per_cpython=True)
