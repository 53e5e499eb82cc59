"""What people read of the audit's findings, and what `--json` says of the same wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import BUILT_ON_28, MINE, SINGLETON, SYM_NE, TORCH, audit, made
from tests.elves import library
from torch_build_farm.audit import output
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.cli.main import main


@pytest.mark.parametrize("tag", ["py3-none-any", "cp312-cp312-linux_x86_64"])
def test_a_wheel_without_a_library_has_nothing_to_judge(tmp_path: Path, tag: str) -> None:
    """Its requirement is for its Python code to need, which the audit does not read."""
    report = audit(tmp_path, {"demo/x.py": b""}, "Requires-Dist: torch==2.8.*", tag=tag)
    assert (report.claim, report.ok) == ("nothing to judge", True)
    expected = "declared: torch==2.8.*; it has no compiled library: there is nothing to judge"
    assert lines(report) == [expected]
    row = output.markdown([report]).splitlines()[2]
    assert row.endswith("| - |"), "OK would be a judgement"


def test_nothing_to_judge_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path, {"demo/x.py": b""}, "Requires-Dist: torch>=2.9", tag="py3-none-any")
    assert main(["audit", str(path), "--torch", "2.8"]) == 0
    assert "nothing to judge" in capsys.readouterr().out


@pytest.fixture(scope="module")
def vendored(tmp_path_factory: pytest.TempPathFactory) -> WheelReport:
    """A wheel as nixl_cu13's: many libraries that need OpenSSL, plug-ins for one CUDA, one module that uses torch."""
    files = {}
    for number in range(20):
        soname = f"libaws-{number:02}.so.1"
        files[f"demo.libs/{soname}"] = library([], [f"f{number}"], ["libcrypto.so.3", "libc.so.6"], soname=soname)
    for name in ("GDS", "GPU"):
        files[f"accel/lib{name}.so"] = library([], [name], ["libcudart.so.12", "libcrypto.so.3"])
    needed = [*TORCH, "libaws-00.so.1", "libcudart.so.12"]
    files[MINE] = library([SYM_NE, SINGLETON, "f0"], ["PyInit__core"], needed, more=BUILT_ON_28)
    return audit(tmp_path_factory.mktemp("vendored"), files, "Requires-Dist: torch")


def test_torchs_findings_come_first_and_the_systems_last(vendored: WheelReport) -> None:
    assert lines(vendored, 100)[1:] == [
        f"{MINE}: torch, built against one of 2.6.0 to 2.8.0 (the lines of torch's headers in it)",
        "  BROKEN with 2.9.0 to 2.15.0, 2.9.0 for these reasons:",
        "    missing c10::SymInt::sym_ne(c10::SymInt const&) const",
        "accel/libGDS.so, libGPU.so: neutral",
        "  BROKEN with 2.11.0 to 2.15.0: neither the wheel nor this torch brings libcudart.so.12",
        "the system has to bring",
        "  libcrypto.so.3: for accel/libGDS.so, libGPU.so, demo.libs/libaws-00.so.1 and 19 more",
    ]


def test_verbose_leaves_nothing_out(vendored: WheelReport) -> None:
    text = lines(vendored, 100, verbose=True)
    assert sum(line.startswith("demo.libs/libaws-") for line in text) == 20
    assert "  needs demo.libs/libaws-00.so.1" in text
    newest = next(line for line in text if line.startswith("  BROKEN with") and "2.15.0" in line and "missing" in line)
    assert "c10::SymInt::sym_ne(c10::SymInt const&) const" in newest
    assert newest.endswith("different layout of c10::TensorImpl, c10::intrusive_ptr_target")


def test_verbose_at_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {MINE: library(["PyList_New"], ["PyInit__core"])}
    path = str(made(tmp_path, files))
    assert main(["audit", path]) == 0
    assert f"{MINE}: neutral" not in capsys.readouterr().out
    assert main(["audit", path, "--verbose"]) == 0
    assert f"{MINE}: neutral" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 100, 200])
def test_names_fit_their_line(tmp_path: Path, width: int) -> None:
    """Torch's names have hundreds of characters with their template arguments."""
    long = (
        "_ZN5torch8autograd13_wrap_outputsERKSt6vectorIN2at6TensorESaIS3_EE"
        "OSt13unordered_setIPN3c1010TensorImplESt4hashISB_ESt8equal_toISB_ESaISB_EE"
    )
    report = audit(tmp_path, {MINE: library([long, SYM_NE, SINGLETON], [], TORCH, more=BUILT_ON_28)})
    indented = [line for line in lines(report, width) if line.startswith("    ")]
    assert indented
    assert all(len(line) <= width for line in indented)
    assert any("missing torch::autograd::_wrap_outputs(" in line for line in indented)


def test_a_system_library_for_some_releases_only(tmp_path: Path) -> None:
    """Where the wheel does not work anyway the system cannot help: nothing is said of it."""
    module = library([SINGLETON], ["PyInit__core"], [*TORCH, "libgomp.so.1"], more=BUILT_ON_28)
    text = lines(audit(tmp_path, {MINE: module}, "Requires-Dist: torch==2.8.*"))
    assert f"  libgomp.so.1 with 2.6.0, 2.7.0: for {MINE}" in text
    assert (
        "  with 2.7.0 torch's own libgomp.so.1 is named libgomp-c9fef706.so.1, which the loader takes for another library"
        in text
    )


def test_of_several_builds_the_one_that_fits_counts(tmp_path: Path) -> None:
    """bitsandbytes has a library for each CUDA: those for others are no failure of the wheel."""
    files = {}
    for cuda, soname in (("118", "libcudart.so.11.0"), ("124", "libcudart.so.12"), ("130", "libcudart.so.13")):
        files[f"demo/libkernels_cuda{cuda}.so"] = library([], [], [soname])
    report = audit(tmp_path, files, "Requires-Dist: torch", tag="py3-none-linux_x86_64")
    assert report.true_range == "any"
    text = lines(report, 200)
    assert "BROKEN" not in "\n".join(text)
    assert (
        "demo/libkernels_cuda118.so, libkernels_cuda124.so, libkernels_cuda130.so: builds of a library, of which the one "
        "that fits a torch counts"
    ) in text


def test_a_library_of_a_distribution_whose_name_ends_like_it(tmp_path: Path) -> None:
    """libtvm_ffi.so is apache-tvm-ffi's; one word alone, such as core, says nothing."""
    files = {MINE: library(["f"], ["PyInit__core"], ["libtvm_ffi.so"])}
    report = audit(tmp_path, files, "Requires-Dist: apache-tvm-ffi")
    assert "needs libtvm_ffi.so, which its requirement apache-tvm-ffi brings" in lines(report)
    files = {MINE: library(["f"], ["PyInit__core"], ["libcore.so"])}
    assert "the system has to bring" in lines(audit(tmp_path / "word", files, "Requires-Dist: metatensor-core"))
