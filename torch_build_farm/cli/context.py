"""What every command works with: project, work folder, store, and where its output goes.

Every start of the farm imports this: what only some commands need is imported where they need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_build_farm.cli.answer import as_text
from torch_build_farm.cli.console import Output, People
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.pipeline.workplace import Workplace, work_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from torch_build_farm.project.settings import Project


@dataclass(frozen=True)
class Context:
    """What every command works with.

    `root` is the project's folder, `work_option` what --work names, `json` whether --json asks for a document.
    """

    root: Path
    work_option: Path | None
    json: bool
    builtin: Path
    runner: Runner
    output: Output

    @property
    def console(self) -> People:
        """The console for people."""
        return self.output.people

    def load_project(self) -> Project:
        """Read the project's settings and variants, anew at each call: `add` changes them. Raises ConfigError."""
        from torch_build_farm.project import settings  # noqa: PLC0415 (slow to import)

        return settings.load(self.root, self.builtin)

    @property
    def work(self) -> Path:
        """The work folder. Raises UsageError for a place that cannot be one."""
        return work_folder(self.root, self.work_option)

    @property
    def records_folder(self) -> Path:
        """The work folder for a command that builds nothing: its path may hold a space. Raises UsageError."""
        return work_folder(self.root, self.work_option, builds=False)

    @property
    def store(self) -> TorchStore:
        """The store of torch, tools and caches, which all projects share."""
        return TorchStore.at(default_folder(), self.work)

    @property
    def place(self) -> Workplace:
        """Where runs of this command work."""
        return Workplace.of(self.root, self.work_option, self.runner, self.say)

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.console.say(text)

    def answer(self, document: DataclassInstance | dict[str, Any]) -> None:
        """Print the command's document for programs, if --json asks for it."""
        if self.json:
            self.output.document(as_text(document))
