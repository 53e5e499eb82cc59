"""Somebody else's extension from its sdist: init writes the project file, both engines build it."""

from __future__ import annotations

import difflib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.index import Index
from tests.integration.conftest import Environment
from tests.project.test_tree import git
from torch_build_farm.cli import main
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

INFO = "Metadata-Version: 2.1\nName: legacy_ext\nVersion: 1.2.3\nRequires-Python: >=3.8\n"


def sdist() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in sorted((PROJECTS / "legacy").rglob("*")):
            if path.is_file() and path.name != "smoke.py" and "__pycache__" not in path.parts:
                archive.add(path, f"legacy_ext-1.2.3/{path.relative_to(PROJECTS / 'legacy')}")
        member = tarfile.TarInfo("legacy_ext-1.2.3/PKG-INFO")
        member.size = len(INFO)
        archive.addfile(member, io.BytesIO(INFO.encode()))
    return stream.getvalue()


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    """The farm on a project file that `init` wrote; the index is gone once the sdist is fetched."""
    folder = tmp_path_factory.mktemp("third")
    (folder / "index").mkdir()
    index = Index(folder / "index")
    index.add("legacy_ext-1.2.3.tar.gz", sdist(), "legacy-ext")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_DEFAULT_INDEX", index.url)
        assert main.main(["init", "legacy-ext==1.2.3", str(folder / "project")]) == 0
        farm = Farm(folder / "project", folder / "work")
        farm.edit("pyproject.toml", '# smoke-script = "smoke.py" beside', 'smoke-script = "smoke.py"  # beside')
        shutil.copy(PROJECTS / "legacy" / "smoke.py", folder / "project")
        assert len((folder / "project" / "pyproject.toml").read_text().splitlines()) < 20
        assert farm("render", "--torch", "2.9").code == 0
    index.close()
    return farm


@pytest.fixture(scope="module")
def own_metadata(tmp_path_factory: pytest.TempPathFactory) -> str:
    """METADATA as the sdist's own back end writes it, with torch 2.9 beside it."""
    folder = tmp_path_factory.mktemp("own")
    environment = Environment(folder / "env")
    assert environment.uv("install", "setuptools", "torch==2.9.0").returncode == 0
    shutil.copytree(PROJECTS / "legacy", folder / "tree")
    hook = "from setuptools import build_meta as b; print(b.prepare_metadata_for_build_wheel('.'))"
    command = [str(environment.python), "-c", hook]
    done = subprocess.run(command, cwd=folder / "tree", capture_output=True, text=True, check=True)
    return (folder / "tree" / done.stdout.splitlines()[-1] / "METADATA").read_text()


@pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_metadata_is_the_sdists_own_but_for_three_fields(legacy: Farm, own_metadata: str, engine: str) -> None:
    farm = Farm(legacy.project, legacy.work.with_name(f"work-{engine}"), engine=engine)
    answer = farm("run", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    wheel = read_wheel(Path(job["wheel"]["path"]))
    changed = [
        line
        for line in difflib.unified_diff(own_metadata.splitlines(), str(wheel.metadata).splitlines(), lineterm="", n=0)
        if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert changed == [
        "-Name: legacy_ext",
        "+Name: legacy-ext-torch29",
        "-Requires-Python: >=3.8",
        "+Requires-Python: >=3.10,<3.15",
        "+Requires-Dist: legacy-ext>=1.2.3",
        "+Requires-Dist: torch==2.9.*",
        '-Requires-Dist: legacy_ext[test]; extra == "all"',
        '-Requires-Dist: torch>=2.0; extra == "all"',
        '+Requires-Dist: legacy-ext-torch29[test]; extra == "all"',
        '+Requires-Dist: torch==2.9.* ; extra == "all"',
    ]
    assert job["stages"][-1]["details"]["script"] == "legacy: twice is twice, a float has four bytes"
    if engine == "local":  # containers verify a wheel in test_reproducible.py
        answer = farm("verify", str(wheel.path))
        assert answer.code == 0, answer.out + answer.err


def test_a_git_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree of a tag, with the commit's date, wherever the branch has moved since."""
    repository = tmp_path / "repository"
    shutil.copytree(PROJECTS / "legacy", repository)
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1600000000 +0000")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "one"], ["tag", "v1.2.3"]):
        git(repository, *words)
    (repository / "csrc" / "ops.cpp").write_text("#error of a later commit\n")
    git(repository, "commit", "-qam", "two")
    project = tmp_path / "project"
    project.mkdir()
    settings = '[tool.torch-build-farm]\nname = "legacy"\npackages = ["legacy"]\ngit = "../repository"\n'
    (project / "pyproject.toml").write_text(f'{settings}revision = "v1.2.3"\n')
    farm = Farm(project, tmp_path / "work", {"TORCH_BUILD_FARM_STORE": str(tmp_path / "store")})
    answer = farm("render", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    details = job["stages"][0]["details"]
    assert details["source"].startswith(f"git {repository}@")
    assert (details["version"], details["epoch"]) == ("1.2.3", "1600000000")
    tree = farm.work / "jobs" / job["job"] / "source"
    assert "twice" in (tree / "csrc" / "ops.cpp").read_text()
    assert not (tree / ".git").exists()
    assert (tree / "setup.py").stat().st_mtime == 1600000000
