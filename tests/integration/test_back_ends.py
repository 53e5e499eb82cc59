"""Projects of other back ends than setuptools and scikit-build-core: each compiles and builds by its own means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.integration.test_own_project import git
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

SETTINGS = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\nimports = ["demo", "demo._core"]\n'
# What hooks and scripts call, each in the way of its back end.
COMPILE = """
import subprocess, sysconfig
def compile_into(folder):
    target = f"{folder}/_core" + sysconfig.get_config_var("EXT_SUFFIX")
    include = sysconfig.get_path("include")
    subprocess.run(["c++", "-shared", "-fPIC", f"-I{include}", "core.cpp", "-o", target], check=True)
    return target
"""
HATCH = {
    "pyproject.toml": """
[build-system]
requires = ["hatchling", "hatch-vcs"]
build-backend = "hatchling.build"
[project]
name = "demo"
dynamic = ["version"]
dependencies = ["torch>=2.8"]
[tool.hatch.version]
source = "vcs"
[tool.hatch.build.targets.wheel.hooks.custom]
""",
    "hatch_build.py": COMPILE
    + """
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data.update(pure_python=False, infer_tag=True)
        build_data["artifacts"].append("/" + compile_into("demo"))
""",
    ".gitignore": "*.so\n",
}
POETRY = {
    "pyproject.toml": """
[build-system]
requires = ["poetry-core"]
build-backend = "poetry.core.masonry.api"
[tool.poetry]
name = "demo"
version = "1.2"
description = ""
authors = ["Somebody <somebody@example.org>"]
include = [{ path = "demo/*.so", format = "wheel" }]
[tool.poetry.dependencies]
python = "^3.9"
torch = ">=2.8"
numpy = { version = "~1.26", optional = true }
[tool.poetry.extras]
arrays = ["numpy"]
[tool.poetry.build]
script = "build.py"
""",
    "build.py": COMPILE + 'compile_into("demo")\n',
}
MESON = {
    "pyproject.toml": """
[build-system]
requires = ["meson-python"]
build-backend = "mesonpy"
[project]
name = "demo"
dynamic = ["version"]
dependencies = ["torch>=2.8"]
""",
    "meson.build": """
project('demo', 'cpp', version: files('VERSION'))
python = import('python').find_installation(pure: false)
python.extension_module('_core', 'core.cpp', subdir: 'demo', install: true)
python.install_sources('demo/__init__.py', subdir: 'demo')
""",
    "VERSION": "1.2\n",
}
PDM = {
    "pyproject.toml": """
[build-system]
requires = ["pdm-backend", "setuptools"]
build-backend = "pdm.backend"
[project]
name = "demo"
dynamic = ["version"]
dependencies = ["torch>=2.8"]
[tool.pdm.version]
source = "scm"
[tool.pdm.build]
run-setuptools = true
includes = ["demo"]
""",
    "pdm_build.py": """
from setuptools import Extension
def pdm_build_update_setup_kwargs(context, setup_kwargs):
    setup_kwargs.update(ext_modules=[Extension("demo._core", ["core.cpp"])])
""",
}


# The plug-in would count commits, so the project file says the version.
PLUG_IN = {
    **POETRY,
    "pyproject.toml": POETRY["pyproject.toml"]
    .replace('requires = ["poetry-core"]', 'requires = ["poetry-core", "poetry-dynamic-versioning"]')
    .replace("poetry.core.masonry.api", "poetry_dynamic_versioning.backend")
    .replace('version = "1.2"', 'version = "0.0.0"')
    + f'[tool.poetry-dynamic-versioning]\nenable = true\n{SETTINGS}version = "1.2"\n',
}


BACK_ENDS = {"hatch": HATCH, "poetry": POETRY, "meson": MESON, "pdm": PDM, "plug-in": PLUG_IN}
IN_CONTAINERS = [pytest.param("docker", name, marks=pytest.mark.docker) for name in ("hatch", "poetry", "meson")]


@pytest.mark.parametrize(("engine", "name"), [*(("local", name) for name in BACK_ENDS), *IN_CONTAINERS])
def test_a_compiled_project(tmp_path: Path, engine: str, name: str) -> None:
    files = BACK_ENDS[name]
    project = tmp_path / "project"
    (project / "demo").mkdir(parents=True)
    (project / "demo" / "__init__.py").write_text("from ._core import answer\n")
    shutil.copy(PROJECTS / "tiny" / "core.cpp", project)
    for path, text in files.items():
        (project / path).write_text(text)
    if SETTINGS not in files["pyproject.toml"]:
        (project / "pyproject.toml").write_text(files["pyproject.toml"] + SETTINGS)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "v1.2"]):
        git(project, *words)

    answer = Farm(project, tmp_path / "work", engine=engine)("build", "--torch", "2.9", "--json")

    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    wheel = read_wheel(Path(job["wheel"]["path"]))
    assert (wheel.metadata["Name"], wheel.version) == ("demo-torch29", "1.2")
    assert [str(requirement) for requirement in wheel.requirements("torch")] == ["torch==2.9.*"]
    relocated = {Path(member).name.partition(".")[0] for member in wheel.members if "/_torch29/" in member}
    assert relocated >= {"__init__", "_core"}
