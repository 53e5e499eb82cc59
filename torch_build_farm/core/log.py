"""The format of a job's log, and how it is read: a build prints what it likes, and as much of it as it likes."""

from __future__ import annotations

from pathlib import Path

_HEADING = "#### torch-build-farm: "
STAGE_MARK = f"\n{_HEADING}"  # what each stage's part of a job's log begins with

_MOST = 32 << 20  # bytes of a log's end that are read
_MOST_LINES = 500_000  # of these; an empty one costs as much as a long one
LONGEST_LINE = 4000  # characters of a line that patterns are matched with


def without_marks(text: str) -> str:
    """`text`, which begins a line of a log, with a space before what would begin a stage's part there.

    Commands print what they like, and the farm cuts and reads a log by its marks.
    """
    if text.startswith(_HEADING):
        text = f" {text}"
    return text.replace(STAGE_MARK, f"\n {_HEADING}")


def read(log: Path) -> str:
    """A log's text, of a very long one the end; its lines are cut, so that patterns take little time.

    Raises OSError.
    """
    with log.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - _MOST))
        text = stream.read(_MOST).decode("utf-8", "replace")
    lines = text.rsplit("\n", _MOST_LINES)[-_MOST_LINES:]
    return "\n".join([line[:LONGEST_LINE] for line in lines])
