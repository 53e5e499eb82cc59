"""Whether a build gets torch's SDK or all of torch: by the project's `torch-build`, and by what the build asks for."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from torch_build_farm.project.settings import Settings
from torch_build_farm.releases.sdk import REFUSAL, version_of

_RUNS_TORCH = re.compile(
    rb"^\s*((from|import) +torch\.utils\.cpp_extension\b"
    rb"|from +torch\.utils +import\b(\s*\([^)]*|[^#;\n]*)\bcpp_extension\b)",
    re.MULTILINE,
)

# What torch's wheels have required since 2.6, triton and NVIDIA's apart: a build script may import them unasked.
_COMES_WITH_TORCH = re.compile(
    r"No module named '(filelock|fsspec|jinja2|markupsafe|mpmath|networkx|setuptools|sympy|triton|typing_extensions)\b"
)
_SENTENCE = re.compile(r"(torch[\w.]*) is not in torch's SDK")


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
    names = note.read_text("utf-8").split() if note.is_file() else []
    names += _SENTENCE.findall(log)
    if f"{REFUSAL}: cannot open shared object file" in log:  # the loader's words; ld warns of the name in others
        names.append("torch's libraries")
    return ", ".join(dict.fromkeys(names))


def missed(log: str) -> str:
    """The module that a failed build wanted and that would have come with all of torch; empty for none."""
    found = _COMES_WITH_TORCH.search(log)
    return found[1] if found else ""


def leaked(wheel: Path, release: str) -> str:
    """The first member of a wheel that has the SDK's version in it; empty for none.

    A build may write `torch.__version__` into what it makes, and that of the SDK is no torch's that users have.
    """
    mark = version_of(release).encode()
    with zipfile.ZipFile(wheel) as archive:
        return next((name for name in archive.namelist() if mark in archive.read(name)), "")
