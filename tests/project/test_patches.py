"""Diffs beside the project file that change the source: `patches`."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Farm
from tests.project.test_subdirectory import FARM, STATIC, farm, fetcher, rendered
from tests.project.test_tree import git
from torch_build_farm.core.errors import ConfigError, SourceError
from torch_build_farm.pipeline.rendered_tree import write
from torch_build_farm.project import tree
from torch_build_farm.project.changes import Changes
from torch_build_farm.project.fetch import Origin

CORE = "int a;\nint b;\nint c;\nint d;\n"


def source(root: Path) -> Path:
    files = {
        "pyproject.toml": STATIC,
        "core.cpp": CORE,
        "old.cpp": "int old;\n" * 5,
        "gone.cpp": "int gone;\n",
        "latin.cpp": "// caf\u00e9\nint x;\n",
        "demo/__init__.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("latin-1"))
    return root


def diff(root: Path, change: Callable[[Path], None], *options: str) -> str:
    """What `git diff` says of a change; the folder is as it was afterwards."""
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    change(root)
    git(root, "add", "-A")
    text = subprocess.run(["git", "diff", "--cached", "-M", *options], cwd=root, capture_output=True, check=True).stdout
    git(root, "reset", "-q", "--hard")
    return text.decode("latin-1")


def patched(folder: Path, root: Path, *patches: str) -> tree.Source:
    paths = []
    for number, text in enumerate(patches):
        paths.append(folder / f"{number}.diff")
        paths[-1].write_bytes(text.encode("latin-1"))
    return tree.read(Origin(root), changes=Changes(tuple(paths)))


def contents(made: tree.Source, folder: Path) -> dict[str, tuple[str, bool]]:
    """The files of the source as they are carried into a build: text, and whether it can be run."""
    project = farm(folder / "farm", "")
    write(rendered(project, made), folder / "carried", made.origin.epoch)
    files = {}
    for path in (folder / "carried").rglob("*"):
        name = path.relative_to(folder / "carried").as_posix()
        if path.is_file() and not name.startswith(".torch-build-farm"):
            files[name] = (path.read_bytes().decode("latin-1"), os.access(path, os.X_OK))
    return files


def everything(root: Path) -> None:
    (root / "core.cpp").write_text(CORE.replace("int c;", "long c;"))
    (root / "old.cpp").rename(root / "new.cpp")
    (root / "gone.cpp").unlink()
    (root / "sub").mkdir()
    (root / "sub/tool.sh").write_text("#!/bin/sh\n")
    (root / "sub/tool.sh").chmod(0o755)
    (root / "latin.cpp").write_bytes("// caf\u00e9\nint y;".encode("latin-1"))
    (root / "pyproject.toml").write_text(STATIC.replace("1.2", "1.3"))


@pytest.mark.parametrize("options", [(), ("--no-renames",), ("--no-prefix", "--src-prefix=x/", "--dst-prefix=y/")])
def test_changed_new_removed_and_renamed_files(tmp_path: Path, options: tuple[str, ...]) -> None:
    root = source(tmp_path / "source")
    made = patched(tmp_path, root, diff(root, everything, *options))
    # The metadata is read from what the diff makes of it.
    assert made.version == "1.3"
    files = contents(made, tmp_path)
    assert set(files) == {"pyproject.toml", "core.cpp", "new.cpp", "latin.cpp", "sub/tool.sh", "demo/__init__.py"}
    assert files["core.cpp"] == ("int a;\nint b;\nlong c;\nint d;\n", False)
    assert files["latin.cpp"] == ("// caf\u00e9\nint y;", False)
    assert files["sub/tool.sh"] == ("#!/bin/sh\n", True)
    assert tomllib.loads(files["pyproject.toml"][0])["project"]["version"] == "1.3"
    # The source itself is as it was.
    assert (root / "core.cpp").read_text() == CORE
    assert (root / "gone.cpp").exists()


PLAIN = """--- a/core.cpp\t2024-01-01 00:00:00
+++ b/core.cpp\t2024-01-02 00:00:00
@@ -2,3 +2,3 @@
 int b;
-int c;
+long c;
 int d;
