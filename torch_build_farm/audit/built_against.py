"""Which torch release a library was built against: recorded, or inferred from its bytes and from the requirement.

The assertions of torch's headers come first (see releases/header_lines), since no later packaging step changes them;
then the names that a release must export for the library to have been linked against it; then the folder the library
lies in; the requirement in METADATA comes last, because it is only what somebody wrote there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Built:
    """The release, or every release it may be, oldest first; empty if unknown. `how` explains how it is known."""

    releases: tuple[str, ...]
    how: str

    @property
    def words(self) -> str:
        """The releases as a message names them."""
        if len(self.releases) <= 2:
            return " or ".join(self.releases) or "an unknown release"
        return f"one of {self.releases[0]} to {self.releases[-1]}"


@dataclass(frozen=True)
class Evidence:
    """Evidence of a library's build; each kind admits some releases.

    - `marked`: releases whose headers have the lines found in the library; all releases if it has no such line.
    - `linked`: releases that export every name the library needs.
    - `meant`: releases that the library's path names; empty for a path that names none.
    - `declared`: METADATA's requirement; None without one.
    - `recorded`: the release that the farm noted when it built the wheel; empty for a wheel of somebody else.
    """

    marked: frozenset[str]
    linked: frozenset[str]
    meant: frozenset[str] = frozenset()
    declared: SpecifierSet | None = None
    recorded: str = ""


def infer(releases: Sequence[str], evidence: Evidence) -> Built:
    """Narrow `releases` (oldest first) by each kind of evidence, strongest first.

    Evidence that contradicts stronger evidence, so that no release would remain, does not count.
    """
    if evidence.recorded:
        return Built((evidence.recorded,), "the farm's record")
    # The lines are those of a torch that no table covers: weaker evidence could only suggest a wrong release.
    if not evidence.marked:
        return Built((), "the lines of torch's headers in it match no known release")
    by_strength = [
        ("the lines of torch's headers in it", evidence.marked),
        ("the names it needs from torch", evidence.linked),
        ("its path", evidence.meant),
        ("the requirement in METADATA", _admitted(releases, evidence.declared)),
    ]
    possible = frozenset(releases)
    grounds = []
    for ground, admitted in by_strength:
        narrowed = possible & admitted
        if narrowed and narrowed != possible:
            possible = narrowed
            grounds.append(ground)
    oldest_first = tuple(release for release in releases if release in possible)
    return Built(oldest_first, " and ".join(grounds) or "no evidence")


def _admitted(releases: Sequence[str], declared: SpecifierSet | None) -> frozenset[str]:
    if declared is None:
        return frozenset(releases)
    # The tables may hold release candidates, which a specifier otherwise rejects (PEP 440, "Handling of pre-releases").
    return frozenset(release for release in releases if declared.contains(release, prereleases=True))
