"""Lines of torch's headers, which a library that was compiled with them names: they identify the release.

TORCH_INTERNAL_ASSERT (c10/util/Exception.h) joins condition, __FILE__ and __LINE__ to one literal, which release builds
keep. The lines of a header's assertions move from release to release, so a few of them identify the release.

The file of known lines is LZMA-compressed JSON: the releases, and by header and lines the releases that have these.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Self

# No path of torch's headers has more than 120 characters. Without a limit, many beginnings of a path in one long word
# would each be followed to the word's end.
_IN_LIBRARY = re.compile(rb'include/((?:ATen|c10|torch)/[\w/.+-]{1,250}\.(?:h|cuh))":(\d{1,5})')
_MOST_LINES = 50_000  # different ones in a library; all assertions of torch's headers are 3,000
_ASSERTION = re.compile(r"\b(?:TORCH_INTERNAL_ASSERT(?:_DEBUG_ONLY)?|AT_ASSERTM?)\s*\(")

_MOST = 0.9  # IPEX 2.8 has 99 of 102 lines of 2.8.0, 87 of 2.9.0

HeaderLine = tuple[str, int]  # a header's path below include/, and a line's number from 1 on


def header_lines_in(content: bytes | mmap) -> frozenset[HeaderLine]:
    """The lines of torch's headers that a library's bytes name. Raises ValueError for more than torch can have."""
    lines: set[HeaderLine] = set()
    for match in _IN_LIBRARY.finditer(content):
        lines.add((match[1].decode(), int(match[2])))
        if len(lines) > _MOST_LINES:
            raise ValueError("it names more lines of torch's headers than there are")
    return frozenset(lines)


def _closing_parenthesis(text: str, start: int) -> int:
    """The index after the parenthesis that closes the one before `start`; the text's end if there is none."""
    depth, position = 1, start
    while depth and position < len(text):
        if text[position] == "(":
            depth += 1
        elif text[position] == ")":
            depth -= 1
        position += 1
    return position


def assertion_lines(text: str) -> set[int]:
    """The lines, from 1 on, that the assertions of this header may put into a library.

    Of an assertion over several lines these are all of them: compilers name the first or the last.
    """
    lines: set[int] = set()
    for match in _ASSERTION.finditer(text):
        end = _closing_parenthesis(text, match.end())
        first_line = text.count("\n", 0, match.start()) + 1
        last_line = first_line + text.count("\n", match.start(), end)
        lines.update(range(first_line, last_line + 1))
    return lines


@dataclass(frozen=True)
class HeaderLines:
    """The lines of the assertions in each header of each release: `by_release[release][header]`."""

    by_release: Mapping[str, Mapping[str, frozenset[int]]]

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The lines in a file's content. Raises lzma.LZMAError, ValueError or KeyError for content of another kind."""
        table = json.loads(lzma.decompress(content))
        by_release: dict[str, dict[str, frozenset[int]]] = {release: {} for release in table["releases"]}
        for header, releases_by_lines in table["headers"].items():
            for text, releases in releases_by_lines.items():
                lines = frozenset(map(int, text.split()))
                for release in releases:
                    by_release[release][header] = lines
        return cls(by_release)

    def releases_with(self, lines: Iterable[HeaderLine]) -> frozenset[str]:
        """The releases whose headers have these lines: all of them or, if some headers were patched, most.

        Returns every release for no lines, and none if no release here has most of the lines.
        """
        header_lines = list(lines)
        # Releases next to each other share most lines, so only the best match counts.
        counts: dict[str, int] = {}
        for release, headers in self.by_release.items():
            counts[release] = sum(line in headers.get(header, ()) for header, line in header_lines)
        highest = max(counts.values(), default=0)
        if highest < _MOST * len(header_lines):
            return frozenset()
        return frozenset(release for release, count in counts.items() if count == highest)

    def to_bytes(self) -> bytes:
        """The lines as a file's content: a header's lines once for all releases that agree on them."""
        headers: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for release, lines_by_header in sorted(self.by_release.items()):
            for header, lines in lines_by_header.items():
                text = " ".join(map(str, sorted(lines)))
                headers[header][text].append(release)
        document = json.dumps({"releases": sorted(self.by_release), "headers": headers}, sort_keys=True)
        return lzma.compress(document.encode(), preset=9 | lzma.PRESET_EXTREME)
