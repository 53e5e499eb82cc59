"""The range of torch releases that a wheel declares in METADATA, beside the range that is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from torch_build_farm.audit.verdict import Verdict

Claim = Literal["true", "wider", "narrower", "wider and narrower", "unknown", "nothing to judge"]


def true_range(verdicts: Mapping[str, Verdict], open_ended: bool, whole: bool = True) -> str:
    """A version specifier for the releases that work; "none" if none does. `verdicts` are by release, oldest first.

    Stretches of successive releases are joined by "or". Releases that were not judged do not count: the last stretch
    has no upper end only if `open_ended`, and the range can be "any" only if the `whole` list of releases was judged.
    """
    stretches: list[list[str]] = []
    before_works = False
    for release, verdict in verdicts.items():
        if verdict.works and not before_works:
            stretches.append([])
        if verdict.works:
            stretches[-1].append(release)
        before_works = verdict.works
    if not stretches:
        return "none"
    # A wheel may work with every release that was judged without a reason why it should work with later ones.
    if len(stretches[0]) == len(verdicts) and open_ended and whole:
        return "any"

    newest = list(verdicts)[-1]
    specifiers = []
    for stretch in stretches:
        specifiers.append(_stretch(stretch, open_ended and stretch[-1] == newest))
    return " or ".join(specifiers)


def _stretch(releases: Sequence[str], open_ended: bool) -> str:
    if open_ended:
        return f">={releases[0]}"
    if len(releases) == 1:
        return f"=={releases[0]}"
    return f">={releases[0]},<={releases[-1]}"


def claim_of(declared: SpecifierSet | None, verdicts: Mapping[str, Verdict]) -> Claim:
    """How the range that METADATA declares differs from the truth; `verdicts` are by release.

    A wheel that does not require torch (`declared` is None) claims every release. The claim is "unknown" if it covers
    none of these releases.
    """
    claimed = set()
    working = set()
    for release, verdict in verdicts.items():
        # A specifier rejects pre-releases by default, but the claim is judged for all releases the audit was given.
        if declared is None or declared.contains(Version(release), prereleases=True):
            claimed.add(release)
        if verdict.works:
            working.add(release)
    if not claimed:
        return "unknown"
    if claimed - working:
        return "wider and narrower" if working - claimed else "wider"
    return "narrower" if working - claimed else "true"
