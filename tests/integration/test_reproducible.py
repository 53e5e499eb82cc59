"""The same sources give the same bytes: in other folders, at another time, for another user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.integration.conftest import Environment
from torch_build_farm.torch_store import default_folder

MAIN = ("build", "--torch", "2.9")


def built(work: Path) -> Path:
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def project(folder: Path, date: int) -> Path:
    """A copy of the project whose files all have the date (Unix seconds)."""
    shutil.copytree(PROJECTS / "exact", folder)
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (date, date))
    return folder


def elsewhere(farm: Farm, store: Path) -> subprocess.CompletedProcess[str]:
    """Run the farm as another user might: the store under another path, another umask, time zone and language."""
    store.mkdir(parents=True)
    script = 'mount --bind "$1" "$2" && shift 2 && umask 077 && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(default_folder()), str(store), *farm.command(*MAIN)]
    env = {**os.environ, "TORCH_BUILD_FARM_STORE": str(store), "TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_local_builds_agree(tmp_path: Path, root: None) -> None:
    first = Farm(project(tmp_path / "a", 1_000_000_000), tmp_path / "w")
    assert first(*MAIN).code == 0
    time.sleep(2.1)  # the resolution of dates in a zip archive, and more than that of __TIME__
    long = tmp_path / "another folder's much longer name".replace(" ", "-").replace("'", "")
    second = Farm(project(long / "b", 1_700_000_000), long / "work")
    done = elsewhere(second, long / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert built(first.work).read_bytes() == built(second.work).read_bytes()

    with zipfile.ZipFile(built(first.work)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "1980-01-01T00:00:00" in archive.read("exact/dated.h").decode()
        contents = b"".join(map(archive.read, archive.namelist()))
    assert b"./source/core.cpp" in contents, "its own __FILE__ is there, mapped"
    assert b"site-packages/torch/include/ATen/core/TensorBase.h" in contents, "torch's too"
    for folder in (tmp_path, default_folder()):
        assert str(folder).encode() not in contents

    answer = first("verify", str(built(first.work)), "--json")
    assert answer.code == 0, answer.err
    assert answer.document["identical"]


@pytest.mark.docker
def test_container_builds_agree(tmp_path: Path) -> None:
    first = Farm(project(tmp_path / "a", 1_000_000_000), tmp_path / "w", engine="docker")
    assert first(*MAIN).code == 0
    time.sleep(2.1)
    second = Farm(project(tmp_path / "longer" / "b", 1_700_000_000), tmp_path / "longer" / "work", engine="docker")
    assert second(*MAIN).code == 0
    assert built(first.work).read_bytes() == built(second.work).read_bytes()
    answer = first("verify", str(built(first.work)), "--json")
    assert answer.code == 0, answer.err
    assert (answer.document["identical"], answer.document["toolchain"]) == (True, [])
    assert not list(first.work.glob("verify-*"))


def test_verify_says_what_differs(tmp_path: Path) -> None:
    farm = Farm(project(tmp_path / "a", 1_000_000_000), tmp_path / "work")
    assert farm(*MAIN).code == 0
    wheel = built(farm.work)
    assert farm("verify", str(tmp_path / "a" / "pyproject.toml")).code == 2

    # A compiler option that no record of the source knows of: the environment of the caller's compiler.
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\nexec c++ -DEXTRA -O1 "$@"\n')
    script.chmod(0o755)
    farm.env = {"CXX": str(script)}
    answer = farm("verify", str(wheel))
    assert answer.code == 21, answer.out + answer.err
    assert "exact/_core.cpython" in answer.out
    assert "sections" in answer.out
    assert f"toolchain: CXX was none, is {script}" in answer.out

    farm.env = {}
    farm.edit("helper.cpp", "built()", "built( )")
    answer = farm("verify", str(wheel))
    assert answer.code == 2
    assert "the source is not what the wheel was built from; changed: helper.cpp" in answer.err


def test_another_folder_installs_too(tmp_path: Path) -> None:
    """The library beside the extension is found through its own RPATH, not through that of the build tree."""
    farm = Farm(project(tmp_path / "a", 1_000_000_000), tmp_path / "work")
    assert farm("run", "--torch", "2.9", "--smoke", "import").code == 0
    environment = Environment(tmp_path / "env")
    assert environment.uv("install", built(farm.work)).returncode == 0
    done = subprocess.run(
        [environment.python, "-c", "import exact; print(exact.built())"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "./source/helper.cpp Jan  1 1980 00:00:00 1980-01-01T00:00:00\n"
