"""The libraries of other distributions that a build links against, as far as its files show.

Own code, and guesses: what a build links is known once it is built. Before that there are a run path to a package, a
call that asks a package where its libraries are, and a CMake package that is named like a requirement.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from packaging.requirements import InvalidRequirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.requirements import read_requirement

# $ORIGIN leads from a library to its folder, and .. from there to other packages.
_RUN_PATH = re.compile(r"\bORIGIN\}?(?:/\.\.)+/(?P<package>[A-Za-z_]\w*)")
_ASKED = re.compile(
    r"\b(?P<package>[A-Za-z_]\w*)(?:\.utils)?\.(?:cmake_prefix_path|get_cmake_dir|get_library_dirs?|get_lib_dirs?)\b"
)
_ALIAS = re.compile(r"(?:\bimport|,)\s+(?P<package>\w+)\s+as\s+(?P<alias>\w+)")
# Options of compilers, CMake's FindOpenMP, and a dependency of Meson's.
_OPENMP = re.compile(r"-fopenmp(?![\w-])|-lgomp\b|\bfind_package\s*\(\s*OpenMP\b|\bdependency\(\s*'openmp'")
# Their libraries are torch's own, or headers are all that they have for a build.
_NO_LIBRARY = {"cython", "nanobind", "numpy", "nvidia", "pybind11", "torch"}


def find(setup: str, cmake: str, cmake_packages: Iterable[str], requires: Iterable[str]) -> dict[str, str]:
    """The packages that a build links against, each with the requirement of the wheel that brings it.

    `setup` and `cmake` are the texts of setup.py and of CMake files, `cmake_packages` what these files look for.
    """
    distributions = sorted(_names(requires))
    aliases = {match["alias"]: match["package"] for match in _ALIAS.finditer(setup)}
    packages = [match["package"] for match in _RUN_PATH.finditer(setup + cmake)]
    packages += [match["package"] for match in _ASKED.finditer(setup)]
    packages += [name.lower() for name in cmake_packages]
    linked = {}
    for name in packages:
        package = aliases.get(name, name)
        distribution = _that_brings(package, distributions)
        if distribution and package not in _NO_LIBRARY:
            linked[package] = distribution
    return dict(sorted(linked.items()))


def uses_openmp(setup: str, cmake: str) -> bool:
    """Whether the texts of setup.py or another back end's file, or of CMake files, ask for OpenMP."""
    return bool(_OPENMP.search(setup) or _OPENMP.search(cmake))


def _names(requires: Iterable[str]) -> Iterator[str]:
    """The distributions that a wheel requires in any case."""
    for text in requires:
        try:
            requirement = read_requirement(text)
        except InvalidRequirement:
            continue
        if "extra" not in str(requirement.marker or ""):
            yield canonicalize_name(requirement.name)


def _that_brings(package: str, distributions: Sequence[str]) -> str:
    """The distribution of the package's name, or the first whose name begins with it, as in NAME-core; empty if there
    is none. `distributions` are sorted.
    """
    name = canonicalize_name(package)
    for beginning in (name, f"{name}-"):
        place = bisect_left(distributions, beginning)
        following = distributions[place] if place < len(distributions) else ""
        if following == name or following.startswith(f"{name}-"):
            return following
    return ""
