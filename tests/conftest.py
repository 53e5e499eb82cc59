"""What all tests share: the farm as users call it, copies of the test projects, and skips that CI does not allow."""

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

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECTS = Path(__file__).resolve().parent / "projects"


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
