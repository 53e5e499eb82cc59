"""Source trees of the size that is read, each of which takes a reader minutes that looks at a part of it repeatedly."""

from __future__ import annotations

from pathlib import Path

from tests.hostile import sources
from torch_build_farm.core.errors import FarmError

_SETUP = "setup(name='demo', version='1', packages=['demo'])\n"
_MESON = (
    '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n[project]\nname = "demo"\nversion = "1"\n'
)


def _nested(start: str, innermost: str, end: str = "") -> str:
    """Blocks of Python as deep within one another as its parser admits, with many statements in the innermost."""
    depths = range(90)
    opened = [" " * depth + start for depth in depths]
    closed = [" " * depth + end for depth in reversed(depths)] if end else []
    return "\n".join([*opened, " " * len(depths) + innermost + "; x" * 5_000, *closed])


TREES = (
    {"setup.py": f"# -march=native\n{_SETUP}# getenv('" + "NATIVE" * 20_000},
    {"setup.py": f"cmake = 1\n{_SETUP}", "CMakeLists.txt": "-march=native option(" + "NATIVE" * 40_000},
    {"setup.py": _SETUP + "if x: f()\n" + "elif x: f()\n" * 2_000},
    {"setup.py": _SETUP + _nested("try:", "import numpy", "finally: x")},
    {"setup.py": _SETUP + _nested("def f():", "x")},
    {"pyproject.toml": _MESON, "meson.build": "project('demo', 'c')\n" + "\\'" * 60_000},
    {
        "setup.py": _SETUP + "\n".join(f"a{number}.get_lib_dir" for number in range(7_000)),
        "PKG-INFO": "Metadata-Version: 2.1\nName: demo\nVersion: 1\n"
        + "".join(f"Requires-Dist: b{number}\n" for number in range(12_000)),
    },
)


def examples(seed: int) -> dict[str, bytes]:
    """The files of a source tree by their names."""
    return {name: text.encode() for name, text in TREES[seed % len(TREES)].items()}


def check(data: dict[str, bytes], folder: Path) -> None:
    try:
        sources.check(data, folder)
    except FarmError as error:
        raise AssertionError("a tree that is refused is not read") from error
