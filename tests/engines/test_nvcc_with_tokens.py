"""nvcc's launcher beside a real jobserver: a thread for each token that it holds, and no token is lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from torch_build_farm.core.resources import DATA
from torch_build_farm.pipeline.jobserver import Jobserver

LAUNCHER = DATA / "nvcc-with-tokens.sh"
# In nvcc's place: prints its arguments, and how many tokens are free while it runs, to a file beside it.
NVCC = """#!/bin/sh
printf '%s\\n' "$@" > "${0%/*}/arguments"
dd if="$FIFO" bs=64 count=1 iflag=nonblock 2> /dev/null > "${0%/*}/free"
cat "${0%/*}/free" 1<> "$FIFO" > "$FIFO"
exit "${RESULT:-0}"
"""
FOUR = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in (80, 86, 89, 90)]


@dataclass
class Bench:
    """A jobserver, and an nvcc that says what it was called with."""

    folder: Path
    jobserver: Jobserver

    @property
    def nvcc(self) -> Path:
        return self.folder / "cuda" / "bin" / "nvcc"

    def free(self) -> int:
        with self.jobserver.path.open("rb+", buffering=0) as fifo:
            waiting = bytearray(4)
            fcntl.ioctl(fifo, termios.FIONREAD, waiting)
            return int(struct.unpack("i", waiting)[0])

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "MAKEFLAGS": self.jobserver.makeflags, "FIFO": str(self.jobserver.path)}
        environment["CUDA_HOME"] = str(self.folder / "cuda")
        return subprocess.run(["sh", LAUNCHER, *words], env=environment, check=False, text=True, capture_output=True)

    def launched(self, *words: str) -> tuple[list[str], int]:
        """The arguments that nvcc got, and how many tokens were free while it ran."""
        done = self.command(str(self.nvcc), *words)
        assert (done.returncode, done.stderr) == (0, "")
        arguments = (self.nvcc.parent / "arguments").read_text().splitlines()
        return arguments, (self.nvcc.parent / "free").stat().st_size


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Jobserver(tmp_path / "js" / "fifo", 3) as jobserver:
        made = Bench(tmp_path, jobserver)
        made.nvcc.parent.mkdir(parents=True)
        made.nvcc.write_text(NVCC)
        made.nvcc.chmod(0o755)
        yield made


@pytest.mark.parametrize(
    ("asked", "threads", "free"),
    [
        ([], 4, 0),
        (["--threads", "0"], 4, 0),
        (["--threads", "2"], 2, 2),
        (["--threads=3"], 3, 1),
        (["-t2"], 2, 2),
        (["-t", "9"], 4, 0),
        (["-t=nonsense"], 4, 0),
    ],
)
def test_a_thread_for_each_token(bench: Bench, asked: list[str], threads: int, free: int) -> None:
    words = [*FOUR, "-c", "a b.cu", '-DX="1 2"']
    arguments, free_meanwhile = bench.launched(*asked, *words)
    assert arguments == [*asked, *words, "--threads", str(threads)]
    assert free_meanwhile == free
    assert bench.free() == 3


def test_where_no_token_is_free_it_starts_all_the_same(bench: Bench) -> None:
    with bench.jobserver.path.open("rb", buffering=0) as fifo:
        fifo.read(3)
    arguments, _ = bench.launched(*FOUR)
    assert arguments[-2:] == ["--threads", "1"]
    assert bench.free() == 0


@pytest.mark.parametrize("words", [["--version"], ["-c", "a.cu"], [*FOUR[:1], "-c", "a.cu"], ["-t", "1", *FOUR]])
def test_one_architecture_takes_no_token(bench: Bench, words: list[str]) -> None:
    arguments, free_meanwhile = bench.launched(*words)
    assert arguments == words
    assert free_meanwhile == 3


def test_in_the_place_of_nvcc(bench: Bench) -> None:
    """As torch.utils.cpp_extension calls PYTORCH_NVCC: without nvcc's path."""
    assert bench.command(*FOUR, "-c", "a.cu").returncode == 0
    assert (bench.nvcc.parent / "arguments").read_text().splitlines()[:4] == FOUR


@pytest.mark.parametrize(("name", "threads"), [("nvcc-12.8", True), ("nvcc", True), ("clang++", False)])
def test_the_compiler_that_cmake_names_is_the_one_that_runs(bench: Bench, name: str, threads: bool) -> None:
    """Whatever it is called, and though another nvcc lies in CUDA_HOME."""
    compiler = bench.folder / "other" / name
    compiler.parent.mkdir()
    compiler.write_text(NVCC)
    compiler.chmod(0o755)
    assert bench.command(str(compiler), "-x", "cuda", *FOUR, "a.cu").returncode == 0
    arguments = (compiler.parent / "arguments").read_text().splitlines()
    assert arguments == ["-x", "cuda", *FOUR, "a.cu", *(["--threads", "4"] if threads else [])]
    assert not (bench.nvcc.parent / "arguments").exists()


@pytest.mark.parametrize("words", [["-Xcompiler", "-t", "-c", "x.cu"], ["-arch=all-major", "--threads", "4", "x.cu"]])
def test_arguments_reach_nvcc_as_they_are(bench: Bench, words: list[str]) -> None:
    arguments, _ = bench.launched(*words)
    assert arguments == words


def test_without_a_jobserver(bench: Bench) -> None:
    done = subprocess.run(
        ["sh", LAUNCHER, bench.nvcc, *FOUR],
        env={"PATH": os.environ["PATH"], "FIFO": str(bench.jobserver.path)},
        check=False,
    )
    assert done.returncode == 0
    assert (bench.nvcc.parent / "arguments").read_text().splitlines() == FOUR


def test_a_failure_is_nvccs_own_and_keeps_no_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULT", "7")
    assert bench.command(str(bench.nvcc), *FOUR).returncode == 7
    assert bench.free() == 3


def test_what_is_ended_keeps_no_token(bench: Bench) -> None:
    bench.nvcc.write_text("#!/bin/sh\necho started\nsleep 60\n")
    environment = {**os.environ, "MAKEFLAGS": bench.jobserver.makeflags}
    command = ["sh", str(LAUNCHER), str(bench.nvcc), *FOUR]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        assert bench.free() == 0
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    assert bench.free() == 3


@pytest.mark.skipif(not shutil.which("nvcc"), reason="needs a CUDA toolkit")
def test_a_real_nvcc_takes_both_ways(bench: Bench, tmp_path: Path) -> None:
    """The launcher's option, and from CUDA 13 on nvcc's own --jobserver, which warns where it finds none."""
    (tmp_path / "a.cu").write_text("__global__ void twice(float* a) { a[threadIdx.x] *= 2; }\n")
    nvcc = shutil.which("nvcc")
    words = [*FOUR[:2], "-c", str(tmp_path / "a.cu"), "-o", str(tmp_path / "a.o")]
    done = bench.command(str(nvcc), *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if "release 12" not in subprocess.run([str(nvcc), "--version"], check=True, text=True, capture_output=True).stdout:
        environment = {**os.environ, "MAKEFLAGS": bench.jobserver.makeflags}
        environment["NVCC_APPEND_FLAGS"] = "--jobserver --threads=0"
        command = [str(nvcc), *words]
        done = subprocess.run(command, env=environment, check=False, text=True, capture_output=True)
        assert (done.returncode, done.stdout) == (0, "")
        assert "jobserver" not in done.stderr
    assert bench.free() == 3
