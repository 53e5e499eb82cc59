"""The same driver on another project: its own pyproject.toml, variants/ and templates/; other Pythons; git versions."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm, need
from torch_build_farm.core.store import default_folder
from torch_build_farm.core.tools import environment as tool_environment
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.interpreters import find_interpreters
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def test_a_version_from_git_is_every_wheels(tiny: Farm) -> None:
    tiny.edit("pyproject.toml", 'version = "1.0"', 'dynamic = ["version"]')
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.setuptools_scm]\nversion_file = "tiny/_version.py"\n'
              '[tool.scikit-build.metadata.version]\nprovider = "scikit_build_core.metadata.setuptools_scm"\n\n[tool.torch-build-farm]')  # fmt: skip
    tiny.edit("pyproject.toml", '"scikit-build-core>=0.11"', '"scikit-build-core>=0.11", "setuptools-scm>=8"')
    git(tiny.project, "init", "-q")
    git(tiny.project, "add", "-A")
    git(tiny.project, "commit", "-qm", "one")
    git(tiny.project, "tag", "v0.1.114.post0")
    answer = tiny("build", "--torch", "2.8", "2.9", "--json")
    assert answer.code == 0, answer.err
    paths = list(tiny.work.glob("dist/*.whl"))
    assert len(paths) == 2
    for path in paths:
        assert read_wheel(path).version == "0.1.114.post0"
        tag = read_wheel(path).name.rpartition("-")[2]
        assert f"tiny/_{tag}/_version.py" in read_wheel(path).members
    assert not (tiny.project / "tiny" / "_version.py").exists()
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=tiny.project, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


def test_its_own_variants_and_templates_win(tiny: Farm) -> None:
    for folder in ("variants", "templates"):
        (tiny.project / folder).mkdir()
    text = (CHECKOUT / "variants" / "torch28.toml").read_text()
    (tiny.project / "variants" / "torch28.toml").write_text(text.replace("cxx-standard = 17", "cxx-standard = 20"))
    template = (CHECKOUT / "templates" / "prelude.cmake.j2").read_text()
    own = template + 'message(STATUS "a template for torch {{ variant.torch }}")\n'
    (tiny.project / "templates" / "prelude.cmake.j2").write_text(own)
    tiny.edit("CMakeLists.txt", "install(", 'message(STATUS "the standard is ${CMAKE_CXX_STANDARD}")\ninstall(')
    answer = tiny("build", "--torch", "2.8")
    assert answer.code == 0, answer.err
    (log,) = tiny.work.glob("logs/*.log")
    assert "the standard is 20" in log.read_text()
    assert "a template for torch 2.8" in log.read_text()


def other_pythons() -> list[CPython]:
    found = find_interpreters(tool_environment(default_folder() / "uv", default_folder()))
    return [
        python for python in sorted(found) if python != CPython.running() and (python.major, python.minor) >= (3, 9)
    ]


def test_another_python_than_the_running_one(tiny: Farm) -> None:
    others = other_pythons()
    need(bool(others), "needs a second CPython")
    oldest = others[0]
    answer = tiny("run", "--torch", "2.8", "--python", str(oldest), "--smoke", "import", "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    assert job["job"] == f"tiny-torch28-{oldest.tag}"
    assert f"-{oldest.tag}-{oldest.tag}-" in job["wheel"]["path"]


def test_the_environment_of_the_project_reaches_the_compiler(tiny: Farm) -> None:
    tiny.edit("core.cpp", "name ? 0 : 42", "name ? 0 : FROM_ENVIRONMENT + FROM_DEFINE")
    checks = "if(NOT ALSO OR NOT CMAKE_PROJECT_TOP_LEVEL_INCLUDES)\n  message(FATAL_ERROR lost)\nendif()\n"
    define = "target_compile_definitions(_core PRIVATE FROM_DEFINE=${ONE_MORE})\n"
    tiny.edit("CMakeLists.txt", "install(", f"{checks}{define}install(")
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        """[tool.torch-build-farm]
environment = { CXXFLAGS = "-DFROM_ENVIRONMENT=40", CMAKE_ARGS = "-DALSO=yes" }
cmake-defines = { ONE_MORE = "2" }
smoke-script = "smoke.py\"""",
    )
    (tiny.project / "smoke.py").write_text("import tiny\nassert tiny.answer() == 42\nprint('forty-two')\n")
    answer = tiny("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["jobs"][0]["stages"][-1]["details"]["script"] == "forty-two"


def test_what_the_shell_has_set_does_not_reach_the_build(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    """CXXFLAGS, PYTHONPATH, CMAKE_*, MAKEFLAGS of whoever calls the farm make no other wheel."""
    plain = make_farm("tiny")
    assert plain("build", "--torch", "2.8").code == 0
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "scikit_build_core.py").write_text("raise SystemExit('from PYTHONPATH')")
    noisy = {
        "CXXFLAGS": "-DNOISE -garbage", "CMAKE_GENERATOR": "Nonsense", "CMAKE_BUILD_PARALLEL_LEVEL": "99",
        "MAKEFLAGS": "-j99", "PYTHONPATH": str(tmp_path / "path"), "SKBUILD_CMAKE_ARGS": "-DX=1", "PIP_INDEX_URL": "x",
    }  # fmt: skip
    other = Farm(plain.project, tmp_path / "work2", noisy)
    answer = other("build", "--torch", "2.8")
    assert answer.code == 0, answer.err + answer.out
    (one,), (two,) = plain.work.glob("dist/*.whl"), other.work.glob("dist/*.whl")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--json"]])
def test_doctor(tiny: Farm, command: list[str]) -> None:
    answer = tiny(*command)
    assert answer.code == 0, answer.out
    for words in ("local engine", "package index", "disk", "ninja", f"CPython {CPython.running()}"):
        assert words in answer.out


def test_clean_leaves_the_wheels(tiny: Farm) -> None:
    assert tiny("build", "--torch", "2.8").code == 0
    assert tiny("clean").code == 0
    assert [path.name for path in sorted(tiny.work.iterdir())] == ["dist", "lock"]
    assert tiny("clean", "--all").code == 0
    assert [path.name for path in sorted(tiny.work.iterdir())] == ["lock"]
