"""Builds without a network: how it shows that one wanted a network, or used one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch_build_farm.core.errors import BuildError, DiskError, FarmError, OutOfMemoryError, SourceError
from torch_build_farm.core.files import walk
from torch_build_farm.core.log import STAGE_MARK, read
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.project import setup_hints
from torch_build_farm.wheels.wheel import opened

OFFLINE = {"UV_OFFLINE": "1"}

# Messages of programs that find no network: getaddrinfo's, the kernel's, uv's and cargo's.
_MESSAGES = (
    "name resolution",
    "Could not resolve",
    "Network is unreachable",
    "Failed to resolve",
    "dns error",
    "Name or service not known",
    "resolve host",
    "network connectivity is disabled",
    "Connection refused",  # by the loopback, where nothing listens
)
_LIBRARY = re.compile(r"\.so(\.\d+)*$")
_OBJECTS = (".o", ".obj", ".a")
# A compiler's command, ninja's and make's progress, cargo's.
_COMPILES = re.compile(
    r"^\s*(?:\S*/)?[\w.+-]*(?:gcc|g\+\+|clang|clang\+\+|\bcc|c\+\+|nvcc|icpx|rustc|gfortran)(?:-[\d.]+)?\s.*\s-(?:c|o)\s"
    r"|^\s*\[\s*\d+(?:/\d+|%)\]\s|^\s*Compiling \S+ v\d"
)


def explained(job: str, error: FarmError, tail: Sequence[str], project: Path) -> FarmError:
    """The error of a build without a network that failed with `error`: that it wanted one, where its output says so.

    `tail` is the end of its output, `project` the folder with its setup.py, if it has one.
    """
    text = "\n".join(tail).lower()
    # A full disk or memory is the better explanation, whatever the output says about the network.
    if isinstance(error, DiskError | OutOfMemoryError) or not any(message.lower() in text for message in _MESSAGES):
        return error
    return BuildError(
        f"{job}: the build tries to download something, and builds have no network",
        where=error.where,
        next_step=_next_step(project, "ship it with the source, make it a build requirement, or set network = true"),
    )


def check_compiled(request: BuildRequest, wheel: Path, project: Path) -> None:
    """Raise BuildError for a wheel with libraries from a build that compiled nothing: it has fetched them.

    For builds that had a network all the same. The signs of a compiler are objects among the build's files that its
    source did not have, and compilers' commands in its log. `project` is the folder with its setup.py, if it has one.
    """
    with opened(wheel) as archive:
        libraries = [name for name in archive.namelist() if _LIBRARY.search(name)]
    if not libraries or _objects(request.scratch) > _objects(request.tree):
        return
    output = read(request.shell.log).rpartition(STAGE_MARK)[2]
    if any(_COMPILES.search(line) for line in output.splitlines()):
        return
    raise BuildError(
        f"{request.job.id}: the build compiled nothing, and yet its wheel has {libraries[0]}: it has downloaded that",
        where=str(wheel),
        next_step=_next_step(project, "set network = true where others' builds may be published"),
    )


def _objects(folder: Path) -> int:
    return sum(entry.name.endswith(_OBJECTS) and entry.is_file(follow_symlinks=False) for entry in walk(folder))


def _next_step(project: Path, else_step: str) -> str:
    """What to do: to set the variables by which setup.py compiles in place of downloading, if it reads any, or else."""
    try:
        forces_build = setup_hints.find(project, {}).forces_build
    except SourceError:
        forces_build = {}
    assignments = ", ".join(f'{name} = "{value}"' for name, value in forces_build.items())
    force = f"environment = {{ {assignments} }}, which setup.py reads, lets it compile; or " if forces_build else ""
    return f"{force}{else_step} in [tool.torch-build-farm]"
