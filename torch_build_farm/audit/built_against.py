"""Which torch release a library was built against: recorded, or inferred from its bytes and from the requirement.

The headers' assertions come first (see releases/header_lines), since no later packaging changes them; then the names
that a release must export for it to have been linked; then the requirement in METADATA, which is only what somebody
wrote there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class Built:
    """The release, or all that it may be, oldest first; none where it is unknown. `how` says how it is known."""

    releases: tuple[str, ...]
    how: str

    @property
    def words(self) -> str:
        """For a message."""
        if len(self.releases) <= 2:
            return " or ".join(self.releases) or "an unknown release"
        return f"one of {self.releases[0]} to {self.releases[-1]}"


@dataclass(frozen=True)
class Evidence:
    """Evidence of a library's build; each kind admits some releases.

    `marked`: those whose headers have the lines that the library has, all where it has none; `linked`: those that
    export every name that it asks for; `meant`: those that its folder is named after, none for a folder without such a
    name; `declared`: METADATA's requirement; `recorded`: the release that the farm noted when it built the wheel.
    """

    marked: frozenset[str]
    linked: frozenset[str]
    meant: frozenset[str] = frozenset()
    declared: SpecifierSet | None = None
    recorded: str = ""


def infer(releases: Sequence[str], evidence: Evidence) -> Built:
    """The releases that all evidence admits, the strongest first; evidence that would leave none does not count."""
    if evidence.recorded:
        return Built((evidence.recorded,), "the farm's record")
    if not evidence.marked:
        return Built((), "its lines of torch's headers are those of no known release")
    by_strength = [
        ("its lines of torch's headers", evidence.marked),
        ("the names that it asks of torch", evidence.linked),
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
    ordered = tuple(release for release in releases if release in possible)
    return Built(ordered, " and ".join(grounds) or "no evidence")


def _admitted(releases: Sequence[str], declared: SpecifierSet | None) -> frozenset[str]:
    if declared is None:
        return frozenset(releases)
    return frozenset(release for release in releases if declared.contains(release, prereleases=True))
