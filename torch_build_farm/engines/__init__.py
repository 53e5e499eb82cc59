"""Where wheels are built. An engine knows its interpreters and tools, and turns a rendered tree into a wheel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch_build_farm.config import Project
from torch_build_farm.names import CPython
from torch_build_farm.plan import Job
from torch_build_farm.process import Shell


@dataclass(frozen=True)
class Interpreter:
    """A CPython that an engine has: its full version, such as 3.12.1, and the executable."""

    version: str
    path: Path


@dataclass(frozen=True)
class BuildRequest:
    """One wheel to be built.

    `tree` is the rendered source tree, only read; `scratch` is an empty folder of the build's own; `out` is where the
    wheel goes; `makeflags` joins the shared jobserver; `epoch` is SOURCE_DATE_EPOCH (Unix seconds); `shell` has the
    log.
    """

    job: Job
    tree: Path
    scratch: Path
    out: Path
    makeflags: str
    epoch: int
    version_from_scm: bool
    shell: Shell


class Engine(Protocol):
    """The interface of all engines."""

    @property
    def name(self) -> str:
        """What --engine calls it."""

    def interpreters(self) -> Mapping[CPython, Interpreter]:
        """Every CPython that this engine can build for."""

    def check(self, project: Project, jobs: Sequence[Job]) -> None:
        """Raise ToolError, before anything is built, where something that `jobs` need is missing."""

    def toolchain(self, job: Job) -> Mapping[str, str]:
        """What identifies the compiler and interpreter of a job; a change means another wheel."""

    def build(self, request: BuildRequest) -> Path:
        """Build the wheel and return its path. Raises BuildError or one of its kinds."""
