"""`discover`: compare torch on the package index with the variants."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rich.table import Table
from rich.text import Text

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_flavours_index_argument,
    add_platforms_argument,
    add_pre_argument,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import NEWS_EXIT_CODE, FarmError, PackageIndexError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.urls import public
from torch_build_farm.core.versions import Minor
from torch_build_farm.project.plan import parse_platforms
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant, minor_on
from torch_build_farm.releases import discovery, facts
from torch_build_farm.releases.discovery import STATUSES_TO_ACT_ON, DiscoveredMinor, Status
from torch_build_farm.releases.facts import Fact
from torch_build_farm.releases.listing import Listing, flavours
from torch_build_farm.releases.release_tables import ReleaseTables
from torch_build_farm.releases.table_files import added_folder

_STYLE = {Status.SERVED: "green", Status.MISSING: "bold red", Status.CHANGED: "yellow", Status.YANKED: "bold red"}


@dataclass(frozen=True, kw_only=True)
class DiscoverOptions(CommonOptions):
    """Options of `discover`."""

    pre: bool
    platform: tuple[str, ...]
    index: str


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    add_pre_argument(parser)
    add_platforms_argument(parser, "x86_64")
    add_flavours_index_argument(parser)


@dataclass(frozen=True)
class MinorRow:
    """A torch minor for a platform: how it stands, its releases and CPython tags on the index, and what is to do."""

    torch: str
    platform: str
    status: str
    releases: tuple[str, ...]
    cpython: tuple[str, ...]
    cuda: str
    news: tuple[str, ...]


@dataclass(frozen=True)
class NewMinorRow(MinorRow):
    """A torch minor without a variant, with the facts that its wheel states."""

    facts: dict[str, Fact]


@dataclass(frozen=True, kw_only=True)
class DiscoverAnswer(Answer):
    """The document of `discover`, with the seconds it took and the bytes it fetched."""

    minors: tuple[NewMinorRow | MinorRow, ...]
    seconds: float
    bytes: int


def _row(minor: DiscoveredMinor) -> MinorRow:
    """A minor's entry in the document."""
    shared = (
        str(minor.minor),
        minor.platform.name,
        str(minor.status),
        tuple(minor.releases),
        tuple(minor.cpython),
        minor.cuda,
        tuple(minor.news),
    )
    return NewMinorRow(*shared, minor.facts.for_documents()) if minor.facts else MinorRow(*shared)


def _discover(context: Context, options: DiscoverOptions) -> int:
    """`discover`: compare every minor of the index with its variant, for each platform.

    Returns NEWS_EXIT_CODE if there is work to do.
    """
    start = time.monotonic()
    index = PackageIndex.configured(options.index)
    project = context.load_project()
    platforms = parse_platforms(options.platform) or project.described_platforms
    known = {platform: ReleaseTables.load(added_folder(), platform).symbols.files for platform in platforms}

    minors = []
    for listing, variants in _listings(index, project, platforms, options.index):
        on_platform = project.on(listing.machine)
        # A platform without any variant is to get what the others have.
        oldest = min(on_platform.torch_minors or project.torch_minors, default=None)
        for minor in discovery.compare(listing, variants, known[listing.machine], oldest=oldest, pre=options.pre):
            if not _is_of_interest(minor, on_platform, options.index):
                continue
            # Facts take a look into a wheel on the index: only minors that `add` would write are worth the bytes.
            if minor.status is Status.MISSING:
                minors.append(_with_facts(minor, listing, index, pre=options.pre))
            else:
                minors.append(minor)
    seconds = time.monotonic() - start
    size = index.traffic.fetched

    rows = tuple(_row(minor) for minor in minors)
    context.answer(DiscoverAnswer(minors=rows, seconds=round(seconds, 2), bytes=size))
    _show(context, minors)
    to_add = dict.fromkeys(str(minor.minor) for minor in minors if minor.status in STATUSES_TO_ACT_ON)
    if to_add:
        of_platforms = f" --platform {' '.join(options.platform)}" if options.platform else ""
        of_index = f" --index {shlex.quote(public(options.index))}" if options.index else ""
        context.say(f"\nnext: python build_farm.py add {' '.join(to_add)}{of_platforms}{of_index}")
    else:
        context.say("\nnothing to do")
    context.say(f"{size / 1e6:.1f} MB in {seconds:.1f} s")
    return NEWS_EXIT_CODE if to_add else 0


