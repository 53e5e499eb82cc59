"""A variant and the core that it adds to: they share C++ types, by one id of pybind11's internals, and no file."""

from __future__ import annotations

from collections.abc import Iterable

from torch_build_farm.wheels.record import installed_path
from torch_build_farm.wheels.relocate import Move
from torch_build_farm.wheels.wheel import Wheel


def core_problems(variant: Wheel, core: Wheel) -> list[str]:
    """Why the modules of `variant` do not see the types of the core's, in a sentence; [] where they do.

    Modules that use no pybind11 share no types by it, so there is nothing to compare.
    """
    strangers = {
        internals_id: members for internals_id, members in variant.pybind11.items() if internals_id not in core.pybind11
    }
    if not core.pybind11 or not strangers:
        return []
    return [
        f"modules of pybind11 do not see the types of the core: {_listed(strangers.items())}, and "
        f"{_listed(core.pybind11.items())} of {core.path.name}; build both with one pybind11 and one compiler: hold "
        "builds to a version by build-constraints, and let its headers come before those among torch's"
    ]


def members_of_variants(core: Wheel, packages: tuple[str, ...]) -> list[str]:
    """The members of a core that lie in the variants' `packages`, and so belong to the plain wheel and to variants."""
    move = Move(packages, "variant")
    return [member for member in core.members if move.member(installed_path(member)) is not None]


def _listed(members_of_ids: Iterable[tuple[str, list[str]]]) -> str:
    return "; ".join(f"{internals_id} in {', '.join(members)}" for internals_id, members in members_of_ids)
