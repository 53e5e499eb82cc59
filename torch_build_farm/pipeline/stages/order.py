"""The stages of a job in their order, and the parts of it that commands run."""

from __future__ import annotations

from torch_build_farm.pipeline.stage import Mode, Stage
from torch_build_farm.pipeline.stages.audit import AUDIT
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.pipeline.stages.smoke import SMOKE

ALL = (RENDER, BUILD, REPAIR, RELOCATE, AUDIT, SMOKE)
TREE = (RENDER,)
WHEEL = (RENDER, BUILD, REPAIR, RELOCATE)
AUDITED_WHEEL = (*WHEEL, AUDIT)

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
    "stages_with",
]


def stages_with(smoke: Mode) -> tuple[Stage, ...]:
    """The stages that make and prove a wheel; without the smoke test for the mode "none"."""
    return AUDITED_WHEEL if smoke == "none" else ALL
