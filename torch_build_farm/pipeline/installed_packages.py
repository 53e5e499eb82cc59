"""Which distributions a build's isolated environment had, read from its log, so that it can be built there again.

The front end removes the environment as soon as the wheel is made, and the container is removed too. But with either
engine the log has uv's list of what it installed.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch_build_farm.core.log import STAGE_MARK, read

# uv's lines, such as " + ninja==1.13.2" (" ~": installed again; " -": removed). `build -v` puts "< " before them, and
# older versions of `build`, such as those for CPython 3.9, also put colours around them.
_CHANGE = re.compile(r"^(?:\x1b\[[\d;]*m)?(?:< )? ([+~-]) ([\w.-]{1,200})==([\w.+!]{1,200})", re.MULTILINE)
_MOST = 2_000  # distributions; a build can print such lines too, and a record has room for so many


def of_last_build(log: Path) -> tuple[tuple[str, str], ...]:
    """The name and version of each distribution in the environment of a job's last build, by the job's log."""
    last_build = read(log).rpartition(f"{STAGE_MARK}build ")[2]
    return tuple(installed(last_build).items())


def installed(log: str) -> dict[str, str]:
    """Distributions by name, with their versions, as uv installed and removed them one after the other."""
    versions: dict[str, str] = {}
    for match in _CHANGE.finditer(log):
        sign, name, version = match.groups()
        # A distribution that uv replaces is listed twice: first as removed, then as installed.
        versions.pop(name, None)
        if sign != "-" and len(versions) < _MOST:
            versions[name] = version
    return dict(sorted(versions.items()))
