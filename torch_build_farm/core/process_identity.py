"""Which process left something behind, in words that hold beyond its end: numbers of processes are given again."""

from __future__ import annotations

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
    pid, _, _ = process.partition(":")
    try:
        if not pid.isdecimal() or place != _here():
            return False
        # One that has ended, and whose parent has not asked how, is there as a zombie.
        return of(int(pid)) != identity or _stat(int(pid))[0] == "Z"
    except (OSError, IndexError):
        return True


def _here() -> str:
    """The machine since it started, and the name space of process numbers here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the process's state on: its name before that may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
