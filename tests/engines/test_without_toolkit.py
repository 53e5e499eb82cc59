"""The search path of a build that is to have no CUDA toolkit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from torch_build_farm.engines.without_toolkit import path_without_nvcc


def program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {path}\n")
    path.chmod(0o755)


def test_everything_but_nvcc_is_there_in_the_same_order(tmp_path: Path) -> None:
    for name in ("first/tool", "shared/nvcc", "shared/tool", "shared/compiler", "last/nvcc", "last/compiler"):
        program(tmp_path / name)
    (tmp_path / "shared" / "broken").symlink_to("nowhere")
    missing = tmp_path / "missing"
    folders = [tmp_path / "first", missing, tmp_path / "shared", tmp_path / "last"]
    path = path_without_nvcc(os.pathsep.join(map(str, folders)), tmp_path / "links")

    assert shutil.which("nvcc", path=path) is None
    for name, expected in (("tool", "first/tool"), ("compiler", "shared/compiler")):
        found = shutil.which(name, path=path)
        assert found
        assert Path(found).resolve() == tmp_path / expected
    entries = path.split(os.pathsep)
    assert entries[:2] == [str(tmp_path / "first"), str(missing)]
    assert len(entries) == len(folders)


def test_a_path_without_nvcc_stays_as_it_is(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "tool")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.pathsep}relative"
    assert path_without_nvcc(path, tmp_path / "links") == path
    assert not (tmp_path / "links").exists()


def test_a_compiler_beside_nvcc_compiles(tmp_path: Path) -> None:
    """As on Debian, whose nvcc is in /usr/bin: a compiler that is started by a link has to find its own parts."""
    compiler = shutil.which("gcc")
    assert compiler
    program(tmp_path / "bin" / "nvcc")
    (tmp_path / "bin" / "gcc").symlink_to(compiler)
    path = path_without_nvcc(str(tmp_path / "bin"), tmp_path / "links")
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    found = shutil.which("gcc", path=path)
    assert found
    subprocess.run([found, "-c", "a.c", "-o", "a.o"], cwd=tmp_path, check=True)
