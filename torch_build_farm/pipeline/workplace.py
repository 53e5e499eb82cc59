"""Where a run works. Every start of the farm imports this, so it imports little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore


@dataclass(frozen=True)
class Workplace:
    """Where a run works: its work folder, the store, the runner of its processes, and `say` for lines to people."""

    work: Path
    store: TorchStore
    runner: Runner
    say: Callable[[str], None]
