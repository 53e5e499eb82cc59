"""Wheels for arm64 on any machine: against torch for arm64, by the rules of its loader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.audit.test_audit import BUILT_ON_28, CPP_FUNCTION, SINGLETON, SYM_NE, TORCH, known, made, verdicts
from tests.conftest import CHECKOUT
from tests.elves import library
from torch_build_farm.api import audit_wheel
from torch_build_farm.audit import read_wheel, stable_only, torch_free, wheel_report
from torch_build_farm.audit.layout_rules import harmless
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.reasons import reasons
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.audit.verdict import LibraryKind, Verdict
from torch_build_farm.audit.wheel_report import WheelReport
from torch_build_farm.cli.main import main
from torch_build_farm.core.errors import AbiError, AuditError, UnknownTorchError, UsageError
from torch_build_farm.core.machine import ARM64, X86_64, Machine, named
from torch_build_farm.releases import collect, shared_names, torch_wheel
from torch_build_farm.releases.collect import CollectedRelease
from torch_build_farm.releases.header_lines import HeaderLines
from torch_build_farm.releases.symbol_table import ReleaseFiles, StoredTable, SymbolTable, Unit
from torch_build_farm.releases.table_files import (
    LAYOUTS_FILE,
    RECORDS_FILE,
    SHARED_NAMES_FILE,
    SHIPPED,
    SYMBOLS_FILE,
    added_folder,
    files_read,
    shipped_folder,
)
from torch_build_farm.releases.type_layouts import Layout, Layouts
from torch_build_farm.wheels.elf.symbol import Kind

TAG = "cp312-cp312-manylinux_2_28_aarch64"
MINE = "demo/_core.cpython-312-aarch64-linux-gnu.so"
ARM64_NUMBER = 183  # EM_AARCH64
SLEEF = "Sleef_acosf4_u10"
SET_DEVICE = "_ZN3c104cuda9SetDeviceEab"  # of libc10_cuda.so, since 2.9


def for_arm64(
    undefined: list[str], needed: list[str], *, more: bytes = b"", versioned: dict[str, tuple[str, str]] | None = None
) -> bytes:
    return library(undefined, ["PyInit__core"], needed, more=more, versioned=versioned or {}, machine=ARM64_NUMBER)


def audit(folder: Path, files: dict[str, bytes], *fields: str, tag: str = TAG) -> WheelReport:
    wheel = read_wheel.read(made(folder, files, *fields, tag=tag))
    return wheel_report.audit(wheel, known(), known().for_machine(wheel.machine).releases)


def test_the_wheel_that_all_this_is_about(tmp_path: Path) -> None:
    core = for_arm64([SYM_NE, CPP_FUNCTION], [*TORCH, "ld-linux-aarch64.so.1"], more=BUILT_ON_28)
    report = audit(tmp_path, {MINE: core}, "Requires-Dist: torch==2.8.*")
    assert (report.platform, report.true_range, report.claim) == ("aarch64", ">=2.6.0,<=2.8.0", "narrower")
    (found,) = report.libraries
    assert (found.kind, found.built.releases) == (LibraryKind.TORCH, ("2.8.0",))
    assert found.releases["2.9.1"].missing == (SYM_NE,)
    assert {"c10::KernelFunction", "torch::CppFunction"} <= set(found.releases["2.9.1"].layout)


def test_torch_for_arm64_has_cuda_since_211(tmp_path: Path) -> None:
    """What torch for x86-64 exports is no evidence: up to 2.10 the one for arm64 is for CPUs alone."""
    cuda = {"demo/_C.so": for_arm64([SET_DEVICE], ["libc10_cuda.so", "libc10.so", "libc.so.6"])}
    report = audit(tmp_path, cuda, "Requires-Dist: torch==2.11.*")
    assert report.releases["2.10.0"].libraries == ("libc10_cuda.so",)
    assert report.releases["2.10.0"].verdict is Verdict.BROKEN
    assert report.releases["2.11.0"].verdict is Verdict.OK
    same = {"demo/_C.so": library([SET_DEVICE], ["PyInit__core"], ["libc10_cuda.so", "libc10.so", "libc.so.6"])}
    x86_64 = audit(tmp_path / "x86", same, "Requires-Dist: torch==2.11.*", tag="cp312-cp312-manylinux_2_28_x86_64")
    assert (x86_64.platform, x86_64.releases["2.10.0"].libraries) == ("x86_64", ())


STREAM = "demo/libops_cuda_stream.so"


@pytest.mark.parametrize(
    ("path", "exported", "needed_by_others", "works"),
    [
        (STREAM, "stream", False, True),
        ("demo/libops_stream.so", "stream", False, False),
        (STREAM, "PyInit__core", False, False),
        (STREAM, "stream", True, False),
    ],
    ids=["beside the others", "not named for CUDA", "a module", "needed"],
)
def test_a_library_that_is_for_cuda_alone(
    tmp_path: Path, path: str, exported: str, needed_by_others: bool, works: bool
) -> None:
    """It is opened where a GPU is: seen with sphericart-torch and torch 2.10, which has no CUDA on arm64."""
    needed = [*TORCH, Path(path).name] if needed_by_others else TORCH
    files = {
        path: library([SET_DEVICE], [exported], ["libc10.so", "libc.so.6"], machine=ARM64_NUMBER),
        "demo/libops.so": library([SINGLETON], ["ops"], needed, machine=ARM64_NUMBER),
    }
    wheel = read_wheel.read(
        made(tmp_path, files, "Requires-Dist: torch==2.10.*", tag="py3-none-manylinux_2_28_aarch64")
    )
    report = wheel_report.audit(wheel, known(), ["2.10.0"])
    by_path = {entry.path: entry for entry in report.libraries}
    assert by_path[path].releases["2.10.0"].missing == (SET_DEVICE,)
    assert report.works("2.10.0") is works
    assert ("for a torch with CUDA, and not opened beside one without" in "".join(lines(report))) is works
    alone = audit(tmp_path / "alone", {STREAM: files[path]}, "Requires-Dist: torch==2.10.*")
    assert not alone.works("2.10.0"), "then nothing of the wheel works"


@pytest.mark.parametrize(
    ("soname", "machine", "verdict"),
    [
        ("ld-linux-aarch64.so.1", ARM64, Verdict.OK),
        ("ld-linux-x86-64.so.2", ARM64, Verdict.ENV),
        ("ld-linux-aarch64.so.1", X86_64, Verdict.ENV),
        ("libmvec.so.1", X86_64, Verdict.OK),
        ("libmvec.so.1", ARM64, Verdict.ENV),  # glibc has it from 2.38 on
        ("libstdc++.so.6", ARM64, Verdict.OK),
    ],
)
def test_libraries_of_every_system(tmp_path: Path, soname: str, machine: Machine, verdict: Verdict) -> None:
    content = library([], ["PyInit__core"], [soname], machine=machine.elf_number)
    report = audit(tmp_path, {"demo/_C.so": content}, tag=f"cp312-cp312-linux_{machine.name}")
    assert {finding.verdict for finding in report.releases.values()} == {verdict}


def test_torchs_own_openmp_had_another_name(tmp_path: Path) -> None:
    report = audit(tmp_path, {MINE: for_arm64(["GOMP_parallel"], ["libgomp.so.1", "libc.so.6"])})
    assert report.releases["2.10.0"].verdict is Verdict.OK
    assert reasons(report.releases["2.8.0"]) == [
        "the system has to bring libgomp.so.1",
        "torch's own libgomp.so.1 is named libgomp-947d5fa1.so.1.0.0, which the loader takes for another library",
    ]


@pytest.mark.parametrize(
    ("machine", "oldest", "of_gcc"), [(X86_64, "2.2.5", "4.8.0"), (ARM64, "2.17", "4.5.0")], ids=["x86-64", "arm64"]
)
def test_versions_that_the_tag_promises(tmp_path: Path, machine: Machine, oldest: str, of_gcc: str) -> None:
    """Of GCC's library either machine has a version that the other lacks, and arm64's oldest glibc is 2.17."""
    names = {
        "malloc": ("libc.so.6", f"GLIBC_{oldest}"),
        "stat": ("libc.so.6", "GLIBC_2.33"),
        "__clear_cache": ("libgcc_s.so.1", f"GCC_{of_gcc}"),
    }
    content = library([], ["PyInit__core"], versioned=names, machine=machine.elf_number)
    tag = f"cp312-cp312-manylinux_2_17_{machine.name}.manylinux2014_{machine.name}"
    assert audit(tmp_path, {"demo/_C.so": content}, tag=tag).floors == (
        "GLIBC_2.33, beyond what the tag promises: 2.33",
        f"GCC_{of_gcc}",
    )


def test_requirements_of_one_machine(tmp_path: Path) -> None:
    fields = (
        'Requires-Dist: torch==2.8.*; platform_machine == "aarch64"',
        'Requires-Dist: torch==2.9.*; platform_machine == "x86_64"',
    )
    assert audit(tmp_path, {MINE: for_arm64([], TORCH)}, *fields).declared == "torch==2.8.*"


def test_the_module_s_own_suffix_names_its_cpython(tmp_path: Path) -> None:
    """The libtorch_python of cp312 is looked at, although the wheel is for every CPython."""
    report = audit(tmp_path, {MINE: for_arm64([], TORCH)}, tag="py3-none-manylinux_2_28_aarch64")
    other = MINE.replace("312", "39")
    old = audit(tmp_path / "old", {other: for_arm64([], TORCH)}, tag="py3-none-manylinux_2_28_aarch64")
    assert "2.15.0" in report.libraries[0].releases
    assert list(old.libraries[0].releases)[-1] == "2.8.0", "the last torch for CPython 3.9"


@pytest.mark.parametrize(("machine", "strange"), [(X86_64, True), (ARM64, False)], ids=["x86-64", "arm64"])
def test_torchs_id_of_pybind11_in_26(tmp_path: Path, machine: Machine, strange: bool) -> None:
    """Torch 2.6 was built for arm64 with the compiler with which 2.7 was built for x86-64."""
    mine = "__pybind11_internals_v5_gcc_libstdcpp_cxxabi1016__"
    content = library([SINGLETON], ["PyInit__core"], TORCH, more=f"\0{mine}\0".encode(), machine=machine.elf_number)
    report = audit(
        tmp_path, {"demo/_C.so": content}, "Requires-Dist: torch==2.6.*", tag=f"cp312-cp312-linux_{machine.name}"
    )
    assert ("2.6.0" in report.pybind11[mine]) is strange
    assert "2.8.0" in report.pybind11[mine]


# ---- libraries for another machine


@pytest.mark.parametrize(("machine", "other"), [(X86_64, ARM64), (ARM64, X86_64)], ids=["x86-64", "arm64"])
def test_a_library_for_another_machine(tmp_path: Path, machine: Machine, other: Machine) -> None:
    files = {
        "demo/_C.so": library([], ["PyInit__core"], machine=machine.elf_number),
        "demo/libinner.so": library([], ["inner"], machine=other.elf_number),
    }
    report = audit(tmp_path, files, "Requires-Dist: torch>=2.6", tag=f"cp312-cp312-linux_{machine.name}")
    sentence = f"demo/libinner.so is a library for {other.words}, in a wheel for {machine.words}"
    assert (report.true_range, report.claim, report.ok) == ("none", "wider", False)
    assert {finding.note for finding in report.releases.values()} == {sentence}
    assert lines(report)[1] == sentence
    assert report.other_machines == {"demo/libinner.so": other.words}
    assert [entry.path for entry in report.libraries] == ["demo/_C.so"], "the others are judged all the same"


def test_nothing_but_libraries_for_another_machine(tmp_path: Path) -> None:
    files = {MINE: library([], ["PyInit__core"]), "demo/_D.so": library([], ["PyInit__core"])}
    report = audit(tmp_path, files)
    assert verdicts(report).keys() == {Verdict.BROKEN}
    assert not report.ok
    assert lines(report)[1].endswith("in a wheel for arm64; so are 1 more of its libraries")


def test_a_library_for_each_machine(tmp_path: Path) -> None:
    """A package may carry builds of one library for several machines, and load its own."""
    files = {
        "demo/arm64/libinner.so": for_arm64([], ["libc.so.6"]),
        "demo/x86_64/libinner.so": library([], ["PyInit__core"]),
        "demo/riscv64/libinner.so": library([], ["PyInit__core"], machine=243),
    }
    report = audit(tmp_path, files, tag="py3-none-manylinux_2_28_aarch64")
    assert (report.true_range, report.other_machines) == ("any", {})


# ---- who asks


def test_the_command_audits_wheels_for_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arm64 = made(
        tmp_path / "arm", {MINE: for_arm64([SYM_NE], TORCH, more=BUILT_ON_28)}, "Requires-Dist: torch==2.8.*", tag=TAG
    )
    x86_64 = made(tmp_path / "x86", {"demo/_C.so": library([], ["PyInit__core"])})
    wrong = made(tmp_path / "wrong", {MINE: library([], ["PyInit__core"])}, "Requires-Dist: torch", tag=TAG)
    assert main(["audit", str(arm64), str(x86_64), "--torch", "2.8", "2.9.1", "--json"], CHECKOUT) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(wheel["platform"], wheel["ok"]) for wheel in document["wheels"]] == [("aarch64", True), ("x86_64", True)]
    assert document["wheels"][0]["releases"]["2.9.1"]["missing"] == [SYM_NE]
    assert main(["audit", str(wrong)], CHECKOUT) == AbiError.exit_code
    assert "is a library for x86-64, in a wheel for arm64" in capsys.readouterr().out
    assert main(["audit", str(arm64), "--torch", "2.99"], CHECKOUT) == UnknownTorchError.exit_code
    said = "".join(capsys.readouterr().err.split("\n"))
    assert "nothing is known of torch 2.99 for arm64" in said
    assert "index add 2.99.0 --platform aarch64" in said


def test_the_stages_ask_for_the_wheel_s_machine(tmp_path: Path) -> None:
    """Torch's vector headers call this function of Sleef's, which torch exports on arm64 alone."""
    files = {"demo/_C.so": library([SLEEF], ["PyInit__core"], ["libtorch_cpu.so"], machine=ARM64_NUMBER)}
    wheel = read_wheel.read(made(tmp_path, files, tag="py3-none-linux_aarch64"))
    assert stable_only.problems(wheel, known()) == [f"demo/_C.so uses torch's C++ interface: {SLEEF}"]
    unlinked = {"demo/_C.so": library([SLEEF], ["PyInit__core"], ["libc.so.6"], machine=ARM64_NUMBER)}
    wheel = read_wheel.read(made(tmp_path / "unlinked", unlinked, tag="py3-none-linux_aarch64"))
    assert torch_free.problems(wheel, known()) == ["demo/_C.so uses names of torch"]


def test_names_like_cuda_s_where_no_library_of_cuda_s_is(tmp_path: Path) -> None:
    """The loader is the system's: that it has no table does not mean that it has functions of CUDA's."""
    content = for_arm64(["cudaMalloc"], ["libc.so.6", "ld-linux-aarch64.so.1"])
    report = audit(tmp_path, {"demo/_C.so": content})
    assert {finding.unknown for finding in report.releases.values()} == {("cudaMalloc",)}


def test_a_release_that_is_not_known_for_the_wheel_s_machine(tmp_path: Path) -> None:
    wheel = read_wheel.read(made(tmp_path, {MINE: for_arm64([], TORCH)}, tag=TAG))
    with pytest.raises(UnknownTorchError, match=r"nothing is known of torch 2\.99\.0 for arm64"):
        wheel_report.audit(wheel, known(), ["2.8.0", "2.99.0"])


def test_a_program_asks(tmp_path: Path) -> None:
    core = for_arm64([SLEEF], TORCH, more=BUILT_ON_28)
    report = audit_wheel(made(tmp_path, {MINE: core}, "Requires-Dist: torch==2.8.*", tag=TAG), torch="2.8")
    assert (report.platform, report.true_range) == ("aarch64", "==2.8.0")


def test_a_release_that_was_added_for_arm64(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known for arm64 alone; its table stands alone, and so do its header lines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines_of_it = {"c10/core/TensorImpl.h": frozenset({7})}
    collect.write(added_folder(ARM64) / "2.16.0", [collected("2.16.0", lines_of_it)], {})
    listed = {}
    for machine in (X86_64, ARM64):
        assert main(["index", "list", "--platform", machine.name, "--json"], CHECKOUT) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["platform"] == machine.name
        listed[machine] = document["releases"]
    assert listed[ARM64].keys() - listed[X86_64].keys() == {"2.16.0"}
    assert listed[ARM64]["2.16.0"] == {"shipped": False, "cpython": ["cp312"]}
    tables = AuditTables.load(added_folder()).for_machine(ARM64)
    assert tables.releases[-1] == "2.16.0"
    assert tables.header_lines.by_release["2.16.0"] == lines_of_it
    assert tables.header_lines.by_release["2.8.0"] == known().header_lines.by_release["2.8.0"]
    wheel = read_wheel.read(made(tmp_path, {MINE: for_arm64([SYM_NE], ["libc10.so"])}, tag=TAG))
    assert wheel_report.audit(wheel, tables, ["2.16.0"]).releases["2.16.0"].missing == ()
    assert main(["index", "list", "--platform", "arm64"], CHECKOUT) == UsageError.exit_code
    assert "aarch64" in capsys.readouterr().err


# ---- the tables


def test_arm64_s_tables_are_read_when_they_are_needed(tmp_path: Path) -> None:
    tables = AuditTables.load(tmp_path / "none")
    x86_64 = read_wheel.read(made(tmp_path, {"demo/_C.so": library([], ["PyInit__core"])}))
    wheel_report.audit(x86_64, tables, ["2.8.0"])
    assert "_others" not in vars(tables)
    arm64 = tables.for_machine(ARM64)
    assert arm64 is tables.for_machine(ARM64)
    assert isinstance(arm64, AuditTables)
    assert (tables.for_machine(X86_64), arm64.for_machine(ARM64)) == (tables, arm64)


def test_both_machines_have_the_same_releases_and_other_libraries() -> None:
    tables = known().for_machine(ARM64)
    assert tables.releases == known().releases
    needed = {soname for unit in tables.symbols.units for soname in unit.needed}
    assert "ld-linux-aarch64.so.1" in needed
    assert "ld-linux-x86-64.so.2" not in needed
    libraries = {unit.library for unit in tables.symbols.units if unit.release == "2.10.0"}
    assert {"libarm_compute.so", "libgomp.so.1", "libtorch_cpu.so"} <= libraries
    assert "libc10_cuda.so" not in libraries
    assert "ld-linux-aarch64.so.1" not in tables.ever, "it is the system's"
    for release in tables.symbols.releases:
        assert all(name.endswith("_aarch64.whl") for name in release.files.values())


def test_the_same_types_change_for_both_machines() -> None:
    """Types with a mutex differ in size between the machines (glibc's is 40 bytes, or 48), and change alike."""
    ours, theirs = known().for_machine(ARM64).layouts, known().layouts
    sizes = {
        name: (theirs.by_release["2.13.0"][name].size, one.size) for name, one in ours.by_release["2.13.0"].items()
    }
    assert sizes["c10::GeneratorImpl"] == (80, 88)
    assert sizes["c10::TensorImpl"] == (176, 176)
    for built in known().releases:
        for loaded in known().releases:
            here, there = ours.differences(built, loaded, harmless), theirs.differences(built, loaded, harmless)
            assert here.keys() == there.keys(), (built, loaded)


def test_shipped_tables_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in shipped_folder(ARM64).iterdir()}
    assert sizes.keys() == {SHARED_NAMES_FILE, LAYOUTS_FILE, RECORDS_FILE}
    assert sum(sizes.values()) < 150_000
    assert sizes[SHARED_NAMES_FILE] < (SHIPPED / SYMBOLS_FILE).stat().st_size / 8
    assert set(shipped_folder(ARM64).glob("*.xz")) < set(files_read(Path("nothing")))


