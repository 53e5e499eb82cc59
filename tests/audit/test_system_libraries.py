"""Libraries of the compiler, which a system brings as well as torch: no reason to call a wheel broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import BUILT_ON_28, MINE, SINGLETON, TORCH, audit
from tests.elves import library
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.reasons import reasons
from torch_build_farm.audit.verdict import LibraryKind, Verdict

# std::string::_M_replace_cold came with GCC 13. Torch 2.8 exports it, 2.7 does not.
REPLACE_COLD = "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm"


@pytest.mark.parametrize("soname", ["libgomp.so.1", "libgfortran.so.5"])
def test_runtimes_of_compilers(tmp_path: Path, soname: str) -> None:
    """Torch 2.7.0 renamed its libgomp, so that it is another one for the loader: then the system's is used."""
    report = audit(tmp_path, {MINE: library(["GOMP_parallel"], ["PyInit__core"], [*TORCH, soname])})
    finding = report.releases["2.7.0"]
    assert (finding.verdict, finding.libraries) == (Verdict.ENV, (soname,))


def test_a_runtime_that_torch_has_under_another_name(tmp_path: Path) -> None:
    report = audit(tmp_path, {MINE: library(["GOMP_parallel"], ["PyInit__core"], ["libgomp.so.1"])})
    assert report.releases["2.7.1"].verdict is Verdict.OK, "its libgomp.so.1 is torch's own"
    assert reasons(report.releases["2.7.0"]) == [
        "the system has to bring libgomp.so.1",
        "torch's own libgomp.so.1 is named libgomp-c9fef706.so.1, which the loader takes for another library",
    ]


def test_a_newer_cxx_library(tmp_path: Path) -> None:
    """Every system has libstdc++.so.6: it is its version that counts."""
    needed = ["libstdc++.so.6", "libtorch.so", "libtorch_cpu.so"]
    report = audit(tmp_path, {MINE: library([REPLACE_COLD], ["PyInit__core"], needed)})
    assert report.releases["2.8.0"].verdict is Verdict.OK
    finding = report.releases["2.7.1"]
    assert (finding.verdict, finding.libraries, finding.newer_cxx) == (Verdict.ENV, (), (REPLACE_COLD,))
    (reason,) = reasons(finding)
    assert reason.startswith("the system's libstdc++.so.6 has to be newer than manylinux promises, for std::")
    assert "_M_replace_cold" in reason


def test_who_needs_a_library_of_the_wheel_that_uses_torch(tmp_path: Path) -> None:
    """torchaudio's module loads a library with the operators: it depends on torch as that does."""
    operators = library([SINGLETON], ["_ZN4demo1fEv"], TORCH, soname="libops.so", more=BUILT_ON_28)
    module = library(["_ZN4demo1fEv"], ["PyInit__core"], ["libops.so", "libc.so.6"])
    report = audit(tmp_path, {MINE: module, "demo/libops.so": operators})
    by_path = {entry.path: entry for entry in report.libraries}
    assert by_path[MINE].kind is LibraryKind.TORCH
    assert by_path[MINE].built == by_path["demo/libops.so"].built
    assert by_path[MINE].needs == ("demo/libops.so",)
    assert by_path[MINE].releases["2.13.0"].verdict is Verdict.BROKEN
    text = lines(report)
    assert f"{MINE}: as demo/libops.so, which it needs" in text
    assert sum("different layout" in line for line in text) == 1, "a reason is said where it lies"
