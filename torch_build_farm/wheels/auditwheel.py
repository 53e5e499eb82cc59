"""auditwheel's command line, which excludes torch's and CUDA's libraries by policy data, and what its failures mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.log import STAGE_MARK, read
from torch_build_farm.project.external_libraries import policy

_NO_LIBRARY = "does not look like a platform wheel"  # auditwheel's message for a wheel without a compiled library


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
