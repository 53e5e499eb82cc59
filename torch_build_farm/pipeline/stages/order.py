"""The stages of a job in their order, and the parts of it that commands run."""

from __future__ import annotations

from collections.abc import Sequence

from torch_build_farm.pipeline.stage import Mode, Stage
from torch_build_farm.pipeline.stages.audit import AUDIT
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.core import CORE_AUDIT, CORE_SMOKE, CORE_WHEEL
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.pipeline.stages.smoke import SMOKE
from torch_build_farm.project.plan import Job

ALL = (RENDER, BUILD, REPAIR, RELOCATE, AUDIT, SMOKE)
TREE = (RENDER,)
WHEEL = (RENDER, BUILD, REPAIR, RELOCATE)
AUDITED_WHEEL = (*WHEEL, AUDIT)
# What a job of the core has in place of a stage: torch is in none of them.
_OF_CORE = {RELOCATE.name: CORE_WHEEL, AUDIT.name: CORE_AUDIT, SMOKE.name: CORE_SMOKE}

__all__ = [
    "ALL",
    "AUDIT",
    "AUDITED_WHEEL",
    "BUILD",
    "RELOCATE",
    "RENDER",
    "REPAIR",
    "SMOKE",
    "TREE",
    "WHEEL",
    "stages_of",
    "stages_with",
]


def stages_of(job: Job, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """`stages` as a job runs them: the core's are other ones, with the same names."""
    if job.variant.needs_torch:
        return tuple(stages)
    return tuple(_OF_CORE.get(stage.name, stage) for stage in stages)


def stages_with(smoke: Mode) -> tuple[Stage, ...]:
    """The stages that make and prove a wheel; without the smoke test for the mode "none"."""
    return AUDITED_WHEEL if smoke == "none" else ALL
