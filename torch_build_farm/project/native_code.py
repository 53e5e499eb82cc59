"""Where a source compiles for the machine at hand (-march=native) or for newer CPUs, and the switch that turns it off.

A wheel of such code ends on an older CPU with SIGILL, and the farm refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_NATIVE = re.compile(r"-m(?:arch|cpu)=native\b|-xHost\b")  # of GCC, Clang and Intel's compilers
# GCC's manual, "x86 Options"; not what every x86-64 CPU has, and not other CPUs'.
_NEWER = re.compile(
    r"(?<![\w-])-m(?:arch=(?!native\b|arm|rv\d|x86-64(?!-v))[a-z][\w-]{0,40}"
    r"|ssse3|sse4(?:\.\d|a)?|popcnt|avx\w{0,40}|fma4?|f16c|bmi2?)(?![\w.-])"
)
_FOURTH = ("avx512", "x86-64-v4", "icelake", "sapphirerapids", "znver4", "znver5")
_SECOND = ("sse", "popcnt", "x86-64-v2", "nehalem", "westmere", "silvermont")
_VARIABLE = re.compile(
    r"""(?:getenv|environ\.get)\(\s*["'](?P<name>\w{0,80}NATIVE\w{0,80})["']\s*,\s*["'](?P<value>\w+)["']""",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r'\boption\s*\(\s*(?P<name>\w{0,80}NATIVE\w{0,80})(?:\s+"[^"]{0,500}")?\s+(?P<value>\w+)\s*\)', re.IGNORECASE
)
_OPPOSITES = {"1": "0", "on": "off", "true": "false", "yes": "no", "y": "n"}


@dataclass(frozen=True)
class NativeCode:
    """`file` compiles for the machine at hand; empty where none does.

    `environment` and `cmake_defines` turn it off. Where both are empty, nothing but a change to the source does.
    `newer` are options that ask for newer CPUs than every x86-64, by file.
    """

    file: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    cmake_defines: Mapping[str, str] = field(default_factory=dict)
    newer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def find(script: str, setup: str, cmake: str) -> NativeCode:
    """The native code of a project with these texts: its setup.py or other `script`, and its CMake files where CMake
    builds it.
    """
    texts = {script: setup, "CMakeLists.txt": cmake}
    newer = {}
    for file, text in texts.items():
        options = tuple(sorted({match[0] for match in _NEWER.finditer(text)}))
        if options:
            newer[file] = options
    native = [file for file, text in texts.items() if _NATIVE.search(text)]
    if not native:
        return NativeCode(newer=newer)
    # What setup.py passes to CMake wins over a cache entry of the farm's.
    environment = _turned_off(_VARIABLE, setup)
    return NativeCode(native[0], environment, {} if environment else _turned_off(_OPTION, cmake), newer)


def level(options: Sequence[str]) -> str:
    """The level of x86-64 (`cpu-baseline`) that compiler options ask for; of an unknown -march the third."""
    text = " ".join(options)
    if any(name in text for name in _FOURTH):
        return "x86-64-v4"
    second_only = all(any(name in option for name in _SECOND) for option in options)
    return "x86-64-v2" if second_only else "x86-64-v3"


def _turned_off(switch: re.Pattern[str], text: str) -> dict[str, str]:
    """The switches that are on by default, each with the value that turns it off."""
    values = {}
    for match in switch.finditer(text):
        default = match["value"]
        opposite = _OPPOSITES.get(default.lower(), "")
        if opposite:
            values[match["name"]] = _in_case_of(default, opposite)
    return values


def _in_case_of(model: str, word: str) -> str:
    """The word in upper case, capitalized or in lower case, as the model is: projects compare text."""
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
