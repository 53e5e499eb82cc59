import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from tests.conftest import CHECKOUT
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RenderError, SourceError
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.variables import CONSTRAINTS, DRIVER_STUBS, NVCC_WITH_TOKENS, PRELUDE, TOOLCHAIN
from torch_build_farm.pipeline.rendered_tree import Tree, python_bounds, render, write
from torch_build_farm.project import tree as source
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load
from torch_build_farm.project.variant_metadata import cut_requires_python

VARIANTS = load(CHECKOUT, CHECKOUT).variants

PYPROJECT = """
[build-system]
requires = ["scikit-build-core>=0.11", "torch>=2.5", 'pybind11; python_version > "3"']
build-backend = "scikit_build_core.build"
backend-path = ["."]

[project]
name = "Demo.Pkg"
version = "1.0"
description = 'a "quoted" \\ text — with unicode'
requires-python = ">=3.10,!=3.11.0"
authors = [{ name = "A", email = "a@example.org" }, { name = "B" }]
dependencies = ["numpy>=1", "Torch[opt-einsum]>=2.5,<2.10 ; sys_platform == 'linux'", "torchvision"]

[project.urls]
"Home Page" = "https://example.org/#top"

[project.optional-dependencies]
test = ["pytest"]
gpu = ["torch>=2.8", "demo-pkg[test]"]

[project.entry-points."my.group"]
one = "demo:main"

[tool.scikit-build]
wheel.packages = ["demo"]
[[tool.scikit-build.overrides]]
if.platform-system = "linux"
cmake.define.X = true
[tool.torch-build-farm]
name = "demo"
packages = ["demo"]
"""


def rendered(tmp_path: Path, text: str = PYPROJECT, minor: str = "2.9") -> Tree:
    (tmp_path / "pyproject.toml").write_text(text)
    project = load(tmp_path, CHECKOUT)
    tree = source.read(Origin(tmp_path))
    variant = project.variants[Minor.parse(minor)]
    return render(project, tree, Job(project.distribution(variant), tree.version, variant, CPython(3, 12)))


def document(tree: Tree) -> dict[str, Any]:
    return tomllib.loads(tree.rendered["pyproject.toml"])


def test_what_the_variant_changes(tmp_path: Path) -> None:
    new = document(rendered(tmp_path))
    assert new["project"]["name"] == "demo-torch29"
    assert new["project"]["dependencies"] == ["numpy>=1", "torch[opt-einsum]==2.9.*", "torchvision"]
    assert new["project"]["requires-python"] == ">=3.10,<3.15,!=3.11.0"
    assert new["project"]["optional-dependencies"] == {
        "test": ["pytest"],
        "gpu": ["torch==2.9.*", "demo-torch29[test]"],
    }
    assert new["build-system"]["requires"] == [
        "scikit-build-core>=0.11",
        "torch==2.9.0",
        'pybind11; python_version > "3"',
    ]


def test_all_else_is_kept(tmp_path: Path) -> None:
    old, new = tomllib.loads(PYPROJECT), document(rendered(tmp_path))
    for changed in ("name", "dependencies", "requires-python", "optional-dependencies"):
        del old["project"][changed], new["project"][changed]
    del old["tool"]["torch-build-farm"]  # the farm's own settings: a change there changes no wheel
    del old["build-system"]["requires"], new["build-system"]["requires"]
    assert new == old


def test_torch_is_added_where_the_project_named_none(tmp_path: Path) -> None:
    text = '[project]\nname = "demo"\nversion = "1"\n[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
    new = document(rendered(tmp_path, text))
    assert new["project"]["dependencies"] == ["torch==2.9.*"]
    assert new["build-system"]["requires"] == ["setuptools", "torch==2.9.0"]


def test_what_the_settings_require_joins_what_the_source_does(tmp_path: Path) -> None:
    """A torch of the settings is pinned as the source's is."""
    text = PYPROJECT + 'build-requires = ["psutil", "wheel<0.46", "torch>=2.8"]\n'
    assert document(rendered(tmp_path, text))["build-system"]["requires"] == [
        "scikit-build-core>=0.11",
        "torch==2.9.0",
        'pybind11; python_version > "3"',
        "psutil",
        "wheel<0.46",
    ]


