"""Platforms that no variant is for: the plain wheel installs there, and its import says so."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.markers import Marker

from tests.elves import library
from tests.family import family, make_wheel, project, torch, variant, with_arm64
from tests.index import Index
from tests.wheels.test_dispatcher import Site, told
from torch_build_farm.core import tools
from torch_build_farm.core.machine import ARM64, X86_64, Machine
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import inventory
from torch_build_farm.wheels import one_name, platforms
from torch_build_farm.wheels.machine_code import read_machine_code
from torch_build_farm.wheels.platforms import Platform
from torch_build_farm.wheels.wheel import read_wheel

LINUX, WINDOWS, LINUX_ARM64 = Platform("linux", "x86_64"), Platform("win32", "AMD64"), Platform("linux", "aarch64")
ON_ARM64 = "import platform; platform.machine = lambda: 'aarch64'\n"
CPYTHON = f"cp{CPython.running().release.replace('.', '')}"
TAG = f"{CPYTHON}-{CPYTHON}-manylinux_2_28_x86_64"


@pytest.mark.parametrize(
    ("tag", "machine"),
    [
        ("any", X86_64),
        ("manylinux_2_28_x86_64", X86_64),
        ("manylinux_2_17_aarch64.manylinux2014_aarch64", ARM64),
        ("linux_aarch64", ARM64),
        ("manylinux_2_28_x86_64.manylinux_2_28_aarch64", X86_64),
        ("macosx_11_0_arm64", X86_64),
    ],
)
def test_the_machine_of_a_wheel(tag: str, machine: Machine) -> None:
    assert platforms.machine_of_wheel(f"demo-1.0-cp311-cp311-{tag}.whl") == machine


@pytest.mark.parametrize("of_wheel", [X86_64, ARM64], ids=lambda machine: machine.words)
def test_machine_code_is_read_for_the_wheel_s_machine(tmp_path: Path, of_wheel: Machine) -> None:
    """Levels of x86-64 say nothing of arm64's code, and a library for the other machine is a problem."""
    names = ["PyObject_Call"]
    files = {f"demo/_{one.words}.so": library(names, machine=one.elf_number) for one in (X86_64, ARM64)}
    path = make_wheel(tmp_path, "demo", "1.0", files)
    code = read_machine_code(read_wheel(path.rename(path.with_name(f"demo-1.0-cp311-cp311-linux_{of_wheel.name}.whl"))))
    other = X86_64 if of_wheel == ARM64 else ARM64
    assert code.unreadable == {f"demo/_{other.words}.so": f"a library for {other.words}, not for {of_wheel.words}"}
    assert code.python_names == {f"demo/_{of_wheel.words}.so": {"PyObject_Call"}}
    assert code.cpu_level == "x86-64"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("any", []),
        ("linux_x86_64", [("linux", "x86_64")]),
        ("manylinux_2_17_x86_64.manylinux2014_x86_64", [("linux", "x86_64")]),
        ("manylinux1_i686", [("linux", "i686")]),
        ("musllinux_1_2_aarch64", [("linux", "aarch64")]),
        ("macosx_11_0_arm64", [("darwin", "arm64")]),
        ("macosx_10_9_universal2", [("darwin", "arm64"), ("darwin", "x86_64")]),
        ("win_amd64", [("win32", "AMD64")]),
        ("win_arm64", [("win32", "ARM64")]),
        ("strange_thing", []),
    ],
)
def test_the_platforms_of_a_wheel(tag: str, expected: list[tuple[str, str]]) -> None:
    found = platforms.of_wheel(f"demo-1.0-cp312-cp312-{tag}.whl")
    assert sorted((one.system, one.machine) for one in found) == expected


def test_a_marker_is_true_on_its_platforms_alone() -> None:
    here = {"sys_platform": "linux", "platform_machine": "x86_64"}
    windows = {"sys_platform": "win32", "platform_machine": "AMD64"}
    one, two = Marker(platforms.marker([LINUX])), Marker(platforms.marker([WINDOWS, LINUX]))
    assert [one.evaluate(here), one.evaluate(windows)] == [True, False]
    assert [two.evaluate(here), two.evaluate(windows)] == [True, True]
    assert not two.evaluate({"sys_platform": "darwin", "platform_machine": "x86_64"})


