"""Verdicts on small wheels made here, by what the farm ships of torch's releases."""

from __future__ import annotations

import io
import json
import os
import random
import re
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from pydantic import TypeAdapter
from rich.console import Console

from tests.conftest import CHECKOUT
from tests.elves import library
from tests.family import make_wheel
from torch_build_farm.audit import built_against, output, read_wheel, wheel_report
from torch_build_farm.audit.built_against import Evidence
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.pybind11 import torchs_id
from torch_build_farm.audit.reasons import reasons
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import LibraryKind, Verdict
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.cli.main import main
from torch_build_farm.core.errors import AbiError, AuditError, RepairError
from torch_build_farm.core.machine import X86_64
from torch_build_farm.wheels import wheel as wheels
from torch_build_farm.wheels.elf import library as elf
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.wheel import read_wheel as read_wheel_of_the_farm

SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"
SINGLETON = "_ZN3c1019UndefinedTensorImpl10_singletonE"
CPP_FUNCTION = "_ZN5torch11CppFunctionD1Ev"
TORCH = ["libtorch.so", "libtorch_cpu.so", "libc10.so", "libtorch_python.so", "libc.so.6"]
# A line of an assertion that the headers of 2.8 alone have; see releases/header_lines.
BUILT_ON_28 = b'include/ATen/core/ivalue.h":652\0include/c10/core/TensorImpl.h":1300\0'
MINE = "demo/_core.cpython-312-x86_64-linux-gnu.so"


@cache
def known() -> AuditTables:
    return AuditTables.load(Path("nothing"))


def made(folder: Path, files: dict[str, bytes], *fields: str, tag: str = "cp312-cp312-linux_x86_64") -> Path:
    path = make_wheel(folder, "demo", "1.0", files, *fields)
    return path.rename(path.with_name(f"demo-1.0-{tag}.whl"))


def audit(folder: Path, files: dict[str, bytes], *fields: str, tag: str = "cp312-cp312-linux_x86_64") -> WheelReport:
    return wheel_report.audit(read_wheel.read(made(folder, files, *fields, tag=tag)), known(), known().releases)


def verdicts(report: WheelReport) -> dict[Verdict, list[str]]:
    found: dict[Verdict, list[str]] = {}
    for release, one in report.releases.items():
        found.setdefault(one.verdict, []).append(release)
    return found


def test_the_wheel_that_all_this_is_about(tmp_path: Path) -> None:
    """Built against 2.8, a range that was widened: it loads with 2.8 alone."""
    core = library([SYM_NE, SINGLETON], ["PyInit__core"], TORCH, more=BUILT_ON_28)
    report = audit(tmp_path, {MINE: core}, "Requires-Dist: torch>=2.8.0,<2.10")
    assert (report.true_range, report.claim, report.ok) == (">=2.6.0,<=2.8.0", "wider and narrower", False)
    (found,) = report.libraries
    assert (found.kind, found.built.releases) == (LibraryKind.TORCH, ("2.8.0",))
    assert found.releases["2.9.1"].missing == (SYM_NE,)
    assert found.releases["2.9.1"].layout == ()
    assert "missing c10::SymInt::sym_ne(c10::SymInt const&) const" in "".join(lines(report))
    assert audit(tmp_path / "true", {MINE: core}, "Requires-Dist: torch<2.9").claim == "true"
    assert audit(tmp_path / "none", {MINE: core}).claim == "wider", "who names no torch promises all"
    narrow = audit(tmp_path / "narrow", {MINE: library()}, "Requires-Dist: torch==2.8.*")
    assert (narrow.true_range, narrow.claim, narrow.ok) == ("any", "narrower", True)


def test_a_layout_that_changed(tmp_path: Path) -> None:
    """Every name is there, and it would crash: KernelFunction and CppFunction grew with 2.9."""
    report = audit(tmp_path, {MINE: library([CPP_FUNCTION], [], TORCH, more=BUILT_ON_28)})
    found = report.libraries[0].releases["2.9.1"]
    assert (found.verdict, found.missing) == (Verdict.BROKEN, ())
    assert {"c10::KernelFunction", "torch::CppFunction"} <= set(found.layout)
    plain = audit(tmp_path / "plain", {MINE: library([SINGLETON], [], TORCH, more=BUILT_ON_28)})
    assert plain.libraries[0].releases["2.9.1"].verdict is Verdict.OK
    assert "c10::TensorImpl" in plain.libraries[0].releases["2.13.0"].layout, "no name of it gives that away"


