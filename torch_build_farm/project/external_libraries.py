"""Libraries that a wheel leaves to others: torch's and CUDA's by policy data, and those that the settings name."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Policy:
    """Patterns of names of libraries that a wheel must not bring, because torch or CUDA brings them.

    `cuda_torch_only`: libraries that only a torch with CUDA has.
    """

    torch: tuple[str, ...]
    cuda: tuple[str, ...]
    cuda_torch_only: tuple[str, ...]

    @property
    def external(self) -> tuple[str, ...]:
        return (*self.torch, *self.cuda)


@cache
def policy() -> Policy:
    """The policy that the farm ships (data/policy.toml)."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/policy.toml").read_text("utf-8"))
    return Policy(tuple(table["torch"]), tuple(table["cuda"]), tuple(table["cuda-torch-only"]))


def matches_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether a library's name matches one of the glob patterns; case counts."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_external(library: str) -> bool:
    """Whether torch or CUDA brings a library, or one that the glob pattern `library` stands for."""
    names = [pattern.removesuffix("*") for pattern in policy().external]
    return matches_any(library, policy().external) or any(fnmatchcase(name, library) for name in names)


def provider(soname: str, external_libraries: Mapping[str, str]) -> str:
    """Who brings a library by the setting `external-libraries`; empty for a library that no pattern matches."""
    for pattern, distribution in external_libraries.items():
        if fnmatchcase(soname, pattern):
            return distribution
    return ""
