"""[[tool.torch-build-farm.overrides]]: settings that differ between jobs. Pure.

The docstring below a field is its documentation, as in settings.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from packaging.specifiers import SpecifierSet
from pydantic import ConfigDict

from torch_build_farm.core.errors import nearest
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.tables import (
    TABLE_CONFIG,
    BuildEnvironment,
    CMakeDefines,
    ConfigSettings,
    CPythonName,
    CudaArchitectures,
    MinorSelector,
    PlatformName,
    RequirementText,
    SpecifierText,
    kebab,
)
from torch_build_farm.project.variant import Variant

_MERGED = ("environment", "cmake_defines", "config_settings")
_APPENDED = ("patches",)
_REPLACED = ("build_requires", "before_build", "cuda_arch_list")


@dataclass(frozen=True)
class Override:
    """An entry of `[[tool.torch-build-farm.overrides]]`: which jobs it selects, and what their settings are instead."""

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    torch: MinorSelector = ""
    """Selects jobs by torch's minor: a version specifier, such as `">=2.12"`, or a list, such as `["2.8", "2.9"]`."""

    cpython: tuple[CPythonName, ...] = ()
    """Selects jobs by CPython, such as `["3.13", "3.13t"]`."""

    cuda: SpecifierText = ""
    """Selects jobs by the CUDA release that their torch is built with: a version specifier, such as `"==12.*"`."""

    platform: PlatformName | None = None
    """Selects jobs by the machines that they build for: `"x86_64"` or `"aarch64"`."""

    environment: BuildEnvironment = field(default_factory=dict)
    """Joined with the project's `environment`, name by name."""

    cmake_defines: CMakeDefines = field(default_factory=dict)
    """Joined with the project's `cmake-defines`, name by name."""

    config_settings: ConfigSettings = field(default_factory=dict)
    """Joined with the project's `config-settings`, name by name."""

    build_requires: tuple[RequirementText, ...] | None = None
    """In place of the project's `build-requires`."""

    before_build: tuple[str, ...] | None = None
    """In place of the project's `before-build`."""

    cuda_arch_list: CudaArchitectures | None = None
    """In place of the project's `cuda-arch-list`."""

    patches: tuple[str, ...] = ()
    """Applied to the source after the project's `patches`. They may change neither its name nor its version."""

    def selects(self, variant: Variant, python: CPython) -> bool:
        """Whether this entry applies to the variant's job for that CPython.

        One that names a torch or a CUDA does not apply to a core, which has neither.
        """
        if not variant.needs_torch and (self.torch or self.cuda):
            return False
        return (
            self._selects_minor(variant.torch)
            and (not self.cpython or python in self.cpython)
            and (not self.cuda or _admits(self.cuda, variant.cuda))
            and (self.platform is None or variant.platform == self.platform)
        )

    def _selects_minor(self, minor: Minor) -> bool:
        # A minor's name stands for its flavours too.
        if isinstance(self.torch, tuple):
            return minor in self.torch or minor.of_default_index in self.torch
        return not self.torch or SpecifierSet(self.torch).contains(minor.number)

    def changes(self, settings: object) -> dict[str, Any]:
        """The fields of `settings` (Settings) that this entry changes, with their new values."""
        changed: dict[str, Any] = {}
        for name in _MERGED:
            if getattr(self, name):
                changed[name] = {**getattr(settings, name), **getattr(self, name)}
        for name in _APPENDED:
            if getattr(self, name):
                changed[name] = (*getattr(settings, name), *getattr(self, name))
        for name in _REPLACED:
            if getattr(self, name) is not None:
                changed[name] = getattr(self, name)
        return changed

    def problems(self, described: Mapping[Machine, Mapping[Minor, Variant]]) -> Iterator[str]:
        """What is wrong with this entry beside these variants, a sentence each, with the key that it is about."""
        platforms = [self.platform] if self.platform else list(described)
        variants = [variant for platform in platforms for variant in described[platform].values()]
        joined = (*_MERGED, *_APPENDED)
        if not any(getattr(self, name) for name in joined) and all(getattr(self, name) is None for name in _REPLACED):
            keys = ", ".join(kebab(name) for name in (*joined, *_REPLACED))
            yield f": changes nothing; name one of {keys}"
        if not (self.torch or self.cpython or self.cuda or self.platform):
            yield ": selects every job; name torch, cpython, cuda or platform, or move its keys to the table itself"

        unknown = list(self._unknown_selectors(variants))
        yield from unknown
        jobs = ((variant, python) for variant in variants for python in variant.cpython)
        if not unknown and not any(self.selects(*job) for job in jobs):
            yield ": selects no job: no minor that this farm knows has all that it names"

    def _unknown_selectors(self, variants: Sequence[Variant]) -> Iterator[str]:
        """Each selector that can select nothing beside these variants, whatever the others say."""
        minors = sorted({variant.torch for variant in variants})
        if isinstance(self.torch, tuple):
            for minor in self.torch:
                if minor not in minors:
                    yield f".torch: {minor} is no minor that this farm knows; {nearest(str(minor), map(str, minors))}"
        elif not any(self._selects_minor(minor) for minor in minors):
            known = ", ".join(map(str, minors))
            yield f".torch: {self.torch!r} admits no minor that this farm knows; known: {known}"

        pythons = sorted({python for variant in variants for python in variant.cpython})
        for python in self.cpython:
            if python not in pythons:
                hint = nearest(str(python), map(str, pythons))
                yield f".cpython: no torch that this farm knows has CPython {python}; {hint}"

        releases = list(dict.fromkeys(variant.cuda for variant in variants if variant.cuda))
        if self.cuda and not any(_admits(self.cuda, release) for release in releases):
            known = ", ".join(releases)
            yield f".cuda: {self.cuda!r} admits no CUDA of a torch that this farm knows; known: {known}"


def _admits(specifiers: str, release: str) -> bool:
    """Whether a version specifier admits a release of CUDA; never that of a torch without."""
    return bool(release) and SpecifierSet(specifiers).contains(release)
