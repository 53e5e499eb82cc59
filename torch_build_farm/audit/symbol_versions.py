"""The oldest glibc and C++ library that a wheel works with, compared with what its platform tag promises."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

from packaging.version import Version

from torch_build_farm.audit.read_wheel import AuditedWheel

# Families of symbol versions: glibc's, the C++ library's two, and those of GCC's runtime library.
_FAMILIES = ("GLIBC", "GLIBCXX", "CXXABI", "GCC")


@cache
def _policies() -> list[dict[str, Any]]:
    """Auditwheel's policies: which symbol versions the systems of a manylinux tag provide."""
    text = (resources.files("auditwheel.policy") / "manylinux-policy.json").read_text("utf-8")
    policies: list[dict[str, Any]] = json.loads(text)
    return policies


def _promised(wheel: AuditedWheel) -> dict[str, list[str]]:
    """The symbol versions, by family, of the oldest system that the wheel's tag names.

    Empty for a tag that promises nothing, such as linux_x86_64.
    """
    machine = wheel.machine.name
    platforms = {tag.platform.rpartition(f"_{machine}")[0] for tag in wheel.tags}
    policies = []
    for policy in _policies():
        if policy["name"] != "linux" and platforms & {policy["name"], *policy["aliases"]}:
            policies.append(policy)
    if not policies:
        return {}
    # Auditwheel gives older systems higher priorities.
    oldest = max(policies, key=lambda policy: int(policy["priority"]))
    versions: dict[str, list[str]] = oldest["symbol_versions"][machine]
    return versions


def floors(wheel: AuditedWheel) -> tuple[str, ...]:
    """The highest symbol version of each family that the wheel needs, and which versions its tag does not promise.

    A text for each family, such as "GLIBC_2.34, beyond what the tag promises: 2.33, 2.34", and one for each C++ library
    that the wheel brings.
    """
    own_files = _own_files(wheel)
    promised = _promised(wheel)
    lines = []
    for family, numbers in _of_system(wheel, own_files).items():
        if not numbers:
            continue
        ascending = sorted(numbers, key=Version)
        line = f"{family}_{ascending[-1]}"
        if promised:
            beyond = [number for number in ascending if number not in promised.get(family, [])]
            if beyond:
                line += f", beyond what the tag promises: {', '.join(beyond)}"
        lines.append(line)
    for file in sorted(own_files):
        if file.startswith("libstdc++"):
            lines.append(f"its own {file} (two C++ runtimes in one process are a risk)")
    return tuple(lines)


def _own_files(wheel: AuditedWheel) -> set[str]:
    """The names by which the wheel's libraries need each other: the sonames, or file names of those without one."""
    return {elf.soname or PurePosixPath(path).name for path, elf in wheel.libraries.items()}


def _of_system(wheel: AuditedWheel, own_files: Collection[str]) -> dict[str, set[str]]:
    """The versions of each family that the wheel asks of the system: of all libraries but its own."""
    by_family: dict[str, set[str]] = {family: set() for family in _FAMILIES}
    for elf in wheel.libraries.values():
        for file, version in elf.versions:
            # Only numbers can be compared: CXXABI_TM_1 and the like are options, not levels.
            family, _, number = version.rpartition("_")
            is_number = re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,9}", number)
            if file not in own_files and family in by_family and is_number:
                by_family[family].add(number)
    return by_family
