"""Builds with torch's SDK, and again with all of torch if the build turns out to run torch."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from torch_build_farm.core.log import STAGE_MARK, read
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines import torch_downloads
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.pipeline.stage import RunContext, Step
from torch_build_farm.project.plan import Job
from torch_build_farm.releases.sdk import fallback

if TYPE_CHECKING:
    from torch_build_farm.releases.sdk.cache import Sdk


def build_wheel(step: Step, request: BuildRequest) -> tuple[Path, str]:
    """Build the wheel with as much of torch as the build needs; returns it, and what it was built with, for people.

    Raises what the engine's `build` does, or SdkError.
    """
    settings, release = step.context.project.settings, step.job.variant.release
    if not step.job.variant.needs_torch:
        return _build(step, request, None), "no torch"

    # "full" in the settings, or a setup.py with torch.utils.cpp_extension, which runs torch.
    reason = fallback.reason_for_full_torch(settings, request.tree)
    if reason:
        return _build_with_all_of_torch(step, request, reason)

    # A release whose SDK cannot be made is still there as a whole; only "sdk" in the settings makes that an error.
    try:
        sdk = _sdk_of(step.job, step.context.store, step.shell)
    except (PackageIndexError, UnknownTorchError, SdkError) as error:
        if settings.torch_build == "sdk":
            raise
        return _build_with_all_of_torch(step, request, error.what)

    # A failure may be the SDK's or the source's own. It counts as the SDK's only where the build asked for what the SDK
    # lacks: a source that does not compile is not compiled twice.
    try:
        wheel = _build(step, request, sdk)
    except (BuildError, RepairError):  # RepairError: the repair finds that a wheel has no library
        log = _log_of_this_build(step)
        missing = fallback.names_refused(request.sdk_misses, log) or fallback.missing_module(log)
        if settings.torch_build == "sdk" or not missing:
            raise
        reason = f"the build asks for {missing}, which torch's SDK does not have"
    else:
        reason = _why_unfit(step, request, wheel)
        if not reason:
            return wheel, f"torch's SDK {release}"
        if settings.torch_build == "sdk":
            raise SdkError(
                f"{step.job.id}: {reason}",
                where=str(step.log),
                next_step='torch-build = "auto" or "full" in [tool.torch-build-farm]',
            )

    # The heading ends what the log has of the build with the SDK, so that nothing in it is read again.
    with step.log.open("a", encoding="utf-8") as stream:
        stream.write(f"{STAGE_MARK}build {step.job.id} {reason}: again with all of torch\n")
    return _build_with_all_of_torch(step, request, reason)


def _build_with_all_of_torch(step: Step, request: BuildRequest, reason: str) -> tuple[Path, str]:
    return _build(step, request, None), f"all of torch {step.job.variant.release}: {reason}"


def _build(step: Step, request: BuildRequest, sdk: Sdk | None) -> Path:
    # Nothing of a build that came before: the engine expects one wheel in `out`.
    clear(request.out)
    clear(request.scratch)
    return step.context.engine.build(replace(request, sdk=sdk))


def _log_of_this_build(step: Step) -> str:
    """The job's log from the last heading of a build on."""
    return read(step.log).rpartition(f"{STAGE_MARK}build ")[2]


def _why_unfit(step: Step, request: BuildRequest, wheel: Path) -> str:
    """Why a wheel that was built with the SDK cannot be used, in a sentence; empty if it can."""
    missing = fallback.names_refused(request.sdk_misses, _log_of_this_build(step))
    if missing:
        return f"the build asks for {missing}, which torch's SDK does not have, and goes on without it"
    member = fallback.member_with_sdk_version(wheel, step.job.variant.release)
    if member:
        return f"the build writes the version of torch's SDK into {member}"
    return ""


def _sdk_of(job: Job, store: TorchStore, shell: Shell) -> Sdk:
    """The SDK of the job's torch, made now if need be. Raises PackageIndexError or SdkError."""
    from torch_build_farm.releases.sdk import cache  # noqa: PLC0415

    release, python, platform = job.variant.release, job.python, job.platform
    with store.locked(cache.lock_name(release, python, platform), shell):
        index = PackageIndex.configured(job.variant.index)
        return cache.get(store, release, python, index, shell.say, machine=platform)


# ---- before anything is built


def make_sdks_ahead(context: RunContext, jobs: Sequence[Job], log: Path) -> None:
    """Make the SDKs of `jobs` in the background, one after the other, while images are made ready and builds run.

    A job whose SDK is not in the store yet waits for it or makes it, so an error here comes up again there, where it is
    reported.
    """
    if fallback.reason_for_full_torch(context.project.settings, context.source.root):
        return
    env = tools.environment(context.store.uv_cache, context.store.root)
    shell = Shell(context.runner, env, context.store.root, log, lambda _: None)

    def make() -> None:
        with contextlib.suppress(FarmError, OSError):
            for job in jobs:
                context.runner.check()
                _sdk_of(job, context.store, shell)

    # A daemon: a farm that is done or interrupted does not wait for a download that nobody needs any more.
    threading.Thread(target=make, daemon=True).start()


def check_index(context: RunContext, job: Job) -> None:
    """Raise PackageIndexError where the job's torch can be had neither as an SDK nor whole, from store or index."""
    from torch_build_farm.releases.listing import Listing  # noqa: PLC0415
    from torch_build_farm.releases.sdk import cache  # noqa: PLC0415

    release, python, platform = job.variant.release, job.python, job.platform
    if context.engine.store.has(release, python, platform):
        return  # a build takes that where no SDK can be made
    index = PackageIndex.configured(job.variant.index)
    if cache.find(context.store, release, python, index, machine=platform) is None:
        try:
            Listing.read(index, job.variant.torch.flavour, machine=platform)
        except PackageIndexError:
            # The farm cannot ask this index, but uv may be configured to, and then it gets all of torch.
            torch_downloads.check_index(context.store, release, python, job.variant, context.runner)
