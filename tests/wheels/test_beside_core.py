"""A variant beside a core of another pybind11, and of the same."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.pipeline.test_repair import wheel
from tests.wheels.test_pybind11_ids import modules  # noqa: F401 (a fixture)
from torch_build_farm.wheels.beside_core import core_problems, members_of_variants
from torch_build_farm.wheels.pybind11_ids import internals_ids
from torch_build_farm.wheels.wheel import Wheel


def made(folder: Path, files: dict[str, bytes]) -> Wheel:
    folder.mkdir(exist_ok=True)
    return wheel(folder, files)


@pytest.mark.usefixtures("modules")
def test_two_versions_are_refused_with_both_ids(tmp_path: Path, modules: Mapping[str, bytes]) -> None:  # noqa: F811
    old, new = modules["2.13.6"], modules["3.0.1"]
    core = made(tmp_path / "core", {"acme/_core.so": new})
    (problem,) = core_problems(made(tmp_path / "variant", {"acme/solver/_a.so": old, "acme/solver/_b.so": old}), core)
    (old_id,), (new_id,) = internals_ids(old), internals_ids(new)
    assert (
        f"{old_id} in acme/solver/_a.so, acme/solver/_b.so, and {new_id} in acme/_core.so of {core.path.name}"
        in problem
    )
    assert "build-constraints" in problem


def test_one_version_and_none_are_no_problem(tmp_path: Path, modules: Mapping[str, bytes]) -> None:  # noqa: F811
    new = modules["3.0.1"]
    core = made(tmp_path / "core", {"acme/_core.so": new})
    assert core_problems(made(tmp_path / "same", {"acme/solver/_a.so": new}), core) == []
    without = made(tmp_path / "without", {"acme/solver/data.txt": b""})
    assert core_problems(without, core) == []
    assert core_problems(core, without) == []


def test_files_that_variants_bring(tmp_path: Path) -> None:
    names = [
        "acme/__init__.py",
        "acme/solver/__init__.py",
        "acme/solver.pyi",
        "acme/solver_more/__init__.py",
        "acme/fast.so",
    ]
    core = made(tmp_path / "core", dict.fromkeys(names, b""))
    assert members_of_variants(core, ("acme.solver", "acme.fast")) == [
        "acme/solver/__init__.py",
        "acme/solver.pyi",
        "acme/fast.so",
    ]
    assert members_of_variants(core, ("acme.other",)) == []
