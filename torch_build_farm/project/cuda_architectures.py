"""`cuda-arch-list`: how architectures are written, and which of them the CUDA toolkit of a torch compiles for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from packaging.version import Version

from torch_build_farm.core.errors import nearest

_PTX = "+PTX"  # the code of a virtual architecture too, which the driver compiles for newer GPUs
_OTHER_SPELLINGS = re.compile(
    r"(?:sm_|compute_)?(?P<major>\d{1,2})\.?(?P<minor>\d)(?P<letter>[af]?)(?:-real|-virtual)?"
)


@dataclass(frozen=True)
class Architectures:
    """What data/cuda_architectures.toml says.

    `torch` are the names that torch reads, `nvcc` those that a toolkit compiles for, by the toolkit's release, and
    `named` the names that stand for several.
    """

    torch: frozenset[str]
    nvcc: Mapping[Version, tuple[str, ...]]
    named: Mapping[str, tuple[str, ...]]

    def of_toolkit(self, cuda: str) -> tuple[str, ...]:
        """What the toolkit of a CUDA release such as "12.8" compiles for and torch reads; empty for an unknown one.

        A release that the data lacks is taken for the one before it, of the same major.
        """
        release = Version(cuda)
        known = [other for other in self.nvcc if other <= release and other.major == release.major]
        return tuple(name for name in self.nvcc[max(known)] if name in self.torch) if known else ()


@cache
def architectures() -> Architectures:
    """The architectures that the farm knows."""
    text = files("torch_build_farm").joinpath("data/cuda_architectures.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return Architectures(
        torch=frozenset(table["torch"]),
        nvcc={Version(release): tuple(names) for release, names in table["nvcc"].items()},
        named={name: tuple(stands_for) for name, stands_for in table["named"].items()},
    )


def normalised(items: Iterable[str]) -> tuple[str, ...]:
    """The architectures that a list names, each once, such as ("8.0", "9.0+PTX") for ["8.0;Hopper"].

    As TORCH_CUDA_ARCH_LIST an item may hold several, separated by semicolons or spaces, or a name of torch's such as
    Hopper. Raises ValueError for a name that torch does not read.
    """
    known = architectures()
    names: list[str] = []
    for item in items:
        for word in re.split(r"[;\s]+", item.strip("; \t\n")):
            expanded = known.named.get(word, (word,))
            for name in expanded:
                if name.removesuffix(_PTX) not in known.torch:
                    raise ValueError(_not_read(name, known))
            names += expanded
    return tuple(dict.fromkeys(names))


def _not_read(name: str, known: Architectures) -> str:
    example = 'such as "9.0", "9.0a", "9.0+PTX" or "Hopper"'
    match = _OTHER_SPELLINGS.fullmatch(name)
    respelled = f"{match['major']}.{match['minor']}{match['letter']}" if match else ""
    if respelled in known.torch:
        hint = f"did you mean {respelled!r}?"
    elif match:
        hint = f"the nearest is {_nearest_number(respelled, known.torch)!r}"
    else:
        hint = nearest(name, [*known.named, *sorted(known.torch, key=_number)])
    return f"{name!r:.60} is no CUDA architecture that torch reads, {example}; {hint}"


def refused(names: Sequence[str], cuda: str) -> dict[str, str]:
    """Those of `names` that the toolkit of a CUDA release does not compile for, each with the nearest that it does."""
    taken = architectures().of_toolkit(cuda)
    if not taken:  # a major that the farm knows nothing of
        return {}
    wrong = {}
    for name in names:
        plain = name.removesuffix(_PTX)
        if plain not in taken:
            wrong[name] = _nearest_number(plain, taken)
    return wrong


def _nearest_number(name: str, others: Iterable[str]) -> str:
    """The architecture whose number is nearest, of two the lower; without a letter where there is one without."""
    return min(sorted(others, key=_number), key=lambda other: (abs(_number(other) - _number(name)), len(other)))


def _number(name: str) -> int:
    """The number by which nvcc calls an architecture: 90 for "9.0a"."""
    return int(name.rstrip("af").replace(".", ""))
