"""Where a run works. Every start of the farm imports this, so it imports little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch_build_farm.core import ownership
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore, default_folder
from torch_build_farm.core.text import is_utf8


@dataclass(frozen=True)
class Workplace:
    """Where a run works: its work folder, the store, the runner of its processes, and `say` for lines to people."""

    work: Path
    store: TorchStore
    runner: Runner
    say: Callable[[str], None]

    @classmethod
    def of(cls, root: Path, work: Path | None, runner: Runner, say: Callable[[str], None]) -> Self:
        """The place of a project's runs, with the user's store. `work` and errors as in `work_folder`."""
        work = work_folder(root, work)
        return cls(work, TorchStore.at(default_folder(), work), runner, say)


def work_folder(root: Path, work: Path | None, *, builds: bool = True) -> Path:
    """The work folder of the project in `root`: `work`, or ROOT/work for None.

    Raises UsageError for a file. If the farm `builds` there, it also raises UsageError for a path with a space or one
    that is not UTF-8, of the store as well, and DiskError for a folder that others may write.
    """
    work = work.resolve() if work else root / "work"
    if work.exists() and not work.is_dir():
        raise UsageError("the work folder is a file", where=str(work), next_step="name a folder with --work")
    if not builds:
        return work
    # Logs are written there, and wheels delivered: through links of somebody else they would go anywhere.
    ownership.check_folder(work, "use a folder of your own that nobody else may write: --work DIR")
    for path, option in ((work, "--work DIR"), (default_folder(), f"{STORE_VARIABLE}=DIR")):
        if any(character.isspace() for character in str(path)):
            raise UsageError(
                f"a path with a space: {path}",
                where="MAKEFLAGS and compiler options cannot carry it",
                next_step=f"use another folder: {option}",
            )
        if not is_utf8(str(path)):
            raise UsageError("a path that is not UTF-8", where=str(path), next_step=f"use another folder: {option}")
    return work
