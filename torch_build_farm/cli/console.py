"""Where the farm's output goes: lines for people, and the document for programs.

Nothing else in the package prints (tests/cli/test_console.py). All text for people goes through `People.render`, where
`printable_lines` makes control characters of strangers visible; the farm's own colours and the live table's cursor are
not text, and pass.

Every start of the farm imports this, so it imports little.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from torch_build_farm.core.errors import DiskError, FarmError, Interrupted
from torch_build_farm.core.process import Runner
from torch_build_farm.core.text import printable_lines, without_ci_commands

_LOG_WIDTH = 240  # columns of a log or a file, where no line has to be folded
_STREAMS = {"stdout": "standard output", "stderr": "standard error"}


def in_ci() -> bool:
    """Whether this is a CI system, as they all state by CI=true."""
    return os.environ.get("CI", "").lower() in ("true", "1")


def open_standard_streams() -> None:
    """Open what the caller closed of descriptors 0, 1 and 2, to nowhere.

    Else the next file that the farm opens gets such a number, and a command's output goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number (open(2))


class Stream:
    """Standard output or standard error, as `sys` has it at each write, flushed.

    What its encoding lacks is escaped. An error goes to `failed` as the FarmError that it means, and what follows goes
    nowhere: Interrupted if the reader went away, as `| head` does, else DiskError.
    """

    def __init__(self, name: Literal["stdout", "stderr"], failed: Callable[[FarmError], None]) -> None:
        self._name = name
        self._failed = failed

    @property
    def _stream(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self._name)
        return getattr(stream, "rich_proxied_file", stream)  # rich's live table puts itself in front

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None:
            encodable = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
            try:
                self._stream.write(encodable)
                self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: of a stream that Python closed
                self._discard()
                self._failed(self._failure(error))
        return len(text)

    def flush(self) -> None:
        """Nothing is left to flush."""

    def _failure(self, error: OSError | ValueError) -> FarmError:
        if isinstance(error, BrokenPipeError):
            return Interrupted(signal.SIGPIPE)
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return DiskError(f"{_STREAMS[self._name]} cannot be written: {reason}", next_step="name another file or disk")

    def _discard(self) -> None:
        """Send the stream to nowhere, so that the interpreter's last flush does not fail."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


class _CiLog(Stream):
    """A stream that a CI system reads for commands: none of its lines is one."""

    def write(self, text: str) -> int:
        return super().write(without_ci_commands(text))


class People(Console):
    """What people read. No text is markup, and no character of it moves the cursor."""

    def __init__(
        self, file: TextIO | Stream | None = None, *, force_terminal: bool | None = None, width: int | None = None
    ) -> None:
        super().__init__(
            file=file,  # type: ignore[arg-type]  # of a text file rich uses what `Stream` has
            force_terminal=force_terminal,
            width=width,
            markup=False,
            highlight=False,
            emoji=False,
        )
        # Rich would fold lines at 80 columns, and logs are searched by line.
        if width is None and not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _LOG_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            # Control segments are rich's own, such as those that draw the live table over itself.
            yield segment if segment.control else segment._replace(text=printable_lines(segment.text))

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as rich measures it, for a cell's width: escapes are counted."""
        return super().render_str(printable_lines(text), **options)

    def say(self, text: str, style: str = "") -> None:
        """Print a text as it is, neither folded nor cut."""
        self.print(text, style=style, soft_wrap=True)


class Output:
    """Where a command's output goes. With `json`, standard output is for its document, and people read on stderr.

    If it cannot be written, `failure` says why, and the run is cancelled.

    SIGPIPE itself stays ignored, as Python has it: it would also come from an index that hangs up in mid-upload.
    """

    def __init__(self, runner: Runner, *, json: bool) -> None:
        self.failure: FarmError | None = None
        self._runner = runner
        self._json = json
        kind = _CiLog if in_ci() else Stream
        self.people = People(kind("stderr" if json else "stdout", self._failed))
        self.errors = People(kind("stderr", self._failed))
        self._documents = Stream("stdout", self._failed)

    def _failed(self, failure: FarmError) -> None:
        self.failure = self.failure or failure
        self.people.quiet = True
        self._runner.cancel(signal.SIGPIPE)

    def document(self, text: str) -> None:
        """Print the document, if --json asks for it."""
        if not self._json:
            return
        if sys.stdout is None:
            self._failed(DiskError("standard output is closed, where the document goes", next_step="open it"))
        self._documents.write(f"{text}\n")


def print_help(text: str) -> None:
    """Print a text of the farm's own that ends the process. Raises Interrupted or DiskError, as `Stream` says."""

    def fail(failure: FarmError) -> None:
        raise failure

    Stream("stdout", fail).write(text)
