"""A wheel has the members that a plain build in the checkout gives it: git, which is not there, names data to setuptools."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.integration.test_own_project import git
from torch_build_farm.core import tools

pytestmark = pytest.mark.torch

SETUPTOOLS = """
[build-system]
requires = ["setuptools>=77", "setuptools-scm>=8"]
build-backend = "setuptools.build_meta"
[project]
name = "demo"
dynamic = ["version"]
dependencies = ["torch>=2.8"]
[tool.setuptools_scm]
root = "{root}"
[tool.setuptools.packages.find]
where = ["src"]
"""
EXTENSION = '[tool.setuptools]\next-modules = [{ name = "demo._core", sources = ["core.cpp"] }]\n'
SETUP = """
from setuptools import Extension, setup
setup(ext_modules=[Extension("demo._core", ["core.cpp"])])
"""
HATCH = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "demo"
version = "1.2"
dependencies = ["torch>=2.8"]
[tool.hatch.build.targets.wheel.hooks.custom]
"""
HATCH_HOOK = """
import subprocess, sysconfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        target = "src/demo/_core" + sysconfig.get_config_var("EXT_SUFFIX")
        include = sysconfig.get_path("include")
        subprocess.run(["c++", "-shared", "-fPIC", f"-I{include}", "core.cpp", "-o", target], check=True)
        build_data.update(pure_python=False, infer_tag=True, artifacts=["/src/demo/*.so"])
"""
DATA = ["table.txt", "a b.txt", "[x]#.bin", "wildcard*?", "private.txt", "left_out.txt", "deep/er/x.json", "hidden/x"]
SETTINGS = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\nimports = ["demo", "demo._core"]\n'


def checkout(top: Path, folder: str, files: dict[str, str]) -> Path:
    """A repository whose project lies in `folder`, with data that git knows and data that it does not."""
    project = top / folder
    for name in DATA:
        path = project / "src" / "demo" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (project / "src" / "demo" / "__init__.py").write_text("from ._core import answer as answer\n")
    shutil.copy(PROJECTS / "tiny" / "core.cpp", project)
    for name, text in files.items():
        (project / name).write_text(text)
    (project / "MANIFEST.in").write_text("exclude src/demo/data/left_out.txt\n")
    (top / ".gitignore").write_text("*.log\n*.so\n")
    (top / ".gitattributes").write_text("private.txt export-ignore\nhidden export-ignore\n")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "v1.2"]):
        git(top, *words)
    (project / "src" / "demo" / "data" / "ignored.log").touch()
    (project / "src" / "demo" / "data" / "untracked.txt").touch()
    return project


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        # auditwheel, which containers run in the build, has entries for folders too.
        return {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}


def plain_build(project: Path, out: Path) -> set[str]:
    subprocess.run([tools.uv(), "build", "-q", "--wheel", "--out-dir", out, project], check=True)
    (wheel,) = out.glob("*.whl")
    return members(wheel)


def farm_build(folder: Path, settings: str, work: Path, engine: str = "local") -> set[str]:
    folder.mkdir(exist_ok=True)
    with (folder / "pyproject.toml").open("a") as stream:
        stream.write(SETTINGS + settings)
    farm = Farm(folder, work, engine=engine)
    answer = farm("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err + answer.out
    (wheel,) = work.glob("jobs/*/raw/*.whl")
    return members(wheel)


@pytest.mark.parametrize("kind", ["path", "git", pytest.param("docker", marks=pytest.mark.docker)])
@pytest.mark.parametrize(
    ("files", "folder"),
    [
        ({"pyproject.toml": SETUPTOOLS.format(root=".") + EXTENSION}, "."),
        ({"pyproject.toml": SETUPTOOLS.format(root="../.."), "setup.py": SETUP}, "a/b"),
        ({"pyproject.toml": HATCH, "hatch_build.py": HATCH_HOOK}, "."),
        ({"pyproject.toml": HATCH, "hatch_build.py": HATCH_HOOK}, "a/b"),
    ],
    ids=["setuptools", "setup.py", "hatch", "hatch-below"],
)
def test_members(tmp_path: Path, files: dict[str, str], folder: str, kind: str) -> None:
    project = checkout(tmp_path / "top", folder, files)
    wanted = plain_build(project, tmp_path / "plain")
    shutil.rmtree(project / "build", ignore_errors=True)
    if kind != "git":
        settings = f'source = "{project}"\n'
    else:
        # git has neither of the two that the checkout has besides.
        wanted -= {"demo/data/untracked.txt"}
        settings = f'git = "{tmp_path / "top"}"\nrevision = "v1.2"\nsubdirectory = "{folder}"\n'
        settings = settings if folder != "." else settings.replace('subdirectory = "."\n', "")
    engine = "docker" if kind == "docker" else "local"
    built = farm_build(tmp_path / "project", settings, tmp_path / "work", engine)
    # The container has its own CPython and compilers: a module's file may be called otherwise.
    assert {_of_any_cpython(name) for name in built} == {_of_any_cpython(name) for name in wanted}


def _of_any_cpython(name: str) -> str:
    return re.sub(r"\.cpython-\d+-x86_64-linux-gnu\.so$", ".so", name)


def test_members_of_an_sdist(tmp_path: Path) -> None:
    """It brings the list of its files, in a folder of its own name, which the variant's is not."""
    project = checkout(tmp_path / "top", ".", {"pyproject.toml": SETUPTOOLS.format(root=".") + EXTENSION})
    subprocess.run([tools.uv(), "build", "-q", "--sdist", "--out-dir", tmp_path / "sdist", project], check=True)
    (archive,) = (tmp_path / "sdist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wanted = plain_build(unpacked, tmp_path / "plain")
    shutil.rmtree(unpacked / "build", ignore_errors=True)
    assert {"demo/data/table.txt", "demo/data/deep/er/x.json"} <= wanted
    assert farm_build(tmp_path / "project", f'source = "{unpacked}"\n', tmp_path / "work") == wanted
