"""[tool.torch-build-farm.core]: a distribution without torch, of the same source, that the variants add packages to.

The docstring below a field is its documentation, as in settings.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from packaging.utils import canonicalize_name
from pydantic import ConfigDict, Field

from torch_build_farm.project.tables import (
    TABLE_CONFIG,
    BuildEnvironment,
    CMakeDefines,
    DistributionName,
    FolderWithin,
    ImportName,
)

# A core is not relocated: what it installs outside its packages is nobody else's.
_OWN_FILES = ("scripts/*", "data/*", "headers/*")


@dataclass(frozen=True)
class Core:
    """`[tool.torch-build-farm.core]`: the distribution without torch whose package the variants add to."""

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    name: DistributionName
    """Its name, as its own pyproject file states it. Every variant requires it at exactly the version built."""

    pyproject: Annotated[FolderWithin, Field(min_length=1)]
    """The file of the source that takes the place of `pyproject.toml` in its build, such as `"pyproject-core.toml"`. It
    lies in the folder of the Python project."""

    packages: Annotated[tuple[ImportName, ...], Field(min_length=1)]
    """The packages that its wheel may contain at top level, such as `["acme"]`, where a variant has `acme.solver`."""

    imports: tuple[ImportName, ...] = ()
    """Modules that must import where there is no torch, each in a fresh interpreter. Not set: its `packages`."""

    environment: BuildEnvironment = field(default_factory=dict)
    """Joined with the project's `environment` in its build, name by name."""

    cmake_defines: CMakeDefines = field(default_factory=dict)
    """Joined with the project's `cmake-defines` in its build, name by name."""

    def changes(self, settings: Any) -> dict[str, Any]:
        """The fields of `settings` (Settings) that differ in the core's job, with their new values."""
        return {
            "core": None,
            "name": self.name,
            "pyproject": self.pyproject,
            "packages": self.packages,
            "imports": self.imports or self.packages,
            "environment": {**settings.environment, **self.environment},
            "cmake_defines": {**settings.cmake_defines, **self.cmake_defines},
            "plain_files": _OWN_FILES,
            "requires": (),
            # All of these are about torch.
            "cuda_arch_list": (),
            "torch_flavours": "cuda",
            "torch_build": "auto",
            "stable_abi": None,
        }

    def problems(self, names: Iterable[str], packages: tuple[str, ...]) -> Iterator[str]:
        """What is wrong with the table beside the `names` of the project's distributions and the variants' packages."""
        if canonicalize_name(self.name) in {canonicalize_name(name) for name in names}:
            yield f"core.name: {self.name} is a distribution of the variants; the core has a name of its own"
        for package in packages:
            if package in self.packages:
                yield (
                    f"core.packages: {package} is a package of the variants too; a variant adds one to the core's, as "
                    f'packages = ["{package}.NAME"] does'
                )