def test_names_are_told_by_another_table(tmp_path: Path) -> None:
    one, other = Unit("2.8.0", "libc10.so", "", ("libc.so.6",)), Unit("2.9.1", "libc10.so", "", ())
    theirs = SymbolTable.of([], {Unit("2.8.0", "libc10.so", "", ()): ["a", "b", "gone"]}).to_bytes()
    releases = [ReleaseFiles("2.8.0", {"cp312": "torch-2.8.0.whl"})]
    table = SymbolTable.of(releases, {one: ["a", "b", "own"], other: ["a", "own", "new"]})
    content = shared_names.to_bytes(table, theirs)
    read = shared_names.from_bytes(content, theirs)
    assert (read.releases, read.units) == (table.releases, table.units)
    assert {unit: read.names(unit) for unit in (one, other)} == {unit: table.names(unit) for unit in (one, other)}
    assert read.masks(frozenset({"own", "a", "b", "gone"})) == {"own": 3, "a": 3, "b": 1}
    with pytest.raises(ValueError, match="not told by those of this table"):
        shared_names.from_bytes(content, SymbolTable.of([], {one: ["a"]}).to_bytes())


def test_shipped_names_are_those_of_a_table_of_their_own() -> None:
    stored = shared_names.from_bytes(
        (shipped_folder(ARM64) / SHARED_NAMES_FILE).read_bytes(), (SHIPPED / SYMBOLS_FILE).read_bytes()
    )
    masks = [block.split("\n")[0] for block in stored.blocks]
    assert len(masks) == len(set(masks)), "a mask that is there twice loses the names of the first"
    assert isinstance(stored, StoredTable)
    assert stored.masks(frozenset({SYM_NE, "malloc"})).keys() == {SYM_NE, "malloc"}


