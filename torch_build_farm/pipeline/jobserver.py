"""A GNU jobserver that all builds share: it limits the compilers on the machine, whichever builds they belong to.

The protocol is GNU make's (manual, "POSIX Jobserver Interaction"): a FIFO holds one byte for each token. Each build
needs one token to start, which is taken here; ninja 1.13 and make take more while some are free. An explicit -j, or
CMAKE_BUILD_PARALLEL_LEVEL, would turn that off.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from torch_build_farm.core.errors import DiskError
from torch_build_farm.core.process import Runner

_POLL_S = 0.05  # between two tries to take a token
_LARGEST_PIPE = 1 << 20  # bytes that a FIFO holds at most, for users (/proc/sys/fs/pipe-max-size)


class Jobserver:
    """`slots` tokens in a FIFO at `path`, which exists as long as the `with` block."""

    def __init__(self, path: Path, slots: int) -> None:
        self.path = path
        self.slots = slots
        self._builds = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            os.mkfifo(self.path, 0o600)
        except OSError as error:  # such as on network and FUSE file systems
            raise DiskError(
                f"the file system has no FIFOs: {error.strerror}",
                where=str(self.path),
                next_step="name folders on a local disk: --work DIR, TORCH_BUILD_FARM_STORE=DIR",
            ) from None
        # Both ends in one descriptor: opening does not wait for a build to open the other, and the FIFO never reports
        # end of file. Non-blocking, since a read from the empty FIFO could not be interrupted otherwise.
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)
        self._put(self.slots)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)
        self.path.unlink(missing_ok=True)

    @property
    def makeflags(self) -> str:
        """The value of MAKEFLAGS for a build: the jobserver's address, and -j with the number of tokens."""
        return f"-j{self.slots} --jobserver-auth=fifo:{self.path}"

    def _drain(self) -> int:
        """Take all tokens out; returns how many there were."""
        try:
            return len(os.read(self._fd, _LARGEST_PIPE))
        except BlockingIOError:
            return 0

    def _put(self, tokens: int) -> None:
        """Put tokens in, unless a build has filled the FIFO to the brim meanwhile: then there are more than enough."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._fd, b"+" * tokens)

    def _put_back(self) -> None:
        """Put a build's own token back, and never more than there are.

        Builds are foreign code and can write to the FIFO as well: then others start more compilers than they should,
        until a build ends.
        """
        free = self._drain() + 1
        self._put(min(free, self.slots - self._builds))

    def _take(self) -> bool:
        """Take a build's own token; returns whether one was free."""
        with self._lock:
            if self._builds == 0:
                # A build that was killed took its tokens along. While no build holds any, put all of them back.
                self._drain()
                self._put(self.slots)
            try:
                os.read(self._fd, 1)
            except BlockingIOError:
                return False
            self._builds += 1
            return True

    @contextlib.contextmanager
    def build(self, runner: Runner) -> Iterator[None]:
        """Hold a build's own token; waits while all are taken. Raises Interrupted when the run is cancelled."""
        while not self._take():
            runner.pause(_POLL_S)
        try:
            yield
        finally:
            with self._lock:
                self._builds -= 1
                self._put_back()
