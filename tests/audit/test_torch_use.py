"""What a wheel uses of torch: its C++ interface, the stable ABI alone, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import MINE, SINGLETON, TORCH, audit, known
from tests.elves import library
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.verdict import LibraryKind

OLD_SHIM = "aoti_torch_get_dim"  # every release has it
NEW_SHIM = "torch_call_dispatcher"  # since 2.10


def test_nothing_of_torch(tmp_path: Path) -> None:
    """A linker may note torch's libraries though no name of them is used: one wheel serves every torch."""
    linked = library(["PyList_New"], ["PyInit__core"], TORCH)
    use = audit(tmp_path, {MINE: linked}).use
    assert (use.kind, use.since) == (LibraryKind.NEUTRAL, known().releases[0])
    assert use.words == "nothing of torch's C++: no variant for each torch is needed"


@pytest.mark.parametrize(("shim", "since"), [([OLD_SHIM], "2.6.0"), ([OLD_SHIM, NEW_SHIM], "2.10.0")])
def test_the_stable_abi_alone(tmp_path: Path, shim: list[str], since: str) -> None:
    second = library([OLD_SHIM], [], TORCH)
    report = audit(tmp_path, {MINE: library(shim, ["PyInit__core"], TORCH), "demo/_two.so": second})
    assert (report.use.kind, report.use.since) == (LibraryKind.STABLE_ABI, since)
    minor = since.removesuffix(".0")
    expected = f"torch's stable ABI alone: one wheel serves torch {minor} and later"
    assert report.use.words == expected
    assert f"uses {expected}" in lines(report)


def test_one_library_with_the_cxx_interface_decides(tmp_path: Path) -> None:
    files = {MINE: library([SINGLETON], ["PyInit__core"], TORCH), "demo/_stable.so": library([OLD_SHIM], [], TORCH)}
    use = audit(tmp_path, files).use
    assert (use.kind, use.since) == (LibraryKind.TORCH, "")


def test_shim_functions_that_no_release_has_together(tmp_path: Path) -> None:
    """A function that a later release dropped leaves no release from which one wheel serves all."""
    from torch_build_farm.audit.torch_use import oldest_with_all  # noqa: PLC0415

    assert oldest_with_all({"2.9.0": True, "2.10.0": True, "2.11.0": False}) == ""
    assert oldest_with_all({"2.9.0": False, "2.10.0": True, "2.11.0": True}) == "2.10.0"


def test_other_libraries_bound_a_user_of_the_stable_abi(tmp_path: Path) -> None:
    """xformers 0.0.35 uses functions of 2.10, and is for CUDA 12: from 2.11 on torch has another."""
    core = library([OLD_SHIM, NEW_SHIM], ["PyInit__core"], [*TORCH, "libcudart.so.12"])
    report = audit(tmp_path, {MINE: core}, "Requires-Dist: torch>=2.10")
    assert report.true_range == "==2.10.0"
    assert (
        report.fewer_variants
        == "torch's stable ABI alone, and libraries that bound it: one wheel serves torch ==2.10.0"
    )
