"""The wheel's packages move to a folder of the variant's own."""

from __future__ import annotations

import shutil
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import tools
from torch_build_farm.core.files import clear
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.wheels.relocate import relocate


def _relocate_inputs(step: Step) -> dict[str, Any]:
    settings = step.farm.project.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of("repair"),
        "packages": settings.packages,
        "name": settings.name,
        "patchelf": tools.versions()["patchelf"],
    }


def _relocate(step: Step) -> Outcome:
    scratch, out = step.folder / "scratch", step.folder / "relocated"
    clear(out)
    clear(scratch)
    try:
        tag, settings = step.job.variant.tag, step.farm.project.settings
        made = relocate(step.output("repair"), out, scratch, settings=settings, tag=tag, shell=step.shell)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Outcome((made,))


RELOCATE = Stage("relocate", _relocate_inputs, _relocate)