def test_what_it_was_built_against_is_not_known(tmp_path: Path) -> None:
    """Then the answer is no, unless the release cannot matter."""
    report = audit(tmp_path, {MINE: library([SINGLETON], [], TORCH)})
    assert report.libraries[0].built.how == "no evidence"
    assert report.releases["2.8.0"].verdict is Verdict.UNKNOWN
    oldest, *_, newest = known().releases
    assert reasons(report.releases["2.8.0"]) == [
        "different layout of c10::TensorImpl, c10::intrusive_ptr_target",
        f"it depends on the torch that it was built against, one of {oldest} to {newest} (no evidence)",
    ]
    pinned = audit(tmp_path / "pinned", {MINE: library([SINGLETON], [], TORCH)}, "Requires-Dist: torch==2.9.*")
    assert pinned.releases["2.9.1"].verdict is Verdict.OK
    assert pinned.libraries[0].built.how == "the requirement in METADATA"


EVERY = ("2.8.0", "2.9.0", "2.9.1")


@pytest.mark.parametrize(
    ("marked", "linked", "declared", "recorded", "expected"),
    [
        (EVERY, EVERY, None, "2.9.0", ("2.9.0",)),
        (["2.9.0", "2.9.1"], EVERY, None, "", ("2.9.0", "2.9.1")),
        (["2.9.0", "2.9.1"], EVERY, "==2.9.1", "", ("2.9.1",)),
        (EVERY, ["2.8.0"], "==2.9.*", "", ("2.8.0",)),
        ([], EVERY, "==2.8.*", "", ()),
        (EVERY, EVERY, None, "", EVERY),
    ],
)
def test_evidence_of_the_build(
    marked: list[str], linked: list[str], declared: str | None, recorded: str, expected: tuple[str, ...]
) -> None:
    """Bytes are believed before METADATA, and marks of no known release leave nothing to believe."""
    asked = SpecifierSet(declared) if declared else None
    evidence = Evidence(frozenset(marked), frozenset(linked), declared=asked, recorded=recorded)
    assert built_against.infer(EVERY, evidence).releases == expected


def test_the_stable_abi_has_no_upper_end(tmp_path: Path) -> None:
    core = library(["aoti_torch_get_dim", "torch_call_dispatcher"], [], TORCH)
    report = audit(tmp_path, {"demo/_C.so": core}, tag="py3-none-linux_x86_64")
    assert report.libraries[0].kind is LibraryKind.STABLE_ABI
    assert report.true_range == ">=2.10.0"
    assert report.releases["2.9.1"].missing == ("torch_call_dispatcher",)


def test_what_has_nothing_to_do_with_torch(tmp_path: Path) -> None:
    python = library(
        ["PyList_New", "pthread_create"], ["PyInit__core"], versioned={"memcpy": ("libc.so.6", "GLIBC_2.14")}
    )
    report = audit(tmp_path, {MINE: python})
    assert (report.libraries[0].kind, report.true_range) == (LibraryKind.NEUTRAL, "any")


def test_libraries_that_a_torch_does_not_bring(tmp_path: Path) -> None:
    cuda = library([SINGLETON], [], [*TORCH, "libcudart.so.12"], more=BUILT_ON_28)
    report = audit(tmp_path, {MINE: cuda})
    assert report.releases["2.8.0"].verdict is Verdict.OK
    assert report.releases["2.11.0"].libraries == ("libcudart.so.12",)
    assert report.releases["2.11.0"].verdict is Verdict.BROKEN
    for needed in ("libavcodec.so.60", "libcuda.so.1", "libpython3.12.so.1.0"):
        core = library(["av_something"], [], [*TORCH, needed], more=BUILT_ON_28)
        found = audit(tmp_path / needed, {MINE: core}).releases["2.8.0"]
        assert (found.verdict, found.libraries) == (Verdict.ENV, (needed,))
    field = "Requires-Dist: demo-core"
    other = audit(tmp_path / "with", {MINE: library(["demo_f"], [], [*TORCH, "libdemo.so.2"])}, field)
    assert "libdemo.so.2" not in str(other.releases["2.8.0"]), "another wheel that it requires has it"


