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
from torch_build_farm.core.versions import Minor

OF_TORCH = "torch"  # stands for what a torch itself is compiled for, which differs between minors
_PTX = "+PTX"  # the code of a virtual architecture too, which the driver compiles for newer GPUs
_OTHER_SPELLINGS = re.compile(
    r"(?:sm_|compute_)?(?P<major>\d{1,2})\.?(?P<minor>\d)(?P<letter>[af]?)(?:-real|-virtual)?"
)


@dataclass(frozen=True)
class Architectures:
    """What data/cuda_architectures.toml says.

    `torch` are the names that a minor of torch and those after it read, `nvcc` those that a toolkit compiles for, by
    the toolkit's release, and `named` the names that stand for several.
    """

    torch: Mapping[Version, tuple[str, ...]]
    nvcc: Mapping[Version, tuple[str, ...]]
    named: Mapping[str, tuple[str, ...]]

    @property
    def of_any_torch(self) -> frozenset[str]:
        """The names that some torch reads."""
        return frozenset().union(*self.torch.values())

    def of_torch(self, minor: Minor) -> tuple[str, ...]:
        """What a minor of torch reads; one that is older than the data is taken for the oldest there."""
        known = [other for other in self.torch if other <= Version(minor.number)]
        return self.torch[max(known, default=min(self.torch))]

    def of_toolkit(self, cuda: str) -> tuple[str, ...]:
        """What the toolkit of a CUDA release such as "12.8" compiles for; empty for an unknown one.

        A release that the data lacks is taken for the one before it, of the same major.
        """
        release = Version(cuda)
        known = [other for other in self.nvcc if other <= release and other.major == release.major]
        return self.nvcc[max(known)] if known else ()

    def taken(self, cuda: str, minor: Minor) -> tuple[str, ...]:
        """What a torch reads and its toolkit compiles for, where the toolkit is known."""
        of_torch = self.of_torch(minor)
        of_toolkit = self.of_toolkit(cuda) or of_torch
        return tuple(name for name in of_toolkit if name in of_torch)


@cache
def architectures() -> Architectures:
    """The architectures that the farm knows."""
    text = files("torch_build_farm").joinpath("data/cuda_architectures.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return Architectures(
        torch={Version(minor): tuple(names) for minor, names in table["torch"].items()},
        nvcc={Version(release): tuple(names) for release, names in table["nvcc"].items()},
        named={name: tuple(stands_for) for name, stands_for in table["named"].items()},
    )


def normalised(items: Iterable[str]) -> tuple[str, ...]:
    """The architectures that a list names, each once, such as ("8.0", "9.0+PTX") for ["8.0;Hopper"].

    As TORCH_CUDA_ARCH_LIST an item may hold several, separated by semicolons or spaces, or a name of torch's such as
    Hopper. "torch" stays as it is. Raises ValueError for a name that torch does not read.
    """
    known = architectures()
    names: list[str] = []
    for item in items:
        for word in re.split(r"[;\s]+", item.strip("; \t\n")):
            expanded = known.named.get(word, (word,))
            for name in expanded:
                if name != OF_TORCH and name.removesuffix(_PTX) not in known.of_any_torch:
                    raise ValueError(_not_read(name, known))
            names += expanded
    return tuple(dict.fromkeys(names))


def with_those_of_torch(names: Sequence[str], of_torch: Sequence[str]) -> tuple[str, ...]:
    """The names with those of a torch in the place of "torch", each once; unchanged where its own are not known."""
    expanded: list[str] = []
    for name in names:
        expanded += of_torch if name == OF_TORCH and of_torch else (name,)
    return tuple(dict.fromkeys(expanded))


def of_gencode(code: Iterable[str]) -> tuple[str, ...]:
    """Architectures as nvcc calls them, such as sm_90a and compute_120, as torch reads them: 9.0a, 12.0+PTX.

    The newest gets PTX in any case: without it no GPU that comes later runs the code.
    """
    names: dict[str, bool] = {}  # whether there is PTX, by name
    for word in code:
        kind, _, architecture = word.partition("_")
        digits = architecture.rstrip("af")
        letter = architecture.removeprefix(digits)
        name = f"{digits[:-1]}.{digits[-1]}{letter}"
        names[name] = names.get(name, False) or kind == "compute"
    newest = max(names, key=lambda name: (number(name), -len(name)), default="")
    return tuple(f"{name}{_PTX}" if ptx or name == newest else name for name, ptx in names.items())


def _not_read(name: str, known: Architectures) -> str:
    example = 'such as "9.0", "9.0a", "9.0+PTX" or "Hopper"'
    match = _OTHER_SPELLINGS.fullmatch(name)
    respelled = f"{match['major']}.{match['minor']}{match['letter']}" if match else ""
    of_any_torch = known.of_any_torch
    if respelled in of_any_torch:
        hint = f"did you mean {respelled!r}?"
    elif match:
        hint = f"the nearest is {_nearest_number(respelled, of_any_torch)!r}"
    else:
        hint = nearest(name, [*known.named, *sorted(of_any_torch, key=number)])
    return f"{name!r:.60} is no CUDA architecture that torch reads, {example}; {hint}"


@dataclass(frozen=True)
class Refused:
    """Names that cannot be had: `by_torch`, which does not read them, or `by_toolkit`, which does not compile for them.

    Each has the nearest that can be had.
    """

    by_torch: Mapping[str, str]
    by_toolkit: Mapping[str, str]


def refused(names: Sequence[str], cuda: str, minor: Minor) -> Refused:
    """Those of `names` that a torch or the toolkit of its CUDA release refuses.

    Of a toolkit of a major that the farm knows nothing of, nothing is refused.
    """
    known = architectures()
    of_torch, of_toolkit, taken = known.of_torch(minor), known.of_toolkit(cuda), known.taken(cuda, minor)
    by_torch, by_toolkit = {}, {}
    for name in names:
        plain = name.removesuffix(_PTX)
        if of_toolkit and plain not in of_toolkit:
            by_toolkit[name] = _nearest_number(plain, taken)
        elif plain not in of_torch:
            by_torch[name] = _nearest_number(plain, taken)
    return Refused(by_torch, by_toolkit)


def _nearest_number(name: str, others: Iterable[str]) -> str:
    """The architecture whose number is nearest, of two the lower; without a letter where there is one without."""
    return min(sorted(others, key=number), key=lambda other: (abs(number(other) - number(name)), len(other)))


def number(name: str) -> int:
    """The number by which nvcc calls an architecture: 90 for "9.0a" and "9.0+PTX"."""
    return int(name.removesuffix(_PTX).rstrip("af").replace(".", ""))
