"""The stages of a job, in order: render, build, repair, relocate, audit, smoke."""

from __future__ import annotations

from torch_build_farm.pipeline.stages.audit import AUDIT
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.pipeline.stages.smoke import SMOKE

MADE = (RENDER, BUILD, REPAIR, RELOCATE)  # what it takes to make a wheel
WHEEL = (*MADE, AUDIT)
ALL = (*WHEEL, SMOKE)