def test_added_tables_lie_beside_those_for_x86_64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = added_folder(ARM64) / "2.16.0"
    assert folder.parent.parent == added_folder().parent
    folder.mkdir(parents=True)
    (folder / SYMBOLS_FILE).write_bytes(b"damaged")
    tables = AuditTables.load(added_folder())
    assert "2.16.0" not in tables.releases
    with pytest.raises(AuditError, match="the tables of torch's releases cannot be read"):
        tables.for_machine(ARM64)


def collected(release: str, header_lines: dict[str, frozenset[int]]) -> CollectedRelease:
    """A release for arm64, with three libraries and these lines of assertions."""
    exported = {
        Unit(release, "libc10.so", "", ()): {SYM_NE: Kind(2, 1, 8)},
        Unit(release, "libarm_compute.so", "", ()): {"_ZN11arm_compute3NEEv": Kind(2, 1, 8)},
        Unit(release, "libtorch_python.so", "cp312", ("libc10.so",)): {},
    }
    files = ReleaseFiles(release, {"cp312": f"torch-{release}-cp312-cp312-manylinux_2_28_aarch64.whl"})
    layouts = Layouts({release: {"c10::TensorImpl": Layout(184)}})
    header_table = HeaderLines({release: header_lines})
    return CollectedRelease(files, exported, header_table, layouts, 0, {"cp312": "aa"}, {"aa": "bb"})


