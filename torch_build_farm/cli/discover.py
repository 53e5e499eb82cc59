"""`discover`: what the package index has of torch, beside the variants."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table
from rich.text import Text

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import NEWS_EXIT_CODE, FarmError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.releases import discovery, facts
from torch_build_farm.releases.discovery import NEWS, Found, Status
from torch_build_farm.releases.known import Knowledge, added_folder
from torch_build_farm.releases.listing import Listing

_STYLE = {Status.SERVED: "green", Status.MISSING: "bold red", Status.CHANGED: "yellow", Status.YANKED: "bold red"}


def discover(context: Context) -> int:
    """`discover`: compare every minor of the index with its variant. Returns NEWS_EXIT_CODE if there is work to do."""
    start = time.monotonic()
    index = PackageIndex.configured()
    listing = Listing.read(index)
    known = {one.name: one.files for one in Knowledge.load(added_folder()).index.releases}
    found = [
        _with_facts(one, listing, index, pre=context.options.pre)
        for one in discovery.compare(listing, context.project.variants, known, pre=context.options.pre)
    ]
    news = [one for one in found if one.status in NEWS]
    seconds, size = time.monotonic() - start, index.traffic.fetched
    if context.options.json:
        rows = [one.as_json() for one in found]
        context.answer({"schema": 1, "minors": rows, "seconds": round(seconds, 2), "bytes": size})
    _table(context, found)
    todo = [str(one.minor) for one in news]
    context.say(f"\nnext: python build_farm.py add {' '.join(todo)}" if todo else "\nnothing to do")
    context.say(f"{size / 1e6:.1f} MB in {seconds:.1f} s")
    return NEWS_EXIT_CODE if news else 0


def _with_facts(found: Found, listing: Listing, index: PackageIndex, *, pre: bool) -> Found:
    if found.status is not Status.MISSING:
        return found
    try:
        read = facts.read(found.minor, listing, index, pre=pre, sizes=False)
    except FarmError as error:
        return replace(found, news=(*found.news, error.what))
    return Found(found.minor, found.status, found.releases, found.cpython, str(read["cuda"].value), found.news, read)


def _table(context: Context, found: Sequence[Found]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("torch", "", "releases", "CUDA", "CPython", "news"):
        table.add_column(column, overflow="fold")
    for one in found:
        pythons = " ".join(tag.removeprefix("cp") for tag in one.cpython)
        state = Text(str(one.status), _STYLE.get(one.status, "dim"))
        table.add_row(
            str(one.minor), state, " ".join(one.releases), one.cuda, pythons, Text("; ".join(one.news))
        )  # fmt: skip
    context.console.print(table)
