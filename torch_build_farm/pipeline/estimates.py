"""What earlier runs in a work folder measured: how long each job's build took, and its largest process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch_build_farm.engines.slots import DEFAULT_GB
from torch_build_farm.pipeline import records
from torch_build_farm.project.plan import Job

PEAK = "peak-mb"  # in a build's record: the resident set of its largest process, MB (10^6 bytes)
_SPARE = 1.25  # other sources, another minor's headers
_LEAST_GB = 0.5


def longest_first(jobs: Sequence[Job], work: Path) -> list[Job]:
    """The order to start jobs in: those of unknown length as they are planned, then by the last build's seconds.

    The longest job started last would be the one that everybody waits for.
    """

    def key(job: Job) -> float:
        build = records.read(records.path_of(work / "jobs" / job.id, "build"))
        return -build.seconds if build else float("-inf")

    return sorted(jobs, key=key)


def peak(work: Path, job: Job, measured: str, *, reused: bool) -> str:
    """What a build's record says of its largest process: no less than before where ccache may have done the work."""
    before = records.read(records.path_of(work / "jobs" / job.id, "build")) if reused else None
    return max(measured, (before.details.get(PEAK) if before else None) or "0", key=float)


def memory_per_compile_gb(work: Path) -> float:
    """GB (10^9 bytes) that a compiler takes: the largest process of any build in the work folder, and some spare."""
    peaks = [0.0]
    for path in work.glob("jobs/*/records/build.json"):
        build = records.read(path)
        peaks.append(float(build.details.get(PEAK) or 0) if build else 0.0)
    return max(max(peaks) / 1e3 * _SPARE, _LEAST_GB) if max(peaks) else DEFAULT_GB
