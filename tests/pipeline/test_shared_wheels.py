"""Wheels for several CPythons: built once, tested for each, and delivered if all of them passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_runner import Quiet, context
from tests.pipeline.test_smoke import JOB
from torch_build_farm.core.errors import AbiError, CompileError, SmokeError
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline import runner
from torch_build_farm.pipeline.results import JobResult
from torch_build_farm.pipeline.shared_wheels import may_be_shared, serves
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.project import tree
from torch_build_farm.project.changes import Changes
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.settings import Settings

OLD, NEW = JOB, replace(JOB, python=CPython(3, 12))


@pytest.mark.parametrize(
    ("tag", "pythons"),
    [
        ("cp311-cp311", "3.11"),
        ("cp39-abi3", "3.11 3.12"),
        ("cp312-abi3", "3.12"),
        ("py3-none", "3.11 3.12 3.13t"),
        ("py2.py3-none", "3.11 3.12 3.13t"),
        ("py312-none", "3.12 3.13t"),
        ("cp313-cp313t", "3.13t"),
    ],
)
def test_which_cpythons_a_wheel_serves(tag: str, pythons: str) -> None:
    wheel = f"demo-1.0-{tag}-manylinux_2_28_x86_64.whl"
    asked = [CPython.parse(text) for text in ("3.11", "3.12", "3.13t")]
    assert [str(python) for python in asked if serves(wheel, python)] == pythons.split()


class Bench:
    """Two jobs of one variant with stages of the test's own; `tag` is of the wheel that `carve` makes."""

    def __init__(self, work: Path, tag: str = "cp39-abi3") -> None:
        self.work = work
        self.tag = tag
        self.ran: list[str] = []
        self.fails: dict[str, Exception] = {}  # by "STAGE PYTHON"
        carve = Stage("carve", lambda step: {"tag": self.tag}, self.carve, makes_wheel=True)
        weigh = Stage("weigh", lambda step: {"wheel": step.digest_of(carve)}, self.named("weigh"))
        taste = Stage("taste", lambda step: {"wheel": step.digest_of(carve)}, self.named("taste"), per_cpython=True)
        self.stages = [carve, weigh, taste]

    def named(self, stage: str) -> Any:
        def work(step: Step) -> Outcome:
            self.note(stage, step)
            return Outcome()

        return work

    def note(self, stage: str, step: Step) -> None:
        self.ran.append(f"{stage} {step.job.python}")
        if self.ran[-1] in self.fails:
            raise self.fails[self.ran[-1]]

    def carve(self, step: Step) -> Outcome:
        self.note("carve", step)
        tag = self.tag.replace("cpXY", step.job.python.tag)
        wheel = step.folder / "carved" / f"demo-1.0-{tag}-manylinux_2_28_x86_64.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_text(f"by {step.job.python} as {tag}")
        return Outcome((wheel,))

    def run(self, *, announced: bool = True) -> Mapping[str, JobResult]:
        self.ran = []
        results = runner.run(context(self.work, may_share_wheels=announced), [OLD, NEW], self.stages, Quiet())
        return {str(result.job.python): result for result in results}

    @property
    def delivered(self) -> list[str]:
        return [path.read_text().split(" as ")[0] for path in self.work.glob("dist/*")]


def test_a_wheel_for_both_is_built_once_and_tested_for_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    results = bench.run()
    assert sorted(bench.ran) == ["carve 3.11", "taste 3.11", "taste 3.12", "weigh 3.11"]
    assert [result.status for result in results.values()] == ["done", "done"]
    assert bench.delivered == ["by 3.11"]
    assert len({result.wheel for result in results.values()}) == 1
    assert [stage.record.stage for stage in results["3.12"].stages] == ["carve", "weigh", "taste"]

    again = bench.run()
    assert (bench.ran, [result.status for result in again.values()]) == ([], ["kept", "kept"])
    assert runner.pending(context(tmp_path), [OLD, NEW], bench.stages) == {}
    bench.tag = "cp310-abi3"
    bench.run()
    assert sorted(bench.ran) == ["carve 3.11", "taste 3.11", "taste 3.12", "weigh 3.11"]


def test_a_wheel_that_nothing_announced_is_shared_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    results = bench.run(announced=False)
    assert {"carve 3.11", "taste 3.11", "taste 3.12"} <= set(bench.ran)
    assert "weigh 3.12" not in bench.ran
    assert [result.status for result in results.values()] == ["done", "done"]
    assert bench.delivered == ["by 3.11"]
    assert bench.run(announced=False)
    assert bench.ran == [], "the second run knows it from the first"
    bench.tag = "cp310-abi3"
    bench.run(announced=False)
    assert "carve 3.12" not in bench.ran


def test_a_wheel_for_one_cpython_is_each_jobs_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "cpXY-cpXY")
    bench.run()
    assert len(bench.ran) == 6
    assert sorted(bench.delivered) == ["by 3.11", "by 3.12"]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_a_wheel_that_fails_for_one_of_its_cpythons_is_not_delivered(tmp_path: Path, python: str) -> None:
    bench = Bench(tmp_path)
    bench.run()
    bench.tag = "cp310-abi3"
    bench.fails = {f"taste {python}": SmokeError("sour", where="tongue")}
    results = bench.run()
    failed = {python for python, result in results.items() if result.error}
    assert failed == {python}
    assert bench.delivered == []
    bench.fails = {}
    bench.run()
    assert bench.delivered == ["by 3.11"]


def test_what_is_wrong_with_the_wheel_is_wrong_for_both(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fails = {"weigh 3.11": AbiError("too heavy", where="scales")}
    results = bench.run()
    assert ["too heavy" in str(result.error) for result in results.values()] == [True, True]
    assert "carve 3.12" not in bench.ran


def test_a_build_that_fails_leaves_the_other_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fails = {"carve 3.11": CompileError("no", where="core.cpp")}
    results = bench.run()
    assert [result.status for result in results.values()] == ["failed", "done"]
    assert "carve 3.12" in bench.ran


def test_what_the_pyproject_file_of_a_core_announces(tmp_path: Path) -> None:
    for name, text in (("pyproject.toml", ""), ("pyproject-core.toml", 'wheel.py-api = "cp39"\n')):
        (tmp_path / name).write_text(f'[project]\nname = "demo"\nversion = "1"\n[tool.scikit-build]\n{text}')
    settings = Settings(name="demo", packages=("demo",))
    assert not may_be_shared(tree.read(Origin(tmp_path)), settings)
    assert may_be_shared(tree.read(Origin(tmp_path), changes=Changes(pyproject="pyproject-core.toml")), settings)
