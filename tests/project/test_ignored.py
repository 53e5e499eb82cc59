"""What .gitignore names is no part of a source that somebody works in."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import Farm
from tests.project.test_tree import STATIC, git
from torch_build_farm.project import ignored, source_size, tree
from torch_build_farm.project.fetch import Origin


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"pyproject.toml": STATIC, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def paths(root: Path, *exclude: str, **origin: bool) -> set[str]:
    source = tree.read(Origin(root, **origin), tuple(exclude))  # type: ignore[arg-type]
    return {file.path for file in source.files} - {"pyproject.toml", ".gitignore"}


FILES = {
    ".gitignore": "data/\n*.log\n!keep.log\n/only-here\n",
    "data/big.bin": "x",
    "a.cpp": "",
    "a.log": "",
    "keep.log": "",
    "only-here": "",
    "sub/only-here": "",
    "sub/.gitignore": "!*.log\ntemporary\n",
    "sub/b.log": "",
    "sub/temporary/x": "",
    "sub/deep/temporary": "",
}
LEFT = {"a.cpp", "keep.log", "sub/only-here", "sub/.gitignore", "sub/b.log"}


@pytest.mark.parametrize("repository", [False, True])
def test_nested_ones_and_negation(tmp_path: Path, repository: bool) -> None:
    root = project(tmp_path, FILES)
    if repository:
        git(root, "init", "-q")
    assert paths(root) == LEFT


def test_what_git_knows_is_part_of_the_source(tmp_path: Path) -> None:
    root = project(tmp_path, FILES)
    git(root, "init", "-q")
    (root / "data/kept.bin").touch()
    git(root, "add", "-f", "data/kept.bin", "a.log")
    assert paths(root) == LEFT | {"data/kept.bin", "a.log"}


def test_a_pattern_of_exclude_includes_it_again(tmp_path: Path) -> None:
    """Ignored files may be needed: generated sources, for example."""
    root = project(tmp_path, FILES)
    assert paths(root, "!/data/", "!a.log") == LEFT | {"data/big.bin", "a.log"}
    git(root, "init", "-q")
    assert paths(root, "!/data/", "!a.log") == LEFT | {"data/big.bin", "a.log"}


def test_complete_sources_are_not_filtered(tmp_path: Path) -> None:
    """An sdist holds what its authors put into it, and a commit what they committed."""
    root = project(tmp_path, FILES)
    everything = set(FILES) - {".gitignore"}
    assert paths(root, sealed=True) == everything
    source = tree.read(Origin(root, "git https://example.org/x@" + "0" * 40))
    assert {file.path for file in source.files} - {"pyproject.toml", ".gitignore"} == everything


def test_a_repository_above_the_source(tmp_path: Path) -> None:
    root = project(tmp_path / "packages/ext", {"a.cpp": "", "a.log": "", "out/x": ""})
    (tmp_path / ".gitignore").write_text("*.log\n/packages/ext/out/\n")
    git(tmp_path, "init", "-q")
    assert paths(root) == {"a.cpp"}


def test_a_source_that_is_ignored_as_a_whole(tmp_path: Path) -> None:
    root = project(tmp_path / "checkouts/ext", {"a.cpp": "", "a.log": "", ".gitignore": "*.log\n"})
    (tmp_path / ".gitignore").write_text("/checkouts/\n")
    git(tmp_path, "init", "-q")
    assert paths(root) == {"a.cpp"}


def test_submodules_have_their_own(tmp_path: Path) -> None:
    other = project(tmp_path / "other", {".gitignore": "*.log\n", "b.cpp": ""})
    git(other, "init", "-q")
    git(other, "add", "-A")
    git(other, "commit", "-qm", "one")
    root = project(tmp_path / "root", {".gitignore": "*.tmp\n", "a.log": ""})
    git(root, "init", "-q")
    git(root, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "lib")
    (root / "lib/a.log").touch()
    (root / "lib/c.cpp").touch()
    assert paths(root) == {"a.log", ".gitmodules", "lib/.git", "lib/b.cpp", "lib/c.cpp", "lib/pyproject.toml", "lib/.gitignore"} - {"lib/.git"}  # fmt: skip


def test_without_git_the_files_themselves_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path / "root", FILES)
    git(root, "init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert paths(root) == LEFT


def test_a_gitignore_that_nobody_writes(tmp_path: Path) -> None:
    root = project(tmp_path, {"a.cpp": "", "sub/b.cpp": ""})
    (root / ".gitignore").write_bytes(
        b"\xff\xfe\0\n" + b"[" * 1000 + b"\n" + b"*" * 200 + b"x\n!\n\\\n" + b"*a" * 20 + b"b\n" + b"**/" * 30 + b"x\n"
    )
    (root / ("a" * 200)).touch()
    deep = root.joinpath(*"a" * 60)
    deep.mkdir(parents=True)
    (deep / "y").touch()
    (root / "sub/.gitignore").symlink_to("/etc/passwd")
    (root / "link").mkdir()
    (root / "link/.gitignore").mkdir()
    assert {"a.cpp", "a" * 200} <= paths(root, "sub/.gitignore")


def test_ignored_data_is_not_read(tmp_path: Path) -> None:
    """Neither hashed nor entered: what cannot be read is no matter."""
    root = project(tmp_path, {".gitignore": "data/\n", "a.cpp": "", "data/deep/x": ""})
    (root / "data/loop").symlink_to("/")
    (root / "data/deep/out").symlink_to("/etc/passwd")
    assert paths(root) == {"a.cpp"}


NAMES = st.sampled_from(["a", "b", "c.x", "d.y"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PARTS = st.sampled_from(["a", "b", "*", "*.x", "c.x", "?", "**", "[ab]", "d.*"])
PATTERNS = st.tuples(
    st.sampled_from(["", "!"]), st.sampled_from(["", "/"]), st.lists(PARTS, min_size=1, max_size=3), st.sampled_from(["", "/"])
).map(lambda part: part[0] + part[1] + "/".join(part[2]) + part[3])  # fmt: skip
IGNORES = st.dictionaries(st.sampled_from(["", "a/", "a/b/"]), st.lists(PATTERNS, max_size=4), max_size=3)


@given(st.sets(PATHS, min_size=1, max_size=12), IGNORES)
@example({"a/a"}, {"": ["a", "*", "!a"]})
@example({"a/b/c", "b/a"}, {"": ["*/", "!a/"], "b": ["!a"]})
@example({"a/a", "a/b/c"}, {"": ["a/**/"]})
@example({"b/a", "b/c"}, {"": ["a"], "b": ["!b", "c"]})
@settings(max_examples=60)
def test_as_git_itself(files: set[str], ignores: dict[str, list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in sorted(files):
            path = root / name
            if any(parent.is_file() for parent in path.parents) or path.is_dir():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        for place, lines in ignores.items():
            if (root / place).is_dir():
                (root / place / ".gitignore").write_text("\n".join(lines) + "\n")
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        listed = subprocess.run(
            ["git", "-c", "core.excludesFile=/dev/null", "ls-files", "--others", "--exclude-standard", "-z"],
            cwd=root, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        expected = set(listed.split("\0")[:-1])
        for predicate in (ignored.by_git(root), ignored.by_files(root)):
            assert predicate is not None
            left = set()
            for here, names, found in os.walk(root):
                relative = Path(here).relative_to(root)
                names[:] = [name for name in names if name != ".git" and not predicate(f"{relative / name}/")]
                left |= {str(relative / name) for name in found if not predicate(str(relative / name))}
            assert left == expected


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def test_large_folders_are_named(tmp_path: Path) -> None:
    root = project(tmp_path, {"src/a.cpp": "", "assets/readme": ""})
    assert source_size.notice(tree.read(Origin(root))) == ""
    sparse(root / "assets/big/data.bin", 300_000_000)
    sparse(root / "models/one/a.bin", 50_000_000)
    sparse(root / "models/two/b.bin", 50_000_000)
    text = source_size.notice(tree.read(Origin(root)))
    assert "the source has 400.0 MB" in text
    assert "assets/big has 300.0 MB, models has 100.0 MB;" in text
    assert "src" not in text
    (root / ".gitignore").write_text("/assets/big/\n")
    assert source_size.notice(tree.read(Origin(root))) == ""


def test_plan_names_large_folders(tiny: Farm) -> None:
    sparse(tiny.project / "data/x.bin", 300_000_000)
    answer = tiny("plan", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    assert "data has 300.0 MB; what no build needs belongs into .gitignore" in answer.err
    (tiny.project / ".gitignore").write_text("data/\n")
    assert "MB" not in tiny("plan", "--torch", "2.9", "--json").err
