"""What the package index has of torch, compared with the variants and with the releases that the audit knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch_build_farm.core.errors import UnknownTorchError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.variant import Variant, platform_option
from torch_build_farm.releases.facts import Facts, tags_of
from torch_build_farm.releases.listing import Listing, Release


class Status(StrEnum):
    """How a minor on the package index stands beside its variant."""

    SERVED = "served"  # the variant agrees with the index
    MISSING = "missing"  # it can be served, and there is no variant
    CHANGED = "changed"  # the index has something that the variant does not know
    YANKED = "yanked"  # the variant names a release that is yanked or gone
    WAITING = "waiting"  # pre-releases, other platforms: nothing to build against yet


STATUSES_TO_ACT_ON = (Status.MISSING, Status.CHANGED, Status.YANKED)


@dataclass(frozen=True)
class DiscoveredMinor:
    """One minor for a platform: its status, and the releases, CPython tags and CUDA version that it has.

    `news` are the differences from the variant, in words. `facts` are only read for minors that are missing.
    """

    minor: Minor
    platform: Machine
    status: Status
    releases: tuple[str, ...]
    cpython: tuple[str, ...]
    cuda: str = ""
    news: tuple[str, ...] = ()
    facts: Facts | None = field(default=None, compare=False)


def compare(
    listing: Listing,
    variants: Mapping[Minor, Variant],
    known: Mapping[str, Mapping[str, str]],
    *,
    oldest: Minor | None = None,
    pre: bool = False,
) -> list[DiscoveredMinor]:
    """Compare each minor from `oldest` on, else from the oldest variant's; without either, each of the index. Pure.

    `variants` are for the listing's machine. `known` has the wheels' file names by CPython tag of each release that the
    audit knows. With `pre`, pre-releases of a minor count as long as it has no final release.
    """
    minors = set(variants)
    oldest = oldest or min(variants, default=None)
    for minor in listing.by_minor:
        if oldest is None or minor >= oldest:
            minors.add(minor)
    discovered = []
    for minor in sorted(minors):
        discovered.append(_compare_minor(minor, listing, variants.get(minor), known, pre=pre))
    return discovered


def _compare_minor(
    minor: Minor, listing: Listing, variant: Variant | None, known: Mapping[str, Mapping[str, str]], *, pre: bool
) -> DiscoveredMinor:
    """Compare one minor with its variant."""
    platform = listing.machine
    try:
        usable = listing.usable(minor, pre=pre)
    except UnknownTorchError as error:
        if variant is None:
            # It may still get its first final release: until then there is nothing to do.
            return DiscoveredMinor(minor, platform, Status.WAITING, (), (), news=(error.what,))
        tags = tuple(python.tag for python in variant.cpython)
        return DiscoveredMinor(minor, platform, Status.YANKED, variant.releases, tags, variant.cuda, (error.what,))

    releases, tags = tuple(release.name for release in usable), tags_of(usable)
    if variant is None:
        of_platform = platform_option(platform)
        news = [f"no variant: add {minor}{of_platform}"]
        return DiscoveredMinor(minor, platform, Status.MISSING, releases, tags, news=tuple(news))

    withdrawn = [f"{name} is yanked or gone" for name in variant.releases if name not in releases]
    added = [f"new release {name}" for name in releases if name not in variant.releases]
    news = [*withdrawn, *added, *_python_news(variant, usable), *_upload_news(usable, known)]
    if withdrawn:
        status = Status.YANKED
    elif news:
        status = Status.CHANGED
    else:
        status = Status.SERVED
    return DiscoveredMinor(minor, platform, status, releases, tags, variant.cuda, tuple(news))


def _python_news(variant: Variant, usable: tuple[Release, ...]) -> list[str]:
    """The CPythons that are new, and those of the variant that have no wheel any more, in words."""
    tags = tags_of(usable)
    variant_tags = {python.tag for python in variant.cpython}
    # A tag that one of the variant's releases supports, and the variant does not have, was taken out by hand.
    considered_tags = tags_of(release for release in usable if release.name in variant.releases)
    news = []
    for tag in tags:
        if tag not in considered_tags and tag not in variant_tags:
            news.append(f"new CPython {CPython.parse(tag)}")
    for tag in sorted(variant_tags - set(tags)):
        news.append(f"no wheel for CPython {CPython.parse(tag)} any more")
    return news


def _upload_news(usable: tuple[Release, ...], known: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The releases with another file on the index than the one that the audit read, in words; one file for each."""
    news = []
    for release in usable:
        known_files = known.get(release.name, {})
        for tag in release.tags:
            filename = release.wheels[tag].filename
            # For a tag that was not read there is no file name to compare with.
            if known_files.get(tag, "") not in ("", filename):
                news.append(f"{release.name} was uploaded again: {filename}")
                break
    return news
