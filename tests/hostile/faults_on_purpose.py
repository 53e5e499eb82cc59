"""Not inputs of strangers but the faults themselves, by which the box is tested: one for each seed."""

from __future__ import annotations

import os
from pathlib import Path


def examples(seed: int) -> int:
    return seed


def check(data: int, folder: Path) -> None:
    match data:
        case 1:
            while True:
                pass
        case 2:
            assert bytearray(b"x" * 700_000_000)
        case 3:
            raise ValueError("a traceback")
        case 4:
            (folder.parent / "outside").write_text("")
        case 5:
            os._exit(1)
