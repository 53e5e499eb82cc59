"""A Python project in a folder of its source, which compiles files that lie above that folder; a source that is changed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.index import Index
from tests.project.test_tree import git
from torch_build_farm.cli import main
from torch_build_farm.wheels.wheel import read_wheel

ENGINES = ["local", pytest.param("docker", marks=pytest.mark.docker)]

SCIKIT_BUILD = {
    "pyproject.toml": '[build-system]\nrequires = ["scikit-build-core>=0.11"]\nbuild-backend = "scikit_build_core.build"\n'
    '[project]\nname = "tiny"\nversion = "1.0"\ndependencies = ["torch>=2.8"]\n',
    "CMakeLists.txt": (PROJECTS / "tiny" / "CMakeLists.txt").read_text().replace(" core.cpp", " ../../cpp/core.cpp"),
}
SETUPTOOLS = {
    "pyproject.toml": '[build-system]\nrequires = ["setuptools", "setuptools-scm>=8"]\n'
    'build-backend = "setuptools.build_meta"\n[project]\nname = "tiny"\ndynamic = ["version"]\n'
    'dependencies = ["torch>=2.8"]\n[tool.setuptools_scm]\nroot = "../.."\n',
    "setup.py": "from setuptools import Extension, setup\n"
    'setup(packages=["tiny"], ext_modules=[Extension("tiny._core", ["../../cpp/core.cpp"])])\n',
}
PLACE = "packages/ext"


def monorepo(root: Path, project: dict[str, str]) -> Path:
    core = (PROJECTS / "tiny" / "core.cpp").read_text()
    files = {f"{PLACE}/{name}": text for name, text in project.items()}
    files[f"{PLACE}/tiny/__init__.py"] = "from ._core import answer as answer\n"
    files["cpp/core.cpp"] = f'#include "core.h"\n{core}'
    files["cpp/core.h"] = "// of the monorepo\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def farm(folder: Path, source: str, engine: str) -> Farm:
    (folder / "farm").mkdir()
    text = f'[tool.torch-build-farm]\nname = "tiny"\npackages = ["tiny"]\n{source}'
    (folder / "farm" / "pyproject.toml").write_text(text)
    return Farm(folder / "farm", folder / "work", engine=engine)


def members(farm: Farm, *command: str) -> set[str]:
    answer = farm("build", "--torch", "2.9", "--json", *command)
    assert answer.code == 0, answer.err + answer.out
    (wheel,) = (farm.work / "dist").glob("*.whl")
    return set(read_wheel(wheel).members)


@pytest.mark.parametrize("engine", ENGINES)
def test_sources_above_a_cmake_project(tmp_path: Path, engine: str) -> None:
    monorepo(tmp_path / "source", SCIKIT_BUILD)
    built = farm(tmp_path, f'source = "../source"\nsubdirectory = "{PLACE}"\n', engine)
    assert {"tiny/_torch29/__init__.py"} <= members(built)
    # A header above the project is part of the source.
    assert "nothing to do" in built("build", "--torch", "2.9").out
    (tmp_path / "source/cpp/core.h").write_text("#error changed\n")
    answer = built("build", "--torch", "2.9")
    assert answer.code != 0
    assert "cpp/core.h:1:2: error: #error changed" in answer.out


@pytest.mark.parametrize("engine", ENGINES)
def test_sources_above_a_setup_py_at_a_commit(tmp_path: Path, engine: str) -> None:
    source = monorepo(tmp_path / "source", SETUPTOOLS)
    git(source, "init", "-q")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    git(source, "tag", "v4.5")
    built = farm(tmp_path, f'git = "../source"\nrevision = "v4.5"\nsubdirectory = "{PLACE}"\n', engine)
    members(built)
    (wheel,) = (built.work / "dist").glob("*.whl")
    assert read_wheel(wheel).version == "4.5"
    answer = built("verify", str(wheel))
    assert answer.code == 0, answer.err
    assert "identical" in answer.out


def test_the_project_file_of_the_project_itself(tmp_path: Path) -> None:
    """Its folder is the project's: the source lies above."""
    table = f'[tool.torch-build-farm]\nname = "tiny"\npackages = ["tiny"]\nsource = "../.."\nsubdirectory = "{PLACE}"\n'
    project = {**SCIKIT_BUILD, "pyproject.toml": SCIKIT_BUILD["pyproject.toml"] + table}
    source = monorepo(tmp_path / "source", project)
    built = Farm(source / PLACE, source / PLACE / "work")
    assert members(built)
    # The work folder, which lies in the source, is no part of it.
    assert "nothing to do" in built("build", "--torch", "2.9").out


