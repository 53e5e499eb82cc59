"""ci/sysroot, with stand-ins for the programs that it calls."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

UNPACK = 'target=${@: -2:1}; mkdir -p "$target/usr/include"'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with what the script needs of Debian, for a user who is not root."""
    folder = tmp_path / "programs"
    folder.mkdir()
    add(folder, "id", "echo 1000")
    add(folder, "apt-cache", "echo '500 http://mirror.example/debian bookworm/main'")
    add(folder, "aarch64-linux-gnu-g++", "true")
    return folder


def add(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def sysroot(programs: Path, folder: Path, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(CHECKOUT / "ci" / "sysroot"), str(folder), "--suite", "bookworm", *options]
    return subprocess.run(
        command, env={"PATH": path or f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )


def test_what_an_interrupted_run_leaves_is_no_system(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "arm64"
    add(programs, "mmdebstrap", f"{UNPACK}; exit 1")
    assert sysroot(programs, folder).returncode != 0
    again = sysroot(programs, folder)
    assert again.returncode == 1
    assert again.stderr.endswith(f"remove {folder}.unfinished, which an interrupted run left\n")


def test_a_system_is_made_once_and_named(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "arm64"
    folder.mkdir()
    add(programs, "mmdebstrap", UNPACK)
    for _ in range(2):
        done = sysroot(programs, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"export TORCH_BUILD_FARM_SYSROOT_AARCH64={folder}\n")
    assert list(folder.iterdir()) == [folder / "usr"]


def test_further_packages(programs: Path, tmp_path: Path) -> None:
    add(programs, "mmdebstrap", f"{UNPACK}; printf '%s\\n' \"$@\" >{tmp_path}/arguments")
    assert sysroot(programs, tmp_path / "arm64", "--include", "libfmt-dev,libre2-dev").returncode == 0
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert "--include=python3,libpython3-dev,libstdc++6,libfmt-dev,libre2-dev" in arguments


def test_a_system_without_a_compiler_for_it_is_half_of_it(programs: Path, tmp_path: Path) -> None:
    """The folder may come from a cache, or from another machine."""
    (tmp_path / "arm64" / "usr" / "include").mkdir(parents=True)
    compiler = programs / "aarch64-linux-gnu-g++"
    compiler.unlink()
    for name in ("bash", "cat", "dirname", "realpath"):
        (programs / name).symlink_to(shutil.which(name) or name)
    done = sysroot(programs, tmp_path / "arm64", path=str(programs))
    assert (done.returncode, done.stderr) == (1, "sysroot: run this as root, or install g++-aarch64-linux-gnu\n")


def test_another_folder_stays_as_it_is(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "arm64").mkdir()
    (tmp_path / "arm64" / "file").touch()
    add(programs, "mmdebstrap", UNPACK)
    done = sysroot(programs, tmp_path / "arm64")
    assert (done.returncode, done.stderr) == (1, f"sysroot: {tmp_path}/arm64 is not empty, and holds no system\n")
    assert not (tmp_path / "arm64.unfinished").exists()
