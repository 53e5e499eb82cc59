"""Which process left something behind, in words that hold beyond its end: numbers of processes are given again."""

from __future__ import annotations

import os
from pathlib import Path


def of(pid: int) -> str:
    """The process of that number; empty where this system does not tell.

    It is the machine's start, the name space that the number counts in, the number, and when the process began
    (proc_pid_stat(5), field 22, in clock ticks since the machine's start).
    """
    try:
        started = _stat(pid)[19]
        return f"{_here()}:{pid}:{started}"
    except (OSError, IndexError):
        return ""


def is_gone(identity: str) -> bool:
    """Whether a process of this machine, by `of`, has ended. False for one of elsewhere, of which nothing is known."""
    place, _, process = identity.partition(":")
    pid, _, started = process.partition(":")
    try:
        if not pid.isdecimal() or place != _here():
            return False
    except OSError:  # this system does not tell
        return False
    try:
        fields = _stat(int(pid))
        # One that has ended, and whose parent has not asked how, is there as a zombie.
        return fields[19] != started or fields[0] == "Z"
    except (OSError, IndexError):
        # /proc may hide the processes of other users (proc(5), hidepid).
        return not _exists(int(pid))


def _here() -> str:
    """The machine since it started, and the name space of process numbers here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _exists(pid: int) -> bool:
    """Whether there is a process of that number, whoever may see it (kill(2), signal 0)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the process's state on: its name before that may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
