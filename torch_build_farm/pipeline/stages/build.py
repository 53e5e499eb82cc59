"""The wheel, built by the engine with as much of torch as it takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core.files import read_foreign_text
from torch_build_farm.engines import ninja_log
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.pipeline import estimates, installed_packages, sdk_build
from torch_build_farm.pipeline.facts import BuildFacts
from torch_build_farm.pipeline.stage import Outcome, RunContext, Stage, Step
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.project import external_libraries
from torch_build_farm.project.plan import Job
from torch_build_farm.project.variant import StableVariant, Variant

_PEAK_BYTES = 20  # a number of the engine's


def _variant_facts(variant: Variant) -> dict[str, Any]:
    """What a build takes from the variants file."""
    # Of the stable ABI's variant the oldest minor alone: a new minor is no reason to build its wheel again.
    facts = asdict(variant.minors[0])
    # No fact about torch is a reason to build a core again.
    return facts if variant.needs_torch else {name: facts[name] for name in ("image", "cxx_standard", "platform")}


def _inputs(step: Step) -> dict[str, Any]:
    context = step.context
    settings = step.settings
    # Everything by which two builds of the same tree may differ: what is forgotten here keeps a wheel that is outdated.
    inputs = {
        "tree": step.digest_of(RENDER),
        "variant": _variant_facts(step.job.variant),
        "stable-abi": isinstance(step.job.variant, StableVariant),
        "farm": __version__,
        "engine": context.engine.name,
        "toolchain": dict(context.engine.toolchain(step.job)),
        "environment": dict(settings.environment),
        "cmake-defines": dict(settings.cmake_defines),
        "subdirectory": settings.subdirectory,
        "config-settings": dict(settings.config_settings),
        "before-build": settings.before_build,
        "system-packages": asdict(settings.system_packages),
        "prefixes": settings.prefixes,
        "cuda-arch-list": settings.cuda_arch_list,
        "compress-device-code": settings.compress_device_code,
        "torch-build": settings.torch_build,
        "network": settings.network,
        "epoch": context.epoch,
    }
    # Such an engine runs auditwheel within the build, so auditwheel's options are inputs of the build.
    if context.engine.repairs_itself:
        inputs["policy"] = asdict(external_libraries.policy())
        inputs["external-libraries"] = sorted(settings.external_libraries)
    return inputs


def _work(step: Step) -> Outcome:
    context = step.context
    request = BuildRequest(
        job=step.job,
        tree=step.output(RENDER),
        scratch=step.folder / "scratch",
        out=step.folder / "raw",
        makeflags=context.jobserver.makeflags,
        share=context.compilers_per_build,
        epoch=context.epoch,
        version_from_scm=context.tree(step.job).source.metadata.version_from_scm,
        shell=step.shell,
        reuse=may_reuse(force=context.force),
    )
    wheel, built_with = sdk_build.build_wheel(step, request)
    peak_mb = None
    if request.peak.is_file():
        measured_mb = float(read_foreign_text(request.peak, _PEAK_BYTES))
        peak_mb = estimates.peak_mb(context.work, step.job, measured_mb, reused=request.reuse)
    facts = BuildFacts(
        engine=context.engine.name,
        base_image=context.engine.base_image,
        built_with=built_with,
        peak_mb=peak_mb,
        compile_seconds=ninja_log.compile_seconds(request.out),
        environment=installed_packages.of_last_build(step.log),
    )
    return Outcome((wheel,), facts)


def may_reuse(*, force: bool) -> bool:
    """Whether builds may take compilations from ccache, in a run with or without --force."""
    return not force and os.environ.get("TORCH_BUILD_FARM_CCACHE", "").lower() != "off"


@contextlib.contextmanager
def _build_slot(context: RunContext, job: Job, rank: int) -> Iterator[None]:
    """Hold one of the --jobs places and one token of the jobserver, after the build that goes first."""
    with (
        context.first_builds.turn(job, rank, context.runner),
        context.build_slots.hold(rank, context.runner),
        context.jobserver.build(context.runner),
    ):
        yield


BUILD = Stage("build", _inputs, _work, _build_slot)
