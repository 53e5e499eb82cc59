"""Kinds of ELF symbols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch_build_farm.wheels.elf.partial import Symbol

_FUNCTIONS = (2, 10)  # STT_FUNC, STT_GNU_IFUNC: no linker asks for their sizes


class Kind(NamedTuple):
    """STT_ and STB_ numbers, and a size in bytes, 0 for functions. A linker copies the type into its output."""

    kind: int
    binding: int
    size: int


def kinds_by_name(symbols: Iterable[Symbol]) -> dict[str, Kind]:
    """The kind of each name; of a name with several versions the last."""
    kinds = {}
    for symbol in symbols:
        size = 0 if symbol.kind in _FUNCTIONS else symbol.size
        kinds[symbol.name] = Kind(symbol.kind, symbol.binding, size)
    return kinds
