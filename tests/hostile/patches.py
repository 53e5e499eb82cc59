"""Patches that lead out of the source, that git cannot read, or that would make of a small file a large one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.hostile.damage import damage
from torch_build_farm.project import tree
from torch_build_farm.project.changes import Changes
from torch_build_farm.project.fetch import Origin

_PYPROJECT = '[project]\nname = "demo"\nversion = "1.0"\n'
_CORE = "int a;\nint b;\nint c;\nint d;\n"
_CHANGE = "--- a/{path}\n+++ b/{path}\n@@ -1,4 +1,4 @@\n int a;\n-int b;\n+long b;\n int c;\n int d;\n"
_NEW = "diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+{text}\n"
_RENAME = "diff --git a/core.cpp b/{path}\nsimilarity index 100%\nrename from core.cpp\nrename to {path}\n"
_PATHS = ["core.cpp", "pyproject.toml", "../out", "/tmp/out", ".git/config", ".git/hooks/x", "sub/../../out", "link/x",
          "a/" * 300 + "x", "x" * 300, "folder", "folder/x", "\x1b[2J", '"\\303\\244"', "sub/.GIT/config", "core.cpp/x"]  # fmt: skip


def examples(seed: int) -> bytes:
    """The bytes of a patch."""
    chance = random.Random(seed)
    parts = []
    for _ in range(chance.randint(1, 4)):
        path = chance.choice(_PATHS)
        target = chance.choice(("/etc/passwd", "../..", "folder", "link", "x" * 5000))
        mode = chance.choice(("100644", "100755", "120000", "160000", "040000", "777777"))
        template = chance.choice((_CHANGE, _NEW, _RENAME))
        parts.append(template.format(path=path, mode=mode, text=target))
    text = "".join(parts).encode()
    if chance.random() < 0.1:
        text += b"@@ -1 +1," + b"9" * chance.choice((9, 30, 5000)) + b" @@\n" + b"+x\n" * chance.choice((1, 50_000))
    return damage(text, chance) if chance.random() < 0.5 else text


def check(data: bytes, folder: Path) -> None:
    root = folder / "tree"
    (root / "folder").mkdir(parents=True)
    (root / "pyproject.toml").write_text(_PYPROJECT)
    (root / "core.cpp").write_text(_CORE)
    (root / "link").symlink_to("folder")
    patch = folder / "fix.diff"
    patch.write_bytes(data)
    try:
        changed = tree.read(Origin(root), changes=Changes((patch,)))
    finally:
        # The source itself is never changed.
        assert (root / "core.cpp").read_text() == _CORE
        assert sorted(path.name for path in root.iterdir()) == ["core.cpp", "folder", "link", "pyproject.toml"]
    assert not any(".git" in file.path.lower().split("/") for file in changed.files)
