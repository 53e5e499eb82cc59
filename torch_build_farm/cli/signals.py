"""SIGINT and SIGTERM: the first ends a command in order and soon, the second at once, and the terminal stays usable.

In order means that the commands which the farm started are stopped first. Everything else the farm may do meanwhile, a
download, a name look-up or a computation in another thread, is not worth waiting for: every file is written under
another name and renamed, so nothing is left half-written. Python itself runs a handler only between two steps of the
main thread, so a thread reads the signals too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from torch_build_farm.core.process import Runner, end_short_commands

_HANDLED = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 1.5  # for everything but the commands that run
_POLL_S = 0.05
_REPORT_S = 0.3  # to print the message, which another thread may be in the way of
_SHOW_CURSOR = b"\x1b[?25h"


class _Terminal:
    """The terminal as it was when the farm started: a program that asks for a password switches the echo off."""

    def __init__(self) -> None:
        self._settings: list[tuple[int, list[Any]]] = []
        for stream in (sys.stdin, sys.stderr, sys.stdout):
            with contextlib.suppress(OSError, ValueError, AttributeError, termios.error):
                descriptor = stream.fileno()
                self._settings.append((descriptor, termios.tcgetattr(descriptor)))

    def restore(self) -> None:
        """Give the terminal its settings and its cursor. A farm in the background leaves it to who has it."""
        for descriptor, settings in self._settings:
            with contextlib.suppress(OSError, termios.error):
                if os.tcgetpgrp(descriptor) == os.getpgrp():
                    termios.tcsetattr(descriptor, termios.TCSANOW, settings)
                    if descriptor != 0:
                        os.write(descriptor, _SHOW_CURSOR)


class _Watch:
    """Reads signals as they arrive, whatever the main thread does."""

    def __init__(self, runner: Runner, report: Callable[[int], object], arrived: int) -> None:
        self._runner, self._report, self._arrived = runner, report, arrived
        self._terminal = _Terminal()
        self._first: int | None = None

    def run(self) -> None:
        """Until the pipe is closed at its other end."""
        while True:
            ready, _, _ = select.select([self._arrived], [], [], None if self._first is None else _POLL_S)
            if ready:
                numbers = os.read(self._arrived, 64)
                if not numbers:
                    return
                for number in numbers:
                    if number in _HANDLED:
                        self._signal(number)
            elif self._first is not None and self._runner.idle_s() > _GRACE_S:
                reporter = threading.Thread(target=self._report, args=[self._first], daemon=True)
                reporter.start()
                reporter.join(_REPORT_S)
                self.end(self._first)

    def _signal(self, number: int) -> None:
        if self._first is not None:
            self.end(number)
        self._first = number
        self._runner.cancel(number)
        end_short_commands()

    def end(self, number: int) -> None:
        """End the farm at once; what it started notices, and ends too."""
        end_short_commands()
        self._terminal.restore()
        os._exit(128 + number)


@contextlib.contextmanager
def handled(runner: Runner, report: Callable[[int], object]) -> Iterator[None]:
    """Within the block SIGINT and SIGTERM cancel `runner` and raise KeyboardInterrupt in the main thread.

    If the block does not end soon after, `report(number)` prints why the farm ends, and it ends.
    """
    # With SIGCHLD ignored, as some parents leave it, no process learns how another ended, uv and git neither.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arrived, wake = os.pipe()
    os.set_blocking(wake, False)
    watch = _Watch(runner, report, arrived)
    is_first = True

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal is_first
        if not is_first:
            watch.end(number)
        is_first = False
        runner.cancel(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in _HANDLED}
    wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch.run, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wake_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(wake)
        thread.join()
        os.close(arrived)