def test_names_that_are_no_torchs(tmp_path: Path) -> None:
    """Weak ones that compilers look at first, those of the C++ library, and those that nobody knows."""
    core = library(
        ["_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE10_M_disposeEv"],
        [],
        ["libstdc++.so.6"],
        weak=["__gmon_start__", "pthread_atfork"],
    )
    assert audit(tmp_path / "a", {MINE: core}).true_range == "any"
    newer = library(["_ZNSt3__99_from_the_futureEv"], [], ["libstdc++.so.6"])
    assert audit(tmp_path / "b", {MINE: newer}).releases["2.8.0"].verdict is Verdict.ENV
    strange = audit(tmp_path / "c", {MINE: library(["_ZN5other4nameEv"], [])}).releases["2.8.0"]
    assert (strange.verdict, strange.unknown) == (Verdict.UNKNOWN, ("_ZN5other4nameEv",))
    weak = library([SINGLETON], [], TORCH, weak=["_ZTHN3c101xE", SYM_NE], more=BUILT_ON_28)
    found = audit(tmp_path / "d", {MINE: weak})
    assert (found.releases["2.8.0"].verdict, found.releases["2.9.1"].verdict) == (Verdict.OK, Verdict.UNKNOWN)


def test_names_count_where_the_loader_looks(tmp_path: Path) -> None:
    """A library that does not need libc10 does not get its names, but for one that is loaded with another that does."""
    alone = audit(tmp_path / "a", {MINE: library([SINGLETON], [], ["libc.so.6"], more=BUILT_ON_28)})
    assert alone.releases["2.8.0"].missing == (SINGLETON,)
    part = library([SINGLETON], ["_ZN4demo1fEv"], ["libc.so.6"], soname="libpart.so", more=BUILT_ON_28)
    core = library(["_ZN4demo1fEv"], [], ["libpart.so", *TORCH], more=BUILT_ON_28)
    both = audit(tmp_path / "b", {MINE: core, "demo.libs/libpart.so": part})
    assert both.releases["2.8.0"].verdict is Verdict.OK
    worse = library([SYM_NE], ["_ZN4demo1fEv"], TORCH, soname="libpart.so", more=BUILT_ON_28)
    fails = audit(tmp_path / "c", {MINE: core, "demo.libs/libpart.so": worse}).libraries
    assert {one.releases["2.9.1"].verdict for one in fails} == {Verdict.BROKEN}, "who needs a broken library is broken"


def test_folders_for_one_torch_each(tmp_path: Path) -> None:
    core = {minor: library([SINGLETON], [], TORCH) for minor in ("2.8", "2.9")}
    files = {f"demo/torch-{minor}/lib/libdemo.so": content for minor, content in core.items()}
    report = audit(tmp_path, files, tag="py3-none-linux_x86_64")
    assert verdicts(report)[Verdict.OK] == ["2.8.0", "2.9.0", "2.9.1"]
    assert report.releases["2.10.0"].note == "it only has libraries for torch 2.8, 2.9"
    assert [one.meant for one in report.libraries] == ["2.8", "2.9"]


def test_cpythons_that_a_release_is_not_made_for(tmp_path: Path) -> None:
    old = audit(tmp_path, {MINE.replace("312", "39"): library([], [])}, tag="cp39-cp39-linux_x86_64")
    assert old.left_out[0] == "2.9.0"
    limited = audit(tmp_path / "abi3", {"demo/_C.abi3.so": library([], [])}, tag="cp310-abi3-linux_x86_64")
    assert limited.left_out == ()


def test_floors(tmp_path: Path) -> None:
    core = library([], [], versioned={"a": ("libc.so.6", "GLIBC_2.34"), "b": ("libc.so.6", "GLIBC_2.4")})
    report = audit(tmp_path, {MINE: core}, tag="cp312-cp312-manylinux_2_28_x86_64")
    assert report.floors == ("GLIBC_2.34, beyond what the tag promises: 2.34",)