def test_what_the_settings_require_is_there_without_pyproject(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("from setuptools import setup\nsetup(name='demo', version='1')\n")
    text = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\nbuild-requires = ["psutil"]\n'
    requires = document(rendered(tmp_path, text))["build-system"]["requires"]
    assert requires == ["setuptools", "psutil", "torch==2.9.0", "packaging"]


def test_rendering_is_byte_stable_and_leaves_the_source_alone(tmp_path: Path) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    first = rendered(tmp_path)
    outs = []
    for name in ("a", "b"):
        write(first, tmp_path / "out" / name, 315532800)
        outs.append({p.relative_to(tmp_path / "out" / name): (p.read_bytes(), p.stat().st_mtime)
                     for p in (tmp_path / "out" / name).rglob("*") if p.is_file()})  # fmt: skip
    assert outs[0] == outs[1]
    assert before == []
    assert (tmp_path / "pyproject.toml").read_text() == PYPROJECT
    assert {str(path) for path in outs[0]} == {"pyproject.toml", PRELUDE, TOOLCHAIN, CONSTRAINTS}


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text("one")
    tree = rendered(tmp_path)
    (tmp_path / "a.cpp").write_text("two")
    with pytest.raises(SourceError, match="changed while the farm ran"):
        write(tree, tmp_path / "out", 315532800)
    (tmp_path / "a.cpp").unlink()
    with pytest.raises(SourceError, match="changed while the farm ran"):
        write(tree, tmp_path / "out2", 315532800)


def test_cuda_sources_get_a_driver_to_link_against(tmp_path: Path) -> None:
    assert rendered(tmp_path).tools == {}
    tree = rendered(tmp_path, f'{PYPROJECT}\ncuda-arch-list = ["9.0"]\n', "2.13")
    assert set(tree.tools) == {f"{DRIVER_STUBS}/libcuda.so", NVCC_WITH_TOKENS}
    write(tree, tmp_path / "out", 315532800)
    assert os.access(tmp_path / "out" / NVCC_WITH_TOKENS, os.X_OK)
    assert (tmp_path / "out" / DRIVER_STUBS / "libcuda.so").read_bytes().startswith(b"\x7fELF")


def test_a_projects_own_template_wins_and_is_strict(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    template = tmp_path / "templates" / "prelude.cmake.j2"
    template.write_text("# {{ job.variant.cuda }}\n")
    assert rendered(tmp_path).rendered[PRELUDE] == "# 12.8\n"
    template.write_text("ok\n# {{ job.varient }}\n")
    with pytest.raises(RenderError, match="varient"):
        rendered(tmp_path)
    template.write_text("{% if %}")
    with pytest.raises(RenderError, match="template"):
        rendered(tmp_path)


@pytest.mark.parametrize(
    ("name", "package", "wanted"),
    [
        ("demo-pkg", "src/demo_pkg", ["src/demo_pkg"]),
        ("demo-pkg", "demo_pkg", ["demo_pkg"]),
        ("ns.demo", "python/ns/demo", {"ns/demo": "python/ns/demo"}),
        ("demo-pkg", "elsewhere", None),
    ],
)
def test_scikit_build_core_still_finds_the_package_of_the_old_name(
    tmp_path: Path, name: str, package: str, wanted: object
) -> None:
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    text = PYPROJECT.replace('"Demo.Pkg"', f'"{name}"').replace('wheel.packages = ["demo"]', "")
    assert document(rendered(tmp_path, text))["tool"]["scikit-build"].get("wheel", {}).get("packages") == wanted


def test_dynamic_dependencies_are_left_to_the_variants_own_back_end(tmp_path: Path) -> None:
    text = PYPROJECT.replace('version = "1.0"', 'version = "1.0"\ndynamic = ["dependencies"]')
    tree = rendered(tmp_path, text.replace('dependencies = ["numpy', 'x-dependencies = ["numpy'))
    new = document(tree)
    assert new["project"]["name"] == "Demo.Pkg"
    assert new["build-system"]["build-backend"] == "variant_backend"
    assert "torch==2.9.0" in new["build-system"]["requires"]
    assert {path for path in tree.rendered if path.startswith(".torch-build-farm/") and path.endswith(".py")} == {
        ".torch-build-farm/variant_backend.py",
        ".torch-build-farm/variant_metadata.py",
        ".torch-build-farm/wheel_archive.py",
    }
    assert json.loads(tree.rendered[".torch-build-farm/variant.json"]) == {
        "distribution": "demo-torch29",
        "pin": "==2.9.*",
        "cpython": ["3.10", "3.15"],
        "build-backend": "scikit_build_core.build",
        "backend-path": ["."],
    }


@pytest.mark.parametrize(
    ("back_end", "rendered_one"),
    [
        ("setuptools.build_meta", "setuptools.build_meta"),
        ("hatchling.build", "variant_backend"),  # would look for a package demo_torch29
        ("mesonpy", "variant_backend"),
    ],
)
def test_a_back_end_that_goes_by_the_name_keeps_the_old_one(tmp_path: Path, back_end: str, rendered_one: str) -> None:
    new = document(rendered(tmp_path, PYPROJECT.replace("scikit_build_core.build", back_end)))
    assert new["build-system"]["build-backend"] == rendered_one
    assert new["project"]["name"] == ("Demo.Pkg" if rendered_one == "variant_backend" else "demo-torch29")


def test_build_constraints(tmp_path: Path) -> None:
    held = 'packages = ["demo"]\nbuild-constraints = ["numpy<3", "wheel==0.45.1"]'
    tree = rendered(tmp_path, PYPROJECT.replace('\npackages = ["demo"]', f"\n{held}"))
    assert constraints(tree) == ["torch==2.9.0", "pybind11==3.0.1", "numpy<3", "wheel==0.45.1"]


def constraints(tree: Tree) -> list[str]:
    return [line for line in tree.rendered[CONSTRAINTS].splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    ("minor", "requirement", "constraint", "held"),
    [
        ("2.8", "pybind11", "", ["pybind11==2.13.6"]),
        ("2.9", "PyBind11>=2.13", "", ["pybind11==3.0.1"]),
        ("2.13", "pybind11", "", ["pybind11==3.0.4"]),
        ("2.15", "numpy", "", ["pybind11==3.1.0"]),
        ("2.9", "pybind11==2.13.6", "", []),
        ("2.8", "pybind11~=3.0", "", []),
        ("2.9", "pybind11", "pybind11==2.13.6", ["pybind11==2.13.6"]),
        ("2.9", "pybind11", "pybind11<4", ["pybind11==3.0.1", "pybind11<4"]),
    ],
)
def test_pybind11_is_the_one_among_torchs_headers_unless_the_project_says_otherwise(
    tmp_path: Path, minor: str, requirement: str, constraint: str, held: list[str]
) -> None:
    text = PYPROJECT.replace("[build-system]\nrequires = [", f'[build-system]\nrequires = ["{requirement}", ')
    assert requirement in text
    if constraint:
        text = text.replace('\npackages = ["demo"]', f'\npackages = ["demo"]\nbuild-constraints = ["{constraint}"]')
    assert [line for line in constraints(rendered(tmp_path, text, minor)) if line.startswith("pybind11")] == held


bounds = st.integers(min_value=7, max_value=16).map(lambda minor: f"3.{minor}")
specifiers = st.lists(st.tuples(st.sampled_from([">=", "<", "!=", "<=", ">"]), bounds), max_size=4).map(
    lambda pairs: ",".join(f"{operator}{version}" for operator, version in pairs)
)


@given(specifiers, st.sampled_from(list(VARIANTS)))
def test_requires_python_admits_what_both_admit(own: str, minor: Minor) -> None:
    variant = VARIANTS[minor]
    cut = SpecifierSet(cut_requires_python(own, *python_bounds(variant)))
    low, high = min(variant.cpython).minor, max(variant.cpython).minor
    for number in range(6, 18):
        version = f"3.{number}"
        assert cut.contains(version) == (SpecifierSet(own).contains(version) and low <= number <= high)


STABLE = PYPROJECT + 'stable-abi = "2.10"\n'


def test_what_the_stable_abis_variant_changes(tmp_path: Path) -> None:
    new = document(rendered(tmp_path, STABLE, "2.10"))
    assert new["project"]["name"] == "demo-torch-stable"
    assert new["project"]["dependencies"] == ["numpy>=1", "torch[opt-einsum]>=2.10", "torchvision"]
    assert new["project"]["requires-python"] == ">=3.10,!=3.11.0", "later minors have later CPythons"
    assert "torch==2.10.0" in new["build-system"]["requires"]


def test_the_stable_abis_variant_where_its_back_end_decides(tmp_path: Path) -> None:
    text = STABLE.replace('backend-path = ["."]', "").replace("scikit_build_core.build", "hatchling.build")
    facts = json.loads(rendered(tmp_path, text, "2.10").rendered[".torch-build-farm/variant.json"])
    assert (facts["pin"], facts["cpython"]) == (">=2.10", ["3.10", ""])
    assert cut_requires_python(">=3.8,<4", *facts["cpython"]) == ">=3.10,<4"


def test_cmake_sees_the_projects_own_name(tmp_path: Path) -> None:
    own = PYPROJECT.replace(
        "wheel.packages =", 'cmake.define = { SKBUILD_PROJECT_NAME = "x", Y = "1" }\nwheel.packages ='
    )
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "CMakeLists.txt").write_text("install(TARGETS _core DESTINATION ${SKBUILD_PROJECT_NAME})\n")
    for text, defines in (
        (PYPROJECT, {"SKBUILD_PROJECT_NAME": "Demo_Pkg"}),
        (own, {"SKBUILD_PROJECT_NAME": "x", "Y": "1"}),
    ):
        settings = document(rendered(tmp_path, text))["tool"]["scikit-build"]
        assert settings["cmake"]["define"] == defines


def test_the_toolchain_file_has_the_projects_folders_as_they_are(tmp_path: Path) -> None:
    """In a native build, too: CMake reads what it leaves out."""
    folder = '/opt/a"b$ENV{HOME}'
    (tmp_path / "source").mkdir()
    tree = rendered(tmp_path / "source", f"{PYPROJECT}prefixes = [{json.dumps(folder)}]\n")
    file = tmp_path / "toolchain.cmake"
    file.write_text(tree.rendered[TOOLCHAIN] + 'message("${CMAKE_FIND_ROOT_PATH}")\n')
    command = [str(tools.scripts() / "cmake"), "-P", str(file)]
    for sysroot in ({}, {"TORCH_BUILD_FARM_SYSROOT": "/sysroot"}):
        done = subprocess.run(command, env=sysroot, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (folder in done.stderr) == bool(sysroot)
