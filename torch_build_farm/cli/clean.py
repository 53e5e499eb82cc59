"""`clean`: remove what earlier runs left behind."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from torch_build_farm.cli.arguments import CommonOptions, Parser, add_common_arguments, add_wait_argument
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import EngineError, UsageError
from torch_build_farm.core.files import remove, size_text
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker import containers
from torch_build_farm.pipeline import workfolder


@dataclass(frozen=True, kw_only=True)
class CleanOptions(CommonOptions):
    """Options of `clean`."""

    all: bool
    store: bool
    wait: bool


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("--all", action="store_true", help="remove finished wheels too")
    parser.add_argument(
        "--store", action="store_true", help="remove the store too: torch, tools and caches of all projects"
    )
    add_wait_argument(parser)


def _clean_engine(context: Context, *, images: bool) -> None:
    """Remove what killed farms left on the Docker engine, if one answers; with `images` its images and volumes too."""
    try:
        client = docker_client.connect()
    except EngineError as error:
        context.say(f"containers, if any, are left: {error.what}")
        return
    if client is None:
        return
    with docker_client.translated_errors():
        swept = containers.sweep(client, context.store)
        context.say(f"removed {swept} containers from the Docker engine")
        if images:
            forgotten = containers.forget(client, context.store)
            context.say(f"removed {forgotten} images and volumes from the Docker engine")


def _clean(context: Context, options: CleanOptions) -> int:
    """`clean`: remove what runs left, except finished wheels; --all removes those too, --store torch and the caches."""
    store = context.store
    work = context.work
    # If there is no project, --project or the current folder is a mistake, and the work folder would be the wrong one.
    context.load_project()
    if work.exists() and not (work / "lock").exists():
        raise UsageError("this is not a work folder of the farm", where=str(work), next_step="name one with --work")

    # Nobody else may be at work where something is removed. The store serves all projects: it takes a lock of its own.
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(work, context.runner, options.wait, context.say))
        if options.store:
            stack.enter_context(store.in_use(alone=True))
        stack.enter_context(store.environments())
        _clean_engine(context, images=options.store)
        folders = [work / "jobs", work / "logs", *work.glob("verify-*")]
        if options.all:
            folders.append(work / "dist")
        if options.store:
            folders.append(store.root)
        for folder in folders:
            context.runner.check()
            context.say(f"removed {folder} ({size_text(remove(folder))})")
    return 0


COMMANDS = {"clean": Command(CleanOptions, _configure_parser, _clean)}