def _listings(
    index: PackageIndex, project: Project, platforms: Sequence[Machine], url: str
) -> Iterator[tuple[Listing, Mapping[Minor, Variant]]]:
    """What the index lists for each platform, with the project's variants of it.

    Without `url` these are the minors of uv's own index, then each flavour that the project has, of its own index; with
    it every flavour of the index there. Raises PackageIndexError if an index lists no such torch.
    """
    if not url:
        for listing in Listing.read_each(index, machines=platforms):
            yield listing, project.on(listing.machine).torch_minors
        for flavours_url, flavour in _indexes_of_flavours(project, platforms):
            flavours_index = PackageIndex.configured(flavours_url)
            for listing in Listing.read_each(flavours_index, flavour, machines=platforms):
                of_platform = project.on(listing.machine).flavours
                yield (
                    listing,
                    {
                        minor: variant
                        for minor, variant in of_platform.items()
                        if (variant.index, minor.flavour) == (flavours_url, flavour)
                    },
                )
        return
    files = index.files("torch")
    of_index = flavours(files)
    if not of_index:
        raise PackageIndexError(
            "the package index lists no torch of a CUDA flavour, such as 2.9.1+cu126",
            where=public(url),
            next_step="leave --index out, or name the index that users of that torch give to pip",
        )
    for flavour in of_index:
        for platform in platforms:
            of_platform = project.on(platform).flavours
            variants = {minor: variant for minor, variant in of_platform.items() if minor.flavour == flavour}
            yield Listing.of(files, flavour, machine=platform), variants


def _indexes_of_flavours(project: Project, platforms: Sequence[Machine]) -> list[tuple[str, str]]:
    """The flavours that the project has for any of the platforms, each with the index that has it."""
    pairs = []
    for platform in platforms:
        for minor, variant in project.on(platform).flavours.items():
            pairs.append((variant.index, minor.flavour))
    return list(dict.fromkeys(pairs))


def _is_of_interest(minor: DiscoveredMinor, project: Project, url: str) -> bool:
    """Whether the project, on the minor's platform, may want the minor.

    Of flavours those that the wheel of the stable ABI does not serve, and that it has or whose index is asked about.
    """
    floor = project.settings.stable_abi
    if not minor.minor.flavour:
        return True
    if floor and minor.minor >= floor:
        return False
    return bool(url) or minor.minor in project.flavours


def _with_facts(missing: DiscoveredMinor, listing: Listing, index: PackageIndex, *, pre: bool) -> DiscoveredMinor:
    """A minor without a variant, with the facts that its wheel states, or the reason why they cannot be read."""
    try:
        read = facts.read(missing.minor, listing, index, pre=pre, sizes=False)
    except FarmError as error:
        return replace(missing, news=(*missing.news, error.what))
    return replace(missing, cuda=str(read["cuda"].value), facts=read)


def _show(context: Context, minors: Sequence[DiscoveredMinor]) -> None:
    """Print the minors as a table."""
    table = Table(box=None, pad_edge=False)
    for column in ("torch", "", "releases", "CUDA", "CPython", "news"):
        table.add_column(column, overflow="fold")
    for minor in minors:
        table.add_row(
            minor_on(minor.minor, minor.platform),
            Text(str(minor.status), _STYLE.get(minor.status, "dim")),
            " ".join(minor.releases),
            minor.cuda,
            " ".join(tag.removeprefix("cp") for tag in minor.cpython),
            Text("; ".join(minor.news)),
        )
    context.console.print(table)


COMMANDS = {"discover": Command(DiscoverOptions, _configure_parser, _discover, DiscoverAnswer)}
