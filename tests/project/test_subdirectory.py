"""A Python project in a folder of its source: `subdirectory`."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.project.test_tree import git
from torch_build_farm.cli import main
from torch_build_farm.core.errors import ConfigError, SourceError, VersionError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.variables import PRELUDE
from torch_build_farm.pipeline.rendered_tree import Tree, render, write
from torch_build_farm.project import scaffold, tree
from torch_build_farm.project.fetch import Fetcher, Origin
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import Project, load
from torch_build_farm.project.tree import Source
from torch_build_farm.releases.sdk import fallback

PROJECT = '[build-system]\nrequires = ["{back_end}"]\nbuild-backend = "{back_end}"\n[project]\nname = "demo"\n'
STATIC = PROJECT.format(back_end="scikit_build_core.build") + 'version = "1.2"\n'
SCM = (
    PROJECT.format(back_end="setuptools.build_meta") + 'dynamic = ["version"]\n[tool.setuptools_scm]\nroot = "{root}"\n'
)
FARM = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'


def monorepo(root: Path, pyproject: str = STATIC) -> Path:
    """A tree whose project lies in bindings/torch, and its C++ above."""
    files = {
        "cpp/core.cpp": "int core();\n",
        "bindings/torch/pyproject.toml": pyproject,
        "bindings/torch/demo/__init__.py": "",
        "bindings/torch/build/left-by-a-build": "",
        "bindings/build/own": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def farm(folder: Path, lines: str) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(FARM + lines)
    return load(folder, CHECKOUT)


def fetcher(folder: Path) -> Fetcher:
    return Fetcher(folder / "sources", Runner(), lambda _: None)


def rendered(project: Project, source: Source) -> Tree:
    variant = project.variants[Minor(2, 9)]
    return render(project, source, Job("demo-torch29", source.version, variant, CPython(3, 12)))


def test_the_whole_source_is_carried_and_the_project_is_rendered_in_its_folder(tmp_path: Path) -> None:
    monorepo(tmp_path / "source")
    project = farm(tmp_path / "farm", 'source = "../source"\nsubdirectory = "./bindings/torch/"\n')
    origin = fetcher(tmp_path).obtain(project)
    new = rendered(project, tree.read(origin))
    write(new, tmp_path / "tree", origin.epoch)
    files = {
        path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*") if path.is_file()
    }
    assert {"cpp/core.cpp", "bindings/build/own", f"bindings/torch/{PRELUDE}"} <= files
    assert "bindings/torch/build/left-by-a-build" not in files
    assert not [path for path in files if path.startswith(".torch-build-farm")]
    document = tomllib.loads((tmp_path / "tree/bindings/torch/pyproject.toml").read_text())
    assert document["project"]["name"] == "demo-torch29"
    # The search for packages of the back end's, which goes by the project's name, begins in the project's folder.
    assert document["tool"]["scikit-build"]["wheel"]["packages"] == ["demo"]


def test_the_back_end_of_a_variant_lies_in_the_projects_folder(tmp_path: Path) -> None:
    """PEP 517: backend-path leads to folders within that of pyproject.toml."""
    monorepo(tmp_path / "source")
    legacy = STATIC.replace("scikit_build_core.build", "setuptools.build_meta")
    (tmp_path / "source/bindings/torch/pyproject.toml").write_text(legacy)
    (tmp_path / "source/bindings/torch/setup.py").write_text("from setuptools import setup\nsetup()\n")
    project = farm(tmp_path / "farm", 'source = "../source"\nsubdirectory = "bindings/torch"\n')
    new = rendered(project, tree.read(fetcher(tmp_path).obtain(project)))
    document = tomllib.loads(new.rendered["bindings/torch/pyproject.toml"])
    assert document["build-system"]["backend-path"] == [".torch-build-farm"]
    assert "bindings/torch/.torch-build-farm/variant_backend.py" in new.rendered


def test_a_build_script_is_looked_for_in_the_projects_folder(tmp_path: Path) -> None:
    monorepo(tmp_path / "source")
    script = "from torch.utils import cpp_extension\n"
    (tmp_path / "source/bindings/torch/setup.py").write_text(script)
    settings = farm(tmp_path / "farm", 'subdirectory = "bindings/torch"\n').settings
    assert fallback.reason_for_full_torch(settings, tmp_path / "source").startswith("setup.py uses torch.utils")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("bindings/troch", "no Python project in bindings/troch; did you mean 'bindings/torch'"),
        ("cpp", "no Python project in cpp; known: bindings/torch"),
        ("", 'subdirectory = "bindings/torch"'),
        ("link", "a link"),
    ],
)
def test_a_folder_that_holds_no_project(tmp_path: Path, value: str, words: str) -> None:
    source = monorepo(tmp_path / "source")
    (source / "link").symlink_to("bindings/torch")
    # A table of a tool's makes no project of the folder.
    (source / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    # What others wrote is no candidate.
    (source / "third_party/pybind11").mkdir(parents=True)
    (source / "third_party/pybind11/setup.py").touch()
    with pytest.raises(SourceError) as caught:
        tree.read(Origin(source, subdirectory=value))
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["../other", "/abs", "a/../../b", "a\\nb", ".."])
def test_a_folder_outside_the_source(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match="subdirectory: "):
        farm(tmp_path / "farm", f'source = "../source"\nsubdirectory = "{value}"\n')


def test_a_link_on_the_way_that_leads_out(tmp_path: Path) -> None:
    monorepo(tmp_path / "other")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/out").symlink_to("../other")
    with pytest.raises(SourceError, match="link"):
        tree.read(Origin(tmp_path / "source", subdirectory="out/bindings/torch"))


# ---- versions from git


def repository(root: Path, pyproject: str) -> Path:
    monorepo(root, pyproject)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    git(root, "tag", "v3.4")
    return root


@pytest.mark.parametrize("kind", ["path", "git"])
def test_tags_are_those_of_the_root_that_the_project_names(tmp_path: Path, kind: str) -> None:
    repository(tmp_path / "source", SCM.format(root="../.."))
    lines = 'source = "../source"\n' if kind == "path" else 'git = "../source"\nrevision = "v3.4"\n'
    project = farm(tmp_path / "farm", f'{lines}subdirectory = "bindings/torch"\n')
    source = tree.read(fetcher(tmp_path).obtain(project))
    assert (source.version, source.metadata.version_from_scm) == ("3.4", True)
    # What is kept in the store answers a second time.
    assert tree.read(fetcher(tmp_path).obtain(project)).version == "3.4"


@pytest.mark.parametrize("kind", ["path", "git"])
def test_a_root_that_is_no_repository_has_no_tags(tmp_path: Path, kind: str) -> None:
    repository(tmp_path / "source", SCM.format(root="."))
    lines = 'source = "../source"\n' if kind == "path" else 'git = "../source"\nrevision = "v3.4"\n'
    project = farm(tmp_path / "farm", f'{lines}subdirectory = "bindings/torch"\n')
    with pytest.raises(VersionError, match="git tags give no version"):
        tree.read(fetcher(tmp_path).obtain(project))


def test_two_projects_of_one_repository_are_kept_side_by_side(tmp_path: Path) -> None:
    """Each has its own question to git, so neither makes the other's source be fetched again."""
    source = monorepo(tmp_path / "source", SCM.format(root="../.."))
    (source / "second").mkdir()
    (source / "second/pyproject.toml").write_text(STATIC)
    repository(source, SCM.format(root="../.."))
    lines = 'git = "../source"\nrevision = "v3.4"\nsubdirectory = '
    messages: list[str] = []
    for _ in range(2):
        for folder in ("bindings/torch", "second"):
            project = farm(tmp_path / folder.replace("/", "-"), f'{lines}"{folder}"\n')
            Fetcher(tmp_path / "sources", Runner(), messages.append).obtain(project)
    assert len(messages) == 2


