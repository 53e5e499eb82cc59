"""Runs one command and takes it down, with all that it started, when the farm dies.

Started by `process` as `python -I -S supervise.py SIGNAL GRACE PEAK COMMAND...`, so it uses the standard library
alone: SIGNAL asks the command to end, GRACE is how many seconds it then has before SIGKILL, and PEAK is the file
descriptor to which the resident set of the largest process (KiB) is written at the end. Its standard input is a pipe
that only the farm holds open: end of file means that the farm closed it (to cancel) or is gone (SIGKILL included). It
makes itself the parent of orphans (PR_SET_CHILD_SUBREAPER, Linux 3.4), so that a process that left the group and lost
its parent is found too.

Own code, because nothing that pip installs does this. psutil's `children(recursive=True)` acts only while the farm
lives, and does not see a process whose parent has ended: measured with a shell that starts `setsid sleep` through
another shell, it lists only what the first shell waits for. tini adopts orphans and systemd-run stops all of a scope,
but the one comes with an image and the other with systemd. A command costs 43 ms of CPU time more; an interpreter with
psutil would cost 50.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    """All live processes below `pid`, nearest first."""
    pids: list[int] = []
    queue = [pid]
    while queue:
        parent = queue.pop(0)
        # Each thread lists the processes that it started.
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                below = [int(child) for child in children.read_text().split()]
            except OSError:
                continue
            pids += below
            queue += below
    return pids


def kill_all(number: int) -> None:
    """Send a signal to every descendant."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def reap() -> None:
    """Collect every child that has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def take_down(number: int, grace_s: float) -> None:
    """End every descendant: the signal, a grace, SIGKILL until none is left."""
    kill_all(number)
    end = time.monotonic() + grace_s
    # Until none is left: a process that is asked to end may start others before it does.
    while descendants(os.getpid()):
        reap()
        if time.monotonic() > end:
            kill_all(signal.SIGKILL)
        time.sleep(0.01)


def main() -> int:
    """Run the command; returns its exit status, 128 + N where signal N ended it, 127 where it could not be started."""
    number, grace_s, peak, *command = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    # `select` below waits for two things: the farm's end of the pipe, and the end of the child. The second is a signal,
    # which Python turns into a byte in this pipe; that takes a handler, even one that does nothing.
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)

    # A session of its own, so that Ctrl-C in the terminal reaches the farm alone, which ends the command in its way.
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stdout.write(f"{command[0]}: {error.strerror}\n")
        return 127  # as a shell does

    while child.poll() is None:
        ready, _, _ = select.select([0, wake_read], [], [])
        if 0 in ready:  # nothing is ever written to it: readable means end of file
            take_down(number, grace_s)
            return 128 + signal.SIGTERM
        os.read(wake_read, 512)
    take_down(number, grace_s)  # what the command left in the background

    # Measured here and not in the farm: a forked child starts with its parent's resident size, so the farm would
    # measure itself.
    os.write(peak, b"%d" % resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)

    # Popen has -N for a child that signal N ended; shells say 128 + N, and so does the farm's `Completed`.
    code = child.returncode
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
