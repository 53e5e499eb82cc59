"""The same sources give the same bytes: in other folders, at another time, for another user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.integration.conftest import Environment, beside
from torch_build_farm.core.store import default_folder
from torch_build_farm.wheels.compare import differences

pytestmark = pytest.mark.torch

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
    env = {**farm.environment, "TORCH_BUILD_FARM_STORE": str(store), "TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    folder = tmp_path_factory.mktemp("first")
    farm = Farm(project(folder / "a", 1_000_000_000), folder / "work")
    assert farm(*MAIN).code == 0
    return farm


def test_local_builds_agree(first: Farm, tmp_path: Path, root: None) -> None:
    long = tmp_path / "another-folder-with-a-much-longer-name"
    second = Farm(project(long / "b", 1_700_000_000), long / "work")
    time.sleep(2.1)  # the resolution of dates in a zip archive, and more than that of __TIME__
    done = elsewhere(second, long / "store")
    assert done.returncode == 0, done.stdout + done.stderr
    assert differences(built(first.work), built(second.work)) == []


def test_what_is_in_the_wheel(first: Farm, tmp_path: Path) -> None:
    with zipfile.ZipFile(built(first.work)) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert "1980-01-01T00:00:00" in archive.read("exact/_torch29/dated.h").decode()
        contents = b"".join(map(archive.read, archive.namelist()))
    assert b"./source/core.cpp" in contents, "its own __FILE__ is there, mapped"
    assert b"site-packages/torch/include/ATen/core/TensorBase.h" in contents, "torch's too"
    for folder in (first.work.parent, default_folder()):
        assert str(folder).encode() not in contents

    # The library beside the extension is found through the RPATH that it is installed with.
    environment = Environment(tmp_path / "env")
    assert (
        environment.uv("install", built(first.work), *beside(first.project, built(first.work), tmp_path)).returncode
        == 0
    )
    done = subprocess.run(
        [environment.python, "-c", "import exact; print(exact.built())"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "./source/helper.cpp Jan  1 1980 00:00:00 1980-01-01T00:00:00\n"


@pytest.mark.docker
def test_container_builds_agree(tmp_path: Path) -> None:
    first = Farm(project(tmp_path / "a", 1_000_000_000), tmp_path / "w", engine="docker")
    assert first(*MAIN).code == 0
    time.sleep(2.1)
    second = Farm(project(tmp_path / "longer" / "b", 1_700_000_000), tmp_path / "longer" / "work", engine="docker")
    assert second(*MAIN).code == 0
    assert differences(built(first.work), built(second.work)) == []
    answer = first("verify", str(built(first.work)), "--json")
    assert answer.code == 0, answer.err
    assert (answer.document["identical"], answer.document["changed"]) == (True, [])
    (record,) = first.work.glob("jobs/*/records/build.json")
    assert "scikit-build-core" in dict(json.loads(record.read_text())["details"]["environment"])
    assert not list(first.work.glob("verify-*"))


def test_verify(first: Farm, tmp_path: Path) -> None:
    farm, wheel = first, built(first.work)
    assert farm("verify", str(farm.project / "pyproject.toml")).code == 2
    answer = farm("verify", str(wheel), "--json")
    assert answer.code == 0, answer.err
    assert (answer.document["identical"], answer.document["changed"]) == (True, [])

    # A compiler option that no record of the source knows of: the environment of the caller's compiler.
    script = tmp_path / "c++"
    script.write_text('#!/bin/sh\nexec c++ -DEXTRA -O1 "$@"\n')
    script.chmod(0o755)
    farm.env = {"CXX": str(script)}
    answer = farm("verify", str(wheel))
    assert answer.code == 21, answer.out + answer.err
    assert "exact/_torch29/_core.cpython" in answer.out
    assert "sections" in answer.out
    assert f"toolchain: CXX was none, is {script}" in answer.out

    farm.env = {}
    farm.edit("helper.cpp", "built()", "built( )")
    answer = farm("verify", str(wheel))
    assert answer.code == 2
    assert "the source is not what the wheel was built from; changed: helper.cpp" in answer.err


def stamp(folder: Path, version: str) -> None:
    """A build requirement that leaves its version in what is built."""
    info = f"farm_test_stamp-{version}.dist-info"
    with zipfile.ZipFile(folder / f"farm_test_stamp-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("stamp.py", f"print({version!r})")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: farm-test-stamp\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"stamp.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def test_verify_builds_in_the_recorded_environment(tiny: Farm, tmp_path: Path) -> None:
    """Whatever the index has by then; a new build takes what is new, unless the project holds it."""
    offered = tmp_path / "offered"
    offered.mkdir()
    stamp(offered, "1.0")
    tiny.env = {"UV_FIND_LINKS": str(offered)}
    tiny.edit("pyproject.toml", '"scikit-build-core>=0.11"', '"scikit-build-core>=0.11", "farm-test-stamp"')
    tiny.edit(
        "CMakeLists.txt",
        "Development.Module)",
        'Development.Module Interpreter)\nexecute_process(COMMAND "${Python_EXECUTABLE}" -m stamp OUTPUT_FILE "${CMAKE_BINARY_DIR}/stamp")\ninstall(FILES "${CMAKE_BINARY_DIR}/stamp" DESTINATION tiny)',
    )
    answer = tiny(*MAIN, "--json")
    assert answer.code == 0, answer.err
    environment = answer.document["jobs"][0]["stages"][1]["details"]["environment"].split()
    assert "farm-test-stamp==1.0" in environment
    assert {line.partition("==")[0] for line in environment} >= {"torch", "scikit-build-core", "packaging"}

    stamp(offered, "2.0")
    wheel = tmp_path / built(tiny.work).name
    shutil.copy(built(tiny.work), wheel)
    answer = tiny("verify", str(wheel), "--json")
    assert answer.code == 0, answer.out + answer.err
    assert (answer.document["identical"], answer.document["changed"]) == (True, [])
    stamps = []
    for constraints in ("", 'build-constraints = ["farm-test-stamp<2"]\n'):
        tiny.edit("pyproject.toml", "[tool.torch-build-farm]\n", f"[tool.torch-build-farm]\n{constraints}")
        assert tiny(*MAIN, "--force").code == 0
        with zipfile.ZipFile(built(tiny.work)) as archive:
            stamps.append(archive.read("tiny/_torch29/stamp"))
    assert stamps == [b"2.0\n", b"1.0\n"]
    assert built(tiny.work).read_bytes() == wheel.read_bytes()

    tiny.edit("pyproject.toml", 'imports = ["tiny", "tiny._core"]', 'before-build = ["true"]')
    answer = tiny("verify", str(built(tiny.work)), "--json")
    assert (answer.code, answer.document["changed"]) == (0, ["before-build: changed"])