def test_versions_of_its_own_cxx_library_are_not_asked_of_the_system(tmp_path: Path) -> None:
    versioned = {"a": ("libc.so.6", "GLIBC_2.17"), "b": ("libstdc++-0a1b2c3d.so.6", "GLIBCXX_3.4.33")}
    files = {
        MINE: library([], [], ["libstdc++-0a1b2c3d.so.6"], versioned=versioned),
        "demo.libs/libstdc++-0a1b2c3d.so.6.0.33": library([], ["b"], soname="libstdc++-0a1b2c3d.so.6"),
    }
    report = audit(tmp_path, files, tag="cp312-cp312-manylinux_2_28_x86_64")
    assert report.floors == (
        "GLIBC_2.17",
        "its own libstdc++-0a1b2c3d.so.6 (two C++ runtimes in one process are a risk)",
    )
    lone = library([], [], versioned={"b": ("libstdc++.so.6", "GLIBCXX_3.4.33")})
    of_system = audit(tmp_path / "lone", {MINE: lone}, tag="cp312-cp312-manylinux_2_28_x86_64")
    assert of_system.floors == ("GLIBCXX_3.4.33, beyond what the tag promises: 3.4.33",)


def test_pybind11_of_another_version_than_torchs_is_a_note(tmp_path: Path) -> None:
    """Tensors pass, the types that torch binds by pybind11 do not: the wheel works, and people are told."""
    newer = "__pybind11_internals_v11_system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1__"
    core = library([SYM_NE], ["PyInit__core"], TORCH, more=BUILT_ON_28 + newer.encode() + b"\0")
    report = audit(tmp_path, {MINE: core})
    assert report.true_range == ">=2.6.0,<=2.8.0"
    assert report.pybind11 == {newer: ("2.6.0", "2.7.0", "2.7.1", "2.8.0")}
    assert f"pybind11: {newer} is not the id of torch 2.6.0 to 2.8.0" in "\n".join(lines(report))

    torchs = torchs_id("2.8.0", "cp312", X86_64).encode() + b"\0"
    core = library([SYM_NE], ["PyInit__core"], TORCH, more=BUILT_ON_28 + torchs)
    (releases,) = audit(tmp_path / "same", {MINE: core}).pybind11.values()
    assert releases == ("2.6.0", "2.7.0", "2.7.1"), "compilers of other ABI versions count too"

    without_torch = library([], ["PyInit__core"], more=torchs)
    assert audit(tmp_path / "without", {MINE: without_torch}).pybind11 == {}


@pytest.mark.parametrize(
    ("release", "python", "number"),
    [("2.8.0", "cp311", 4), ("2.8.0", "cp313t", 5), ("2.9.1", "cp311", 11), ("2.15.0", "cp315", 12)],
)
def test_torchs_id_of_pybind11(release: str, python: str, number: int) -> None:
    assert torchs_id(release, python, X86_64).startswith(f"__pybind11_internals_v{number}_")
    assert torchs_id("2.99.0", python, X86_64) == ""


def test_damaged_wheels_are_named(tmp_path: Path) -> None:
    core = library([SYM_NE], ["PyInit__core"], TORCH, more=BUILT_ON_28)
    good = made(tmp_path / "good", {MINE: core})
    content = good.read_bytes()
    path = tmp_path / good.name
    for cut in range(0, len(content), 7):
        path.write_bytes(content[:cut])
        with pytest.raises(AuditError, match=r"demo-1\.0-cp312"):
            read_wheel.read(path)
    for name in ("../evil.so", "/abs.so", "a\\b.so"):
        with pytest.raises(AuditError, match=r"the name .* (leads out|is an absolute|has a backslash)"):
            read_wheel.read(made(tmp_path / "names", {name: core}))
    with pytest.raises(AuditError, match="is not the file that RECORD lists"):
        read_wheel.read(changed(good, tmp_path, MINE, core + b"\0"))
    with pytest.raises(AuditError, match="cannot be read as a wheel"):
        read_wheel.read(tmp_path / "nothing-1.0-py3-none-any.whl")
    with pytest.raises(AuditError, match="cannot be read as a wheel"):
        read_wheel.read(good.rename(tmp_path / "misnamed.whl"))


