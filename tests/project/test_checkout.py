"""A checkout that is not complete: submodules that are empty, files that only point at Git LFS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Farm
from tests.project.test_ignored import project
from tests.project.test_tree import git
from torch_build_farm.project import checkout, tree
from torch_build_farm.project.fetch import Origin

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
MODULES = """[submodule "core"]
\tpath = third_party/core
\turl = https://example.org/core
[submodule "with blanks"]
  path = "third_party/with blanks"
\turl = ../other
[submodule "docs"]
\tpath = docs/theme
\turl = https://example.org/theme
"""


def notes(root: Path, *exclude: str, **origin: bool | str) -> str:
    return "\n".join(checkout.notes(tree.read(Origin(root, **origin), exclude), exclude))  # type: ignore[arg-type]


def test_empty_submodules_are_named(tmp_path: Path) -> None:
    root = project(tmp_path, {".gitmodules": MODULES, "third_party/core/a.h": ""})
    (root / "docs/theme").mkdir(parents=True)
    said = notes(root)
    assert "submodules are empty: docs/theme, third_party/with blanks;" in said
    assert "`git submodule update --init --recursive`" in said
    assert "third_party/core" not in said
    # What is no part of the source is not missed.
    assert notes(root, "/docs/", "/third_party/with blanks/") == ""
    assert notes(root, sealed=True) == ""


def test_submodules_of_submodules_and_of_the_repository_above(tmp_path: Path) -> None:
    root = project(tmp_path / "packages/ext", {"lib/.gitmodules": '[submodule "x"]\n\tpath = deep/x\n', "lib/a.h": ""})
    (tmp_path / ".gitmodules").write_text(
        '[submodule "a"]\npath=packages/ext/lib\n[submodule "b"]\npath = packages/ext/empty\n[submodule "c"]\npath = other\n'
    )
    git(tmp_path, "init", "-q")
    assert "empty: empty, lib/deep/x;" in notes(root)


def test_a_gitmodules_that_nobody_writes(tmp_path: Path) -> None:
    text = "path = x\n[submodule\npath = ../../etc\npath = /etc\n\tpath = \x1b[2J\npath =\n" + "path = a/\n" * 10
    root = project(tmp_path, {".gitmodules": text, "a/b": ""})
    said = notes(root)
    assert "etc" not in said
    assert "\x1b" not in said
    (root / ".gitmodules").unlink()
    (root / ".gitmodules").symlink_to("/etc/passwd")
    assert notes(root, ".gitmodules") == ""


@pytest.mark.parametrize("place", ["", "sub/"])
def test_pointers_of_lfs_are_named(tmp_path: Path, place: str) -> None:
    attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    files = {f"{place}.gitattributes": attributes, f"{place}a.bin": POINTER, f"{place}b.bin": "data"}
    said = notes(project(tmp_path, files))
    assert f"point at Git LFS: {place}a.bin" in said
    assert "b.bin" not in said
    assert "`git lfs pull`" in said


def test_without_lfs_no_file_is_looked_at(tmp_path: Path) -> None:
    assert notes(project(tmp_path, {"a.bin": POINTER, ".gitattributes": "*.cpp text\n"})) == ""


def test_plan_says_it(tiny: Farm) -> None:
    (tiny.project / ".gitmodules").write_text(
        '[submodule "x"]\n\tpath = third_party/x\n\turl = https://example.org/x\n'
    )
    answer = tiny("plan", "--torch", "2.9")
    assert answer.code == 0
    assert "third_party/x" in answer.out + answer.err
    assert "git submodule update --init --recursive" in answer.out + answer.err


def test_libraries_that_are_no_part_of_the_source_are_named(tmp_path: Path) -> None:
    """git knows them, or an sdist brings them; what a build in place leaves is not missed."""
    names = ["demo/lib/libvendor.so", "demo/lib/libvendor.so.1", "demo/_core.cpython-311-x86_64-linux-gnu.so",
             "demo/_other.abi3.so", "ignored/libown.so", "demo/data[1].so"]  # fmt: skip
    root = project(tmp_path, {**dict.fromkeys(names, ""), ".gitignore": "/ignored/\n"})
    said = notes(root)
    assert "no part of the source: demo/data[1].so, demo/lib/libvendor.so; " in said
    assert r'exclude = ["!/demo/data\\[1\\].so"]' in said
    assert "no part of the source: demo/lib/libvendor.so; " in notes(root, r"!/demo/data\[1\].so")
    assert notes(root, "/demo/data*", "!/demo/lib/*.so") == ""
    assert notes(root, sealed=True) == ""
    assert "libvendor" in notes(root, identity="sdist demo==1")
