"""Marks of the headers that a library was compiled with: torch's assertions put their file and line into its strings.

TORCH_INTERNAL_ASSERT (c10/util/Exception.h) joins condition, __FILE__ and __LINE__ to one literal, which release builds
keep. The lines of a header's assertions move from release to release, so a few of them tell the release.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from mmap import mmap

_IN_LIBRARY = re.compile(rb'include/((?:ATen|c10|torch)/[\w/.+-]+\.(?:h|cuh))":(\d{1,5})')
_ASSERTION = re.compile(r"\b(?:TORCH_INTERNAL_ASSERT(?:_DEBUG_ONLY)?|AT_ASSERTM?)\s*\(")

_MOST = 0.9  # IPEX 2.8 has 99 of 102 marks of 2.8.0, 87 of 2.9.0

Mark = tuple[str, int]  # header and line


def found_in(content: bytes | mmap) -> frozenset[Mark]:
    """The marks in a library's bytes."""
    return frozenset((header.decode(), int(line)) for header, line in _IN_LIBRARY.findall(content))


def _end(text: str, start: int) -> int:
    """Where the parenthesis before `start` is closed."""
    depth, place = 1, start
    while depth and place < len(text):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        place += 1
    return place


def of_header(text: str) -> set[int]:
    """Lines that assertions of this header may put into a library; compilers count from the first or the last."""
    lines = set()
    for match in _ASSERTION.finditer(text):
        first = text.count("\n", 0, match.start()) + 1
        lines |= set(range(first, first + text.count("\n", match.start(), _end(text, match.end())) + 1))
    return lines


@dataclass(frozen=True)
class Marks:
    """For each release and header the lines of its assertions."""

    lines: Mapping[str, Mapping[str, frozenset[int]]]

    def releases(self, found: Iterable[Mark]) -> frozenset[str]:
        """The releases whose headers have these marks: all or, where a few headers were somebody's own, most of them.

        Every release for a library without marks, none for one whose marks are those of no release here.
        """
        wanted = list(found)
        fitting = {
            release: sum(line in headers.get(header, ()) for header, line in wanted)
            for release, headers in self.lines.items()
        }
        most = max(fitting.values(), default=0)
        return frozenset(one for one, count in fitting.items() if count == most and count >= _MOST * len(wanted))

    def packed(self) -> bytes:
        """The marks as a file: a header's lines, and the releases that have them, once for all that agree."""
        table: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for release, headers in sorted(self.lines.items()):
            for header, lines in headers.items():
                table[header][" ".join(map(str, sorted(lines)))].append(release)
        text = json.dumps({"releases": sorted(self.lines), "headers": table}, sort_keys=True)
        return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def unpack(content: bytes) -> Marks:
    """The marks in a file's content."""
    table = json.loads(lzma.decompress(content))
    lines: dict[str, dict[str, frozenset[int]]] = {release: {} for release in table["releases"]}
    for header, variants in table["headers"].items():
        for text, releases in variants.items():
            numbers = frozenset(map(int, text.split()))
            for release in releases:
                lines[release][header] = numbers
    return Marks(lines)