def test_a_library_that_record_lists_and_the_wheel_lacks(tmp_path: Path) -> None:
    whole = made(tmp_path, {"demo/_core.so": library([], ["PyInit__core"]), "demo/libmine.so": library([SYM_NE], [])})
    robbed = tmp_path / "robbed" / whole.name
    robbed.parent.mkdir()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(robbed, "w") as target:
        for name in source.namelist():
            if name != "demo/libmine.so":
                target.writestr(name, source.read(name))
    with pytest.raises(AuditError, match=r"RECORD lists demo/libmine\.so, which is not there"):
        read_wheel.read(robbed)


def test_a_text_that_record_lists_and_the_wheel_lacks(tmp_path: Path) -> None:
    """Not the audit's business: what counts are libraries."""
    good = made(tmp_path, {MINE: library([], ["PyInit__core"])})
    record = "demo-1.0.dist-info/RECORD"
    with zipfile.ZipFile(good) as archive:
        listed = archive.read(record) + b"demo/notes.txt,,\n"
    assert set(read_wheel.read(changed(good, tmp_path / "changed", record, listed)).libraries) == {MINE}


def test_two_files_that_are_installed_to_one_path(tmp_path: Path) -> None:
    for folder in ("purelib", "platlib"):
        files = {MINE: library(), f"demo-1.0.data/{folder}/{MINE}": library([SYM_NE])}
        with pytest.raises(AuditError, match=r"two files are installed to 'demo/_core\."):
            read_wheel.read(made(tmp_path / folder, files))


def test_a_library_that_nothing_can_load(tmp_path: Path) -> None:
    """An object file under a library's name is a damaged library; under another it is none."""
    content = library()
    object_file = content[:16] + b"\x01" + content[17:]
    with pytest.raises(AuditError, match="not a library, but an object file"):
        read_wheel.read(made(tmp_path / "named", {MINE: object_file}))
    assert read_wheel.read(made(tmp_path / "other", {"demo/kernel.o": object_file})).libraries == {}


def test_a_hash_of_another_kind_vouches_for_no_library(tmp_path: Path) -> None:
    good = made(tmp_path, {MINE: library()})
    record = "demo-1.0.dist-info/RECORD"
    with zipfile.ZipFile(good) as archive:
        listed = re.sub(rb"sha256=[^,]+", b"md5=AAAA", archive.read(record))
    with pytest.raises(AuditError, match="with a hash other than SHA-256"):
        read_wheel.read(changed(good, tmp_path / "changed", record, listed))


def test_a_large_library_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = made(tmp_path, {MINE: library([SYM_NE])})
    in_memory = read_wheel.read(wheel)
    monkeypatch.setattr(read_wheel, "_IN_MEMORY", 0)
    assert read_wheel.read(wheel) == in_memory


def test_linker_scripts_are_not_libraries(tmp_path: Path) -> None:
    """A script for the linker may lie in a library's place; what only begins like one may be a damaged library."""
    script = {"demo/libfoo.so": b"INPUT ( libfoo.so.1 )\n"}
    assert audit(tmp_path, {**script, "demo/_core.so": library(["_ZTIN2at6TensorE"], ["PyInit__core"])}).libraries
    with pytest.raises(AuditError, match=r"demo/_core\.so"):
        audit(tmp_path, {"demo/_core.so": b"INPUT" + bytes(64)})


def changed(good: Path, folder: Path, name: str, content: bytes, *, record: bool = True) -> Path:
    """A copy of a wheel with another file; without `record` its RECORD says nothing of hashes."""
    folder.mkdir(exist_ok=True)
    path = folder / good.name
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            kept = content if info.filename == name else old.read(info)
            new.writestr(info.filename, b"" if info.filename.endswith("/RECORD") and not record else kept)
    return path


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "demo-1.0-cp312-cp312-linux_x86_64.whl"
    good = made(tmp_path / "good", {MINE: library()})
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        with new.open("demo/bomb.so", "w", force_zip64=True) as stream:
            stream.write(b"\x7fELF")
            for _ in range(300):
                stream.write(bytes(1 << 20))
    with pytest.raises(AuditError, match=r"unpacks to \d+ bytes, more than an archive of its size"):
        read_wheel.read(path)


