"""Kinds of ELF symbols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch_build_farm.wheels.elf.partial import Symbol

_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC: no linker asks for their sizes


class Kind(NamedTuple):
    """Numbers STT_ and STB_, and bytes, 0 for functions. A linker copies the type into what it links."""

    kind: int
    binding: int
    size: int


def of(symbols: Iterable[Symbol]) -> dict[str, Kind]:
    """By name; of a name with several versions the last."""
    return {one.name: Kind(one.kind, one.binding, 0 if one.kind in _FUNCTIONS else one.size) for one in symbols}
