"""Why a build failed, told from its log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch_build_farm.core.errors import (
    BuildError,
    CompileError,
    DiskError,
    FarmError,
    OutOfMemoryError,
    PackageIndexError,
)
from torch_build_farm.core.log import STAGE_MARK

# gcc's driver says "Killed signal terminated program cc1plus" when the kernel ends the compiler for want of memory; the
# compiler itself says the others where a limit (ulimit, cgroup without swap) refuses it more.
_MEMORY = re.compile(
    r"Killed signal terminated program|out of memory allocating|virtual memory exhausted|std::bad_alloc"
    r"|[Cc]annot allocate memory|LLVM ERROR: out of memory|terminated with signal 9|died due to signal 9"
    r"|internal compiler error: Killed|unable to execute command: Killed"
)
_DISK = re.compile(r"[Nn]o space left on device|Disk quota exceeded|os error 28")
# uv's words for an index that does not answer; "not found in the package registry" is an index that does.
_INDEX = re.compile(
    r"error sending request|dns error|Failed to fetch|Connection (refused|reset|timed out)|operation timed out"
    r"|tcp connect error|Could not connect|Failed to download|network (connectivity|is unreachable)"
)
_COMPILER = re.compile(r"^\S[^:]*:\d+(:\d+)?: (fatal )?error: |undefined reference to |^CMake Error|: error: ")
_QUOTED = re.compile(r"\s*\d* \| ")  # source lines that gcc and clang quote
# The build's copy of the tree; people have the file in theirs.
_COPY = re.compile(r"(?<!\S)(?:/\S*/scratch/source|/project)/")
_ANY = re.compile(r"\berror\b|\bfailed\b", re.IGNORECASE)


def first_match(pattern: re.Pattern[str], lines: Sequence[str]) -> str | None:
    """The first line that matches, with the two after it where CMake says what it means on lines of their own."""
    for number, line in enumerate(lines):
        if pattern.search(line):
            if line.startswith("CMake Error"):
                return " ".join(part.strip() for part in lines[number : number + 3]).strip()
            return _COPY.sub("", line.strip())
    return None


def diagnose(what: str, log: Path, oom_kills: int = 0) -> FarmError:
    """The error that tells best why the last stage in `log` failed; `what` names the job or the errand.

    `oom_kills` is how often the kernel killed something for want of memory meanwhile.
    """
    where = str(log)
    text = log.read_text("utf-8", "replace")
    lines = text[text.rfind(STAGE_MARK) + 1 :].splitlines()[1:]
    lines = [line for line in lines if not line.startswith("$ ") and not _QUOTED.match(line)]
    memory, compiler = first_match(_MEMORY, lines), first_match(_COMPILER, lines)
    if oom_kills and not compiler:
        memory = memory or "something was killed"
    if found := memory:
        kernel = f" (the kernel's out-of-memory killer struck {oom_kills} times meanwhile)" if oom_kills else ""
        return OutOfMemoryError(
            f"{what}: the compiler ran out of memory{kernel}: {found}",
            where=where,
            next_step="run fewer at once (--jobs 1), raise memory-per-compile-gb in [tool.torch-build-farm], "
            "or use a machine with more memory",
        )
    if found := first_match(_DISK, lines):
        return DiskError(f"{what}: the disk is full: {found}", where=where, next_step="free some and run again")
    if found := compiler:
        return CompileError(f"{what}: {found}", where=where, next_step="the log holds the whole output")
    if found := first_match(_INDEX, lines):
        return PackageIndexError(
            f"{what}: the package index is out of reach: {found}",
            where=where,
            next_step="check the network, proxy and certificates (`doctor` tries the index), then run again",
        )
    found = first_match(_ANY, lines) or next((line for line in reversed(lines) if line.strip()), "no output")
    return BuildError(f"{what}: the build failed: {found}", where=where, next_step="the log holds the whole output")
