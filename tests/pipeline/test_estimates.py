"""What earlier runs tell: the order to start jobs in, and how much memory a compiler takes."""

import sys
from pathlib import Path

import pytest

from tests.engines.test_docker import PROJECT
from torch_build_farm.core.process import Runner
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.pipeline import estimates, records
from torch_build_farm.pipeline.facts import BuildFacts
from torch_build_farm.pipeline.records import Record
from torch_build_farm.project.plan import Job


def job(name: str) -> Job:
    return Job(name, "1.0", PROJECT.variants[Minor.parse("2.8")], CPython.running())


def built(work: Path, name: str, seconds: float, peak_mb: float | None = None) -> None:
    facts = BuildFacts("local", "", "torch's SDK 2.8.0", peak_mb, None, ())
    record = Record("build", name, "", (), seconds, "", details=facts)
    records.write(record, records.path_of(work / "jobs" / name, "build"))


def test_the_longest_job_starts_first_and_the_unknown_before_it(tmp_path: Path) -> None:
    jobs = [job(name) for name in ("short", "new", "long", "newer")]
    assert estimates.longest_first(jobs, tmp_path) == jobs
    built(tmp_path, jobs[0].id, 10)
    built(tmp_path, jobs[2].id, 90)
    assert estimates.longest_first(jobs, tmp_path) == [jobs[1], jobs[3], jobs[2], jobs[0]]


@pytest.mark.parametrize(("peaks", "gigabytes"), [((), 2), ((None,), 2), ((800, 1600), 2), ((3200,), 4), ((90,), 0.5)])
def test_memory_by_what_was_measured(tmp_path: Path, peaks: tuple[float | None, ...], gigabytes: float) -> None:
    for number, peak in enumerate(peaks):
        built(tmp_path, f"job{number}", 1, peak)
    assert estimates.memory_per_compile_gb(tmp_path) == gigabytes


def test_a_build_that_ccache_did_measures_nothing(tmp_path: Path) -> None:
    one = job("one")
    assert estimates.peak_mb(tmp_path, one, 90, reused=True) == 90
    built(tmp_path, one.id, 1, 1400)
    assert estimates.peak_mb(tmp_path, one, 90, reused=True) == 1400
    assert estimates.peak_mb(tmp_path, one, 1500, reused=True) == 1500
    assert estimates.peak_mb(tmp_path, one, 90, reused=False) == 90


def test_the_largest_process_of_a_command_is_measured(tmp_path: Path) -> None:
    """A grandchild's, too: compilers are started by ninja, and that by CMake."""
    (tmp_path / "large.py").write_text("x = bytearray(b'1') * 300_000_000")
    ours = bytearray(b"1") * 400_000_000  # a child begins with what its parent has, which is not the command's
    runner, inner = Runner(), f"{sys.executable} {tmp_path / 'large.py'}; true"
    done = runner.run(["sh", "-c", f"sh -c '{inner}'; true"], env={}, log=tmp_path / "log")
    del ours
    assert 300 < done.peak_mb < 350
