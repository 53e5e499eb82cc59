"""Whether modules of pybind11 in a wheel see the types that torch itself binds by pybind11.

They do where their id of pybind11's internals is that of libtorch_python.so. Tensors need no such id: torch's headers
convert them by functions of CPython.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch_build_farm.audit.loader import policy
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.versions import CPython

# Of its internals of version 5, pybind11 gives those for CPythons before 3.12 the number 4 (2.13's detail/internals.h).
_FIRST_WITH_5 = CPython(3, 12)


def torchs_id(release: str, python: str, machine: Machine) -> str:
    """The id in libtorch_python.so of a release for a CPython, by its tag; empty where it is not known."""
    torchs = policy().pybind11[machine.name].get(".".join(release.split(".")[:2]), "")
    if CPython.parse(python) < _FIRST_WITH_5:
        torchs = torchs.replace("_internals_v5_", "_internals_v4_")
    return torchs


def strangers(ids: Iterable[str], pythons: Mapping[str, Iterable[str]], machine: Machine) -> dict[str, tuple[str, ...]]:
    """Those of a wheel's ids that are not torch's, each with the releases for which they are not.

    `pythons` are the tags of the CPythons that the wheel is judged for, by release. A release whose id is not known
    counts as one with the same.
    """
    by_id: dict[str, list[str]] = {}
    for internals_id in sorted(set(ids)):
        for release, tags in pythons.items():
            known = {torchs_id(release, tag, machine) for tag in tags} - {""}
            if known and internals_id not in known:
                by_id.setdefault(internals_id, []).append(release)
    return {internals_id: tuple(releases) for internals_id, releases in by_id.items()}