def test_damaged_symbols_are_an_error_or_no_ok(tmp_path: Path) -> None:
    """Whatever byte of .dynsym or of the strings changes, 2.9.1 stays broken. RECORD's hash is no witness here."""
    core = library([SYM_NE], ["PyInit__core"], TORCH, versioned={"f": ("libc.so.6", "GLIBC_2.4")}, more=BUILT_ON_28)
    good = read_wheel.read(made(tmp_path, {MINE: core}))
    start = 64 + 3 * 56  # of .dynsym; its second entry is SYM_NE's
    random.seed(2)
    wrong = []
    for _ in range(2500):
        place, value = start + random.randrange(24 * 4), random.randrange(256)
        try:
            damaged = elf.read(core[:place] + bytes([value]) + core[place + 1 :])
        except ElfError:
            continue
        found = wheel_report.audit(replace(good, libraries={MINE: damaged}), known(), ["2.9.1"])
        if found.releases["2.9.1"].verdict is Verdict.OK:
            wrong.append((place - start, value, [one.name for one in damaged.undefined]))
    assert wrong == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_BUILD_FARM_STORE", str(tmp_path / "store"))
    core = library([SYM_NE, SINGLETON], ["PyInit__core"], TORCH, more=BUILT_ON_28)
    path = str(made(tmp_path, {MINE: core}, "Requires-Dist: torch>=2.8.0,<2.10"))
    assert main(["audit", path, "--torch", "2.8", "2.9.1"], CHECKOUT) == AbiError.exit_code
    told = capsys.readouterr().out
    assert "declared: torch<2.10,>=2.8.0; true: ==2.8.0: the claim is wider than the truth" in told
    assert "BROKEN with 2.9.1: missing c10::SymInt::sym_ne(c10::SymInt const&) const" in told
    assert main(["audit", path, "--torch", "2.8"], CHECKOUT) == 0
    assert main(["audit", path, "--markdown", "--torch", "2.8", "2.9.1"], CHECKOUT) == AbiError.exit_code
    assert "| torch 2.8.0 | torch 2.9.1 |" in capsys.readouterr().out
    bad = tmp_path / "other-1.0-py3-none-any.whl"
    bad.write_bytes(b"no zip")
    assert main(["audit", str(bad), path, "--json"], CHECKOUT) == AuditError.exit_code
    document = json.loads(capsys.readouterr().out)
    TypeAdapter(output.Document).validate_python(document)
    assert document["errors"][0]["file"] == bad.name
    (one,) = document["wheels"]
    assert one["libraries"][0]["releases"]["2.9.1"] == {
        "verdict": "BROKEN", "missing": [SYM_NE], "libraries": [], "layout": [], "unknown": [], "newer_cxx": [],
        "note": "",
    }  # fmt: skip
    assert main(["audit", path, "--torch", "2.99"], CHECKOUT) == 4
    assert "index add 2.99.0" in capsys.readouterr().err


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    report = audit(tmp_path, {MINE: library([SYM_NE, SINGLETON], [], TORCH, more=BUILT_ON_28)})
    console = Console(width=80, record=True, file=io.StringIO())
    output.table(console, [report])
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    # Successive releases with the same verdict share a column.
    oldest, *_, newest = known().releases
    assert f"| torch {oldest} to 2.8.0 | torch 2.9.0 to {newest} |" in output.markdown([report])
    assert [cell for cell in ("OK", "BROKEN", "UNKNOWN", "ENV") if cell in text.split()] == ["OK", "BROKEN"]
    assert f"2.9.0 to {newest}" in text


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "2.99.0").mkdir()
    (tmp_path / "2.99.0" / "symbols.xz").write_bytes(b"damaged")
    with pytest.raises(AuditError, match="cannot be read") as error:
        AuditTables.load(tmp_path)
    assert str(tmp_path / "2.99.0") in str(error.value)


def of(report: WheelReport, path: str, release: str = "2.9.1") -> Verdict:
    return next(one for one in report.libraries if one.path == path).releases[release].verdict


def test_a_version_is_asked_of_a_library_that_is_loaded(tmp_path: Path) -> None:
    """Patchelf --remove-needed leaves the version: the loader ends the process."""
    core = library([], [], versioned={"gone": ("libfoo.so.1", "V2")})
    assert audit(tmp_path, {MINE: core}).releases["2.9.1"].verdict is Verdict.ENV


