"""Processes are known by more than their number, which is given again."""

from __future__ import annotations

import os
import subprocess

import pytest

from torch_build_farm.core import process_identity


def test_a_process_is_gone_once_it_has_ended() -> None:
    process = subprocess.Popen(["sleep", "60"])
    identity = process_identity.of(process.pid)
    assert not process_identity.is_gone(identity)
    assert not process_identity.is_gone(process_identity.of(os.getpid()))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_identity.is_gone(identity), "a zombie"
    process.wait()
    assert process_identity.is_gone(identity)
    assert process_identity.of(process.pid) == ""


def test_a_process_that_proc_hides_is_gone_once_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc is mounted with hidepid (proc(5)), which takes root to set up."""
    process = subprocess.Popen(["sleep", "60"])
    identity = process_identity.of(process.pid)

    def hidden(pid: int) -> list[str]:
        raise FileNotFoundError(f"/proc/{pid}/stat")

    monkeypatch.setattr(process_identity, "_stat", hidden)
    assert not process_identity.is_gone(identity)
    process.kill()
    process.wait()
    assert process_identity.is_gone(identity)


def test_another_process_of_that_number_is_another_one() -> None:
    place, pid, started = process_identity.of(os.getpid()).rsplit(":", 2)
    assert process_identity.is_gone(f"{place}:{pid}:{int(started) - 1}")


@pytest.mark.parametrize("identity", ["", "x", "x:1:2", "a/b:9999999:1", "::", ":1:", "elsewhere/1:" + "9" * 40 + ":1"])
def test_of_processes_of_elsewhere_nothing_is_known(identity: str) -> None:
    assert not process_identity.is_gone(identity)


def test_a_number_that_no_process_has() -> None:
    place, _, _ = process_identity.of(os.getpid()).rsplit(":", 2)
    assert process_identity.is_gone(f"{place}:{'9' * 40}:1")
