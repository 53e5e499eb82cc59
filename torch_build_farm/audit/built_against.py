"""Which torch release a library was built against: recorded, or told by its bytes and by what the wheel requires.

The headers' assertions come first (see marks), since no later packaging changes them; then the names that a release
must export for it to have been linked; then the requirement in METADATA, which is only what somebody wrote there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Built:
    """The release, or all that it may be, oldest first; none where it is not known here. `how` says how it is known."""

    releases: tuple[str, ...]
    how: str

    @property
    def words(self) -> str:
        """For a message."""
        if len(self.releases) <= 2:
            return " or ".join(self.releases) or "a release that is not known here"
        return f"one of {self.releases[0]} to {self.releases[-1]}"


@dataclass(frozen=True)
class Evidence:
    """What tells of a library's build. Of each the releases that it admits.

    `marked`: those whose headers have the library's marks, all where it has none; `linked`: those that export every
    name that it takes; `meant`: those that its folder is named after, none for a folder without such a name;
    `declared`: what METADATA asks for; `recorded`: the release that the farm noted when it built the wheel.
    """

    marked: frozenset[str]
    linked: frozenset[str]
    meant: frozenset[str] = frozenset()
    declared: SpecifierSet | None = None
    recorded: str = ""


def infer(releases: Sequence[str], evidence: Evidence) -> Built:
    """The releases that all evidence admits; evidence that would leave none is left out, the weakest first."""
    if evidence.recorded:
        return Built((evidence.recorded,), "the farm's record")
    if not evidence.marked:
        return Built((), "its marks are those of no release that is known here")
    said = [
        ("its marks of torch's headers", evidence.marked),
        ("the names that it takes from torch", evidence.linked),
        ("its path", evidence.meant),
        ("the requirement in METADATA", _admitted(releases, evidence.declared)),
    ]
    left, how = frozenset(releases), []
    for words, admitted in said:
        if left & admitted and left & admitted != left:
            left &= admitted
            how.append(words)
    return Built(tuple(release for release in releases if release in left), " and ".join(how) or "nothing tells")


def _admitted(releases: Sequence[str], declared: SpecifierSet | None) -> frozenset[str]:
    if declared is None:
        return frozenset(releases)
    return frozenset(release for release in releases if declared.contains(release, prereleases=True))
