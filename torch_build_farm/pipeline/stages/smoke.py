"""The wheel in a fresh environment with its own full torch."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core.files import clear, link_or_copy, sha256
from torch_build_farm.pipeline.smoke_test import SmokeTest, neighbour
from torch_build_farm.pipeline.stage import Outcome, RunContext, Stage, Step
from torch_build_farm.pipeline.stages.relocate import RELOCATE
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.project.plan import Job
from torch_build_farm.wheels import one_name


def _inputs(step: Step) -> dict[str, Any]:
    context = step.context
    script = context.project.smoke_script
    other = neighbour(context.project, step.job.variant)
    # A new release of the minor is another torch to test beside, though the wheel is the same; hence "newest".
    settings = context.project.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of(RELOCATE),
        "core": step.core_digest,
        "names": (context.project.auto_name, context.project.select_name),
        "dispatcher": one_name.dispatcher_template(context.project),
        "newest": step.job.variant.newest,
        "torch": step.job.variant.tested_with,
        "refused": other.pin if other else "",
        "mode": context.smoke,
        "imports": context.project.imports,
        "script": sha256(script) if script and script.is_file() else "",
        "pin": step.job.variant.pin,
        "test-requires": settings.test_requires,
        "test-extras": settings.test_extras,
        "test-command": settings.test_command,
        # Test commands run what the source tree has, which may have changed where the wheel did not.
        "tree": step.digest_of(RENDER) if settings.test_command else "",
    }


def _work(step: Step) -> Outcome:
    context = step.context
    # The variant requires the plain wheel, and that one two more. Those on the index, if there are any, are of a
    # published version; the test needs them as they will be beside this wheel.
    wheel, tree = step.output(RELOCATE), step.output(RENDER)
    wheels = step.folder / "wheels"
    clear(wheels)
    minor = step.job.variant.torch
    family = one_name.Family.of(context.project, wheel, {minor: step.job.version}, context.epoch)
    one_name.write(family, wheels)
    link_or_copy(wheel, wheels / wheel.name)
    # The index may have a core of that version, too, or none yet.
    if step.core_wheel:
        link_or_copy(step.core_wheel, wheels / step.core_wheel.name)
    try:
        with context.engine.site(step.job, step.shell) as site:
            findings = []
            for torch in step.job.variant.tested_with:
                test = SmokeTest(
                    context.project,
                    step.job,
                    wheels / wheel.name,
                    torch,
                    context.source.root,
                    tree,
                    context.smoke,
                    site,
                )
                findings.append(test.run())
            *older, newest = findings
            core = step.core_wheel.name if step.core_wheel else None
            return Outcome(facts=replace(newest, oldest=older[0].torch if older else None, core=core))
    finally:
        shutil.rmtree(wheels, ignore_errors=True)


def smoke_slot(context: RunContext, _: Job, rank: int) -> AbstractContextManager[None]:
    """Hold one of the places for smoke tests."""
    return context.smoke_slots.hold(rank, context.runner)


SMOKE = Stage("smoke", _inputs, _work, smoke_slot, per_cpython=True, beside_core=True)