def test_the_markers_are_those_of_each_minors_wheels(tmp_path: Path) -> None:
    """A minor with a wheel for every platform has none."""
    own = project("demo")
    for minor, tags in {
        "2.8": ["py3-none-any"],
        "2.9": ["cp312-cp312-manylinux_2_28_x86_64", "cp312-cp312-manylinux_2_28_aarch64"],
        "2.10": ["cp312-cp312-manylinux_2_28_x86_64"],
    }.items():
        for tag in tags:
            variant(tmp_path, own, minor, "1.0", {"demo/__init__.py": ""}, tag=tag)
    wheels = one_name.write(inventory.family(own, inventory.built(own, tmp_path), ()), tmp_path)
    requires = {path.name.split("-")[1]: read_wheel(path).metadata.get_all("Requires-Dist") or [] for path in wheels}
    x86 = 'sys_platform == "linux" and platform_machine == "x86_64"'
    both = f'(sys_platform == "linux" and platform_machine == "aarch64") or ({x86})'
    assert requires["1.0.0.0.0.208"] == ["torch==2.8.*", "demo-torch28==1.0"]
    assert requires["1.0.0.0.0.209"] == ["torch==2.9.*", f"demo-torch29==1.0 ; {both}"]
    assert requires["1.0.0.0.0.210"] == ["torch==2.10.*", f"demo-torch210==1.0 ; {x86}"]
    assert f'demo-torch29==1.0 ; ({both}) and extra == "torch29"' in requires["1.0"]
    assert f'demo-torch210==1.0 ; {x86} and extra == "torch210"' in requires["1.0"]
    assert 'demo-torch28==1.0 ; extra == "torch28"' in requires["1.0"]


@pytest.fixture
def served(tmp_path: Path) -> Index:
    """An index with variants of 2.8 and 2.9 for this platform."""
    (tmp_path / "index").mkdir()
    index, own = Index(tmp_path / "index"), project("demo")
    for version in ("2.8.0", "2.9.1", "2.10.0"):
        index.add_wheel(torch(tmp_path / "made", version))
    for minor in ("2.8", "2.9"):
        wheel = variant(tmp_path / "made", own, minor, "1.0", {"demo/__init__.py": ""}, tag=TAG)
        index.add_wheel(wheel)
    for path in one_name.write(family(own, wheel, {"2.8": "1.0", "2.9": "1.0"}), tmp_path / "made"):
        index.add_wheel(path)
    return index


@pytest.mark.parametrize(
    ("where", "variants"),
    [
        ("x86_64-manylinux_2_28", True),
        ("windows", False),
        ("aarch64-apple-darwin", False),
        ("aarch64-unknown-linux-gnu", False),
    ],
)
@pytest.mark.parametrize("wanted", ["demo", "demo[torch28]"])
def test_uv_resolves_for_every_platform(served: Index, where: str, variants: bool, wanted: str) -> None:
    command = [
        tools.uv(),
        "pip",
        "compile",
        "-",
        "--no-config",
        "--no-cache",
        "--quiet",
        "--no-header",
        "--no-annotate",
    ]
    options = ["--python-platform", where, "--python-version", CPython.running().release, "--default-index", served.url]
    done = subprocess.run([*map(str, command), *options], input=wanted, capture_output=True, text=True, check=False)
    served.close()
    assert done.returncode == 0, done.stderr
    minor = "2.8" if "28" in wanted else "2.9"
    assert f"torch=={minor}." in done.stdout
    assert (f"demo-torch{minor.replace('.', '')}==1.0" in done.stdout) == variants


