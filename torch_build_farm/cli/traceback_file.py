"""The error for an exception that nobody expects; its traceback goes into a file for the report."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import platformdirs

from torch_build_farm import __version__
from torch_build_farm.core.errors import FarmError, InternalError

_MESSAGE = 500  # characters of an exception's own words


def unexpected(error: Exception) -> FarmError:
    """The error to report: what was raised and where the traceback lies, or where it was raised if no file can be."""
    text = f"{type(error).__name__}: {error}"[:_MESSAGE]
    if isinstance(error, RecursionError):
        text = f"something is nested too deeply: {text}"
    elif isinstance(error, UnicodeError):
        text = f"a name or a text is not in the encoding that it should have: {text}"
    step = "a bug in the farm: please report it, with that file"
    path = _write(error)
    if path is None:
        return InternalError(text, where=_innermost(error), next_step="a bug in the farm: please report it")
    return InternalError(text, where=str(path), next_step=step)


def _state_folder() -> Path:
    return platformdirs.user_state_path("torch-build-farm") / "tracebacks"


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def _write(error: Exception) -> Path | None:
    """Write the traceback into the user's state folder, else where temporary files go; None if neither lets it."""
    # Of a deep recursion only the ends are of use.
    text = "".join(traceback.format_exception(error, limit=-50))
    name = f"torch-build-farm-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    places: tuple[Callable[[], Path], ...] = (_state_folder, _temporary_folder)
    for place in places:
        with contextlib.suppress(OSError, RuntimeError):
            folder = place()
            if not folder.is_absolute():  # of a user without a home
                continue
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / name
            # For its owner alone: a traceback may quote what a setting holds. Never through a link that lies there.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(f"torch-build-farm {__version__}\n{text}")
            return path
    return None


def _innermost(error: Exception) -> str:
    """Where the exception was raised: file, line, function."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}, {frames[-1].name}" if frames else ""
