"""What earlier runs in a work folder measured: how long each job's build took, and its largest process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch_build_farm.engines.slots import DEFAULT_GB
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.facts import BuildFacts
from torch_build_farm.pipeline.records import Record
from torch_build_farm.project.plan import Job

_SPARE = 1.25  # other sources, another minor's headers
_LEAST_GB = 0.5


def longest_first(jobs: Sequence[Job], work: Path) -> list[Job]:
    """The order to start jobs in: those of unknown length as they are planned, then by the last build's seconds.

    The longest job started last would be the one that everybody waits for.
    """

    def key(job: Job) -> float:
        build = records.read(records.path_of(work / "jobs" / job.id, "build"))
        if build is None:
            return float("-inf")  # it may be the longest; sorting is stable, so these keep the plan's order
        return -build.seconds

    return sorted(jobs, key=key)


def peak_mb(work: Path, job: Job, measured: float, *, reused: bool) -> float:
    """The largest process of a job's build for its record, in MB (10^6 bytes).

    If ccache may have done the compilers' work (`reused`), `measured` is too low: then the result is at least what the
    last build's record has.
    """
    if not reused:
        return measured
    earlier = _peak_mb(records.read(records.path_of(work / "jobs" / job.id, "build")))
    return max(measured, earlier)


def _peak_mb(build: Record | None) -> float:
    """The largest process by a build's record; 0 where none was measured."""
    if build is None:
        return 0.0
    return build.facts(BuildFacts).peak_mb or 0.0


def memory_per_compile_gb(work: Path) -> float:
    """The memory that one compiler needs, in GB (10^9 bytes).

    This is the largest process of any build in the work folder and a quarter more, but at least 0.5 GB; without an
    earlier build, 2 GB.
    """
    builds = [records.read(path) for path in work.glob("jobs/*/records/build.json")]
    largest_mb = max(map(_peak_mb, builds), default=0.0)
    if largest_mb == 0:
        return DEFAULT_GB
    return max(largest_mb / 1e3 * _SPARE, _LEAST_GB)