def test_a_neighbour_comes_before_a_namesake(tmp_path: Path) -> None:
    own = library(["foo"], [], ["libxx.so"])
    files = {"a/_C.so": own, "a/libxx.so": library([], ["foo"]), "b/_C.so": own, "b/libxx.so": library([], ["bar"])}
    report = audit(tmp_path, files)
    assert of(report, "a/_C.so") is Verdict.OK
    assert of(report, "b/_C.so") is not Verdict.OK


def test_zlib_has_its_own_names_alone(tmp_path: Path) -> None:
    files = {"demo/a.so": library(["inflate"], [], ["libz.so.1"]), "demo/b.so": library(["inflame"], [], ["libz.so.1"])}
    report = audit(tmp_path, files)
    assert (of(report, "demo/a.so"), of(report, "demo/b.so")) == (Verdict.OK, Verdict.UNKNOWN)


def test_names_that_mention_torch_in_a_library_built_upon_it(tmp_path: Path) -> None:
    """metatensor-torch's functions take torch's types, and are not torch's."""
    core = library(["_ZN16metatensor_torch3getEN3c106SymIntE"], [], ["libmetatensor_torch.so", "libc10.so"])
    with_it = audit(tmp_path, {MINE: core}, "Requires-Dist: metatensor-torch", "Requires-Dist: torch==2.9.*")
    assert with_it.releases["2.9.1"].verdict is Verdict.OK
    alone = library(["_ZN16metatensor_torch3getEN3c106SymIntE"], [], ["libc10.so"])
    without = audit(tmp_path / "without", {MINE: alone}, "Requires-Dist: torch==2.9.*")
    assert without.releases["2.9.1"].verdict is Verdict.BROKEN


def test_a_library_that_the_settings_say_a_requirement_brings(tmp_path: Path) -> None:
    """Its name says nothing of that distribution: without the settings it is the system's to bring."""
    core = made(tmp_path, {MINE: library(["acme"], [], ["libkernels.so.2"])}, "Requires-Dist: Acme_Core")
    audited = read_wheel.read(core)
    alone = wheel_report.audit(audited, known(), ["2.9.1"])
    assert alone.releases["2.9.1"].verdict is Verdict.ENV
    stated = wheel_report.audit(audited, known(), ["2.9.1"], external_libraries={"libkernels.so*": "acme_core"})
    assert stated.releases["2.9.1"].verdict is Verdict.OK
    assert "needs libkernels.so.2, which its requirement acme-core brings" in lines(stated)
    of_system = wheel_report.audit(audited, known(), ["2.9.1"], external_libraries={"libkernels.so*": "system"})
    assert of_system.releases["2.9.1"].libraries == ("libkernels.so.2",)
    not_required = wheel_report.audit(audited, known(), ["2.9.1"], external_libraries={"libkernels.so*": "other"})
    assert not_required.releases["2.9.1"].verdict is Verdict.ENV


@pytest.mark.parametrize(
    "platform",
    ["win_amd64", "win_arm64", "macosx_11_0_arm64", "musllinux_1_2_x86_64", "musllinux_1_2_aarch64", "linux_riscv64"],
)
def test_other_platforms_are_refused(tmp_path: Path, platform: str) -> None:
    with pytest.raises(AuditError, match="a platform other than x86-64 or arm64 Linux"):
        audit(tmp_path, {"demo/x.py": b""}, tag=f"cp312-cp312-{platform}")


def test_claims_of_no_release_that_is_known(tmp_path: Path) -> None:
    future = audit(tmp_path, {"demo/_C.so": library()}, "Requires-Dist: torch==2.99.*")
    assert (future.claim, future.ok) == ("unknown", False)
    local = audit(tmp_path / "local", {"demo/_C.so": library()}, "Requires-Dist: torch==2.8.0+cu128")
    assert (local.declared, local.ok) == ("torch==2.8.0", True)
    pypy = audit(tmp_path / "pypy", {"demo/_C.so": library()}, tag="pp310-pypy310_pp73-linux_x86_64")
    assert (pypy.claim, pypy.ok) == ("unknown", False)


