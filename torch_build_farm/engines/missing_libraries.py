"""What a linker, CMake, meson or nvcc says first where a library is missing or unfit, and how the build gets it.

Measured for GNU ld and gold 2.40, CMake 4 and nvcc 13.0; not measured for lld, mold and meson, which are not at hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = r"[\w.+-]{1,200}"
_MISSING_LIBRARY = re.compile(
    rf"(?:cannot find -l|unable to find library -l|mold: (?:fatal|error): library not found: )({_NAME})"
)
_UNDEFINED = re.compile(
    r"undefined reference to |: error: undefined symbol: |^(?:ld|mold): (?:error: )?undefined symbol: "
    r"|DSO missing from command line"
)
_NOT_RELOCATABLE = re.compile(r"recompile with -fPI[CE]")
_OTHER_LINKER = re.compile(
    r"^\S*\bld(?:\.\w+)?: .*(?:cannot find |multiple definition of |file not recognized|file format not recognized"
    r"|cannot open )|: multiple definition of |^mold: (?:fatal|error): |^nvlink error +: "
)
_NVCC = re.compile(r"^(?:nvcc|ptxas|cudafe\+\+) (?:fatal|error) *: ")
_UNKNOWN_ARCHITECTURE = re.compile(r"Unsupported gpu architecture")
_MESON = re.compile(r"^\S*meson\.build:\d+:\d+: ERROR: ")
_MESON_DEPENDENCY = re.compile(
    rf"ERROR: (?:Dependency \"(?P<name>{_NAME})\" not found|C(?:\+\+)? (?:shared or static |shared |static )?library "
    rf"'(?P<library>{_NAME})' not found)"
)
_CMAKE_PACKAGE = re.compile(
    rf"package configuration file provided by \"(?P<name>{_NAME})\"|Could NOT find (?P<module>{_NAME})"
    rf"|required packages were not found: - (?P<pkg>{_NAME})|By not providing \"Find(?P<find>{_NAME})\.cmake\""
)
# What a compiler's driver says after its linker failed: the linker has said why.
_SUMMARY = re.compile(
    r"^(?:collect2: (?:fatal )?error: ld |clang(?:\+\+)?(?:-\d+)?: error: linker command failed|error: command )"
)
COMPLAINT = re.compile(
    "|".join(
        pattern.pattern for pattern in (_MISSING_LIBRARY, _UNDEFINED, _NOT_RELOCATABLE, _OTHER_LINKER, _NVCC, _MESON)
    )
)
"""The first words of any of these tools about what is wrong, in one line."""


def without_summaries(lines: Sequence[str]) -> list[str]:
    """The lines without those that only say that a linker failed; all of them where nothing else says why."""
    others = [line for line in lines if not _SUMMARY.match(line)]
    return others if any(COMPLAINT.search(line) or ": error: " in line for line in others) else list(lines)


def next_step(reason: str) -> str:
    """What to do about the first complaint of a build; empty for one that is not about a library."""
    missing = _MISSING_LIBRARY.search(reason)
    if missing:
        return _install(f"the library {missing[1]}", "name its folder with -L in the link flags")
    package = _CMAKE_PACKAGE.search(reason) or _MESON_DEPENDENCY.search(reason)
    if package and package.lastgroup:
        name = package[package.lastgroup]
        return _install(name, f"name its folder with {name}_ROOT, CMAKE_PREFIX_PATH or PKG_CONFIG_PATH in environment")
    if _NOT_RELOCATABLE.search(reason):
        return (
            "a static library of the build was compiled for programs alone: compile it with -fPIC, or link a shared one"
        )
    if _UNKNOWN_ARCHITECTURE.search(reason):
        return "this toolkit does not compile for that architecture: set cuda-arch-list, and let the project go by it"
    if _UNDEFINED.search(reason):
        return (
            "link the library that defines it (target_link_libraries; libraries= of a setup.py's extension), one that "
            "was built for the same torch and C++ ABI"
        )
    return ""


def _install(what: str, otherwise: str) -> str:
    return (
        f"the build does not find {what}: name its development package in system-packages of [tool.torch-build-farm], "
        f"or {otherwise}"
    )
