"""The C++ standard that a source asks its compiler for, which the headers of a newer torch may find too old."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.project import setup_script

_FLAG = re.compile(r"-std=(?:c|gnu)\+\+(?P<year>\d\d)\b")
_CMAKE = re.compile(r"\b(?:CMAKE_)?CXX_STANDARD\s+(?P<year>\d\d)\b")


@dataclass(frozen=True)
class LanguageStandard:
    """`texts` of the file, such as "-std=c++17" or "CXX_STANDARD 17", and their years since 2000."""

    file: str = ""
    texts: tuple[str, ...] = ()
    years: tuple[int, ...] = ()


def find(root: Path, script: str, cmake: str) -> LanguageStandard:
    """The standards that the script in folder `root` asks for, such as setup.py, else the CMake files of this text."""
    file = script
    years = {
        match[0]: int(match["year"]) for text in setup_script.texts(root, script) for match in _FLAG.finditer(text)
    }
    if not years:
        file = "CMakeLists.txt"
        years = {f"CXX_STANDARD {match['year']}": int(match["year"]) for match in _CMAKE.finditer(cmake)}
    # 98 is older than 11.
    return LanguageStandard(file, tuple(years), tuple(year if year < 90 else 0 for year in years.values()))
