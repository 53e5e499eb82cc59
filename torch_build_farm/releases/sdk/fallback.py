"""Whether a build gets torch's SDK or all of torch: by the project's `torch-build`, and by what the build uses."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import IO

from torch_build_farm.core import foreign_files
from torch_build_farm.core.files import read_foreign_text
from torch_build_farm.project.settings import Settings
from torch_build_farm.releases.sdk import REFUSAL, version_of
from torch_build_farm.wheels.wheel import opened

# The one import of a build script that always runs torch. Whatever else a build runs shows when it happens. No part of
# the expression goes on without a limit over several lines: each line would then be followed to the end of the script.
_RUNS_TORCH = re.compile(
    rb"^[ \t\f]*((from|import) +torch\.utils\.cpp_extension\b"
    rb"|from +torch\.utils +import\b([ \t]*\([^)]{0,2000}|[^#;\n]{0,2000})\bcpp_extension\b)",
    re.MULTILINE,
)
# The same in a command of meson.build. Meson leaves out of the build's log what a failed command prints.
_COMMAND_RUNS_TORCH = re.compile(rb"\btorch\.utils(?:\.| +import +(?:[\w ,]{0,200}\b)?)cpp_extension\b")
_LONGEST_SCRIPT = 1_000_000  # bytes; torch's own setup.py has 60,000

# What torch's wheels have required since 2.6, except triton and NVIDIA's: a build script may import them undeclared.
_COMES_WITH_TORCH = re.compile(
    r"No module named '(filelock|fsspec|jinja2|markupsafe|mpmath|networkx|setuptools|sympy|triton|typing_extensions)\b"
)
_NAME = re.compile(r"torch[\w.]{0,200}")
_REFUSED_NAME = re.compile(rf"\b({_NAME.pattern}) is not in torch's SDK")
_MOST_NAMES = 20  # in a message
_LARGEST_NOTE = 1_000_000  # bytes
_PIECE = 1 << 20  # bytes of a member that are in memory


def reason_for_full_torch(settings: Settings, tree: Path) -> str:
    """Why a build of the project in `tree` needs all of torch from the start; empty if the SDK is tried first."""
    if settings.torch_build == "full":
        return 'torch-build = "full"'
    if settings.torch_build == "auto":
        folder = tree / settings.subdirectory
        scripts = [*sorted(folder.glob("*.py")), folder / "meson.build"]
        for path in scripts:
            if _runs_torch(path):
                return f"{path.name} uses torch.utils.cpp_extension, which runs torch"
    return ""


def _runs_torch(script: Path) -> bool:
    """Whether a build script imports what always runs torch; not of one that no build would read."""
    try:
        content = foreign_files.content(script, _LONGEST_SCRIPT)
    except OSError:
        return False
    pattern = _COMMAND_RUNS_TORCH if script.name == "meson.build" else _RUNS_TORCH
    return pattern.search(content) is not None


def names_refused(note: Path, log: str) -> str:
    """The names that a build requested from the SDK and did not get, separated by commas; empty if there are none.

    The SDK writes them to the file `note` and, in its error, to the build's log. The build can write both: what is no
    name is left out, and so are all but the first names. Raises BuildError where the note is no file, or too large.
    """
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names += [name for name in read_foreign_text(note, _LARGEST_NOTE).split() if _NAME.fullmatch(name)]
    names += _REFUSED_NAME.findall(log)
    # These are the loader's words. ld warns of the same name in other words where a build links and loads nothing.
    if f"{REFUSAL}: cannot open shared object file" in log:
        names.append("torch's libraries")
    return ", ".join(list(dict.fromkeys(names))[:_MOST_NAMES])


def missing_module(log: str) -> str:
    """The module that a failed build lacked and that all of torch would have brought; empty if there is none."""
    match = _COMES_WITH_TORCH.search(log)
    return match[1] if match else ""


def member_with_sdk_version(wheel: Path, release: str) -> str:
    """The first member of a wheel that contains the SDK's version; empty if none does.

    A build may write `torch.__version__` into what it makes, and no torch that users have has the SDK's version.
    """
    version = version_of(release).encode()
    with opened(wheel) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                if _contains(member, version):
                    return name
    return ""


def _contains(stream: IO[bytes], text: bytes) -> bool:
    """Whether a stream contains `text`, read a piece at a time: a member of a wheel may have gigabytes."""
    end = b""  # of what came before, where the text may begin
    while piece := stream.read(_PIECE):
        joined = end + piece
        if text in joined:
            return True
        end = joined[-len(text) + 1 :]
    return False
