"""A project file from a source tree."""

import io
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tests.conftest import CHECKOUT, PROJECTS
from tests.index import Index
from tests.project.test_tree import nested_folders
from torch_build_farm.cli import main
from torch_build_farm.project import scaffold
from torch_build_farm.project.settings import load


def written(tree: Path, *more: str) -> tuple[int, str]:
    alone = not (tree / "pyproject.toml").exists()
    code = main.main(["init", str(tree), *more])
    folder = Path(more[0]) if more else tree / "torch-build-farm" if alone else tree
    return code, folder.joinpath("pyproject.toml").read_text()


def test_a_tree_with_setup_py_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text(
        "import os, torch\nfrom setuptools import setup\n"
        'if os.getenv("FORCE_ONLY_CPU", "0") == "1" or "NVCC_FLAGS" in os.environ["FLAGS"]: pass\n'
        'setup(name="Demo_Ext", version="1.5", install_requires=["torch>=2.9,<2.12"])\n'
    )
    for name in ("demo_ext/__init__.py", "demo_ext/sub/__init__.py", "tests/__init__.py", "csrc/a.cu", "csrc/b.cu"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    code, text = written(tmp_path)
    assert code == 0
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings == {
        "name": "demo-ext",
        "source": "..",
        "packages": ["demo_ext"],
        "torch": ["2.9", "2.10", "2.11"],
        "environment": {"FORCE_ONLY_CPU": "1"},
    }
    assert "setuptools, requires 'torch>=2.9,<2.12'" in text
    assert "csrc/a.cu and 1 more need nvcc." in text
    assert "setup.py reads FLAGS, FORCE_ONLY_CPU;" in text
    assert "# The packages that a wheel may contain at top level.\npackages = " in text
    assert len(text.splitlines()) < 20
    assert not (tmp_path / "pyproject.toml").exists()  # with one, pip would build in an environment without torch
    folder = tmp_path / "torch-build-farm"
    assert load(folder, CHECKOUT).settings.name == "demo-ext"
    capsys.readouterr()
    assert main.main(["init", str(tmp_path)]) == 2
    assert "there is a [tool.torch-build-farm] already" in capsys.readouterr().err
    assert (folder / "pyproject.toml").read_text() == text


def test_what_cannot_be_told_is_marked(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("from setuptools import setup\nsetup(**everything())\n")
    _, text = written(tmp_path)
    for key in ("name", "# version", "packages", "torch"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
        assert scaffold.MARK in line


def test_a_version_that_is_not_known_is_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "demo"\ndynamic = ["version"]\n[tool.hatch.version]\nsource = "code"\npath = "v.py"\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    _, text = written(tmp_path)
    assert (
        """# version = "1.2.3"  # CHECK: only code of the source's would tell its version: source = 'code';""" in text
    )
    capsys.readouterr()
    assert main.main(["plan", "--project", str(tmp_path), "--torch", "2.9", "--engine", "local"]) == 7
    assert "set version in [tool.torch-build-farm]" in capsys.readouterr().err
    chosen = text.replace('# version = "1.2.3"', 'version = "1.2.3"')
    (tmp_path / "pyproject.toml").write_text(chosen)
    assert load(tmp_path, CHECKOUT).settings.version == "1.2.3"


def test_what_a_setup_py_says_of_its_build(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("""
import os, urllib.request
import numpy as np, helper
from wheel.bdist_wheel import bdist_wheel
from packaging.version import Version
from setuptools import setup
def later(): import psutil
from torch.utils.cpp_extension import CUDAExtension
FORCE = os.getenv("DEMO_FORCE_BUILD", "FALSE") == "TRUE"
if os.environ.get("FORCE_CUDA"): urllib.request.urlretrieve(url, name)
setup(name="demo", version="1", packages=["demo"], ext_modules=[CUDAExtension(name="demo_cuda", sources=["a.cu"])],
      data_files=computed(), scripts=["demo-tool"])
""")
    (tmp_path / "a.cu").touch()
    (tmp_path / "helper.py").touch()
    _, text = written(tmp_path)
    assert 'build-requires = ["numpy", "wheel"]  # CHECK: setup.py imports numpy, wheel' in text
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings["packages"] == ["demo", "demo_cuda"]
    assert settings["environment"] == {"DEMO_FORCE_BUILD": "TRUE"}
    (line,) = [line for line in text.splitlines() if line.startswith("environment")]
    assert "# CHECK: compiles, where setup.py may take a wheel that somebody else built" in line
    assert '# CHECK: with cuda-arch-list, environment = { FORCE_CUDA = "1" } compiles device code' in text
    assert "# CHECK: setup.py downloads something, and" in text
    assert "# CHECK: a.cu needs nvcc." in text
    assert "# CHECK: the wheel has files outside of its packages" in text
    assert 'plain-files = ["data/*", "scripts/*"]' in text


def test_what_a_setup_py_reads_from_its_command_line(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("""
import sys
from sys import argv
def asked(option, variable):
    return option in sys.argv or os.environ.get(variable) == "1"
if "--cuda_ext" in sys.argv:
    sys.argv.remove("--cuda_ext")
cpp = asked("--cpp_ext", "DEMO_CPP_EXT")
if "--debug" not in argv or "sdist" in sys.argv or "--not-an-option" in sys.path:
    later("--not-an-option-either")
setup(name="demo", version="1", packages=["demo"])
""")
    _, text = written(tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("# CHECK: setup.py looks for options")]
    setting = tomllib.loads(line.partition("line. ")[2].partition(" passes")[0])
    assert setting == {"config-settings": {"--build-option": ["--cpp_ext", "--cuda_ext", "--debug"]}}


@pytest.mark.parametrize(
    ("script", "tables"),
    [
        (
            "scripts/compile.py",
            """build-backend = "poetry.core.masonry.api"
[tool.poetry.build]
script = "scripts/compile.py"
""",
        ),
        (
            "compile.py",
            """build-backend = "poetry.core.masonry.api"
[tool.poetry]
build = "compile.py"
""",
        ),
        (
            "hatch_build.py",
            """build-backend = "hatchling.build"
[tool.hatch.build.hooks.custom]
""",
        ),
        (
            "hook.py",
            """build-backend = "hatchling.build"
[tool.hatch.build.targets.wheel.hooks.custom]
path = "hook.py"
""",
        ),
        (
            "pdm_build.py",
            """build-backend = "pdm.backend"
""",
        ),
    ],
)
def test_what_the_script_of_another_back_end_says(tmp_path: Path, script: str, tables: str) -> None:
    backend = {"poetry": "poetry-core", "hatchl": "hatchling", "pdm.ba": "pdm-backend"}[tables.split('"')[1][:6]]
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "demo"\nversion = "1"\n[build-system]\nrequires = ["{backend}"]\n{tables}'
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    (tmp_path / script).parent.mkdir(exist_ok=True)
    (tmp_path / script).write_text("""
import os, numpy, torch
from setuptools import Distribution
FORCE = os.getenv("DEMO_FORCE_BUILD", "FALSE") == "TRUE"
flags = ["-O3", "-march=haswell", "-mavx2", "-march=x86-64"]
""")
    _, text = written(tmp_path)
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings["build-requires"] == ["numpy", "setuptools"]
    assert f"# CHECK: {script} imports numpy, setuptools" in text
    assert settings["environment"] == {"DEMO_FORCE_BUILD": "TRUE"}
    assert f"# {script} reads DEMO_FORCE_BUILD;" in text
    assert f"# CHECK: {script} compiles with -march=haswell, -mavx2." in text
    assert 'cpu-baseline = "x86-64-v3" gives leave' in text


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("-msse4.2 -mpopcnt", "x86-64-v2"),
        ("-march=x86-64-v3", "x86-64-v3"),
        ("-mfma -mavx512f", "x86-64-v4"),
        ("-march=armv8-a -mtune=haswell -march=x86-64 -march=rv64gc -matomic", ""),
        (f"-march={'a' * 100_000}", ""),
    ],
)
def test_code_for_newer_cpus(tmp_path: Path, flags: str, level: str) -> None:
    (tmp_path / "setup.py").write_text(f"setup(name='demo', version='1', packages=['demo'])\nflags = '{flags}'\n")
    _, text = written(tmp_path)
    stated = [line for line in text.splitlines() if "compiles with" in line]
    assert [f'cpu-baseline = "{level}"' in line for line in stated] == ([True] if level else [])


def test_meson_compiles_for_the_machine_at_hand(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n[project]\nname = "demo"\nversion = "1"\n'
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    (tmp_path / "meson.build").write_text("project('demo', 'cpp')\nadd_project_arguments('-march=native')\n")
    _, text = written(tmp_path)
    assert "# CHECK: meson.build compiles with -march=native" in text


def test_what_cmake_files_say(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "demo"\nversion = "1"\n[build-system]\nrequires = ["scikit-build-core"]\n'
        'build-backend = "scikit_build_core.build"\n'
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    (tmp_path / "CMakeLists.txt").write_text("""
find_package(Torch REQUIRED)
find_package(Python 3.9 REQUIRED COMPONENTS Development.Module)
find_package(Eigen3 3.4 CONFIG REQUIRED) # find_package(Commented REQUIRED)
find_package(OptionalOne QUIET)
add_subdirectory(cpp)
""")
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "CMakeLists.txt").write_text("""
include(FetchContent)
FetchContent_Declare(
    fmt URL https://example.org/fmt.tar.gz)
ExternalProject_Add(cutlass GIT_REPOSITORY https://example.org/cutlass.git)
FetchContent_Declare(${computed} URL https://example.org/x.tar.gz)
install(TARGETS demo EXPORT x LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime)
install(FILES a.h DESTINATION "include/demo")
install(TARGETS _core LIBRARY DESTINATION demo)
""")
    (tmp_path / "third_party" / "x").mkdir(parents=True)
    (tmp_path / "third_party" / "x" / "CMakeLists.txt").write_text("find_package(NotOurs REQUIRED)\n")
    _, text = written(tmp_path)
    assert "# CHECK: CMake requires Eigen3: system-packages" in text
    assert "# CHECK: CMake fetches ${computed}, cutlass, fmt: network = true lets it." in text
    assert 'FETCHCONTENT_TRY_FIND_PACKAGE_MODE = "ALWAYS"' in text
    assert "# CHECK: CMake installs into ${CMAKE_INSTALL_LIBDIR}, include/demo, outside" in text
    assert "install.components" in text


def test_the_table_of_cibuildwheel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("""
[project]
name = "demo"
version = "1"
[tool.cibuildwheel]
build = "cp310-* cp312-*"
build-verbosity = 1
before-build = "pip install -U numpy 'pybind11>=2.12' && bash {project}/ci/prepare.sh"
test-requires = "pytest numpy"
test-extras = ["test"]
test-command = "pytest {project}/tests"
before-test = "echo"
environment = { PLAIN = "1", PATH = "$PATH:/opt", OTHER = "$(nproc)" }
config-settings = { "cmake.define.X" = "ON", list = ["a", "b"] }
[tool.cibuildwheel.linux]
before-all = ["yum install -y zlib-devel xz-devel && yum clean all", "make -C deps"]
repair-wheel-command = [
  "auditwheel repair -w {dest_dir} {wheel} --exclude libtorch_cpu.so --exclude libcu*.so* --exclude libfoo.so.1",
  "auditwheel repair -w {dest_dir} {wheel} --exclude=libtorchfoo.so",
]
[tool.cibuildwheel.macos]
environment = { MACOS = "1" }
[[tool.cibuildwheel.overrides]]
select = "cp312-*"
""")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    before = (tmp_path / "pyproject.toml").read_text()
    _, text = written(tmp_path)
    added = text.removeprefix(before)
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings["build-requires"] == ["numpy", "pybind11>=2.12"]
    assert settings["before-build"] == ["bash ./ci/prepare.sh"]
    assert settings["test-requires"] == ["pytest", "numpy"]
    assert settings["test-extras"] == ["test"]
    assert settings["test-command"] == ["pytest {project}/tests"]
    assert settings["environment"] == {"PLAIN": "1"}
    assert settings["system-packages"] == {"dnf": ["zlib-devel", "xz-devel"]}
    assert settings["external-libraries"] == {"libfoo.so.1": "system", "libtorchfoo.so": "system"}
    for key in ("build-requires", "before-build", "test-command", "environment", "system-packages"):
        (line,) = [line for line in added.splitlines() if line.startswith(f"{key} = ")]
        assert "CHECK: by [tool.cibuildwheel]" in line
    notes = [line for line in added.splitlines() if line.startswith("# CHECK: [tool.cibuildwheel]")]
    for key in (
        "build:",
        "before-test =",
        "environment: PATH=",
        "environment: OTHER=",
        "before-all: 'make -C deps'",
        "overrides =",
    ):
        assert any(f"] {key}" in note for note in notes), (key, notes)
    assert "MACOS" not in added
    assert "config-settings" in added
    load(tmp_path, CHECKOUT)
    # A table that somebody wrote by hand says less, and is told so once.
    (tmp_path / "pyproject.toml").write_text(f'{before}[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n')
    capsys.readouterr()
    assert main.main(["plan", "--project", str(tmp_path), "--torch", "2.9", "2.10", "--engine", "local"]) == 0
    printed = capsys.readouterr()
    said = (printed.out + printed.err).count("[tool.cibuildwheel] is not read")
    assert said == 1, printed


@pytest.mark.parametrize("table", ["cibuildwheel.before-all = 1", "cibuildwheel.environment = [1]",
    "cibuildwheel.environment = \"A='\"", "cibuildwheel.linux = 1", "cibuildwheel.test-extras = [1, \"a b\"]",
    "cibuildwheel.test-command = {a = 1}", "cibuildwheel.config-settings = [1]"])  # fmt: skip
def test_a_table_of_cibuildwheel_of_wrong_types(tmp_path: Path, table: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "demo"\nversion = "1"\n[tool]\n{table}\n')
    assert written(tmp_path)[0] == 0
    load(tmp_path, CHECKOUT)


def test_folders_too_deep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rglob recurses up to CPython 3.11; later ones end where a path is too long."""
    (tmp_path / "setup.py").write_text("from setuptools import setup\nsetup(name='demo', version='1')\n")
    with nested_folders(tmp_path, 2000):
        if main.main(["init", str(tmp_path)]):
            assert "folders of the source lie too deep in one another" in capsys.readouterr().err


def test_a_projects_own_file_is_kept_and_added_to(tmp_path: Path) -> None:
    own = (PROJECTS / "probe" / "pyproject.toml").read_text().split("[tool.torch-build-farm]")[0]
    (tmp_path / "pyproject.toml").write_text(own)
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "__init__.py").touch()
    _, text = written(tmp_path)
    assert text.startswith(own)
    added = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert (added["name"], added["packages"], len(added["torch"])) == ("torch-probe", ["probe"], 8)
    assert scaffold.MARK not in text.removeprefix(own).replace(f"{scaffold.MARK} marks", "")


def test_a_file_elsewhere_names_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1", packages=["demo"])\n')
    _, text = written(tree, str(tmp_path / "a" / "b"))
    assert tomllib.loads(text)["tool"]["torch-build-farm"]["source"] == "../../tree"
    assert not (tree / "pyproject.toml").exists()


def test_a_file_that_is_no_toml_and_line_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.other]\r\nx = 1\r\n")
    assert main.main(["init", str(tmp_path)]) == 0
    written = (tmp_path / "pyproject.toml").read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("no toml")
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "not valid TOML" in capsys.readouterr().err
    assert main.main(["init", str(tmp_path), str(tmp_path / "setup.py")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["no/such/folder", "a b"])
def test_what_is_no_source(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init", what]) == 2
    assert "neither a folder, nor a file" in capsys.readouterr().err


# ---- sources of strangers

BREAK = 'x\nbefore-build = ["touch ran"]\n#'


def packed(folder: Path, files: dict[str, str]) -> Path:
    """An sdist file with these files, in a folder of any name."""
    path = folder / "demo-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"demo-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(
    "name",
    ["/{other}", "{other}", "../other", "..", ".", "", "a/b", "-C", "a b", "demo\n /x", "d\x1b[2J", "\u202edemo", "d" * 129],
)  # fmt: skip
def test_a_name_of_an_sdist_that_is_a_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("[tool.other]\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    info = f"Metadata-Version: 2.1\nName: {name.format(other=other)}\nVersion: 1.0\n\n"
    archive = packed(tmp_path, {"PKG-INFO": info, "setup.py": ""})
    assert main.main(["init", str(archive)]) == 2
    assert "does not state its name and version" in capsys.readouterr().err
    assert (other / "pyproject.toml").read_text() == "[tool.other]\n"
    assert not list(here.rglob("*"))


def test_an_sdist_does_not_choose_a_file_to_be_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "pyproject.toml").write_text("[tool.other]\n")
    monkeypatch.chdir(tmp_path)
    archive = packed(tmp_path, {"PKG-INFO": "Name: demo\nVersion: 1.0\n", "setup.py": "", "demo/__init__.py": ""})
    assert main.main(["init", str(archive)]) == 2
    assert "there is a project file already" in capsys.readouterr().err
    assert (tmp_path / "demo" / "pyproject.toml").read_text() == "[tool.other]\n"
    assert main.main(["init", str(archive), str(tmp_path / "demo")]) == 0  # somebody named it
    assert "torch-build-farm" in (tmp_path / "demo" / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "where", ["cuda", "package", "top_level", "listed", "backend", "requirement", "name", "version"]
)
def test_no_word_of_a_source_becomes_a_setting(tmp_path: Path, where: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    project = {"name": "demo", "version": "1.0", "dependencies": ["torch>=2.8"]}
    document: dict[str, Any] = {"project": project, "build-system": {"requires": ["x"], "build-backend": "x"}}
    if where == "cuda":
        (tree / f"{BREAK}.cu").touch()
    elif where == "package":
        (tree / BREAK).mkdir()
        (tree / BREAK / "__init__.py").touch()
    elif where == "top_level":
        (tree / "x.egg-info").mkdir()
        (tree / "x.egg-info" / "top_level.txt").write_text("a'b\nbefore-build\n")
    elif where == "listed":
        document["tool"] = {"scikit-build": {"wheel": {"packages": [BREAK, "src/demo"]}}}
    elif where == "backend":
        document["build-system"]["build-backend"] = BREAK
    elif where == "requirement":
        project["dependencies"] = [f"torch ; {BREAK}", "torch\n>=2.8"]
    else:
        project[where] = BREAK
    (tree / "pyproject.toml").write_text(tomlkit.dumps(document))
    folder = tmp_path / "written"
    code = main.main(["init", str(tree), str(folder)])
    if where == "version":
        assert code == 0 or not folder.exists()
    else:
        assert code == 0
    if folder.exists():
        written = tomllib.loads((folder / "pyproject.toml").read_text())
        assert list(written) == ["tool"]
        assert set(written["tool"]["torch-build-farm"]) <= {"name", "source", "version", "packages", "torch"}
        assert load(folder, CHECKOUT).settings.before_build == ()


@pytest.mark.parametrize("packages", ["5", '"demo"', "[5]", "{ 5 = 5 }", "[]"])
def test_settings_of_a_back_end_of_a_wrong_type(tmp_path: Path, packages: str) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "demo"\nversion = "1"\n[tool.scikit-build]\nwheel = {{ packages = {packages} }}\n'
    )
    assert written(tmp_path)[0] == 0


def test_a_tree_whose_project_file_is_another_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.toml").write_text('[project]\nname = "demo"\nversion = "1"\n')
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").symlink_to("../other.toml")
    assert main.main(["init", str(tree)]) == 6
    assert "leads out of its folder by a link" in capsys.readouterr().err
    assert "torch-build-farm" not in (tmp_path / "other.toml").read_text()


@pytest.mark.parametrize("text", [b"a = " + b"[" * 3000, b"\xff\xfe", b"tool = 1", b"[tool]\ntorch-build-farm = 1"])
def test_a_project_file_that_cannot_be_added_to(
    tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_bytes(text)
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert (other / "pyproject.toml").read_bytes() == text


def test_an_sdist_of_another_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    monkeypatch.chdir(tmp_path)
    archive = packed(tmp_path, {"PKG-INFO": "Name: other\nVersion: 1.0\n", "setup.py": ""})
    index.add("demo-1.0.tar.gz", archive.read_bytes())
    assert main.main(["init", "demo==1.0"]) == 2
    assert "is not an sdist of demo: it says that its name is other" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    index.close()


def test_a_project_file_that_is_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("#" * (1 << 20))
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_files_that_may_take_the_place_of_pyproject(tmp_path: Path) -> None:
    project = '[project]\nname = "acme"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\n'
    for name in ("pyproject.toml", "pyproject-core.toml", "pyproject-gpu.toml", "other.toml"):
        (tmp_path / name).write_text(project)
    _, text = written(tmp_path)
    (line,) = [line for line in text.splitlines() if "pyproject-core.toml" in line]
    assert line.startswith(
        f"# {scaffold.MARK} pyproject-core.toml, pyproject-gpu.toml may take the place of pyproject.toml"
    )
    assert "[tool.torch-build-farm.core]" in line
    assert load(tmp_path, CHECKOUT).settings.core is None


def test_no_name_of_a_folder_becomes_a_setting(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("a", BREAK, "c\x1b[2J\u2028\udcff"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "setup.py").write_text("from setuptools import setup\nsetup(name='demo', version='1')\n")
    assert main.main(["init", str(tree)]) == 0
    text = (tree / "pyproject.toml").read_text()
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings["subdirectory"] == "a"
    assert set(settings) == {"name", "subdirectory", "packages", "torch"}
    assert r"# CHECK: or is it c\x1b[2J\u2028\udcff, x\nbefore-build" in text
