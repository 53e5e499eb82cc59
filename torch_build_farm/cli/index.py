"""`index`: what the audit knows of torch's releases, listed, added to, and made anew for a release of the farm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_build_farm.cli.context import Context
from torch_build_farm.core import tools
from torch_build_farm.core.errors import NoPythonError, UsageError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import CPython
from torch_build_farm.releases import collect
from torch_build_farm.releases.collect import Gathered, write
from torch_build_farm.releases.known import SHIPPED, Knowledge, added_folder


def _pythons(context: Context, files: Iterable[str]) -> list[str]:
    """The CPythons of --python, as tags. Raises UsageError for what is none, NoPythonError for one torch has not."""
    asked = getattr(context.options, "python", None) or []
    if "all" in asked:
        return list(files)
    try:
        tags = [CPython.parse(text).tag for text in asked]
    except ValueError as error:
        raise UsageError(str(error), where="--python", next_step="such as --python 3.12 3.13t, or all") from None
    if missing := [tag for tag in tags if tag not in files]:
        raise NoPythonError(f"torch has no wheel for {', '.join(missing)}", where="--python")
    return tags


def _gather(context: Context, release: str, index: PackageIndex) -> Gathered:
    log = added_folder() / "index.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    shell = Shell(context.runner, {"PATH": tools.search_path(), "LC_ALL": "C"}, log.parent, log, lambda _: None)
    start = time.monotonic()
    pythons = _pythons(context, collect.wheels_of(release, index))
    found = collect.gather(release, index, shell, lambda line: context.say(f"{release}: {line}"), pythons)
    context.say(f"{release}: {found.fetched / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")
    return found


def add(context: Context) -> int:
    """`index add`: read releases into the user's cache."""
    if not context.options.releases:
        raise UsageError("index add: which release?", next_step="index add 2.16.0")
    index = PackageIndex.configured()
    for release in context.options.releases:
        write(added_folder() / release, [_gather(context, release, index)], {})
    return 0


def learn(context: Context, releases: Sequence[str], index: PackageIndex) -> None:
    """Read those of the releases into the user's cache that are not known yet, or were uploaded again."""
    known = {one.name: one.files for one in Knowledge.load(added_folder()).index.releases}
    for release in releases:
        there = {tag: file.filename for tag, file in collect.wheels_of(release, index).items()}
        if (
            any(known.get(release, {}).get(tag) not in (None, name) for tag, name in there.items())
            or release not in known
        ):
            write(added_folder() / release, [_gather(context, release, index)], {})


def add_unknown(context: Context) -> int:
    """`index learn`: as `index add`, but for what is not known yet."""
    learn(context, context.options.releases, PackageIndex.configured())
    return 0


def show(context: Context) -> int:
    """`index list`: the releases that are known, and where from."""
    known = Knowledge.load(added_folder())
    shipped = {release.name for release in known.index.tables[-1].releases}
    if context.options.json:
        rows = {
            one.name: {"shipped": one.name in shipped, "cpython": sorted(one.files)} for one in known.index.releases
        }
        context.answer({"schema": 1, "releases": rows})
    for release in known.index.releases:
        where = "shipped" if release.name in shipped else "added"
        context.say(f"{release.name:8} {where:8} {' '.join(sorted(release.files))}")
    return 0


def make(context: Context) -> int:
    """`index make`: the tables that the farm ships, made anew from the package index."""
    index = PackageIndex.configured()
    context.options.python = ["all"]
    releases = context.options.releases or Knowledge.load(Path(os.devnull)).releases
    out = Path(context.options.out) if context.options.out else SHIPPED
    write(out, [_gather(context, release, index) for release in releases], collect.system_units())
    for path in sorted(out.glob("*")):
        context.say(f"wrote {path}, {path.stat().st_size} bytes")
    return 0


def index(context: Context) -> int:
    """`index add|learn|list|make`."""
    return {"add": add, "learn": add_unknown, "list": show, "make": make}[context.options.action](context)
