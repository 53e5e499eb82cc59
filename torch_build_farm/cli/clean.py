"""`clean`: remove what runs left."""

from __future__ import annotations

import contextlib

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import EngineError, UsageError
from torch_build_farm.core.files import remove, size_text
from torch_build_farm.engines.docker import client as docker_client
from torch_build_farm.engines.docker import containers
from torch_build_farm.pipeline import workfolder


def _clean_engine(context: Context) -> None:
    """Remove what killed farms left on the Docker engine, if one answers; with --store its images and volumes too."""
    try:
        client = docker_client.connect()
    except EngineError as error:
        context.say(f"containers, if any, are left: {error.what}")
        return
    if client is None:
        return
    with docker_client.translated_errors():
        left = containers.sweep(client, context.store)
        context.say(f"removed {left} containers from the Docker engine")
        if context.options.store:
            context.say(f"removed {containers.forget(client, context.store)} images and volumes from the Docker engine")


def clean(context: Context) -> int:
    """`clean`: what runs left, except finished wheels; with --all those too, with --store torch and the caches."""
    store, _ = context.store, context.project
    if not (context.work / "lock").exists() and context.work.exists():
        raise UsageError(
            "this is not a work folder of the farm", where=str(context.work), next_step="name one with --work"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(context.work, context.runner, context.options.wait, context.say))
        if context.options.store:
            stack.enter_context(store.in_use(alone=True))
        folders = [context.work / "jobs", context.work / "logs", *context.work.glob("verify-*")]
        folders += [context.work / "dist"] if context.options.all else []
        stack.enter_context(store.environments())
        _clean_engine(context)
        folders += [store.root] if context.options.store else []
        for folder in folders:
            context.runner.check()
            context.say(f"removed {folder} ({size_text(remove(folder))})")
    return 0
