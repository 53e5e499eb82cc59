"""What a source says that its build requires: strings of a stranger's that become arguments of uv."""

from __future__ import annotations

import json
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement

from torch_build_farm.core.errors import BuildError
from torch_build_farm.core.requirements import read_requirement

_ANSWER = "torch-build-farm: the back end requires "  # data/ask-back-end.py
_MOST = 1000  # requirements of one build


def answer_of_back_end(line: str) -> list[str]:
    """The requirements in the line that data/ask-back-end.py prints last; none where it is another line."""
    if not line.startswith(_ANSWER):
        return []  # the back end printed after it, or ended the script; the build itself will say what it lacks
    try:
        answer = json.loads(line.removeprefix(_ANSWER))
    except (ValueError, RecursionError):
        return []
    return [str(text) for text in answer] if isinstance(answer, list) else []


def checked_requirements(job: str, required: Sequence[str]) -> list[str]:
    """The requirements, each a name that an index has, or a URL of a file there.

    Raises BuildError for an option of uv, a path, a repository, and whatever else is no requirement (PEP 508).
    """
    if len(required) > _MOST:
        raise BuildError(f"{job}: the build requires {len(required)} distributions")
    for text in required:
        try:
            url = read_requirement(text).url
        except InvalidRequirement:
            raise BuildError(f"{job}: the build requires {text!r:.200}, which is no requirement (PEP 508)") from None
        if url and not url.startswith(("https://", "http://")):
            raise BuildError(
                f"{job}: the build requires {text!r:.200}, which is on no index",
                next_step="require a release of an index, or a file by its https:// URL",
            )
    return list(required)
