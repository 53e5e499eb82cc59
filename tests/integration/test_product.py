"""What the product promises, end to end, in minutes: the tests of this folder that run by default.

The embedded project is built for two releases of torch with their SDKs (12 MB each), repaired, relocated and audited;
real pip and uv resolve its names; and the wheel for 2.8 is published to a real index, installed from there, and
computes beside a real torch: lean_torch.py says which, and why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import lean_torch
from tests.conftest import CHECKOUT, Answer, Farm
from tests.integration.conftest import Built
from tests.made_up import Front
from tests.server import PASSWORD, USER, Server
from tests.test_api import examples
from torch_build_farm.core import tools
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.network
STAGES = ["render", "build", "repair", "relocate", "audit"]
SYM_NE = "c10::SymInt::sym_ne(c10::SymInt const&) const"


def test_two_minors_are_built_with_the_sdk(built: Built) -> None:
    for minor, release in (("2.8", "2.8.0"), ("2.9", "2.9.0")):
        job = built.job(minor)
        assert [stage["stage"] for stage in job["stages"]] == STAGES
        assert job["stages"][1]["details"]["built-with"] == f"torch's SDK {release}"
        tag = f"torch{minor.replace('.', '')}"
        wheel = read_wheel(built.wheel(minor))
        assert wheel.metadata["Name"] == f"pymomentum-gpu-{tag}"
        assert [str(requirement) for requirement in wheel.requirements("torch")] == [f"torch=={minor}.*"]
        assert all(member.startswith((f"pymomentum/_{tag}/", f"pymomentum_gpu_{tag}-")) for member in wheel.members)
        assert len(wheel.libraries) == 2
        for library in wheel.libraries:
            assert set(library.needed) >= {"libtorch_cpu.so", "libc10.so", "libtorch_python.so"}
            assert library.run_paths == ()


def test_the_audit_knows_which_torch_breaks_a_wheel(built: Built) -> None:
    """The bug that this project answers: built for 2.8, it lacks a name of 2.9."""
    answer = built.farm("audit", str(built.wheel("2.8")), "--torch", "2.8.0", "2.9.0", "--json")
    assert answer.code == 0, answer.err
    (report,) = answer.document["wheels"]
    assert report["releases"]["2.8.0"]["verdict"] == "OK"
    assert report["releases"]["2.9.0"]["verdict"] == "BROKEN"
    text = built.farm("audit", str(built.wheel("2.8")), "--torch", "2.9.0").out
    assert f"BROKEN with 2.9.0: missing {SYM_NE}" in text


def test_a_second_run_does_nothing(built: Built) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.farm.work.rglob("*.whl")}
    answer = built.farm("build", "--torch", "2.8", "2.9")
    assert answer.code == 0, answer.err
    assert "nothing to do: every job is as it was" in answer.out
    assert {path: path.stat().st_mtime_ns for path in built.farm.work.rglob("*.whl")} == before


def test_the_examples_of_the_python_api(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They find what the command line has built, and keep it."""
    for name in ("build_farm.py", "pyproject.toml", "examples"):
        (tmp_path / name).symlink_to(CHECKOUT / name)
    (tmp_path / "work").symlink_to(built.farm.work)  # a copy's records would prove nothing
    monkeypatch.chdir(tmp_path)
    for name, value in built.farm.environment.items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    for example in examples():
        exec(example, names)
    result = names["result"]
    assert [job.status for job in result.jobs] == ["kept", "kept"]
    assert [wheel.name for wheel in result.wheels] == [built.wheel("2.8").name, built.wheel("2.9").name]
    printed = capsys.readouterr().out
    assert "engine: local, as asked" in printed
    assert f"{built.wheel('2.9').name} works with torch >=2.9.0,<=2.9.1" in printed


@dataclass
class Published:
    """The wheel for torch 2.8: tested beside the lean torch, and on an index of its own."""

    farm: Farm
    run: Answer
    publish: Answer
    server: Server
    front: Front  # what stands in for the real index, with the lean torch in place of torch's wheels
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of users: no configuration of this machine's, the front as index, the published names beside it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
        if certificates := os.environ.get("PIP_CERT"):
            kept["PIP_CERT"] = certificates
        return {
            **kept, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": self.front.url,
            "PIP_EXTRA_INDEX_URL": f"{self.server.url}simple/", "UV_DEFAULT_INDEX": self.front.url,
            "UV_INDEX": f"{self.server.url}simple/", "UV_NO_CONFIG": "1",
            "UV_CACHE_DIR": str(Path(self.farm.env["TORCH_BUILD_FARM_STORE"]) / "uv"),
        }  # fmt: skip


@pytest.fixture(scope="module")
def published(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    (folder / "torch").mkdir()
    project = folder / "project"  # publish writes its list there
    project.mkdir()
    (project / "examples").symlink_to(CHECKOUT / "examples")
    shutil.copy(CHECKOUT / "pyproject.toml", project)
    aside = folder / built.wheel("2.9").name
    built.wheel("2.9").rename(aside)  # publish takes what it finds in work/dist
    server = Server(folder / "index")
    try:
        with lean_torch.index(lean_torch.write(folder / "torch")) as front:
            farm = Farm(project, built.farm.work, {
                "TORCH_BUILD_FARM_STORE": str(folder / "store"), "UV_DEFAULT_INDEX": front.url,
                "TWINE_USERNAME": USER, "TWINE_PASSWORD": PASSWORD,
            })  # fmt: skip
            run = farm("run", "--torch", "2.8", "--json")
            publish = farm("publish", server.url, "--yes", "--json")
            yield Published(farm, run, publish, server, front, folder)
    finally:
        server.stop()
        aside.rename(built.wheel("2.9"))
        shutil.rmtree(folder)


def test_the_wheel_computes_beside_a_real_torch(published: Published) -> None:
    assert published.run.code == 0, published.run.err
    (job,) = published.run.document["jobs"]
    assert [stage["stage"] for stage in job["stages"] if not stage["kept"]] == ["smoke"]
    details = job["stages"][-1]["details"]
    assert details["torch"] == "2.8.0+cu128"
    assert details["imports"] == "pymomentum, pymomentum.geometry, pymomentum.solver"
    assert details["refuses"] == "torch 2.9"
    assert "values and gradients agree on cpu" in details["script"]


def test_it_is_published(published: Published) -> None:
    assert published.publish.code == 0, published.publish.err
    names = [name.split("-")[0] for name in published.server.files()]
    assert names == ["pymomentum_gpu", "pymomentum_gpu_auto", "pymomentum_gpu_select", "pymomentum_gpu_torch28"]


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_users_install_it_by_its_one_name(published: Published, tmp_path: Path, installer: str) -> None:
    home = tmp_path / "home"
    venv.create(home, symlinks=True, with_pip=False)
    python = home / "bin" / "python"
    if installer == "pip":
        command = [sys.executable, "-m", "pip", "--python", python, "install"]
    else:
        command = [tools.uv(), "pip", "install", "--python", python]

    def install(*wanted: str) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in (*command, *wanted)]
        return subprocess.run(words, env=published.environment, capture_output=True, text=True, check=False)

    refused = install("--dry-run", "pymomentum-gpu", "torch>=2.10")
    assert refused.returncode != 0, refused.stdout
    done = install("pymomentum-gpu")
    assert done.returncode == 0, done.stderr
    code = "import pymomentum.geometry as g, torch; print(g.__name__, torch.__version__)"
    ran = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["pymomentum.geometry", "2.8.0+cu128"]
    shutil.rmtree(home)
