"""What every command works from: options, project, work folder, store, and where answers go.

Every start of the farm imports this: what only some commands need is imported where they need it.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.resources import DATA
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore, default_folder
from torch_build_farm.pipeline.workplace import Workplace

if TYPE_CHECKING:
    from torch_build_farm.project.settings import Project


def builtin_folder() -> Path:
    """Where the built-in variants/ and templates/ lie: in the installed package, or in the checkout around it."""
    package = DATA.parent
    return package / "builtin" if (package / "builtin").is_dir() else package.parent


@dataclass(frozen=True)
class Context:
    """What every command has at hand. With --json, standard output is for the document alone."""

    options: Namespace
    root: Path
    builtin: Path
    runner: Runner
    console: Console

    @property
    def project(self) -> Project:
        from torch_build_farm.project import settings  # noqa: PLC0415 (slow to import)

        return settings.load(self.root, self.builtin)

    @property
    def work(self) -> Path:
        """The work folder. Raises UsageError for a place that cannot be one."""
        work = Path(self.options.work).resolve() if self.options.work else self.root / "work"
        if work.exists() and not work.is_dir():
            raise UsageError("the work folder is a file", where=str(work), next_step="name a folder with --work")
        for path, way in ((work, "--work DIR"), (default_folder(), f"{STORE_VARIABLE}=DIR")):
            if any(character.isspace() for character in str(path)):
                raise UsageError(
                    f"a path with a space: {path}",
                    where="MAKEFLAGS and compiler options cannot carry it",
                    next_step=f"use another folder: {way}",
                )
        return work

    @property
    def store(self) -> TorchStore:
        return TorchStore.at(default_folder(), self.work)

    def say(self, text: str) -> None:
        """A line for people."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def answer(self, document: dict[str, Any]) -> None:
        """The document for programs."""
        print(json.dumps(document, indent=2), flush=True)  # noqa: T201

    @property
    def place(self) -> Workplace:
        """Where runs of this command work."""
        return Workplace(self.work, self.store, self.runner, self.say)
