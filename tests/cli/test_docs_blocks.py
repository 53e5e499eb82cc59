"""The shell blocks of README, tutorial and how-to pages run as they are printed.

The blocks of a page run in order, in one shell, in a scratch copy of the checkout with an empty HOME. A block that needs
more than that is marked in the page, `<!-- needs: REASON -->`, with one of the reasons below and no other. The pages of an
option share one copy, as one reader has one: README's first command compiles, and the pages after it find its work.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.cli import main
from torch_build_farm.core.store import default_folder

# Blocks of these reasons run with the option of the marker: --run-torch, --run-docker.
OPTED_IN = {
    "torch": "torch",
    "compile": "torch",  # minutes of compiling
    "docker": "docker",
}
# Blocks of these reasons never run here. Their command lines are parsed all the same.
NEVER = {
    "account": "an account on a package index; how-to/publish.md rehearses the same commands on an index on loopback",
    "minutes": "more than ten minutes of compiling; tests/integration/test_third_party.py builds smaller sdists",
    "install": "a download of every dependency; the environment of the test has them, and CI installs them first",
    "index": "the index of another CUDA's torch; tests/integration/test_flavour_builds.py has one on loopback",
    "arm64": "a system of arm64 to build for, 2 GB; the tests of --run-arm64 have one",
    "release": "a torch release that is still to come",
    "root": "root, and changes to the machine; CI runs these scripts before the tests",
    "tests": "this very test run",
}
PAGES = [
    CHECKOUT / "README.md",
    *sorted((CHECKOUT / "docs" / "tutorial").glob("*.md")),
    *sorted((CHECKOUT / "docs" / "how-to").glob("*.md")),
    CHECKOUT / "docs" / "explanation" / "follow-a-pin.md",
]
_BLOCK = re.compile(
    r"(?:^<!-- needs: (?P<reason>\S+) -->\n)?^```(?P<language>sh|bash|console|shell)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A shell block of a page; `needs` is empty for one that runs by default."""

    needs: str
    text: str


def _blocks(page: Path) -> list[Block]:
    return [Block(match["reason"] or "", match["text"]) for match in _BLOCK.finditer(page.read_text("utf-8"))]


def _name(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix()


def _pages_for(marker: str) -> list[object]:
    """The pages that have blocks of this group; "" stands for the blocks that run by default."""
    reasons = {reason for reason, group in OPTED_IN.items() if group == marker} or {""}
    marks = [getattr(pytest.mark, marker)] if marker else []
    pages = [page for page in PAGES if any(block.needs in reasons for block in _blocks(page))]
    return [
        pytest.param(page, reasons | {""}, id=f"{_name(page)}{marker and '-' + marker}", marks=marks) for page in pages
    ]


def test_every_shell_block_runs_or_gives_a_known_reason() -> None:
    unknown = []
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = _blocks(page)
        unknown += [f"{_name(page)}: {block.needs}" for block in blocks if block.needs not in {"", *OPTED_IN, *NEVER}]
        # A mark that stands before no block, or a block that is indented, would be passed over in silence.
        marks = text.count("<!-- needs:")
        fences = len(re.findall(r"^\s*```(?:sh|bash|console|shell)\b", text, re.MULTILINE))
        assert (marks, fences) == (sum(bool(block.needs) for block in blocks), len(blocks)), _name(page)
    assert not unknown
    assert len(PAGES) > 12


def test_every_command_line_of_the_docs_is_one_that_the_farm_takes() -> None:
    """Of blocks that never run here too."""
    seen = 0
    for page in PAGES:
        for block in _blocks(page):
            for line in block.text.splitlines():
                match = re.search(r"(?:python build_farm\.py|torch-build-farm)((?: [^|&>#]*)?)", line)
                if match:
                    seen += 1
                    words = shlex.split(match[1])
                    name = words.pop(0) if words and words[0] in main.COMMANDS else "run"
                    main.load_command(name).parse(main.command_parser(name), words)
    assert seen > 30


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that sees the packages of the test's own: what a block installs goes there."""
    folder = tmp_path_factory.mktemp("docs") / "environment"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    site.joinpath("of-the-tests.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path) + "\n")
    return folder


@dataclass(frozen=True)
class Reader:
    """Someone who follows pages: a copy of the checkout, and environment variables with an empty HOME."""

    checkout: Path
    variables: dict[str, str]


def _new_reader(environment: Path, folder: Path) -> Reader:
    return Reader(_copy_of_the_checkout(folder), _variables(environment, folder / "home"))


@pytest.fixture(scope="module")
def reader_of_torch_pages(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Takes torch, which is gigabytes, from the store of all tests that opt in."""
    reader = _new_reader(environment, tmp_path_factory.mktemp("reader"))
    reader.variables["TORCH_BUILD_FARM_STORE"] = str(default_folder())
    return reader


def _copy_of_the_checkout(folder: Path) -> Path:
    copy = folder / "torch-build-farm"
    left_out = (".git", ".venv", ".nox", ".*_cache", "__pycache__", "site", "work", "tests", "node_modules")
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*left_out))
    return copy


def _variables(environment: Path, home: Path) -> dict[str, str]:
    """The environment variables of a newcomer: an empty HOME, and nothing of the farm's set."""
    home.mkdir()
    search = f"{environment / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "HOME": str(home), "PATH": search, "VIRTUAL_ENV": str(environment)}
    for name in ("TORCH_BUILD_FARM_STORE", "XDG_CACHE_HOME", "PYTHONPATH", "SOURCE_DATE_EPOCH"):
        variables.pop(name, None)
    return variables


@pytest.mark.parametrize(("page", "reasons"), [*_pages_for(""), *_pages_for("torch"), *_pages_for("docker")])
def test_the_blocks_of_a_page_run(
    page: Path, reasons: set[str], environment: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    reader = _new_reader(environment, tmp_path) if reasons == {""} else request.getfixturevalue("reader_of_torch_pages")
    script = "\n".join(block.text for block in _blocks(page) if block.needs in reasons)
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=reader.checkout,
        env=reader.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
