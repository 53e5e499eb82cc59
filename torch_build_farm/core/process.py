"""The one place that starts processes."""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

from torch_build_farm.core.errors import Interrupted
from torch_build_farm.core.log import without_marks

_SUPERVISOR = Path(__file__).with_name("supervise.py")
_LARGEST_OUTPUT = 32 << 20  # bytes that a short command may print
_TAIL_LINES = 400  # of a command's output are at hand in memory; the log has all of it
_LONGEST_LINE = 1 << 16  # bytes of a line that are in memory; a linker's command may have as many
_LARGEST_LOG = 256 << 20  # bytes of a command's output that are in its log; torch's own build prints 5 MB
_PIECE = 1 << 16  # bytes of a short command's output that are read at once
NO_ANSWER = 127  # the status of a short command that is missing, takes too long or prints too much


@dataclass(frozen=True)
class Ending:
    """How a command is asked to end: by which signal, and how many seconds it has before SIGKILL."""

    number: int = signal.SIGTERM
    grace_s: float = 1.0


@dataclass(frozen=True)
class Completed:
    """How a command ended: its exit status (128 + N for signal N) and the end of what it printed.

    `peak_mb` is the resident set of the largest process of all that it started and waited for, in MB (10^6 bytes).
    """

    command: tuple[str, ...]
    returncode: int
    tail: tuple[str, ...]
    peak_mb: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the command succeeded."""
        return self.returncode == 0

    @property
    def last_line(self) -> str:
        """The last line that is not blank: most programs end with what went wrong. Empty if they printed nothing."""
        for line in reversed(self.tail):
            if line.strip():
                return line.strip()
        return ""

    @property
    def last_words(self) -> str:
        """The last line that is not blank, or the exit status of a command that printed nothing."""
        return self.last_line or f"it ended with status {self.returncode}"

    @property
    def exception(self) -> str:
        """What ended a Python program: its last traceback's exception, or what faulthandler says; else `last_words`.

        More lines follow: the rest of a message, frames of C++ behind an exception of torch's, faulthandler's stacks.
        """
        in_traceback = False
        exception = ""
        for line in self.tail:
            if line.startswith("Traceback (most recent call last):"):
                in_traceback = True
            elif line.startswith("Fatal Python error:") or (in_traceback and line.strip() and not line.startswith(" ")):
                exception = line.strip()
                in_traceback = False
        return exception or self.last_words


_to_finish: list[object] = []  # what runs that has to be finished, of all threads


@contextlib.contextmanager
def to_be_finished() -> Iterator[None]:
    """What the block does is finished even when a signal has ended all commands; the second signal ends it too."""
    block = object()
    _to_finish.append(block)
    try:
        yield
    finally:
        _to_finish.remove(block)


class Runner:
    """Starts commands, each under a supervisor that dies with the farm and takes the command along.

    Thread-safe. `cancel` ends every command that runs; after it nothing starts any more.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # cancel may come from a signal handler
        self._lifelines: set[int] = set()
        self._signal: int | None = None
        self._cancelled = threading.Event()
        self._running, self._idle_since = 0, time.monotonic()  # commands, also those that are asked to end

    @property
    def signal_number(self) -> int | None:
        """The signal of `cancel`; None before it."""
        return self._signal

    def idle_s(self) -> float:
        """Seconds since `cancel`, or since the last command ended if that is later; 0 while one still runs."""
        with self._lock:
            return 0.0 if self._running or _to_finish else time.monotonic() - self._idle_since

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._signal is not None

    def cancel(self, signal_number: int) -> None:
        """End every command that runs and refuse to start another."""
        with self._lock:
            if self._signal is None:
                self._signal, self._idle_since = signal_number, time.monotonic()
            self._cancelled.set()
            # Each supervisor reads end of file, and takes its command down.
            for lifeline in self._lifelines:
                os.close(lifeline)
            self._lifelines.clear()

    def pause(self, seconds: float) -> None:
        """Sleep; raises Interrupted at once when the run is cancelled."""
        self._cancelled.wait(seconds)
        self.check()

    def check(self) -> None:
        """Raise Interrupted after `cancel`."""
        if self._signal is not None:
            raise Interrupted(self._signal)

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        on_line: Callable[[str], None] = lambda _: None,
        ending: Ending = Ending(),
    ) -> Completed:
        """Run `command`, its output appended to `log` and given to `on_line` line by line.

        A long line is cut, except in the log, which is cut where it becomes very large.
        The environment is `env` and nothing else. Raises Interrupted when the run is cancelled.
        """
        words = tuple(os.fspath(word) for word in command)
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        with (
            log.open("a", encoding="utf-8", buffering=1) as sink,
            self._supervised(words, env, cwd, ending) as (child, peak),
        ):
            # Into the log line by line (buffering=1): people follow it while a build runs.
            sink.write(without_marks(f"$ {shlex.join(words)}\n"))
            assert child.stdout is not None
            for line in _logged_lines(cast(BinaryIO, child.stdout), sink):
                tail.append(line)
                on_line(line)
            child.wait()
            peak_kib = int(os.read(peak, 32) or 0)  # nothing from a supervisor that was killed

        # What a cancelled run has stopped has not failed.
        self.check()
        return Completed(words, child.returncode, tuple(tail), peak_kib * 1024 / 1e6)

    @contextlib.contextmanager
    def _supervised(
        self, words: tuple[str, ...], env: Mapping[str, str], cwd: Path | None, ending: Ending
    ) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The supervisor, and the file descriptor on which it reports the largest process's size."""
        supervisors_stdin, lifeline = os.pipe()
        peak, supervisors_report = os.pipe()
        try:
            # Under the lock, so that `cancel` finds the lifeline of every command that has started.
            with self._lock:
                self.check()
                how = (str(int(ending.number)), str(ending.grace_s), str(supervisors_report))
                # -I and -S: no variable and no site-packages can change what the supervisor does.
                child = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_SUPERVISOR), *how, *words],
                    stdin=supervisors_stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=dict(env),
                    start_new_session=True,
                    pass_fds=(supervisors_report,),
                    umask=0o022,  # the caller's would be in the permissions of a wheel's members
                )
                self._lifelines.add(lifeline)
                self._running += 1
        except BaseException:
            os.close(lifeline)
            os.close(peak)
            raise
        finally:
            # The supervisor has copies of its own. With the report's open here too, reading it would never end where a
            # supervisor dies without a report.
            os.close(supervisors_stdin)
            os.close(supervisors_report)
        try:
            with child:
                yield child, peak
        finally:
            os.close(peak)
            with self._lock:
                if lifeline in self._lifelines:
                    self._lifelines.remove(lifeline)
                    os.close(lifeline)
            child.wait()
            with self._lock:
                self._running, self._idle_since = self._running - 1, time.monotonic()


