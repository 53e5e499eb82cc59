"""Finds out from its log why a build failed."""

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
    SmokeError,
)
from torch_build_farm.core.log import STAGE_MARK, read
from torch_build_farm.engines import missing_files, missing_libraries
from torch_build_farm.engines.missing_modules import lacks_module

# gcc's driver prints "Killed signal terminated program cc1plus" when the kernel kills the compiler for lack of memory;
# the compiler itself prints the others where a limit (ulimit, cgroup without swap) refuses it more.
_MEMORY = re.compile(
    r"Killed signal terminated program|out of memory allocating|virtual memory exhausted|std::bad_alloc"
    r"|[Cc]annot allocate memory|LLVM ERROR: out of memory|terminated with signal 9|died due to signal 9"
    r"|internal compiler error: Killed|unable to execute command: Killed"
)
_DISK = re.compile(r"[Nn]o space left on device|Disk quota exceeded|os error 28")
# uv's messages about an index that does not answer; "not found in the package registry" is an index that does.
_INDEX = re.compile(
    r"error sending request|dns error|Failed to fetch|Connection (refused|reset|timed out)|operation timed out"
    r"|tcp connect error|Could not connect|Failed to download|network (connectivity|is unreachable)"
)
_COMPILER = re.compile(rf"^CMake Error|: (fatal )?error: |{missing_libraries.COMPLAINT.pattern}")
# What torch's headers say to a compiler of an older standard (ATen/ATen.h, torch/all.h, c10/util/C++17.h).
_STANDARD = re.compile(r"error: #error .*\bC\+\+(?P<year>\d\d) (?:or later compatible compiler is required|to compile)")
_COMMANDS = ("$ ", "cibuildwheel: error: Command [")
_QUOTED = re.compile(r"\s*\d* \| ")  # source lines that gcc and clang quote
_IN_GROUP = re.compile(r"\s*\| (?P<error>[\w.]+(?:Error|Exception): .+)")  # of Python's ExceptionGroup
# What setuptools does with files, whose names may say "error".
_COPIES = re.compile(r"^(?:copying|adding|creating|writing|reading|removing|running|hard linking|byte-compiling) ")
_CAUSE = re.compile(r"\s+(?:cause|Caused by): ")  # uv's, below its error
_WORD = re.compile(r"[^\W\d_]{2}")
# Python's own words for a file that a build script opens. Back ends print more errors after them.
_FILE = re.compile(r"^FileNotFoundError: ")
_CMAKE_LINES = 30  # of an error of CMake's and its call stack, at most
# data/ask-back-end.py prints it after a failure that a build may get by: nothing up to here is why the build failed.
REQUIREMENTS_UNKNOWN = "torch-build-farm: the back end's further requirements are unknown as yet"
_ANY = re.compile(r"\berror\b|\bfailed\b", re.IGNORECASE)
_LOG = "the log holds the whole output"


def diagnose(what: str, log: Path, oom_kills: int = 0, subdirectory: str = "") -> FarmError:
    """The error that explains best why the last stage in `log` failed; `what` names the job or the errand.

    `oom_kills` is how often the kernel killed something for lack of memory meanwhile; `subdirectory` is the folder of
    the Python project in the source.
    """
    where = str(log)
    lines = missing_libraries.without_summaries(_output_of_last_stage(log))
    memory, compiler = first_match(_MEMORY, lines), first_match(_COMPILER, lines)

    # Memory and disk come before the compiler: without either of them compilers complain as well.
    # The kernel's count is the whole machine's: where this job's compiler complains, another job's was killed.
    if oom_kills and not compiler:
        memory = memory or "something was killed"
    if memory:
        kernel = f" (the kernel's out-of-memory killer struck {oom_kills} times meanwhile)" if oom_kills else ""
        return OutOfMemoryError(
            f"{what}: the compiler ran out of memory{kernel}: {memory}",
            where=where,
            next_step="run fewer at once (--jobs 1), raise memory-per-compile-gb in [tool.torch-build-farm], "
            "or use a machine with more memory",
        )
    disk = first_match(_DISK, lines)
    if disk:
        return DiskError(f"{what}: the disk is full: {disk}", where=where, next_step="free some space and run again")
    if compiler:
        return _compile_error(what, compiler, lines, where, subdirectory)
    index = first_match(_INDEX, lines)
    if index:
        return PackageIndexError(
            f"{what}: the package index is out of reach: {index}",
            where=where,
            next_step="check the network, proxy and certificates (`doctor` tries the index), then run again",
        )

    lacking = lacks_module(what, lines, where)
    if lacking:
        return lacking

    # No known cause: the first line that mentions an error, else the last line that has words.
    said = [line for line in lines if _WORD.search(line) and not _COPIES.match(line)]
    reason = first_match(_FILE, said) or first_match(_ANY, said)
    if not reason:
        reason = said[-1] if said else "no output"
    shown = missing_files.without_copy(reason)
    return BuildError(f"{what}: the build failed: {shown}", where=where, next_step=_next_step(reason, subdirectory))