def test_sources_above_the_project_of_an_sdist(tmp_path: Path) -> None:
    source = monorepo(tmp_path / "source", SCIKIT_BUILD)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(source, "tiny-1.0")
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    index.add("tiny-1.0.tar.gz", stream.getvalue(), "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_DEFAULT_INDEX", index.url)
        assert main.main(["init", "tiny==1.0", str(tmp_path / "farm")]) == 0
        built = Farm(tmp_path / "farm", tmp_path / "work")
        assert built("render", "--torch", "2.9").code == 0
    index.close()
    assert members(built)


def test_init_then_a_build(tmp_path: Path) -> None:
    source = monorepo(tmp_path / "source", SCIKIT_BUILD)
    assert main.main(["init", str(source)]) == 0
    assert members(Farm(source, tmp_path / "work"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("project", [SCIKIT_BUILD, SETUPTOOLS], ids=["cmake", "setuptools"])
def test_the_folder_alone_lacks_what_lies_above(tmp_path: Path, project: dict[str, str], engine: str) -> None:
    monorepo(tmp_path / "source", project)
    alone = farm(tmp_path, f'source = "../source/{PLACE}"\nversion = "1.0"\n', engine)
    answer = alone("build", "--torch", "2.9")
    assert answer.code == 14
    assert "../../cpp/core.cpp" in answer.out
    assert "subdirectory" in answer.out


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_whole_source_lacks_is_not_sought_above_it(tmp_path: Path, engine: str) -> None:
    monorepo(tmp_path / "source", SETUPTOOLS)
    (tmp_path / "source" / "cpp" / "core.cpp").unlink()
    lacking = farm(tmp_path, f'source = "../source"\nsubdirectory = "{PLACE}"\nversion = "1.0"\n', engine)
    answer = lacking("build", "--torch", "2.9")
    assert answer.code == 14
    assert "../../cpp/core.cpp" in answer.out
    assert "subdirectory" not in answer.out


PATCH = """diff --git a/cpp/core.cpp b/cpp/core.cpp
--- a/cpp/core.cpp
+++ b/cpp/core.cpp
@@ -1,4 +1,5 @@
 #include "core.h"
+#include "new.h"
 #include <Python.h>
 \n #include <cstdlib>
diff --git a/cpp/new.h b/cpp/new.h
new file mode 100644
--- /dev/null
+++ b/cpp/new.h
@@ -0,0 +1 @@
+static_assert(true, "a new header");
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_source_with_a_patch_and_another_pyproject(tmp_path: Path, engine: str) -> None:
    source = monorepo(tmp_path / "source", SCIKIT_BUILD)
    (source / PLACE / "pyproject.toml").rename(source / PLACE / "pyproject-gpu.toml")
    core = source / "cpp/core.cpp"
    lines = (
        f'source = "../source"\nsubdirectory = "{PLACE}"\npyproject = "pyproject-gpu.toml"\npatches = ["fix.diff"]\n'
    )
    built = farm(tmp_path, lines, engine)
    (built.project / "fix.diff").write_text(PATCH)
    assert members(built)
    (wheel,) = (built.work / "dist").glob("*.whl")
    assert "nothing to do" in built("build", "--torch", "2.9").out
    assert built("verify", str(wheel)).code == 0
    # Another patch is another source; the source on disk was never changed.
    (built.project / "fix.diff").write_text(PATCH.replace("static_assert(true,", "static_assert(false,"))
    answer = built("verify", str(wheel))
    assert answer.code != 0
    assert "changed: cpp/new.h" in answer.err
    answer = built("build", "--torch", "2.9")
    assert answer.code == 14
    assert "cpp/new.h:1" in answer.out
    assert "new.h" not in core.read_text()