# ---- init


def written(source: Path, folder: Path) -> str:
    assert main.main(["init", str(source), str(folder)]) == 0
    return (folder / "pyproject.toml").read_text()


def test_init_finds_the_one_project_below(tmp_path: Path) -> None:
    source = monorepo(tmp_path / "source")
    (source / "cpp/kernel.cu").touch()
    text = written(source, source)
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert (settings["name"], settings["subdirectory"], settings["packages"]) == ("demo", "bindings/torch", ["demo"])
    assert f'subdirectory = "bindings/torch"  # {scaffold.MARK}' not in text
    assert "cpp/kernel.cu needs nvcc" in text
    project = load(source, CHECKOUT)
    assert tree.read(fetcher(tmp_path).obtain(project)).version == "1.2"


def test_init_proposes_one_of_several_and_marks_it(tmp_path: Path) -> None:
    source = monorepo(tmp_path / "source", STATIC + 'dependencies = ["torch"]\n')
    (source / "apps").mkdir()
    (source / "apps/setup.py").write_text("from setuptools import setup\nsetup(name='apps', version='9')\n")
    text = written(source, tmp_path / "farm")
    (line,) = [line for line in text.splitlines() if line.startswith("subdirectory = ")]
    # The one that speaks of torch.
    assert line.startswith('subdirectory = "bindings/torch"')
    assert scaffold.MARK in line
    assert "apps" in line
    assert tomllib.loads(text)["tool"]["torch-build-farm"]["source"] == "../source"


def test_init_of_an_sdist_whose_project_lies_below(tmp_path: Path) -> None:
    monorepo(tmp_path / "demo-1.2")
    subprocess.run(["tar", "czf", "demo-1.2.tar.gz", "demo-1.2"], cwd=tmp_path, check=True)
    text = written(tmp_path / "demo-1.2.tar.gz", tmp_path / "farm")
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert (settings["sdist"], settings["subdirectory"]) == ("demo==1.2", "bindings/torch")
