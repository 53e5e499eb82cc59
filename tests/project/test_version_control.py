"""What version control would say to a back end, as files of a tree that has no repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.test_tree import git, read, tree
from torch_build_farm.core.git import exported, tracked
from torch_build_farm.project import tree as source
from torch_build_farm.project.fetch import Origin

PROJECT = '[project]\nname = "demo"\nversion = "1.2"\n[build-system]\nrequires = ["setuptools", "{}"]\n'
FINDER = PROJECT.format("Setuptools_SCM[toml]>=8")


def commit(root: Path) -> None:
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"]):
        git(root, *words)


def includes(root: Path, folder: str = "") -> list[str]:
    manifest = source.read(Origin(root, subdirectory=folder)).substitutes.get("MANIFEST.in", "")
    return [line.removeprefix("include ") for line in manifest.splitlines() if line.startswith("include ")]


def test_what_git_knows_is_in_the_manifest_before_the_projects_own_lines(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=FINDER, demo__data_dot_txt="", demo__no_dot_txt="", MANIFEST_dot_in="prune x\n")
    (tmp_path / "demo" / "a b#[*].txt").touch()
    (tmp_path / ".gitattributes").write_text("no.txt export-ignore\n")
    commit(tmp_path)
    (tmp_path / "demo" / "untracked.txt").touch()
    manifest = read(tmp_path).substitutes["MANIFEST.in"]
    assert manifest.splitlines()[1:] == [
        "include .gitattributes",
        "include MANIFEST.in",
        "include demo/a?b?[[][*]].txt",
        "include demo/data.txt",
        "include pyproject.toml",
        "prune x",
    ]


@pytest.mark.parametrize("where", ["setup.py", "setup.cfg"])
def test_a_file_finder_that_setup_requires(tmp_path: Path, where: str) -> None:
    tree(tmp_path, setup_dot_py="", demo__data_dot_txt="")
    text = 'from setuptools import setup\nsetup(name="demo", version="1", setup_requires="setuptools_scm")\n'
    if where == "setup.cfg":
        text = "[metadata]\nname = demo\nversion = 1\n[options]\nsetup_requires =\n  setuptools-git\n"
    (tmp_path / where).write_text(text)
    commit(tmp_path)
    assert "demo/data.txt" in includes(tmp_path)


def test_without_a_file_finder_setuptools_asks_nobody(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=PROJECT.format("setuptools-git-versioning"), demo__data_dot_txt="")
    commit(tmp_path)
    assert read(tmp_path).substitutes == {}


def test_another_back_end_reads_no_manifest(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=FINDER + 'build-backend = "scikit_build_core.build"\n', demo__data_dot_txt="")
    commit(tmp_path)
    assert read(tmp_path).substitutes == {}


def test_a_project_below_the_repository(tmp_path: Path) -> None:
    tree(tmp_path, a__b__pyproject_dot_toml=FINDER, a__b__data_dot_txt="", a__beside_dot_txt="")
    commit(tmp_path)
    expected = ["data.txt", "pyproject.toml"]
    assert includes(tmp_path / "a" / "b") == includes(tmp_path, "a/b") == expected


def test_what_is_excluded_is_not_named(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=FINDER, large__data_dot_txt="")
    commit(tmp_path)
    assert "large" not in read(tmp_path, ("/large/",)).substitutes["MANIFEST.in"]


def test_an_sdist_has_its_own_list(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=FINDER, src__demo__data_dot_txt="", src__demo__other_dot_txt="")
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.2\n")
    (tmp_path / "src" / "demo.egg-info").mkdir()
    (tmp_path / "src" / "demo.egg-info" / "SOURCES.txt").write_text("src/demo/data.txt\ngone.txt\n../outside\n")
    assert includes(tmp_path) == ["src/demo/data.txt"]


def test_submodules_and_folders_that_an_archive_leaves_out(tmp_path: Path) -> None:
    tree(tmp_path / "other", a_dot_txt="", b_dot_txt="")
    (tmp_path / "other" / ".gitattributes").write_text("b.txt export-ignore\n")
    commit(tmp_path / "other")
    top = tree(tmp_path / "top", kept_dot_txt="", tests__a__x_dot_txt="")
    (top / ".gitattributes").write_text("/tests export-ignore\n")
    git(tmp_path, "init", "-q", "top")
    git(top, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "other"), "vendored")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "one")
    names = {".gitattributes", ".gitmodules", "kept.txt", "vendored/.gitattributes", "vendored/a.txt"}
    assert set(tracked(top)) == names
    (top / ".git").rename(tmp_path / "away")
    (top / "vendored" / ".git").unlink()
    assert set(exported(top)) == names


def test_a_tree_without_a_repository(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=FINDER)
    assert tracked(tmp_path) == ()
    assert read(tmp_path).substitutes == {}


HATCH = '[project]\nname = "demo"\nversion = "1"\n[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'


def test_hatchling_finds_no_gitignore_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*\n")
    top = tree(tmp_path / "top", a__b__pyproject_dot_toml=HATCH)
    assert read(top / "a" / "b").substitutes == {".gitignore": ""}
    commit(top)
    assert read(top / "a" / "b").substitutes == {".gitignore": ""}
    (top / ".gitignore").write_text("*.log\n")
    assert read(top / "a" / "b").substitutes == {".gitignore": "*.log\n"}
    assert source.read(Origin(top, subdirectory="a/b")).substitutes == {}  # it comes with the tree
    (top / "a" / "b" / ".gitignore").write_text("")
    assert read(top / "a" / "b").substitutes == {}
