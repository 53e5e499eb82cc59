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

import hypothesis
import pytest

from tests.until import DEADLINE_S
from torch_build_farm.core.seals import STATE_VARIABLE

# No test fails because the machine is slow.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# Markers of tests that do not run by default, and what they need. `--run-MARKER` opts in.
GROUPS = {
    "torch": "full torch wheels (20 GB)",
    "docker": "a Docker engine with the base image",
    "workflows": "CPython 3.12, npm, openssl and jq",
    "root": "root",
    "shapes": "minutes for forty small projects to be built",
    "resolvers": "minutes for an older pip and for lock files",
    "arm64": "a system of arm64 to cross-compile for (ci/sysroot), and QEMU",
}

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECTS = CHECKOUT / "tests" / "projects"
INTEGRATION_TESTS = CHECKOUT / "tests" / "integration"
DOCKER_TESTS = INTEGRATION_TESTS / "docker"


@pytest.fixture(autouse=True, scope="session")
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The seals of tests are made with a key of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_VARIABLE, str(tmp_path_factory.mktemp("state")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("torch-build-farm", "tests that do not run by default")
    for marker, needs in GROUPS.items():
        group.addoption(f"--run-{marker}", action="store_true", help=f"also the tests that need {needs}")
    group.addoption("--everything", action="store_true", help="all tests")
    group.addoption("--rest", action="store_true", help="all tests except those that run by default")


@pytest.hookimpl(tryfirst=True)  # before -m deselects by marker, and before pytest-xdist reads its groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests whose groups are not opted in to, and keep together what shares costly fixtures."""
    rest = config.getoption("--rest")
    chosen = _chosen_groups(config)
    selected: list[pytest.Item] = []
    deselected: list[pytest.Item] = []
    for item in items:
        _mark_by_place_and_fixtures(item)
        groups = {marker for marker in GROUPS if item.get_closest_marker(marker)}
        if "docker" in groups:
            groups.discard("torch")  # who asks for containers asks for the torch that they test with
        wanted = groups <= chosen and (groups or not rest)
        (selected if wanted else deselected).append(item)
    for item in selected:
        item.add_marker(pytest.mark.xdist_group(_worker_group(item)))
    # The longest first, so that no process waits for another at the end.
    selected.sort(key=lambda item: (_worker_group(item) != "docker", INTEGRATION_TESTS not in item.path.parents))
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected


def _mark_by_place_and_fixtures(item: pytest.Item) -> None:
    if DOCKER_TESTS in item.path.parents:
        item.add_marker(pytest.mark.docker)
    if "root" in _fixtures(item):
        item.add_marker(pytest.mark.root)


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def _chosen_groups(config: pytest.Config) -> set[str]:
    """The groups that options opt in to."""
    everything = config.getoption("--rest") or config.getoption("--everything")
    return {marker for marker in GROUPS if everything or config.getoption(f"--run-{marker}")}


def _worker_group(item: pytest.Item) -> str:
    """Tests of one group run one after the other in one process: fixtures are made once a process.

    Containers wait for one Docker engine, so that two tests of them gain nothing side by side, and some of them restart
    it. Tests of other files that ask for the embedded project's run would otherwise each make that run.
    """
    if item.get_closest_marker("docker"):
        return "docker"
    if "main_run" in _fixtures(item):
        return "main_run"
    return item.path.relative_to(CHECKOUT / "tests").as_posix()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a CPU for all tests; none where files are named, since their start takes seconds."""
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return 0
    return min(len(os.sched_getaffinity(0)), 4)  # what a test builds uses all CPUs already


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    _shapes_table(terminalreporter)
    left_out = GROUPS.keys() - _chosen_groups(config)
    if left_out:
        needs = "; ".join(f"{GROUPS[marker]}: --run-{marker}" for marker in GROUPS if marker in left_out)
        terminalreporter.write_line(f"Not run: tests that need {needs}. All of them: pytest --everything")


def _shapes_table(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each shape that was built (tests/integration/test_shapes.py)."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = []
    for report in reports:
        for name, value in getattr(report, "user_properties", []):
            if name == "shape":
                rows.append((*value, report.outcome))
    if not rows:
        return
    terminalreporter.section("shapes of projects")
    for shape, about, result, outcome in sorted(rows):
        terminalreporter.write_line(f"{outcome:6}  {shape:24}  {about}\n{'':34}{result}")


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
    for run in (run for farm in made for run in farm.started):
        if run.poll() is None:
            run.terminate()
            run.wait(DEADLINE_S)
        if run.stdout:
            run.stdout.close()


@pytest.fixture
def tiny(make_farm: Callable[..., Farm]) -> Farm:
    """The smallest project."""
    return make_farm("tiny")
