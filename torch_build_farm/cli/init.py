"""`init`: write a project file for a source tree or an sdist."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.cli.arguments import CommonOptions, Parser, optional_path
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core import foreign_files, toml
from torch_build_farm.core.archives import unpack
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.project import scaffold, source_facts
from torch_build_farm.project.fetch import Fetcher, Origin, only_folder
from torch_build_farm.project.settings import TABLE
from torch_build_farm.project.source_facts import SourceFacts
from torch_build_farm.project.variant import read_variants


@dataclass(frozen=True, kw_only=True)
class InitOptions(CommonOptions):
    """Options of `init`. It runs before there is a project, so its parser offers none of the common options."""

    source: str
    folder: Path | None


def _configure_parser(parser: Parser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="a source tree, an sdist on the package index (NAME==VERSION) or its file"
    )
    parser.add_argument(
        "folder",
        type=optional_path,
        metavar="DIR",
        nargs="?",
        help="where to write the project file (default: the tree itself, TREE/torch-build-farm where it has a setup.py "
        "alone, ./NAME for an sdist)",
    )


def _init(context: Context, options: InitOptions) -> int:
    """`init`: write a project file for a source tree or an sdist."""
    if Path(options.source).is_dir():
        _init_tree(context, Path(options.source), options.folder)
    else:
        _init_sdist(context, options.source, options.folder)
    return 0


def _init_tree(context: Context, tree: Path, folder: Path | None) -> None:
    """Write the project file into the tree, or into `folder` with the relative path from there to the tree.

    A tree that has a setup.py alone stays one: beside it a pyproject.toml, whatever it holds, makes pip build in an
    isolated environment (PEP 518), where setup.py cannot import torch.
    """
    facts = source_facts.look(Origin(tree))
    if folder is None:
        folder = tree / TABLE if facts.setup_alone else tree
    origin = {}
    if folder.resolve() != tree.resolve():
        origin["source"] = os.path.relpath(tree, folder)
    _write_project(context, facts, origin, folder)


def _init_sdist(context: Context, source: str, folder: Path | None) -> None:
    """Write a project file with the sdist's name, version and hash into `folder`, by default a folder of its name."""
    fetcher = Fetcher(context.store.root / "sources", context.runner, context.say)
    with context.store.in_use(), fetcher.scratch() as scratch:
        archive, asked = Path(source), None
        if not archive.is_file():
            asked = _requirement(source)
            archive = fetcher.download(asked, scratch)
        unpack(archive, scratch / "tree")
        # What an archive holds is no repository, even if it holds a .git.
        tree = source_facts.look(Origin(only_folder(scratch / "tree"), "sdist", sealed=True))
        if not (tree.name and tree.version):
            raise UsageError(
                f"{archive.name} is not an sdist: it does not state its name and version",
                next_step="unpack it and init the folder, or use git and revision",
            )
        name = canonicalize_name(tree.name)
        if asked and canonicalize_name(asked.name) != name:
            raise UsageError(f"{archive.name} is not an sdist of {asked.name}: it says that its name is {name}")
        # The sdist chooses the folder's name. It does not choose a file that is there to be added to.
        if not folder and os.path.lexists(Path(name) / "pyproject.toml"):
            raise UsageError(
                "there is a project file already", where=str(Path(name) / "pyproject.toml"), next_step="name a DIR"
            )
        origin = {"sdist": f"{name}=={tree.version}", "sdist-sha256": sha256(archive)}
        _write_project(context, tree, origin, folder or Path(name))


def _requirement(source: str) -> Requirement:
    try:
        return Requirement(source)
    except InvalidRequirement:
        raise UsageError(
            f"{Path(source)} is neither a folder, nor a file, nor the name of an sdist",
            next_step="such as `init .`, `init torch-cluster==1.6.3`, `init torch_cluster-1.6.3.tar.gz`",
        ) from None


def _write_project(context: Context, tree: SourceFacts, origin: dict[str, str], folder: Path) -> None:
    """Write the table to the folder's pyproject.toml: to a new file, or at the end of one without the table.

    Raises UsageError if the file has the table already, is not valid TOML, or cannot be written.
    """
    variants = list(read_variants([context.builtin / "variants"]).values())
    table_text = scaffold.project_file(tree, origin, variants)
    path = folder / "pyproject.toml"
    try:
        old = toml.decoded(foreign_files.content(path, toml.LARGEST)) if path.is_file() else ""
        if TABLE in toml.table_in(toml.loads(old), "tool"):
            raise UsageError(f"there is a [tool.{TABLE}] already", where=str(path), next_step="edit it, or remove it")
        # The text of an existing file stays as it is, and so do its line ends.
        new = table_text
        if old:
            addition = f"\n{table_text}"
            if "\r\n" in old:
                addition = addition.replace("\n", "\r\n")
            new = old + addition
        toml.loads(new)  # a file can be valid, and have no room for a table
    except toml.TomlError as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path), next_step="correct it, then init again") from None
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path), next_step="name another DIR") from None
    try:
        replace_text(path, new)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), next_step="name another DIR"
        ) from None
    context.say(f"wrote {path}:\n\n{table_text}")
    marks = table_text.count(scaffold.MARK) - 1  # one of them is in the text that explains the mark
    context.say(f"{marks} lines to check; then: build_farm.py --project {folder} --torch {variants[-1].torch}")


COMMANDS = {"init": Command(InitOptions, _configure_parser, _init)}
