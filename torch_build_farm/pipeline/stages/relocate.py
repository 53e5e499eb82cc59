"""The wheel's packages move to a folder of the variant's own."""

from __future__ import annotations

import shutil
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import tools
from torch_build_farm.core.files import clear
from torch_build_farm.pipeline.records import WHEEL_STAGE
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.pipeline.stages.repair import REPAIR
from torch_build_farm.wheels.relocate import relocate


def _inputs(step: Step) -> dict[str, Any]:
    settings = step.context.project.settings
    # patchelf writes the run paths of libraries that move, and so has a say in their bytes.
    return {
        "farm": __version__,
        "wheel": step.digest_of(REPAIR),
        "packages": settings.packages,
        "name": settings.name,
        "plain-files": settings.plain_files,
        "requires": settings.requires,
        "torch-flavours": settings.torch_flavours,
        "import-torch-first": settings.import_torch_first,
        "pin": step.job.variant.pin,
        "patchelf": tools.versions()["patchelf"],
    }


def _work(step: Step) -> Outcome:
    scratch, out = step.folder / "scratch", step.folder / "relocated"
    clear(out)
    clear(scratch)
    settings, tag = step.context.project.settings, step.job.variant.tag
    try:
        wheel = relocate(step.output(REPAIR), out, scratch, settings=settings, tag=tag, shell=step.shell)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Outcome((wheel,))


RELOCATE = Stage(WHEEL_STAGE, _inputs, _work, makes_wheel=True)
