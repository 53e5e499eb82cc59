"""The end of a run says how to install what was built: its lines work as they are printed, with pip and uv."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import family
from tests.conftest import Farm
from tests.index import Index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """An index whose torch is a stand-in of a few bytes."""
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    for release in ("2.8.0", "2.9.1"):
        index.add_wheel(family.torch(tmp_path / "made", release))
    return index


def environment(folder: Path) -> Path:
    """A fresh environment with the test's CPython; returns its bin folder."""
    subprocess.run(["uv", "venv", "-q", "--seed", "--python", sys.executable, str(folder)], check=True)
    return folder / "bin"


def printed_lines(out: str) -> list[str]:
    """The commands that the end of a run prints, without their comments."""
    block = out.partition("install it with\n")[2].splitlines()
    return [line.partition("  #")[0].strip() for line in block if line.startswith("  ")]


def test_the_lines_of_a_run_install_what_was_built(tiny: Farm, index: Index, tmp_path: Path) -> None:
    built = tiny("build", "--torch", "2.8", "2.9")
    assert built.code == 0, built.err
    assert built.out.startswith(f"tiny 1.0, from {tiny.project}\n")
    meta, *installs = printed_lines(built.out)
    assert [line.split()[:2] for line in installs] == [
        ["pip", "install"], ["uv", "pip"], ["pip", "install"], ["pip", "install"],
    ]  # fmt: skip
    assert installs[2].endswith(" tiny-torch28==1.0")
    assert installs[3].endswith(" tiny-torch29==1.0")

    # As a user's shell runs them: the farm by its script's path, everything else as it stands.
    script = tiny.command("meta")[:2]
    assert meta.startswith("build_farm.py meta --offline")
    subprocess.run([*script, *shlex.split(meta)[1:]], env=tiny.environment, check=True, capture_output=True)
    indexes = {
        "PIP_INDEX_URL": index.url,
        "UV_DEFAULT_INDEX": index.url,
        "PIP_CONFIG_FILE": "/dev/null",
        "UV_NO_CONFIG": "1",
    }
    for number, line in enumerate(installs):
        bin_folder = environment(tmp_path / f"env{number}")
        variables = {**tiny.environment, **indexes, "VIRTUAL_ENV": str(bin_folder.parent), "PIP_FIND_LINKS": ""}
        variables["PATH"] = f"{bin_folder}:{variables['PATH']}"
        subprocess.run(shlex.split(line), env=variables, check=True, capture_output=True)
        code = "import tiny._core, torch; print(tiny._core.answer(), torch.__version__)"
        done = subprocess.run([str(bin_folder / "python"), "-c", code], capture_output=True, text=True, check=False)
        expected = "2.8.0" if "torch28" in line else "2.9.1"
        assert re.fullmatch(rf"42 {expected}\S*\n", done.stdout), (line, done.stderr)


def test_a_failed_run_says_nothing_of_installing(tiny: Farm) -> None:
    tiny.edit("core.cpp", "#include <Python.h>", "#error no")
    built = tiny("build", "--torch", "2.8")
    assert built.code != 0
    assert "install it with" not in built.out


def test_a_place_of_its_own_is_part_of_the_command(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm("tiny")
    built = farm("build", "--torch", "2.8")
    meta = printed_lines(built.out)[0]
    assert meta == f"build_farm.py meta --offline --project {farm.project} --work {farm.work}"
