"""What a variant changes in its project's metadata: requires-python, the torch pin, the project's own name.

Both the farm and the build environments of variants run this file: the rendered tree holds a copy beside
data/variant_backend.py. It therefore keeps to CPython 3.9, the standard library and packaging, and imports nothing of
the farm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


def cut_requires_python(requires_python: str, low: str, high: str) -> str:
    """The specifiers of `requires_python`, narrowed to CPythons from `low` up to and excluding `high`.

    `low` and `high` are versions such as "3.10"; an empty `high` is no bound. Raises InvalidSpecifier.
    """
    lower = Version(low)
    upper = Version(high) if high else None
    others = []
    for specifier in SpecifierSet(without_stars(requires_python)):
        if specifier.operator == ">=":
            lower = max(lower, Version(specifier.version))
        elif specifier.operator == "<":
            excluded = Version(specifier.version)
            upper = min(upper, excluded) if upper else excluded
        else:
            others.append(str(specifier))
    bounds = [f">={lower}", f"<{upper}"] if upper else [f">={lower}"]
    return ",".join([*bounds, *sorted(others)])


def without_stars(requires_python: str) -> str:
    """`requires_python` with >=3.6.* written as >=3.6.

    Old setuptools took both; PEP 440 allows .* only after == and !=.
    """
    return re.sub(r"([<>]=?|~=)\s*([\d.]+?)\.\*", r"\1\2", requires_python)


def pin_torch(requirements: Iterable[str], pin: str) -> list[str | None]:
    """`requirements` with the one on torch replaced by one with `pin`, such as "==2.9.*"; its extras are kept.

    The result has an element for each requirement: None stands for a second requirement on torch, which is dropped. A
    requirement that belongs to an extra (`; extra == "gpu"`) is pinned where it stands. Raises InvalidRequirement.
    """
    pinned: list[str | None] = []
    torch_position = None
    torch_extras: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != "torch":
            pinned.append(text)
        elif "extra" in str(requirement.marker):
            pinned.append(f"torch{_bracketed(requirement.extras)}{pin} ; {requirement.marker}")
        else:
            torch_extras |= requirement.extras
            pinned.append(None)
            if torch_position is None:
                torch_position = len(pinned) - 1
    if torch_position is not None:
        pinned[torch_position] = f"torch{_bracketed(torch_extras)}{pin}"
    return pinned


def _bracketed(extras: set[str]) -> str:
    return f"[{','.join(sorted(extras))}]" if extras else ""


def rename_own(text: str, project: str, distribution: str) -> str:
    """Requirement `text`; where it names the project itself (as in `all = ["name[test]"]`) it names `distribution`."""
    requirement = Requirement(text)
    if canonicalize_name(requirement.name) != canonicalize_name(project):
        return text
    requirement.name = distribution
    return str(requirement)
