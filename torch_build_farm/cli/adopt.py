"""`adopt`: record the files that a package index has of a name, as files of this project; once, and by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import CommonOptions, Parser, add_common_arguments, add_index_url_argument
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import PublishError, UsageError, nearest
from torch_build_farm.publish import inventory, names, published_list
from torch_build_farm.publish.published_list import PublishedFile, PublishedList
from torch_build_farm.publish.upload import Target


@dataclass(frozen=True, kw_only=True)
class AdoptOptions(CommonOptions):
    """Options of `adopt`."""

    index: str
    names: tuple[str, ...]
    index_url: str | None
    yes: bool


@dataclass(frozen=True, kw_only=True)
class AdoptAnswer(Answer):
    """The document of `adopt`: the files that were recorded, or would be."""

    target: str
    dry_run: bool
    files: tuple[PublishedFile, ...]


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("index", metavar="INDEX", help="pypi, testpypi, or the URL that the project publishes to")
    parser.add_argument("names", nargs="+", metavar="NAME", help="a distribution of this project, such as NAME-torch28")
    add_index_url_argument(parser)
    parser.add_argument("--yes", action="store_true", help="record them; without it, in CI too, they are only shown")


def _files(
    context: Context, target: Target, wanted: Iterable[str], published: PublishedList, scratch: Path
) -> list[PublishedFile]:
    """The files that the index has of the distributions, and that the list does not have of this index.

    Says where it passes on those of another index. Raises UsageError for a distribution that the index does not
    have, PackageIndexError if it cannot be read.
    """
    known = published.of(target.name)
    files = []
    for name in wanted:
        project = target.index.project(name)
        if not project.files:
            raise UsageError(
                f"{target.name} has no file of {name}", next_step="a name that is free needs no adoption: publish"
            )
        host = names.passed_on_from(target.index, project.url)
        if host:
            context.say(f"{name}: these are files that {host} has, and {target.name} passes on")
        for file in project.files:
            digest = names.digest_of(file, target.index, scratch)
            if known.get(file.filename) != digest:
                files.append(PublishedFile(name, file.filename, target.name, digest, adopted=True))
    return files


def _check_contradictions(files: Sequence[PublishedFile], published: PublishedList, target: Target) -> None:
    """Raise PublishError where the index has another content for a file that this project published there."""
    known = published.of(target.name)
    for file in files:
        if file.file in known:
            raise PublishError(
                f"the index has another {file.file} than this project published there",
                where=f"sha256 in {published_list.NAME} {known[file.file]}, there {file.sha256}",
                next_step="find out who exchanged it; to adopt it all the same, remove its line first",
            )


def _adopt(context: Context, options: AdoptOptions) -> int:
    """`adopt`: show what the index has of names of this project, and record it in published.json."""
    target = Target.of(options.index, options.index_url or "")
    project = context.load_project()
    own_names = inventory.all_names(project)
    wanted = list(dict.fromkeys(canonicalize_name(name) for name in options.names))
    for name in wanted:
        if name not in own_names:
            raise UsageError(f"{name} is no distribution of this project; {nearest(name, own_names)}", where="NAME")

    published = published_list.read(project.root)
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(context, target, wanted, published, Path(scratch))
    _check_contradictions(files, published, target)
    for file in files:
        context.say(f"{file.name}: {file.file}  sha256 {file.sha256}")
    if not files:
        context.say(f"{published_list.NAME} has all of these files already")
    elif not options.yes:
        context.say("nothing was recorded: look at these files, and adopt them with --yes if they are yours")
    else:
        published_list.write(published.with_files(files), project.root)
        context.say(f"recorded {len(files)} files in {project.root / published_list.NAME}")
    context.answer(AdoptAnswer(target=target.name, dry_run=not options.yes, files=tuple(files)))
    return 0


COMMANDS = {"adopt": Command(AdoptOptions, _configure_parser, _adopt, AdoptAnswer)}
