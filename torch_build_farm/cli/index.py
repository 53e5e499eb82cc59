"""`index`: list the torch releases that the audit knows, add one, and make the tables that the farm ships."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import (
    CommonOptions,
    Parser,
    add_common_arguments,
    add_list_argument,
    add_platform_argument,
    optional_path,
)
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core import tools
from torch_build_farm.core.errors import NoPythonError, UsageError
from torch_build_farm.core.machine import X86_64, Machine, named
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.versions import parse_pythons
from torch_build_farm.releases import collect
from torch_build_farm.releases.collect import CollectedRelease
from torch_build_farm.releases.release_tables import ReleaseTables
from torch_build_farm.releases.table_files import added_folder, shipped_folder


@dataclass(frozen=True, kw_only=True)
class IndexOptions(CommonOptions):
    """Options of `index`."""

    action: str
    platform: str
    releases: tuple[str, ...]
    python: tuple[str, ...]
    out: Path | None


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    # `make`, and --out, which only `make` takes, are for maintainers of the farm: docs/reference/commands.md has it.
    parser.add_argument(
        "action",
        choices=("list", "add", "learn", "make"),
        metavar="{list,add,learn}",
        help="list the releases; add a release, read from the package index; learn: add those that are unknown",
    )
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="such as 2.16.0")
    add_list_argument(parser, "--python", "X.Y", "further CPythons to read libtorch_python for, or all")
    add_platform_argument(parser)
    parser.add_argument("--out", type=optional_path, metavar="DIR", help=argparse.SUPPRESS)


@dataclass(frozen=True)
class KnownRelease:
    """A torch release that the audit knows: whether the farm ships it, and the CPython tags it was read for."""

    shipped: bool
    cpython: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IndexAnswer(Answer):
    """The document of `index list`."""

    platform: str
    releases: dict[str, KnownRelease]


def _tags(pythons: Sequence[str], files: Iterable[str]) -> list[str]:
    """The tags of the CPythons that --python names. `files` are the tags that the release has wheels for.

    Raises UsageError for a word that does not name a CPython, NoPythonError for a CPython that has no wheel.
    """
    if "all" in pythons:
        return list(files)
    tags = [python.tag for python in parse_pythons(pythons)]
    without_wheel = [tag for tag in tags if tag not in files]
    if without_wheel:
        raise NoPythonError(f"torch has no wheel for {', '.join(without_wheel)}", where="--python")
    return tags


def _read_release(
    context: Context,
    release: str,
    index: PackageIndex,
    pythons: Sequence[str],
    machine: Machine = X86_64,
    *,
    whole: bool = True,
) -> CollectedRelease:
    """Read a release from the package index, for the CPythons that `pythons` names. `whole` is read_release's.

    Raises UsageError and NoPythonError as _tags does, and PackageIndexError.
    """
    log = added_folder() / "index.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    shell = Shell(context.runner, {"PATH": tools.search_path(), "LC_ALL": "C"}, log.parent, log, lambda _: None)
    start = time.monotonic()
    tags = _tags(pythons, collect.wheels_of(release, index, machine))
    release_tables = collect.read_release(
        release, index, shell, lambda line: context.say(f"{release}: {line}"), tags, whole=whole, machine=machine
    )
    context.say(f"{release}: {release_tables.fetched / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")
    return release_tables


def _add(context: Context, options: IndexOptions) -> None:
    """`index add`: read releases into the user's cache."""
    if not options.releases:
        raise UsageError("index add: which release?", next_step="index add 2.16.0")
    index, machine = PackageIndex.configured(), named(options.platform)
    for release in options.releases:
        release_tables = _read_release(context, release, index, options.python, machine)
        collect.write(added_folder(machine) / release, [release_tables], {})


def learn(
    context: Context,
    releases: Sequence[str],
    index: PackageIndex,
    pythons: Sequence[str],
    machine: Machine = X86_64,
) -> None:
    """Read the releases for `machine` that are unknown, or that were uploaded again, into the user's cache.

    `pythons` are the words of --python. Raises UsageError and NoPythonError.
    """
    known_files = ReleaseTables.load(added_folder(), machine).symbols.files
    for release in releases:
        known = known_files.get(release)
        if known is not None and not _uploaded_again(known, release, index, machine):
            continue
        release_tables = _read_release(context, release, index, pythons, machine)
        collect.write(added_folder(machine) / release, [release_tables], {})


def _uploaded_again(known: Mapping[str, str], release: str, index: PackageIndex, machine: Machine) -> bool:
    """Whether the index now has another file for a CPython tag than the one that `known` names."""
    wheels = collect.wheels_of(release, index, machine)
    return any(tag in known and known[tag] != file.filename for tag, file in wheels.items())


def _list(context: Context, machine: Machine) -> None:
    """`index list`: the releases that are known, and whether the farm ships them or the user added them."""
    # The last table is the shipped one: a release that the user added replaces its entry there.
    symbols = ReleaseTables.load(added_folder(), machine).symbols
    shipped = {release.name for release in symbols.tables[-1].releases}
    rows = {}
    for release in symbols.releases:
        rows[release.name] = KnownRelease(release.name in shipped, tuple(sorted(release.files)))
    context.answer(IndexAnswer(platform=machine.name, releases=rows))
    for release in symbols.releases:
        origin = "shipped" if release.name in shipped else "added"
        context.say(f"{release.name:8} {origin:8} {' '.join(sorted(release.files))}")


def _make(context: Context, options: IndexOptions) -> None:
    """`index make`: make the tables that the farm ships anew from the package index."""
    index, machine = PackageIndex.configured(), named(options.platform)
    only_shipped = ReleaseTables.load(Path(os.devnull))
    releases = options.releases or only_shipped.releases
    out = options.out or shipped_folder(machine)
    collected = []
    for release in releases:
        # By parts: what is shipped is read over a connection that its maintainer trusts, and reviewed as a change.
        collected.append(_read_release(context, release, index, ["all"], machine, whole=False))
    system = collect.system_units(machine)
    if machine == X86_64:
        collect.write(out, collected, system)
    else:
        collect.write_beside(out, collected, system)
    for path in sorted(out.glob("*")):
        context.say(f"wrote {path}, {path.stat().st_size} bytes")


def _index(context: Context, options: IndexOptions) -> int:
    """`index list`, `index add`, `index learn`, `index make`."""
    if options.action == "list":
        _list(context, named(options.platform))
    elif options.action == "add":
        _add(context, options)
    elif options.action == "learn":
        learn(context, options.releases, PackageIndex.configured(), options.python, named(options.platform))
    else:
        _make(context, options)
    return 0


COMMANDS = {"index": Command(IndexOptions, _configure_parser, _index, IndexAnswer)}