def test_tables_for_arm64_are_written_beside_those_for_x86_64(tmp_path: Path) -> None:
    folder, theirs = tmp_path / "torch-aarch64", known().header_lines.by_release["2.8.0"]
    collect.write_beside(
        folder, [collected("2.8.0", dict(theirs))], {Unit("", "libc.so.6", "", ()): frozenset({"malloc"})}
    )
    names = (folder / SHARED_NAMES_FILE).read_bytes(), (SHIPPED / SYMBOLS_FILE).read_bytes()
    stored = shared_names.from_bytes(*names)
    by_library = {unit.library: stored.names(unit) for unit in stored.units}
    assert by_library["libc.so.6"] == {"malloc"}
    assert by_library["libc10.so"] == {SYM_NE}
    assert by_library["libarm_compute.so"] == set()
    assert sorted(path.name for path in folder.iterdir()) == [LAYOUTS_FILE, RECORDS_FILE, SHARED_NAMES_FILE]
    with pytest.raises(AuditError, match=r"torch 2\.8\.0 have assertions in other lines"):
        collect.write_beside(folder, [collected("2.8.0", {"c10/core/TensorImpl.h": frozenset({1})})], {})


def test_the_files_of_torch_s_wheels_are_known() -> None:
    """What is read of a wheel for arm64 is compared with its RECORD, without a download of all of it."""
    records = json.loads((shipped_folder(ARM64) / RECORDS_FILE).read_text("utf-8"))
    count = sum(len(release.files) for release in known().for_machine(ARM64).symbols.releases)
    assert len(records) == count
    wheel, of_wheel = next(iter(records.items()))
    assert torch_wheel.known_record(wheel) == of_wheel


def test_machines_have_names() -> None:
    assert (named("aarch64"), named("x86_64")) == (ARM64, X86_64)
    with pytest.raises(KeyError):
        named("riscv64")
