"""Which wheels can serve a torch minor and all later ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import CPP_FUNCTION, SINGLETON, TORCH, known, made
from tests.elves import library
from torch_build_farm.audit import read_wheel, stable_only

SHIM = ["aoti_torch_get_dim", "torch_call_dispatcher"]


def problems(tmp_path: Path, files: dict[str, bytes], tag: str = "py3-none-linux_x86_64") -> list[str]:
    return stable_only.problems(read_wheel.read(made(tmp_path, files, tag=tag)), known())


@pytest.mark.parametrize("tag", ["py3-none-linux_x86_64", "cp310-abi3-linux_x86_64"])
def test_the_shim_alone(tmp_path: Path, tag: str) -> None:
    assert problems(tmp_path, {"demo/ops.so": library(SHIM, [], TORCH), "demo/more.so": library()}, tag) == []


def test_names_of_the_cxx_interface_are_named(tmp_path: Path) -> None:
    files = {
        "demo/ops.so": library([*SHIM, SINGLETON, CPP_FUNCTION], [], TORCH),
        "demo/good.so": library(SHIM, [], TORCH),
    }
    (problem,) = problems(tmp_path, files)
    assert problem == (
        "demo/ops.so uses torch's C++ interface: c10::UndefinedTensorImpl::_singleton, "
        "torch::CppFunction::~CppFunction()"
    )


def test_tensors_that_pass_between_libraries_of_the_wheel(tmp_path: Path) -> None:
    taken = "_Z4takeRKN2at6TensorE"
    files = {"demo/a.so": library([taken], [], ["b.so"]), "demo/b.so": library([], [taken], soname="b.so")}
    for problem in problems(tmp_path, files):
        assert "at::Tensor" in problem
    assert len(problems(tmp_path, files)) == 2


def test_many_names_are_not_all_listed(tmp_path: Path) -> None:
    names = [f"_ZN2at3op{n}Ev" for n in range(8)]
    (problem,) = problems(tmp_path, {"demo/ops.so": library(names, [], TORCH)})
    assert problem.endswith("at::op4() and 3 more")


@pytest.mark.parametrize("tag", ["cp312-cp312-linux_x86_64", "cp313-cp313t-linux_x86_64"])
def test_a_wheel_for_one_cpython(tmp_path: Path, tag: str) -> None:
    (problem,) = problems(tmp_path, {"demo/ops.so": library(SHIM, [], TORCH)}, tag)
    assert problem.startswith(f"the tag {tag} is for one CPython, and later torch minors have others")
