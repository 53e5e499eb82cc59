"""What all tests share: the farm as users call it, copies of the test projects, and which tests run.

By default pytest runs what needs neither a full torch, nor Docker, nor root: README's test command on a fresh machine.
The other tests are in groups, by marker; an option opts in to each group (GROUPS), and `--everything` to all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Markers of tests that do not run by default, and what they need. `--run-MARKER` opts in.
GROUPS = {
    "torch": "full torch wheels (20 GB)",
    "docker": "a Docker engine with the base image",
    "workflows": "CPython 3.12, npm, openssl and jq",
    "root": "root",
    "resolvers": "minutes for an older pip and for lock files",
}
_LEFT_OUT = pytest.StashKey[set[str]]()

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECTS = Path(__file__).resolve().parent / "projects"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torch-build-farm", "tests that do not run by default")
    for marker, needs in GROUPS.items():
        group.addoption(f"--run-{marker}", action="store_true", help=f"also the tests that need {needs}")
    group.addoption("--everything", action="store_true", help="all tests")
    group.addoption("--rest", action="store_true", help="all tests except those that run by default")


@pytest.hookimpl(trylast=True)  # after the hooks of the folders below, which set markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose groups are not opted in to."""
    rest = config.getoption("--rest")
    everything = rest or config.getoption("--everything")
    chosen = {marker for marker in GROUPS if everything or config.getoption(f"--run-{marker}")}
    left_out: set[str] = set()
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        groups = {marker for marker in GROUPS if item.get_closest_marker(marker)}
        if "docker" in groups:
            groups.discard("torch")  # who asks for containers asks for the torch that they test with
        left_out |= groups - chosen
        wanted = groups <= chosen and (groups or not rest)
        (selected if wanted else deselected).append(item)
    config.stash[_LEFT_OUT] = left_out
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = selected


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash.get(_LEFT_OUT, set())
    if left_out:
        needs = "; ".join(f"{GROUPS[marker]}: --run-{marker}" for marker in GROUPS if marker in left_out)
        terminalreporter.write_line(f"Not run: tests that need {needs}. All of them: pytest --everything")


def need(have: bool, reason: str) -> None:
    """Skip the test where something cannot be had; in CI (CI=true) that is a failure, so that nothing skips unseen."""
    if have:
        return
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"CI must have this: {reason}")
    pytest.skip(reason)


@dataclass
class Answer:
    """How a call of the farm ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Farm:
    """A project with a work folder of its own, and `python build_farm.py` on it."""

    project: Path
    work: Path
    env: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    engine: str = "local"  # what an answering Docker engine would otherwise be asked
    checkout: Path = CHECKOUT

    def command(self, *words: str) -> list[str]:
        name, *rest = words if words and not words[0].startswith("-") else ("run", *words)
        places = ["--project", str(self.project), "--work", str(self.work)]
        if name in ("run", "plan", "render", "build", "smoke") and "--engine" not in rest:
            places += ["--engine", self.engine]
        return [sys.executable, str(self.checkout / "build_farm.py"), name, *places, *rest]

    @property
    def environment(self) -> dict[str, str]:
        # Compiles are what many tests are about: those that are about ccache switch it on.
        return {**os.environ, "TORCH_BUILD_FARM_CCACHE": "off", **self.env}

    def __call__(self, *words: str, timeout: float = 900) -> Answer:
        done = subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.started.append(run)
        return run

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text in a file of the project; the text must be there."""
        file = self.project / path
        text = file.read_text()
        assert old in text, f"{path} has no {old!r}"
        file.write_text(text.replace(old, new))

    def log(self, job: str) -> str:
        return (self.work / "logs" / f"{job}.log").read_text()


@pytest.fixture
def make_farm(tmp_path: Path) -> Iterator[Callable[..., Farm]]:
    """A farm on a copy of a test project: `make_farm("tiny")`. What it started and a failed test left is ended."""
    made: list[Farm] = []

    def make(name: str, **env: str) -> Farm:
        project = tmp_path / name
        shutil.copytree(PROJECTS / name, project)
        made.append(Farm(project, tmp_path / "work", env))
        return made[-1]

    yield make
    for run in (run for farm in made for run in farm.started if run.poll() is None):
        run.terminate()
        run.wait(60)


@pytest.fixture
def tiny(make_farm: Callable[..., Farm]) -> Farm:
    """The smallest project."""
    return make_farm("tiny")
