"""A build with torch's SDK, and once more with all of torch where it turns out to run torch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import tools
from torch_build_farm.core.errors import (
    BuildError,
    FarmError,
    PackageIndexError,
    RepairError,
    SdkError,
    UnknownTorchError,
)
from torch_build_farm.core.files import clear
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines import ninja_log, torch_downloads
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.pipeline import estimates, installed_packages
from torch_build_farm.pipeline.facts import BuildFacts
from torch_build_farm.pipeline.stage import Outcome, RunContext, Stage, Step
from torch_build_farm.pipeline.stages.render import RENDER
from torch_build_farm.project.plan import Job
from torch_build_farm.releases.listing import Listing
from torch_build_farm.releases.sdk import cache, fallback
from torch_build_farm.releases.sdk.cache import Sdk
from torch_build_farm.wheels import auditwheel


def with_torch(step: Step, request: BuildRequest) -> tuple[Path, str]:
    """Build the wheel with as much of torch as it takes; returns it, and what it was built with, for people.

    Raises what the engine's `build` does, or SdkError.
    """
    settings, release = step.context.project.settings, step.job.variant.release
    if reason := fallback.why_full(settings, request.tree):
        return _built(step, request, None), f"all of torch {release}: {reason}"
    try:
        sdk = _get(step.context.store, step.job, step.shell)
    except (PackageIndexError, UnknownTorchError, SdkError) as error:
        if settings.torch_build == "sdk":
            raise
        return _built(step, request, None), f"all of torch {release}: {error.what}"
    try:
        wheel = _built(step, request, sdk)
    except (BuildError, RepairError):  # a wheel without its library is found at the repair
        said = _log(step)
        reason = fallback.asked(request.sdk_misses, said) or fallback.missed(said)
        if settings.torch_build == "sdk" or not reason:
            raise
        line = f"the build asks for {reason}, which torch's SDK has not"
    else:
        line = _what_is_wrong(step, request, wheel)
        if not line:
            return wheel, f"torch's SDK {release}"
        if settings.torch_build == "sdk":
            raise SdkError(
                f"{step.job.id}: {line}",
                where=str(step.log),
                next_step='torch-build = "auto" or "full" in [tool.torch-build-farm]',
            )
    with step.log.open("a", encoding="utf-8") as log:
        log.write(f"{STAGE_MARK}build {step.job.id} {line}: again with all of torch\n")
    return _built(step, request, None), f"all of torch {release}: {line}"


def ahead(context: RunContext, jobs: Sequence[Job], log: Path) -> None:
    """Make the SDKs of `jobs` in the background, one after the other, while images are made ready and builds run.

    A job whose SDK is not there yet makes it, or waits for it; what goes wrong here goes wrong there too, and is told.
    """
    if fallback.why_full(context.project.settings, context.source.root):
        return
    env = tools.environment(context.store.uv_cache, context.store.root)
    shell = Shell(context.runner, env, context.store.root, log, lambda _: None)

    def make() -> None:
        with contextlib.suppress(FarmError, OSError):
            for job in jobs:
                context.runner.check()
                _get(context.store, job, shell)

    threading.Thread(target=make, daemon=True).start()


def check_index(context: RunContext, job: Job) -> None:
    """Raise PackageIndexError where the job's torch, as an SDK or all of it, is neither there nor to be had."""
    release, python = job.variant.release, job.python
    if context.engine.store.has(release, python):
        return  # what is built with where no SDK can be made
    index = PackageIndex.configured()
    if cache.find(context.store, release, python, index) is None:
        try:
            Listing.read(index)
        except PackageIndexError:
            # uv may know how to ask, and then all of torch is had.
            torch_downloads.check_index(context.store, release, python, context.runner)


def _get(store: TorchStore, job: Job, shell: Shell) -> Sdk:
    """The SDK of the job's torch, made now if need be. Raises PackageIndexError or SdkError."""
    release, python = job.variant.release, job.python
    with store.locked(cache.lock_of(release, python), shell):
        return cache.get(store, release, python, PackageIndex.configured(), shell.say)


def _built(step: Step, request: BuildRequest, sdk: Sdk | None) -> Path:
    clear(request.out)
    clear(request.scratch)
    return step.context.engine.build(replace(request, sdk=sdk))


def _log(step: Step) -> str:
    """What this build has logged."""
    return step.log.read_text("utf-8", "replace").rpartition(f"{STAGE_MARK}build ")[2]


def _what_is_wrong(step: Step, request: BuildRequest, wheel: Path) -> str:
    """Why a wheel that was built with the SDK does not count, in a sentence; empty where it does."""
    if reason := fallback.asked(request.sdk_misses, _log(step)):
        return f"the build asks for {reason}, which torch's SDK has not, and goes on without"
    if member := fallback.leaked(wheel, step.job.variant.release):
        return f"the build writes the version of torch's SDK into {member}"
    return ""


def _inputs(step: Step) -> dict[str, Any]:
    context, settings = step.context, step.context.project.settings
    inputs = {
        "tree": step.digest_of(RENDER),
        "variant": asdict(step.job.variant),
        "farm": __version__,
        "engine": context.engine.name,
        "toolchain": dict(context.engine.toolchain(step.job)),
        "environment": dict(settings.environment),
        "cmake-defines": dict(settings.cmake_defines),
        "before-build": settings.before_build,
        "system-packages": asdict(settings.system_packages),
        "cuda-arch-list": settings.cuda_arch_list,
        "torch-build": settings.torch_build,
        "network": settings.network,
        "epoch": context.epoch,
    }
    if context.engine.repairs_itself:
        inputs["policy"] = asdict(auditwheel.policy())
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
        version_from_scm=context.source.metadata.version_from_scm,
        shell=step.shell,
        reuse=not context.force and os.environ.get("TORCH_BUILD_FARM_CCACHE", "").lower() != "off",
    )
    wheel, built_with = with_torch(step, request)
    peak_mb = None
    if request.peak.is_file():
        measured_mb = float(request.peak.read_text("utf-8"))
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


@contextlib.contextmanager
def _build_slot(context: RunContext, rank: int) -> Iterator[None]:
    """Hold one of the --jobs places and one token of the jobserver."""
    with context.build_slots.hold(rank, context.runner), context.jobserver.build(context.runner):
        yield


BUILD = Stage("build", _inputs, _work, _build_slot)
