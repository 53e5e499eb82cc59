"""The farm on real projects and the real index; what it downloads stays in the farm's store for the next run."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, Farm, need
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.archives import EARLIEST
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.store import default_folder
from torch_build_farm.engines.sysroot import variable_of
from torch_build_farm.project.settings import load
from torch_build_farm.wheels import one_name


@pytest.fixture(autouse=True, scope="session")
def _a_compiler() -> None:
    need(shutil.which("c++") is not None, "needs a C++ compiler (c++)")


@pytest.fixture
def root() -> None:
    """For tests that need root: name spaces, mounts, cgroups."""
    need(os.geteuid() == 0, "needs root")


@pytest.fixture
def sysroot() -> Path:
    """The system of arm64 that wheels are cross-compiled for."""
    variable = variable_of(ARM64)
    need(bool(os.environ.get(variable)), f"needs a system of arm64 in {variable} (ci/sysroot)")
    return Path(os.environ[variable])


class Built:
    """The embedded project for torch 2.8 and 2.9: one call of the farm, for all tests."""

    def __init__(self, farm: Farm, *words: str) -> None:
        self.farm = farm
        self.answer = farm(*words, "--torch", "2.8", "2.9", "--json")
        assert self.answer.code == 0, self.answer.err

    def job(self, torch: str) -> Any:
        (found,) = [job for job in self.answer.document["jobs"] if f"-torch{torch.replace('.', '')}-" in job["job"]]
        return found

    def wheel(self, torch: str) -> Path:
        return Path(self.job(torch)["wheel"]["path"])


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built and not smoke-tested, which takes no full torch."""
    return Built(Farm(CHECKOUT, tmp_path_factory.mktemp("embedded") / "work"), "build")


@pytest.fixture(scope="session")
def main_run(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`python build_farm.py --torch 2.8 2.9`."""
    return Built(Farm(CHECKOUT, tmp_path_factory.mktemp("main") / "work"), "run")


class Environment:
    """A virtual environment made with uv, its packages hard links into the farm's store."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.python = home / "bin" / "python"
        venv.create(home, symlinks=True, with_pip=False)

    def uv(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        env = toolbox.environment(default_folder() / "uv", self.home)
        command = [toolbox.uv(), "pip", *words]
        return subprocess.run(
            [str(word) for word in command], env={**env, "VIRTUAL_ENV": str(self.home)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def pip(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Pip as users have it: this machine's configuration for pip left out, its certificates kept."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_") or k == "PIP_CERT"}
        command = [self.python, "-m", "pip", *words]
        return subprocess.run(
            [str(word) for word in command], env={**env, "PIP_CONFIG_FILE": "/dev/null"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code in a child process of its own."""
        return subprocess.run(
            [str(self.python), "-I", "-c", code], capture_output=True, text=True, check=False, cwd=self.home
        )


def beside(project: Path, wheel: Path, folder: Path) -> list[Path]:
    """The wheels behind the one name for this variant alone: it requires them, and the index may have others."""
    loaded = load(project, CHECKOUT)
    name, version, *_ = wheel.name.split("-")
    (minor,) = [minor for minor, variant in loaded.variants.items() if name.endswith(f"_{variant.tag}")]
    return one_name.write(one_name.Family.of(loaded, wheel, {minor: version}, EARLIEST), folder)


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    # beside the store, so that files are hard links and not copies
    home = default_folder() / "tests" / f"{os.getpid()}-{tmp_path.name}"
    shutil.rmtree(home, ignore_errors=True)
    made = Environment(home)
    yield made
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Environments of Python that the runs of a module's workflows share."""
    folder = tmp_path_factory.mktemp("tools")
    yield folder
    shutil.rmtree(folder)
