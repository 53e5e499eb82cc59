"""What users of the embedded project get, with the real torch, from an index that has its variants for 2.8 and 2.9."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.index import Index
from tests.integration.conftest import Built, Environment

pytestmark = pytest.mark.torch

NAME = "pymomentum-gpu"
SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"
SMOKE = CHECKOUT / "examples" / "pymomentum" / "smoke.py"


@pytest.fixture(scope="module")
def index(main_run: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The farm's names alone: uv asks it first, and for what it lacks (torch) the real one."""
    work = tmp_path_factory.mktemp("users") / "work"
    work.mkdir()
    shutil.copytree(main_run.farm.work / "dist", work / "dist")
    answer = Farm(CHECKOUT, work)("meta", "--offline", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["variants"] == {"2.8": "0.1.115.post0", "2.9": "0.1.115.post0"}
    assert "| 2.9 | pymomentum-gpu-torch29 | 0.1.115.post0 | " in (work / "COMPATIBILITY.md").read_text()
    (work / "index").mkdir()
    made = Index(work / "index")
    for wheel in (work / "dist").glob("*.whl"):
        made.add_wheel(wheel)
    yield made
    made.close()


class User(Environment):
    def __init__(self, home: Path, index: Index) -> None:
        super().__init__(home)
        self.index = index

    def install(self, *wanted: str) -> subprocess.CompletedProcess[str]:
        return self.uv("install", "--index", self.index.url, *wanted)

    def works(self) -> str:
        """The project's own smoke test; the torch and the variant that it ran with."""
        done = subprocess.run([self.python, "-I", SMOKE], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "values and gradients agree on cpu" in done.stdout
        code = (
            "import torch, pymomentum; print(torch.__version__.split('+')[0], pymomentum.__path__[0].rsplit('_')[-1])"
        )
        return self.run(code).stdout.strip()


@pytest.fixture
def user(environment: Environment, index: Index) -> User:
    return User(environment.home, index)


@pytest.mark.parametrize(("torch", "variant"), [("2.8.0", "torch28"), ("2.9.0", "torch29")])
def test_torch_first_then_the_package(user: User, torch: str, variant: str) -> None:
    assert user.install(f"torch=={torch}").returncode == 0
    done = user.install(NAME)
    assert done.returncode == 0, done.stderr
    assert user.works() == f"{torch} {variant}"


def test_the_package_alone(user: User) -> None:
    assert user.install(NAME).returncode == 0
    assert user.works() == "2.9.1 torch29"


def test_a_torch_without_a_variant_is_refused(user: User) -> None:
    done = user.install(NAME, "torch==2.15.*")
    assert done.returncode != 0
    text = " ".join(done.stderr.split())
    assert "No solution found" in text
    assert "torch>=2.15" in text or "torch==2.15" in text
    assert NAME in text


def test_the_guard_speaks_before_the_linker(user: User) -> None:
    """torch was changed under an installed variant: the case that this project began with."""
    assert user.install(f"{NAME}[torch28]").returncode == 0
    assert user.works() == "2.8.0 torch28"
    assert user.uv("install", "torch==2.9.1").returncode == 0
    done = user.run("import pymomentum.geometry")
    assert done.returncode == 1
    said = done.stderr[done.stderr.index("ImportError: ") :]
    assert said.splitlines() == [
        "ImportError: pymomentum has no variant for torch 2.9.1+cu128 here.",
        "  variants installed: torch 2.8",
        "  variants known to pymomentum-gpu 0.1.115.post0: torch 2.8, 2.9",
        '  with pip:  pip install "pymomentum-gpu[torch29]"',
        '  with uv:   uv pip install "pymomentum-gpu[torch29]"',
    ]
    off = "import os; os.environ['TORCH_BUILD_FARM_GUARD'] = 'off'; import pymomentum.geometry"
    done = user.run(off)
    assert "RuntimeWarning: pymomentum has no variant for torch 2.9.1" in done.stderr
    assert f"undefined symbol: {SYM_NE}" in done.stderr, "what users saw before"
    (command,) = re.findall(r"with uv: +uv pip install \"(.+)\"", said)
    assert user.install(command).returncode == 0
    assert user.works() == "2.9.1 torch29"
