"""The oldest glibc and C++ library that a wheel works with, beside those that its tag promises."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from packaging.version import Version

from torch_build_farm.audit.read_wheel import AuditedWheel

_FAMILIES = ("GLIBC", "GLIBCXX", "CXXABI", "GCC")


@cache
def _policies() -> list[dict[str, Any]]:
    """Auditwheel's policies: which symbol versions the systems of a manylinux tag have."""
    text = (resources.files("auditwheel.policy") / "manylinux-policy.json").read_text("utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def _promised(wheel: AuditedWheel) -> dict[str, list[str]]:
    """The symbol versions of the oldest system that the wheel's tag names; empty for a tag without promise."""
    platforms = {tag.platform.rpartition("_x86_64")[0] for tag in wheel.tags}
    policies = [one for one in _policies() if platforms & {one["name"], *one["aliases"]} and one["name"] != "linux"]
    if not policies:
        return {}
    oldest = max(policies, key=lambda one: int(one["priority"]))
    versions: dict[str, list[str]] = oldest["symbol_versions"]["x86_64"]
    return versions


def floors(wheel: AuditedWheel) -> tuple[str, ...]:
    """The highest symbol version of each family that the wheel asks for, such as GLIBC_2.34, and what the tag lacks."""
    asked = {version for elf in wheel.libraries.values() for _, version in elf.versions}
    promised, lines = _promised(wheel), []
    for family in _FAMILIES:
        found = sorted((match[1] for one in asked if (match := re.fullmatch(rf"{family}_([\d.]+)", one))), key=Version)
        if not found:
            continue
        beyond = [one for one in found if promised and one not in promised.get(family, [])]
        more = f", beyond what the tag promises: {', '.join(beyond)}" if beyond else ""
        lines.append(f"{family}_{found[-1]}{more}")
    return tuple(lines)