def install_error(what: str, log: Path) -> FarmError:
    """The error for a wheel that does not install, as the last stage in `log` says; `what` names the job.

    It is a SmokeError, or a more exact one that the log explains, such as PackageIndexError.
    """
    error = diagnose(what, log)
    # A BuildError proper is what remains when nothing more exact, such as a full disk, is found in the log.
    if type(error) is BuildError:
        return SmokeError(f"{what}: the wheel does not install: {error.what}", where=str(log))
    return error


def _next_step(reason: str, subdirectory: str) -> str:
    """What to do about a build that failed for `reason`."""
    path = missing_files.outside(reason, subdirectory)
    if not path:
        return _LOG
    return (
        f"{path} lies outside of the source: let source (or git, sdist) name the folder that holds all of it, and "
        "subdirectory the project's folder within, in [tool.torch-build-farm]"
    )


def _compile_error(what: str, first: str, lines: Sequence[str], where: str, subdirectory: str) -> CompileError:
    """The error for a compiler's or CMake's first complaint, which something else in `lines` may explain."""
    standard = first_match(_STANDARD, lines)
    match = _STANDARD.search(standard or "")
    if standard and match:
        # Code of a newer standard in front of that line is complained of before it.
        first, flag = standard.rpartition("/site-packages/")[2], f"-std=c++{match['year']}"
        next_step = (
            f"compile with {flag}; where the source sets an older standard that other minors want, change it for "
            "this minor alone by an entry of [[tool.torch-build-farm.overrides]], such as "
            f'before-build = ["sed -i s/-std=c++17/{flag}/ setup.py"]'
        )
    else:
        # CMake runs Python to find NumPy and its kin, and then says only that it did not find them.
        lacking = lacks_module(what, lines, where) if first.startswith("CMake Error") else None
        next_step = lacking.next_step if lacking else _next_step(first, subdirectory)
        if next_step == _LOG:
            next_step = missing_libraries.next_step(first) or _LOG
    return CompileError(f"{what}: {missing_files.without_copy(first)}", where=where, next_step=next_step)


def _output_of_last_stage(log: Path) -> list[str]:
    """The lines that commands of the last stage printed, without source lines that compilers quote."""
    text = read(log)
    stage = text[text.rfind(STAGE_MARK) + 1 :]
    # The first is the stage's heading. Of a line that is written over (\r), what a terminal shows in the end.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in stage.split("\n")[1:]]
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith(REQUIREMENTS_UNKNOWN):
            lines = lines[number + 1 :]
            break
    # Neither the commands that the log repeats, nor that one of them failed, nor quoted source: a source may well have
    # "error:" in a string.
    output: list[str] = []
    for line in lines:
        in_group = _IN_GROUP.match(line)
        if in_group:
            output.append(in_group["error"])
        elif not line.startswith(_COMMANDS) and not _QUOTED.match(line):
            output.append(line)
    return output


def first_match(pattern: re.Pattern[str], lines: Sequence[str]) -> str | None:
    """The first line that matches, with the next ones where CMake or uv explains its error on lines of their own."""
    for number, line in enumerate(lines):
        if pattern.search(line):
            if line.startswith("CMake Error"):
                return missing_files.cmake_error(lines[number : number + _CMAKE_LINES])
            following = lines[number + 1] if number + 1 < len(lines) else ""
            return f"{line.strip()}: {following.strip()}" if _CAUSE.match(following) else line.strip()
    return None
