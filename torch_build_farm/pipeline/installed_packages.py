"""What the isolated environment of a build held, told from its log, so that it can be built again in the same.

The front end removes the environment as soon as the wheel is made, and the container is gone too; but what uv says that
it installed is in the log of either engine.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch_build_farm.core.log import STAGE_MARK

# uv's lines, such as " + ninja==1.13.2" (" ~": once more; " -": removed). `build -v` puts "< " before them, and older
# ones, such as CPython 3.9's, colours around.
_CHANGE = re.compile(r"^(?:\x1b\[[\d;]*m)?(?:< )? ([+~-]) ([\w.-]+)==([\w.+!]+)", re.MULTILINE)


def installed(log: str) -> dict[str, str]:
    """Distributions by name, with their versions, as uv installed and removed them one after the other."""
    found: dict[str, str] = {}
    for sign, name, version in _CHANGE.findall(log):
        found.pop(name, None)
        if sign != "-":
            found[name] = version
    return dict(sorted(found.items()))


def details(log: Path) -> dict[str, str]:
    """The environment for a build's record, by the job's log."""
    text = log.read_text("utf-8", "replace").rpartition(f"{STAGE_MARK}build ")[2]
    return {"environment": " ".join(f"{name}=={version}" for name, version in installed(text).items())}
