"""auditwheel's command line, which excludes torch's and CUDA's libraries by policy data, and what its failures mean."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.log import STAGE_MARK, read

_NO_LIBRARY = "does not look like a platform wheel"  # auditwheel's message for a wheel without a compiled library


@dataclass(frozen=True)
class Policy:
    """Patterns of names of libraries that a wheel must not bring, because torch or CUDA brings them.

    `cuda_torch_only`: libraries that only a torch with CUDA has.
    """

    torch: tuple[str, ...]
    cuda: tuple[str, ...]
    cuda_torch_only: tuple[str, ...]

    @property
    def external(self) -> tuple[str, ...]:
        return (*self.torch, *self.cuda)


@cache
def policy() -> Policy:
    """The policy that the farm ships (data/policy.toml)."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/policy.toml").read_text("utf-8"))
    return Policy(tuple(table["torch"]), tuple(table["cuda"]), tuple(table["cuda-torch-only"]))


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a library's name matches one of the glob patterns; case counts."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def provider(soname: str, external_libraries: Mapping[str, str]) -> str:
    """Who brings a library by the setting `external-libraries`; empty for a library that no pattern matches."""
    for pattern, distribution in external_libraries.items():
        if fnmatchcase(soname, pattern):
            return distribution
    return ""


def command(auditwheel: str, raw: str, out: str, external_libraries: Iterable[str] = ()) -> list[str]:
    """The auditwheel call that gives wheel `raw` its platform tag and writes it into folder `out`.

    `external_libraries` are patterns of libraries that it leaves out beside torch's and CUDA's.
    """
    words = [auditwheel, "repair", "--wheel-dir", out]
    for pattern in (*policy().external, *external_libraries):
        words += ["--exclude", pattern]
    return [*words, raw]


def failure(log: Path, tail: Sequence[str]) -> RepairError:
    """Why auditwheel refused the wheel, from the log's last stage; `tail` are the last lines of its output."""
    text = read(log)
    reason = tail[-1] if tail else "no reason given"
    for line in text[text.rfind(STAGE_MARK) :].split("\n"):
        # cibuildwheel only reports that auditwheel failed.
        if line.startswith("cibuildwheel:"):
            continue
        if _NO_LIBRARY in line:
            return without_library("the wheel", log)
        # Without the first letters, which may be capitals. The last such line is the most specific one.
        if "rror" in line or "annot" in line:
            reason = line
    return RepairError(
        f"auditwheel cannot repair the wheel: {reason}",
        where=str(log),
        next_step="a library that it cannot find must be installed, or linked statically; one that another wheel or "
        "the user's system brings is named in external-libraries",
    )


def without_library(name: str, where: Path, *, of_core: bool = False) -> RepairError:
    """The error for a wheel that has nothing to do with torch's ABI; `of_core`: nor with a CPython's."""
    if of_core:
        return RepairError(
            f"{name} holds no compiled library, so one wheel of it serves every CPython",
            where=str(where),
            next_step="check what the build installs; a core of pure Python is built and published without the farm: "
            "leave out the table core, and let the variants require it",
        )
    return RepairError(
        f"{name} holds no compiled library, so nothing in it depends on torch's version",
        where=str(where),
        next_step="check what the build installs; a pure Python project needs no variants",
    )