def _logged_lines(output: BinaryIO, log: TextIO) -> Iterator[str]:
    """Write what a command prints into its log; the lines, of which long ones are cut.

    The command decides how much it prints: the farm has at most `_LONGEST_LINE` bytes of it in memory, and the disk
    `_LARGEST_LOG`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    written = 0
    is_start = True  # of a line
    while piece := output.readline(_LONGEST_LINE):
        is_end = piece.endswith(b"\n") or len(piece) < _LONGEST_LINE
        text = decoder.decode(piece, final=is_end)
        if is_end:
            text = text.rstrip("\r\n")
        if written <= _LARGEST_LOG:
            logged = without_marks(text) if is_start else text
            log.write(f"{logged}\n" if is_end else logged)
            written += len(piece)
            if written > _LARGEST_LOG:
                log.write(f"\n(the command printed more than {_LARGEST_LOG} bytes; the rest is left out)\n")
        if is_start:
            yield text if is_end else f"{text} ... (the line goes on)"
        is_start = is_end


@dataclass(frozen=True)
class Shell:
    """Where commands run: their environment, folder and log. `say` gets each line that they print, as it is printed.

    `prefix` are words before each command, such as env and its assignments.
    """

    runner: Runner
    env: Mapping[str, str]
    cwd: Path
    log: Path
    say: Callable[[str], None]
    ending: Ending = Ending()
    prefix: tuple[str, ...] = ()

    def run(self, *command: str | os.PathLike[str]) -> Completed:
        """Run a command. Raises Interrupted when the run is cancelled."""
        return self._run(*self.prefix, *command)

    def _run(self, *command: str | os.PathLike[str]) -> Completed:
        return self.runner.run(command, env=self.env, cwd=self.cwd, log=self.log, on_line=self.say, ending=self.ending)


_short_commands: set[int] = set()  # those that run, by their process groups


def end_short_commands() -> None:
    """Kill what `capture` waits for, in all threads: a farm that ends at once leaves nothing behind."""
    for group in _short_commands.copy():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def capture(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str = "",
    timeout_s: float = 60.0,
) -> Completed:
    """Run a short command such as `g++ --version`.

    The status is NO_ANSWER for one that is missing, takes too long, or prints more than 32 MB.
    """
    words = tuple(os.fspath(word) for word in command)
    faults: list[str] = []
    try:
        # A new session: Ctrl-C in the terminal reaches the farm alone, which ends what it started.
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Completed(words, NO_ANSWER, (str(error),))

    def end(fault: str) -> None:
        faults.append(fault)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def write() -> None:
        with contextlib.suppress(OSError), process.stdin or contextlib.nullcontext() as stream:
            if stream:
                stream.write(stdin.encode())

    outputs = {"out": b"", "err": b""}

    def read(name: str, stream: IO[bytes]) -> None:
        outputs[name] = _up_to(_LARGEST_OUTPUT + 1, stream)
        if len(outputs[name]) > _LARGEST_OUTPUT:
            end("it prints too much")

    assert process.stdout is not None
    assert process.stderr is not None
    timer = threading.Timer(timeout_s, end, [f"it takes more than {timeout_s:.0f} s"])
    threads = [
        threading.Thread(target=write),
        threading.Thread(target=read, args=("out", process.stdout)),
        threading.Thread(target=read, args=("err", process.stderr)),
    ]
    _short_commands.add(process.pid)
    try:
        with process:
            for thread in (timer, *threads):
                thread.daemon = True
                thread.start()
            for thread in threads:
                thread.join()
            process.wait()
            timer.cancel()
    finally:
        _short_commands.discard(process.pid)
    if faults:
        return Completed(words, NO_ANSWER, (faults[0],))
    # A command that fails explains itself on standard error; one that succeeds may print warnings there.
    output = outputs["out"] if process.returncode == 0 else outputs["err"]
    return Completed(words, process.returncode, tuple(output.decode("utf-8", "replace").splitlines()))


def _up_to(size: int, stream: IO[bytes]) -> bytes:
    """The first bytes of a stream, piece by piece: to read many at once takes the memory for all, however few come."""
    content = bytearray()
    while len(content) < size:
        piece = stream.read(min(_PIECE, size - len(content)))
        if not piece:
            break
        content += piece
    return bytes(content)


def answers(command: Sequence[str | os.PathLike[str]], lines: Sequence[str], *, seconds: float = 30.0) -> list[str]:
    """The lines that a short command answers to the lines that it reads; fewer where it ends too early."""
    try:
        done = subprocess.run(
            [os.fspath(word) for word in command], input="".join(f"{line}\n" for line in lines), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=seconds, errors="replace",
            start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    # What follows the last line end is half an answer.
    return done.stdout.split("\n")[:-1]