"""


def test_one_after_the_other_and_at_another_line(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    (root / "core.cpp").write_text("// three\n// more\n// lines\n" + CORE)
    made = patched(tmp_path, root, PLAIN, PLAIN.replace("-int c;", "-long c;").replace("+long c;", "+char c;"))
    assert "char c;" in contents(made, tmp_path)["core.cpp"][0]


def test_a_diff_is_part_of_the_source(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    plain, first, second = (
        patched(tmp_path, root, *patches).digest() for patches in ((), (PLAIN,), (PLAIN.replace("+long", "+char"),))
    )
    assert len({plain, first, second}) == 3


def test_links_stay_and_large_files_are_patched(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    (root / "link").symlink_to("demo")
    (root / "large.cpp").write_text("int x;\n" * 400_000 + "int y;\n")
    (root / "data.bin").write_bytes(bytes(3_000_000))
    made = patched(
        tmp_path, root, "--- a/large.cpp\n+++ b/large.cpp\n@@ -400000,2 +400000,2 @@\n int x;\n-int y;\n+int z;\n"
    )
    by_path = {file.path: file for file in made.files}
    assert by_path["link"].link == "demo"
    assert by_path["data.bin"].content is None
    content = by_path["large.cpp"].content
    assert content is not None
    assert content.endswith(b"int x;\nint z;\n")


NEW = "--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"
LINK = "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+{target}\n\\ No newline at end of file\n"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            PLAIN.replace(" int b;", " int z;"),
            "0.diff does not apply: the source differs from what the hunk at core.cpp:2",
        ),
        (PLAIN.replace("core.cpp", "none.cpp"), "none.cpp"),
        (NEW.format(path="core.cpp"), "core.cpp: already exists"),
        (NEW.format(path="../out.txt"), "invalid path '../out.txt'"),
        (NEW.format(path="/{root}/abs.txt"), "invalid path"),
        (NEW.format(path="demo/../../out.txt"), "invalid path"),
        (NEW.format(path=".git/config"), "invalid path '.git/config'"),
        (NEW.format(path="out/x"), "beyond a symbolic link"),
        (LINK.format(target="/etc/passwd"), "leads out of the source tree"),
        (LINK.format(target="../../x") + NEW.format(path="l/x"), "symbolic link"),
        ("nothing of a diff\n", "No valid patches"),
        ("", "0.diff"),
        (PLAIN + "@@ -9,9 +9,9 @@\n cut", "0.diff"),
        ("diff --git a/x b/x\nnew file mode 100644\nGIT binary patch\nliteral 3\nKcmZQ$", "binary"),
    ],
)
def test_a_diff_that_does_not_apply_or_leads_out(tmp_path: Path, text: str, words: str) -> None:
    root = source(tmp_path / "source")
    (root / "out").symlink_to("demo")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    with pytest.raises(SourceError) as caught:
        patched(tmp_path, root, text.replace("{root}", str(tmp_path)))
    assert words in str(caught.value)
    assert "0.diff" in str(caught.value) or "leads out" in words
    after = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    assert [path for path in after if not path.endswith("0.diff")] == before


def test_a_repository_inside_the_source_gives_git_no_commands(tmp_path: Path) -> None:
    """An sdist may hold a .git with a configuration of its own."""
    root = source(tmp_path / "source")
    git(root, "init", "-q")
    ran = tmp_path / "ran"
    (root / ".git/config").write_text(
        f'[core]\nrepositoryformatversion = 0\nfsmonitor = "touch {ran}"\n[filter "x"]\nclean = "touch {ran}; cat"\n'
        f'smudge = "touch {ran}; cat"\n'
    )
    (root / ".gitattributes").write_text("* filter=x\n")
    path = tmp_path / "0.diff"
    path.write_text(PLAIN)
    made = tree.read(Origin(root, "sdist", sealed=True), changes=Changes((path,)))
    assert not ran.exists()
    assert any(file.content and b"long c" in file.content for file in made.files)


@pytest.mark.parametrize("kind", ["missing", "folder", "large", "pipe"])
def test_a_file_that_is_no_diff(tmp_path: Path, kind: str) -> None:
    root = source(tmp_path / "source")
    path = tmp_path / "fix.diff"
    if kind == "folder":
        path.mkdir()
    if kind == "large":
        path.write_bytes(bytes(20_000_000))
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(SourceError, match="patch"):
        tree.read(Origin(root), changes=Changes((path,)))


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = source(tmp_path / "source")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="needs git"):
        patched(tmp_path, root, PLAIN)


def test_the_settings_name_files_beside_the_project_file(tmp_path: Path) -> None:
    source(tmp_path / "source")
    project = farm(tmp_path / "farm", 'source = "../source"\npatches = ["patches/fix.diff"]\n')
    assert project.changes.patches == (tmp_path / "farm/patches/fix.diff",)
    assert FARM in (tmp_path / "farm/pyproject.toml").read_text()
    (tmp_path / "farm/patches").mkdir()
    (tmp_path / "farm/patches/fix.diff").write_text(PLAIN)
    assert tree.read(fetcher(tmp_path).obtain(project), changes=project.changes).digest()


# ---- another file as pyproject.toml

GPU = STATIC.replace('"demo"', '"demo-gpu"').replace("1.2", "2.0")


def test_another_file_takes_the_place_of_pyproject_toml(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    (root / "pyproject-gpu.toml").write_text(GPU)
    made = tree.read(Origin(root), changes=Changes(pyproject="pyproject-gpu.toml"))
    assert (made.metadata.name, made.version) == ("demo-gpu", "2.0")
    document = tomllib.loads(contents(made, tmp_path)["pyproject.toml"][0])
    assert document["project"]["name"] == "demo-torch29"
    assert document["project"]["version"] == "2.0"


def test_a_project_whose_only_pyproject_has_another_name(tmp_path: Path) -> None:
    """Below the top, and written by a patch."""
    root = source(tmp_path / "source/bindings").parent
    (root / "bindings/pyproject.toml").unlink()
    lines = GPU.splitlines()
    new = "".join(f"+{line}\n" for line in lines)
    path = tmp_path / "new.diff"
    path.write_text(f"--- /dev/null\n+++ b/bindings/pyproject-gpu.toml\n@@ -0,0 +1,{len(lines)} @@\n{new}")
    changes = Changes((path,), "pyproject-gpu.toml")
    made = tree.read(Origin(root, subdirectory="bindings"), changes=changes)
    assert made.version == "2.0"
    assert made.has("pyproject.toml")
    assert {file.path for file in made.files} >= {"bindings/pyproject.toml", "bindings/pyproject-gpu.toml"}


def test_a_pyproject_that_is_not_there(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    with pytest.raises(SourceError, match=r"has no pyproject-gpu.toml; did you mean 'pyproject.toml'") as caught:
        tree.read(Origin(root), changes=Changes(pyproject="pyproject-gpu.toml"))
    # The copy that the changes are made in is nobody's business.
    assert caught.value.where == str(root)


def test_a_pyproject_that_leads_out(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    (tmp_path / "other.toml").write_text(GPU)
    (root / "link.toml").symlink_to("../other.toml")
    with pytest.raises(SourceError, match="leads out"):
        tree.read(Origin(root), changes=Changes(pyproject="link.toml"))
    with pytest.raises(ConfigError, match=r"pyproject: .*leads out"):
        farm(tmp_path / "farm", 'pyproject = "../other.toml"\n')


# ---- patches of some jobs

MINOR = """source = "../source"
patches = ["all.diff"]
[[tool.torch-build-farm.overrides]]
torch = ">=2.9"
patches = ["new-torch.diff"]
"""


def rendered_by_minor(folder: Path) -> tuple[dict[str, str], str]:
    """The text of core.cpp in each minor's tree, as `render` writes it, and what it said."""
    made = Farm(folder / "farm", folder / "work")
    answer = made("render", "--torch", "2.8", "2.9")
    texts = {}
    for path in (folder / "work").glob("jobs/*/source/core.cpp"):
        texts[path.parent.parent.name.split("-")[1]] = path.read_text()
    return texts, answer.out + answer.err


def test_an_override_has_patches_of_its_own(tmp_path: Path) -> None:
    source(tmp_path / "source")
    farm(tmp_path / "farm", MINOR)
    (tmp_path / "farm/all.diff").write_text(PLAIN)
    (tmp_path / "farm/new-torch.diff").write_text(PLAIN.replace("-int c;", "-long c;").replace("+long c;", "+char c;"))
    texts, _ = rendered_by_minor(tmp_path)
    assert "long c;" in texts["torch28"]
    assert "char c;" in texts["torch29"]


def test_an_override_does_not_change_the_version(tmp_path: Path) -> None:
    root = source(tmp_path / "source")
    farm(tmp_path / "farm", MINOR)
    (tmp_path / "farm/all.diff").write_text(PLAIN)

    def bump(root: Path) -> None:
        (root / "pyproject.toml").write_text(STATIC.replace("1.2", "1.3"))

    (tmp_path / "farm/new-torch.diff").write_text(diff(root, bump))
    texts, said = rendered_by_minor(tmp_path)
    assert not texts
    assert "a patch of its own makes the source demo 1.3, and all jobs build demo 1.2" in said
