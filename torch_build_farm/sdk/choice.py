"""Whether a build gets torch's SDK or all of torch: by the project's `torch-build`, and by what the build asks for."""

from __future__ import annotations

import re
from pathlib import Path

from torch_build_farm.config import Settings
from torch_build_farm.sdk.wheel import REFUSAL

_RUNS_TORCH = re.compile(
    rb"^\s*((from|import) +torch\.utils\.cpp_extension\b|from +torch\.utils +import\b[^#;\n]*\bcpp_extension\b)",
    re.MULTILINE,
)


def why_full(settings: Settings, tree: Path) -> str:
    """Why a build of `tree` needs all of torch from the start, in a few words; empty where the SDK is tried first."""
    if settings.torch_build == "full":
        return 'torch-build = "full"'
    if settings.torch_build == "auto":
        for path in sorted(tree.glob("*.py")):
            if path.is_file() and _RUNS_TORCH.search(path.read_bytes()):
                return f"{path.name} takes torch.utils.cpp_extension, which runs torch"
    return ""


def asked(note: Path, log: str) -> str:
    """What a build asked the SDK for in vain, by its note and its log; empty for nothing."""
    names = list(dict.fromkeys(note.read_text("utf-8").split())) if note.is_file() else []
    if f"{REFUSAL}: cannot open shared object file" in log:  # the loader's words; ld warns of the name in others
        names.append("torch's libraries")
    return ", ".join(names)