# pip takes markers from the interpreter that runs it, whatever --platform says: here they are those of another platform.
PIP_ELSEWHERE = """
import sys
import pip._vendor.packaging.markers as markers
here = markers.default_environment()
markers.default_environment = lambda: {**here, "sys_platform": "win32", "platform_machine": "AMD64", "os_name": "nt"}
from pip._internal.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("wanted", ["demo", "demo[torch28]"])
def test_pip_on_windows(served: Index, tmp_path: Path, wanted: str) -> None:
    options = ["--isolated", "--index-url", served.url, "--no-cache-dir", "--only-binary=:all:", "--platform=win_amd64"]
    command = [
        sys.executable,
        "-c",
        PIP_ELSEWHERE,
        "install",
        "--dry-run",
        f"--target={tmp_path}/target",
        *options,
        wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    served.close()
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    assert "demo-1.0" in line
    assert "demo-torch" not in line


@pytest.mark.parametrize("installed", ["2.9.0", ""])
def test_the_import_says_that_there_is_no_build(tmp_path: Path, installed: str) -> None:
    other = "s390x" if platform.machine() != "s390x" else "x86_64"
    site = Site(tmp_path)
    wheel = variant(tmp_path, site.project, "2.9", "1.0", {"demo/__init__.py": ""}, tag=f"cp312-cp312-linux_{other}")
    site.unpack(one_name.write_plain(family(site.project, wheel, {"2.9": "1.0"}), tmp_path))
    if installed:
        site.torch(installed)
    assert told(site) == [
        f"demo has no build for this platform (linux {platform.machine()}).",
        f"  demo 1.0 is built for Linux {other}.",
    ]
    # A variant that is here all the same counts: it may have come later than the plain wheel.
    site.unpack(wheel)
    site.torch("2.9.0")
    assert site.says("import demo; print('imported')") == "imported"


def of_two_platforms(tmp_path: Path, own: Project, arm64: tuple[str, ...], *more: str) -> Site:
    """The plain wheel of a release of 2.8, 2.9 and `more` for x86-64, and of the minors `arm64` for arm64 too."""
    site = Site(tmp_path)
    wheel = variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": "VALUE = 'of 2.9'"}, tag=TAG)
    of_both = family(own, wheel, dict.fromkeys(("2.8", "2.9", *more), "1.0"))
    served = {minor: {LINUX, LINUX_ARM64} if str(minor) in arm64 else {LINUX} for minor in of_both.last}
    site.unpack(one_name.write_plain(replace(of_both, platforms=served), tmp_path))
    return site


@pytest.mark.parametrize(
    ("machine", "known", "extra"),
    [
        ("", "for Linux x86_64: torch 2.8, 2.9, 2.9:cu126", "demo[torch29-cu126]"),
        (ON_ARM64, "for Linux aarch64: torch 2.9", "demo[torch29]"),
    ],
)
def test_the_guard_advises_what_the_platform_has(tmp_path: Path, machine: str, known: str, extra: str) -> None:
    """A flavour that only x86-64 has, and a minor: on arm64 their extras bring no variant."""
    own = with_arm64(project("demo"), "2.9", cuda="")
    site = of_two_platforms(tmp_path, own, ("2.9",), "2.9:cu126")
    site.torch("2.9.1+cu126")
    text = site.run(f"{machine}import demo").stderr
    assert f"variants known to demo 1.0 {known}\n" in text
    assert f'pip install "{extra}"' in text
    (site.folder / "torch" / "version.py").write_text("__version__ = '2.8.0'\n")
    text = site.run(f"{machine}import demo").stderr
    assert ("None is made for a torch that old. These install torch 2.9" in text) == bool(machine)


def test_a_torch_for_cpus_alone_on_arm64(tmp_path: Path) -> None:
    """torch's arm64 builds up to 2.10 have no CUDA: a variant without CUDA sources loads beside them."""
    own = with_arm64(project("demo"), "2.9", cuda="")
    site = of_two_platforms(tmp_path, own, ("2.9",), "2.9:cu126")
    site.unpack(variant(tmp_path / "arm64", own, "2.9", "1.0", {"demo/__init__.py": "VALUE = 'of 2.9'"}))
    site.torch("2.9.1+cpu")
    (site.folder / "torch" / "version.py").write_text("__version__ = '2.9.1+cpu'\ncuda: Optional[str] = None\n")
    assert site.says(f"{ON_ARM64}import demo; print(demo.VALUE)") == "of 2.9"


@pytest.mark.parametrize(("machine", "extra"), [("", "demo[torch29-cu130]"), (ON_ARM64, "demo[torch29]")])
def test_a_minor_s_own_cuda_differs_between_platforms(tmp_path: Path, machine: str, extra: str) -> None:
    """Where the default index has CUDA 13 for arm64, the minor's own variant is the one for it."""
    own = with_arm64(project("demo"), "2.9", cuda="13.0")
    site = of_two_platforms(tmp_path, own, ("2.9", "2.9:cu130"), "2.9:cu130")
    library_for_12 = library(needed=["libcudart.so.12"])
    site.unpack(
        variant(tmp_path / "for 12", own, "2.9", "1.0", {"demo/__init__.py": "", "demo/_gpu.so": library_for_12})
    )
    site.torch("2.9.1")
    (site.folder / "torch" / "version.py").write_text("__version__ = '2.9.1'\ncuda: Optional[str] = '13.0'\n")
    text = site.run(f"{machine}import demo").stderr
    assert "needs a torch with CUDA 12, and torch 2.9.1 has CUDA 13.0" in text
    assert f'pip install "{extra}"' in text


def test_a_release_for_one_platform_has_nothing_of_platforms_in_its_dispatcher(tmp_path: Path) -> None:
    site = of_two_platforms(tmp_path, with_arm64(project("demo"), "2.9", cuda=""), ())
    assert "of_platforms" not in (site.folder / "demo" / "__init__.py").read_text()
    both = of_two_platforms(tmp_path / "both", with_arm64(project("demo"), "2.8", "2.9", cuda=""), ("2.8", "2.9"))
    assert "of_platforms" not in (both.folder / "demo" / "__init__.py").read_text(), "the same on both"
