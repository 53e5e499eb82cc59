"""Full torch releases in the store: which are missing, how large they are, and fetching them once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_build_farm.core import tools
from torch_build_farm.core.errors import DiskError, PackageIndexError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Site
from torch_build_farm.engines.diagnosis import diagnose
from torch_build_farm.project.plan import Job
from torch_build_farm.project.variant import Variant

_SLACK_GB = 1.0  # build environments, logs, wheels
_SDK_GB = 0.1  # torch's SDK, packed and unpacked


def fetch(store: TorchStore, release: str, job: Job, site: Site) -> None:
    """Download and unpack torch `release` (exact, or a minor's newest such as "2.9.*") with all it requires, once.

    It is the one for the job's CPython and platform.

    Two jobs never do so at the same time, since they would download the CUDA wheels twice. Raises
    PackageIndexError or DiskError.
    """
    wanted = release, job.python, job.platform
    if store.has(*wanted):
        return  # the usual case, which needs no lock
    shell = site.shell
    with store.locked("torch", shell):
        if store.has(*wanted):
            return  # another job fetched it meanwhile
        home = store.environment(f"fetch-{release.replace('*', 'x')}-{job.python.tag}-{job.platform.name}")
        shell.say(f"downloading torch {release} with its CUDA libraries")
        try:
            # Installing fills uv's cache, which is what later environments link from; this one is thrown away.
            if not site.install(home, f"torch=={release}").ok:
                raise diagnose(f"torch {release}", shell.log)
        finally:
            site.remove(home)
        store.remember(*wanted)


def check_index(store: TorchStore, release: str, python: CPython, variant: Variant, runner: Runner) -> None:
    """Raise PackageIndexError where the index of a variant's torch does not answer for torch `release`.

    That is the one that uv is configured for, and before it the flavour's own.
    """
    index = variant.index
    store.make()
    with tempfile.TemporaryDirectory(dir=store.root) as folder:
        requirement, log = Path(folder) / "torch.in", Path(folder) / "log"
        requirement.write_text(f"torch=={release}\n", "utf-8")
        # Resolved and not downloaded: that takes one page of the index. It is a question, so one retry is enough.
        env = {**tools.environment(store.uv_cache, Path(folder)), "UV_HTTP_RETRIES": "1"}
        shell = Shell(runner, env, store.root, log, lambda _: None)
        # The newest glibc that uv names: the question is what the index has.
        platform = f"{variant.platform.name}-manylinux_2_40"
        options = [
            "--no-deps",
            "--python-version",
            python.release,
            "--python-platform",
            platform,
            *([f"--index={index}"] if index else []),
        ]
        done = shell.run(tools.uv(), "pip", "compile", *options, requirement)
        if not done.ok:
            error = diagnose(f"torch {release}", log)
            if isinstance(error, PackageIndexError):
                what = error.what
            else:
                # uv wraps its answer over a few lines.
                answer = " ".join([line.strip() for line in done.tail[-3:]])
                what = f"torch {release} is not available: {answer}"
            raise PackageIndexError(
                what,
                where=index or "the index that uv is configured for",
                next_step="check the network, proxy and certificates, or name an index in UV_DEFAULT_INDEX",
            )


def missing(store: TorchStore, jobs: Sequence[Job], smoke: bool, full: bool) -> list[tuple[str, CPython, Variant]]:
    """Full torch releases that `jobs` need and the store lacks: for smoke tests, and with `full` to build against.

    Each with its CPython, and the variant that it is for.
    """
    needed: list[tuple[str, Job]] = []
    for job in jobs:
        if full:
            needed.append((job.variant.release, job))
    for job in jobs:
        if smoke:
            needed += [(version, job) for version in job.variant.tested_with]
    return [
        (release, job.python, job.variant)
        for release, job in needed
        if not store.has(release, job.python, job.platform)
    ]


def missing_gb(store: TorchStore, jobs: Iterable[Job], smoke: bool, full: bool, minors: Iterable[Variant]) -> float:
    """Estimate of what `jobs` still have to unpack, in GB (10^9 bytes).

    The CUDA wheels count once for all minors that require the same runtime, torch once for each release and CPython:
    the release built against, with `full`, and those of the smoke test. The runtime of a minor whose torch is in the
    store does not count.
    """
    runtimes_in_store = set()
    for facts in minors:
        of_minor = [it for it in store.releases(facts.platform) if it.startswith(f"{facts.torch.number}.")]
        if any(release.partition("+")[2] == facts.torch.flavour for release in of_minor):
            runtimes_in_store.add((facts.platform, facts.cuda_runtime))

    # By what is unpacked once, so that several jobs that need the same count once.
    torch_gb: dict[tuple[Machine, str, str], float] = {}
    cuda_gb: dict[tuple[Machine, str], float] = {}
    for job in jobs:
        needed = [job.variant.release] if full else []
        if smoke:
            needed += job.variant.tested_with
        for version in needed:
            facts = job.variant.facts_of(version)
            # A minor's newest release may be in the store by its own name.
            release = facts.newest if version == facts.torch.any_release else version
            in_store = [store.has(name, job.python, job.platform) for name in (release, version)]
            if any(in_store):
                continue
            torch_gb[job.platform, release, job.python.tag] = facts.torch_gb
            runtime = (job.platform, facts.cuda_runtime)
            if runtime not in runtimes_in_store:
                cuda_gb[runtime] = max(facts.cuda_runtime_gb, cuda_gb.get(runtime, 0))
    return sum(torch_gb.values()) + sum(cuda_gb.values())


def check_disk(
    store: TorchStore, jobs: Sequence[Job], *, smoke: bool, full: bool, minors: Iterable[Variant], free: float
) -> None:
    """Raise DiskError where `jobs` need more than `free` GB (10^9 bytes)."""
    sdks = 0 if full else _SDK_GB * len(jobs)
    need = missing_gb(store, jobs, smoke, full, minors) + sdks + _SLACK_GB
    if need > free:
        raise DiskError(
            f"the disk is too small: {need:.1f} GB are needed, {free:.1f} GB are free",
            where=str(store.root),
            next_step=f"free some space, put the store on another disk with {STORE_VARIABLE}=DIR, "
            "or build fewer at a time (--torch, --python)",
        )
