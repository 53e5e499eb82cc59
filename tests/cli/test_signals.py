"""SIGINT and SIGTERM while a command waits for the network, and what the second one leaves behind."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.raw_server import answering
from tests.until import until

LIMIT_S = 10.0  # a loaded machine's two seconds; the network's own limits are 30 and 60


@contextmanager
def silent_index() -> Iterator[tuple[str, threading.Event]]:
    """The URL of an index that takes requests and answers none, and an event for the first request."""
    asked, over = threading.Event(), threading.Event()

    def answer(_: str) -> Iterator[bytes]:
        asked.set()
        over.wait()
        yield b""

    with answering(answer) as url:
        yield url, asked
        over.set()


def started(farm: Farm, url: str, *words: str) -> subprocess.Popen[str]:
    environment = {**farm.environment, "UV_DEFAULT_INDEX": url, "UV_NO_CONFIG": "1"}
    return subprocess.Popen(
        farm.command(*words), env=environment, cwd=CHECKOUT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "number"),
    [(["discover"], signal.SIGINT), (["index", "add", "2.9.1"], signal.SIGTERM), (["add", "2.14"], signal.SIGINT)],
    ids=["discover", "index", "add"],
)
def test_a_command_that_waits_for_the_network(
    make_farm: Callable[..., Farm], words: list[str], number: signal.Signals
) -> None:
    with silent_index() as (url, asked):
        farm = started(make_farm("tiny"), url, *words)
        assert asked.wait(60)
        start = time.monotonic()
        farm.send_signal(number)
        out, _ = farm.communicate(timeout=60)
        assert time.monotonic() - start < LIMIT_S
    assert farm.returncode == 128 + number, out
    assert "interrupted" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_short_command_that_does_not_end(
    make_farm: Callable[..., Farm], tmp_path: Path, number: signal.Signals
) -> None:
    """As a git whose repository lies on a network disk that is gone, or here a compiler that is asked for its version."""
    compiler, group = tmp_path / "compiler", tmp_path / "group"
    compiler.write_text(f"#!/bin/sh\necho $$ > {group}.new\nmv {group}.new {group}\nsleep 600\n")
    compiler.chmod(0o755)
    project = make_farm("tiny")
    farm = subprocess.Popen(
        project.command("build", "--torch", "2.8"), cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**project.environment, "CXX": str(compiler)},
    )  # fmt: skip
    until(group.exists)
    running = Path("/proc") / group.read_text().strip()
    assert running.exists()
    # One thread reads signals, one counts the time, two read what the command prints.
    until(lambda: len(list(Path(f"/proc/{farm.pid}/task").iterdir())) >= 5)
    farm.send_signal(number)
    assert farm.wait(60) == 128 + number
    until(lambda: not running.exists(), (running / "cmdline").read_bytes)


HANGS = """
import sys, threading, time
from torch_build_farm.cli import signals
from torch_build_farm.core.process import Runner
with signals.handled(Runner(), lambda number: print("over", number, flush=True)):
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("ending", flush=True)
        threading.Event().wait(600)
"""


def test_what_does_not_end_is_ended() -> None:
    """As if a thread computed on, or a name server did not answer."""
    with subprocess.Popen([sys.executable, "-c", HANGS], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as farm:
        assert farm.stdout is not None
        assert farm.stdout.readline() == "ready\n"
        farm.send_signal(signal.SIGTERM)
        assert farm.stdout.read() == "ending\nover 15\n"
        assert farm.wait(LIMIT_S) == 143


def test_the_second_signal_leaves_the_terminal_as_it_was() -> None:
    """A program of a build may have switched the echo off, and a progress bar the cursor."""
    master, slave = pty.openpty()
    farm = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{HANGS}"],
        cwd=CHECKOUT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip

    def read_until(word: bytes) -> None:
        printed = b""
        while word not in printed:
            printed += os.read(master, 4096)

    try:
        read_until(b"ready")
        settings = termios.tcgetattr(slave)
        without_echo = [*settings]
        without_echo[3] = settings[3] & ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, without_echo)
        farm.send_signal(signal.SIGINT)
        read_until(b"ending")
        farm.send_signal(signal.SIGINT)
        assert farm.wait(LIMIT_S) == 130
        assert termios.tcgetattr(slave) == settings
        assert os.read(master, 4096).endswith(b"\x1b[?25h")
    finally:
        farm.kill()
        farm.wait()
        os.close(master)
        os.close(slave)


def test_a_parent_that_ignores_the_end_of_its_children(tiny: Farm) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", ignoring, *tiny.command("plan", "--torch", "2.8", "--json")]
    done = subprocess.run(command, env=tiny.environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"jobs"' in done.stdout or '"include"' in done.stdout
