"""What the index has of torch, beside what the variants say and what the audit knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from torch_build_farm.core.errors import UnknownTorchError
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.variant import Variant
from torch_build_farm.releases.facts import Facts, tags_of
from torch_build_farm.releases.listing import Listing


class Status(StrEnum):
    """How a minor stands."""

    SERVED = "served"
    MISSING = "missing"  # it can be served, and there is no variant
    CHANGED = "changed"  # the index has something that the variant does not know
    YANKED = "yanked"  # the variant names what is yanked, or gone
    WAITING = "waiting"  # pre-releases, other platforms: nothing to build against yet


NEWS = (Status.MISSING, Status.CHANGED, Status.YANKED)


@dataclass(frozen=True)
class Found:
    """One minor: `news` says in words what is to be done about it; `facts` of those that are missing."""

    minor: Minor
    status: Status
    releases: tuple[str, ...]
    cpython: tuple[str, ...]
    cuda: str = ""
    news: tuple[str, ...] = ()
    facts: Facts | None = field(default=None, compare=False)


def compare(
    listing: Listing, variants: Mapping[Minor, Variant], known: Mapping[str, Mapping[str, str]], *, pre: bool = False
) -> list[Found]:
    """Every minor from the oldest variant's on; with none, every minor of the index. Pure.

    `known`: the file names by CPython tag of the releases that the audit knows.
    """
    oldest = min(variants, default=min(listing.by_minor, default=None))
    minors = sorted({*variants, *(minor for minor in listing.by_minor if oldest and minor >= oldest)})
    return [_one(minor, listing, variants.get(minor), known, pre=pre) for minor in minors]


def _one(
    minor: Minor, listing: Listing, variant: Variant | None, known: Mapping[str, Mapping[str, str]], *, pre: bool
) -> Found:
    try:
        usable = listing.usable(minor, pre=pre)
    except UnknownTorchError as error:
        if variant is None:
            return Found(minor, Status.WAITING, (), (), news=(error.what,))
        served = tuple(one.tag for one in variant.cpython)
        return Found(minor, Status.YANKED, variant.releases, served, variant.cuda, (error.what,))
    releases, tags = tuple(one.name for one in usable), tags_of(usable)
    if variant is None:
        return Found(minor, Status.MISSING, releases, tags, news=(f"no variant: add {minor}",))
    gone = [one for one in variant.releases if one not in releases]
    before = tags_of(one for one in usable if one.name in variant.releases)
    mine = {one.tag for one in variant.cpython}
    news = [f"{name} is yanked or gone" for name in gone]
    news += [f"new release {name}" for name in releases if name not in variant.releases]
    news += [f"new CPython {CPython.parse(tag)}" for tag in tags if tag not in before and tag not in mine]
    news += [f"no wheel for CPython {CPython.parse(tag)} any more" for tag in sorted(mine - set(tags))]
    for one in usable:
        other = [tag for tag in one.tags if known.get(one.name, {}).get(tag, "") not in ("", one.wheels[tag].filename)]
        if other:
            news.append(f"{one.name} was uploaded again: {one.wheels[other[0]].filename}")
    status = Status.YANKED if gone else Status.CHANGED if news else Status.SERVED
    return Found(minor, status, releases, tags, variant.cuda, tuple(news))