def test_a_part_of_the_releases_is_never_any(tmp_path: Path) -> None:
    path = made(tmp_path, {"demo/x.py": b""})
    assert wheel_report.audit(read_wheel.read(path), known(), ["2.8.0", "2.9.1"]).true_range == ">=2.8.0,<=2.9.1"


def test_builds_for_several_cudas_and_not_for_several_gpus(tmp_path: Path) -> None:
    fits, other = library([], [], ["libcudart.so.12"]), library([], [], ["libcudart.so.11.0"])
    cudas = audit(tmp_path, {"demo/lib_cuda118.so": other, "demo/lib_cuda128.so": fits})
    assert (of(cudas, "demo/lib_cuda118.so"), cudas.releases["2.9.1"].verdict) == (Verdict.BROKEN, Verdict.OK)
    gpus = audit(tmp_path / "gpus", {"demo/lib_sm80.so": other, "demo/lib_sm90.so": fits})
    assert gpus.releases["2.9.1"].verdict is Verdict.BROKEN


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "demo-1.0-cp312-cp312-linux_x86_64.whl"
    os.mkfifo(path)
    with pytest.raises(AuditError, match="it is no file"):
        read_wheel.read(path)
    with pytest.raises(RepairError, match="it is no file"):
        wheels.read_wheel(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(AuditError, match="it is no file"):
        read_wheel.read(path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (["Requires-Dist: a"] * 20_001, "more than 20000 lines"),
        ([f"Requires-Dist: {'a' * 5000}"], "a requirement has 5000 characters"),
        ([f"Requires-Dist: torch>={'1' * 5000}"], "a requirement has 5007 characters"),
        ([f"Requires-Dist: a; {'(' * 1000}python_version>'3'{')' * 1000}"], "nested"),
        ([f"Summary: {'x' * (4 << 20)}"], r"METADATA has \d+ bytes"),
    ],
    ids=["requirements", "a long requirement", "a long version", "nested markers", "bytes"],
)
def test_metadata_that_takes_long_to_read(tmp_path: Path, fields: list[str], reason: str) -> None:
    path = made(tmp_path, {MINE: library()}, *fields)
    with pytest.raises(AuditError, match=reason):
        read_wheel.read(path)
    with pytest.raises(RepairError, match=reason):
        read_wheel_of_the_farm(path)


def test_record_with_more_rows_than_files(tmp_path: Path) -> None:
    path, other = made(tmp_path, {MINE: library()}), tmp_path / "other"
    other.mkdir()
    for rows, reason in ((b"a,,\n" * 200_001, "lists more files"), (b'"' + b"x" * 200_000, "field larger")):
        with pytest.raises(AuditError, match=reason):
            read_wheel.read(changed(path, other, "demo-1.0.dist-info/RECORD", rows))


def test_libraries_that_all_need_each_other(tmp_path: Path) -> None:
    """Each of 150 needs all others: 22,500 steps for one of them, and as many for every other."""
    names = [f"lib{number}.so" for number in range(150)]
    files = {f"demo/{name}": library(["a"], needed=names) for name in names}
    with pytest.raises(AuditError, match="need too many others"):
        audit(tmp_path, files)


@pytest.mark.parametrize(
    ("folder", "needed", "works"),
    [
        ("_torch29_cu130", "libcudart.so.13", True),
        ("_torch29_cu118", "libcudart.so.11.0", True),
        ("_torch29_cu130", "libcufft.so.12", True),
        ("_torch29", "libcudart.so.13", False),
    ],
)
def test_a_flavour_is_beside_a_torch_of_its_own_cuda(tmp_path: Path, folder: str, needed: str, works: bool) -> None:
    """The tables are of the default index's torch, whose CUDA libraries have other numbers."""
    core = library([], ["PyInit__core"], [*TORCH, needed], versioned={"cudaMalloc": (needed, needed)})
    path = f"demo/{folder}/_core.cpython-312-x86_64-linux-gnu.so"
    wheel = read_wheel.read(made(tmp_path, {path: core}, "Requires-Dist: torch==2.9.*"))
    report = wheel_report.audit(wheel, known(), ["2.9.0", "2.9.1"], "2.9.0")
    assert [report.works(release) for release in ("2.9.0", "2.9.1")] == [works, works]
