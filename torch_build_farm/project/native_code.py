"""Where a source compiles for the CPU of the machine at hand (-march=native), and the switch that turns it off.

A wheel of such code ends on an older CPU with SIGILL, and the farm refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_NATIVE = re.compile(r"-m(?:arch|cpu)=native\b|-xHost\b")  # of GCC, Clang and Intel's compilers
_VARIABLE = re.compile(
    r"""(?:getenv|environ\.get)\(\s*["'](?P<name>\w*NATIVE\w*)["']\s*,\s*["'](?P<value>\w+)["']""", re.IGNORECASE
)
_OPTION = re.compile(r'\boption\s*\(\s*(?P<name>\w*NATIVE\w*)(?:\s+"[^"]*")?\s+(?P<value>\w+)\s*\)', re.IGNORECASE)
_OPPOSITES = {"1": "0", "on": "off", "true": "false", "yes": "no", "y": "n"}


@dataclass(frozen=True)
class NativeCode:
    """`file` compiles for the machine at hand; empty where none does.

    `environment` and `cmake_defines` turn it off. Where both are empty, nothing but a change to the source does.
    """

    file: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    cmake_defines: Mapping[str, str] = field(default_factory=dict)


def find(setup: str, cmake: str) -> NativeCode:
    """The native code of a project with these texts: its setup.py, and its CMake files where CMake builds it."""
    if _NATIVE.search(setup):
        file = "setup.py"
    elif _NATIVE.search(cmake):
        file = "CMakeLists.txt"
    else:
        return NativeCode()
    # What setup.py passes to CMake wins over a cache entry of the farm's.
    environment = _turned_off(_VARIABLE, setup)
    return NativeCode(file, environment, {} if environment else _turned_off(_OPTION, cmake))


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
