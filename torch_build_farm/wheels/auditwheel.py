"""auditwheel, with torch's and CUDA's libraries left out by policy data."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.log import STAGE_MARK

_NO_LIBRARY = "does not look like a platform wheel"  # auditwheel's words


@dataclass(frozen=True)
class Policy:
    """Patterns of library names that are somebody else's to bring."""

    torch: tuple[str, ...]
    cuda: tuple[str, ...]
    cuda_torch_only: tuple[str, ...]

    @property
    def external(self) -> tuple[str, ...]:
        return (*self.torch, *self.cuda)


@cache
def policy() -> Policy:
    """The policy that comes with the farm (data/policy.toml)."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/policy.toml").read_text("utf-8"))
    return Policy(tuple(table["torch"]), tuple(table["cuda"]), tuple(table["cuda-torch-only"]))


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def command(auditwheel: str, raw: str, out: str) -> list[str]:
    """The auditwheel call that gives wheel `raw` its tag and puts it into folder `out`."""
    excluded = [word for pattern in policy().external for word in ("--exclude", pattern)]
    return [auditwheel, "repair", "--wheel-dir", out, *excluded, raw]


def failure(log: Path, tail: Sequence[str]) -> RepairError:
    """Why auditwheel refused the wheel, told from the log's last stage."""
    text = log.read_text("utf-8", "replace")
    lines = [line for line in text[text.rfind(STAGE_MARK) :].splitlines() if not line.startswith("cibuildwheel:")]
    if any(_NO_LIBRARY in line for line in lines):
        return without_library("the wheel", log)
    lines = [line for line in lines if "rror" in line or "annot" in line]
    return RepairError(
        f"auditwheel cannot repair the wheel: {(lines or list(tail) or ['no reason given'])[-1]}",
        where=str(log),
        next_step="a library that it cannot find must be installed, or linked statically",
    )


def without_library(name: str, where: Path) -> RepairError:
    """The error for a wheel that has nothing to do with torch's ABI."""
    return RepairError(
        f"{name} holds no compiled library, so nothing in it depends on torch's version",
        where=str(where),
        next_step="check what the build installs; a pure Python project needs no variants",
    )
