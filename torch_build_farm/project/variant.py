"""The facts of one torch minor: variants/torchNN.toml -> Variant, with every contradiction in it.

With torch's stable ABI one wheel serves a minor and all later ones: StableVariant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version
from pydantic import ConfigDict, Field, StrictInt

from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.machine import MACHINES, X86_64, Machine
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.cuda_architectures import OF_TORCH
from torch_build_farm.project.tables import (
    REFERENCE,
    TABLE_CONFIG,
    CPythonName,
    CudaArchitectures,
    CudaRelease,
    IndexUrl,
    MinorName,
    NumberFromZero,
    PlatformName,
    PositiveNumber,
    VersionText,
    kebab,
    load_toml,
    read_table,
)

# The variant of torch's stable ABI, as part of names.
STABLE_TAG = "torch-stable"
_CORE_TAG = "core"


@dataclass(frozen=True)
class Variant:
    """The facts of one torch minor, as variants/torchNN.toml states them."""

    __pydantic_config__: ClassVar[ConfigDict] = TABLE_CONFIG

    torch: MinorName
    """The torch minor, such as `"2.9"`. The file's name follows from it: `torch29.toml`. A flavour of a minor, of
    another CUDA than the default index has, is such as `"2.9:cu126"`, in `torch29-cu126.toml`."""

    release: VersionText
    """The release that wheels are built against: the minor's first, so that a wheel needs nothing that a later patch
    release added."""

    releases: Annotated[tuple[VersionText, ...], Field(min_length=1)]
    """The minor's releases, oldest first."""

    cuda: CudaRelease
    """`torch.version.cuda` of the builds on the package index, such as `"12.8"`. `""`: they are for CPUs alone, as
    those for arm64 are up to torch 2.10."""

    cuda_runtime: str
    """The CUDA runtime that torch requires, as a requirement: `"nvidia-cuda-runtime-cu12==12.8.90"`. Its version begins
    with that of `cuda`. `""` where `cuda` is."""

    cuda_toolkit: tuple[str, ...]
    """The wheels that bring nvcc for this CUDA, as build requirements of projects with CUDA sources. `[]`: there are no
    such wheels, and nvcc has to be in `cuda-image` or on the machine."""

    cpython: Annotated[tuple[CPythonName, ...], Field(min_length=1)]
    """The CPythons that torch has wheels for, such as `["cp312", "cp313", "cp313t"]`."""

    cxx_standard: Annotated[StrictInt, Field(ge=11)]
    """The C++ standard that torch's headers need. Builds get it as `CMAKE_CXX_STANDARD`."""

    image: str
    """The manylinux image that torch's own wheels are built in, and the farm's wheels with them where containers are
    used: a name that cibuildwheel pins, such as `"manylinux_2_28"`, or any image."""

    torch_gb: PositiveNumber
    """Unpacked size of torch with triton, in GB (10^9 bytes)."""

    cuda_runtime_gb: NumberFromZero
    """Unpacked size of the CUDA wheels that torch requires, in GB (10^9 bytes)."""

    cuda_image: str = ""
    """The image for CUDA sources where `cuda-toolkit` names no wheels: a manylinux image with nvcc of this CUDA, by its
    digest where it has one. Not set: `image`."""

    cuda_architectures: CudaArchitectures = ()
    """The GPU architectures that torch itself is compiled for, and PTX of the newest, which the driver compiles for
    GPUs to come. `cuda-arch-list = "torch"` stands for them."""

    platform: PlatformName = X86_64
    """The machines that these facts are about: `"x86_64"` or `"aarch64"`, which is arm64. A minor's file for another
    platform than x86-64 has its name at the end: `torch29-aarch64.toml`."""

    index: IndexUrl = ""
    """Of a flavour: the package index that has this torch. It is asked before those that uv is configured for."""

    gcc: Annotated[StrictInt, Field(ge=1)] = 1
    """The oldest GCC (its major version) that builds against this torch; `1` stands for any."""

    pybind11: VersionText = ""
    """The version of pybind11 among torch's headers, such as `"2.13.6"`. A build that requires pybind11 gets this one,
    unless the project holds it to another. Not set: any."""

    @property
    def on_platform(self) -> str:
        """The minor as people read it where platforms differ: "2.9", and "2.9 for arm64"."""
        return minor_on(self.torch, self.platform)

    @property
    def needs_torch(self) -> bool:
        """Whether its wheels are built and tested with torch."""
        return True

    @property
    def tag(self) -> str:
        """The variant as part of names, such as "torch29"."""
        return self.torch.tag

    @property
    def minors(self) -> tuple[Variant, ...]:
        """The facts of each torch minor that a wheel of the variant serves, oldest first."""
        return (self,)

    @property
    def tested_with(self) -> tuple[str, ...]:
        """The versions of torch that a wheel of the variant is tested with, oldest first, such as "2.9.*".

        Of a flavour it is one release, such as "2.9.1+cu126": "2.9.*" admits every flavour.
        """
        return (self.newest if self.torch.flavour else self.torch.any_release,)

    @property
    def build_pin(self) -> str:
        """The specifier that builds have for torch, such as "==2.9.0".

        Without the flavour: the index that is asked first has no other, and the SDK has a local version of its own.
        """
        return f"=={Version(self.release).public}"

    @property
    def public_releases(self) -> tuple[str, ...]:
        """The minor's releases without their flavour, oldest first."""
        return tuple(Version(release).public for release in self.releases)

    def facts_of(self, version: str) -> Variant:
        """The facts of the minor, of those that a wheel of the variant serves, that `version` such as "2.9.*" is of."""
        return next(minor for minor in self.minors if version.startswith(f"{minor.torch.number}."))

    @property
    def pin(self) -> str:
        """The specifier that the variant's wheels have for torch, such as "==2.9.*"."""
        return self.torch.pin

    @property
    def cuda_major(self) -> str:
        """Major version of `cuda`, which a toolkit must share; empty for a torch without CUDA."""
        return self.cuda.split(".", maxsplit=1)[0]

    @property
    def newest(self) -> str:
        """The newest known release of the minor."""
        return self.releases[-1]


@dataclass(frozen=True)
class StableVariant(Variant):
    """The variant for a torch minor and all later ones, whose wheel uses nothing of torch but its stable ABI.

    Its facts are those of the oldest minor, which the wheel is built against, except for `cpython`: the CPythons that
    the oldest and the newest minor have in common, so that one of them can test the wheel with both.
    """

    served: tuple[Variant, ...] = ()

    @classmethod
    def of(cls, minors: Sequence[Variant]) -> Self:
        """The variant that serves `minors`, oldest first, and all later ones."""
        oldest, newest = minors[0], minors[-1]
        facts = {field.name: getattr(oldest, field.name) for field in fields(oldest)}
        facts["cpython"] = tuple(python for python in oldest.cpython if python in newest.cpython)
        return cls(**facts, served=tuple(minors))

    @property
    def tag(self) -> str:
        """The variant as part of names: "torch-stable"."""
        return STABLE_TAG

    @property
    def pin(self) -> str:
        """The specifier that the variant's wheels have for torch, such as ">=2.10": later minors keep the ABI."""
        return f">={self.torch}"

    @property
    def minors(self) -> tuple[Variant, ...]:
        """The facts of each known torch minor that a wheel of the variant serves, oldest first."""
        return self.served

    @property
    def tested_with(self) -> tuple[str, ...]:
        """The oldest release, which lacks what later ones added, and the newest."""
        newest = self.served[-1]
        if newest.newest == self.release:
            return (newest.torch.any_release,)
        return (self.release, newest.torch.any_release)

    @property
    def newest(self) -> str:
        """The newest known release of all minors."""
        return self.served[-1].newest


@dataclass(frozen=True)
class CoreVariant(Variant):
    """What a core has in place of a variant: no torch, and the CPythons of every variant.

    Image and C++ standard are those of the oldest minor that is built, so that it loads wherever a variant does. All
    other facts are that minor's too, and concern no core.
    """

    @classmethod
    def of(cls, oldest: Variant, pythons: Sequence[CPython]) -> Self:
        """The core beside variants with these CPythons, the oldest of which is `oldest`."""
        facts = {field.name: getattr(oldest, field.name) for field in fields(Variant)}
        return cls(**{**facts, "cpython": tuple(pythons), "cuda_toolkit": (), "pybind11": "", "gcc": 1})

    @property
    def needs_torch(self) -> bool:
        """It is built and tested where no torch is."""
        return False

    @property
    def tag(self) -> str:
        """The core as part of names: "core"."""
        return _CORE_TAG

    @property
    def tested_with(self) -> tuple[str, ...]:
        """No torch."""
        return ()

    @property
    def pin(self) -> str:
        """No requirement on torch."""
        return ""


Described = dict[Machine, dict[Minor, Variant]]  # what variants files describe, by platform and minor


def read_variants(folders: Sequence[Path]) -> dict[Minor, Variant]:
    """The variants for x86-64 that the TOML files in `folders` describe, by minor, in order of version.

    A file in an earlier folder wins over its namesake in a later one. Raises ConfigError with every problem found.
    """
    problems: list[str] = []
    variants = collect_variants(folders, problems)
    if problems:
        raise ConfigError("\n".join(problems), next_step=REFERENCE)
    return variants[X86_64]


def collect_variants(folders: Sequence[Path], problems: list[str]) -> Described:
    """As read_variants, for every platform; what is wrong goes to `problems`, a line each."""
    # Projects override a file of the farm by one of the same name, so names decide before anything is read.
    paths: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.toml")):
            paths.setdefault(path.name, path)
    variants: Described = {machine: {} for machine in MACHINES}
    for path in paths.values():
        variant = _read_file(path, problems)
        if variant:
            variants[variant.platform][variant.torch] = variant
    return {machine: dict(sorted(of_machine.items())) for machine, of_machine in variants.items()}


def platform_option(platform: Machine) -> str:
    """What follows a command that is to be about a platform; nothing for x86-64."""
    return "" if platform == X86_64 else f" --platform {platform.name}"


def minor_on(minor: Minor, platform: Machine) -> str:
    """A minor as people read it where platforms differ: "2.9", and "2.9 for arm64"."""
    return str(minor) if platform == X86_64 else f"{minor} for {platform.words}"


def file_name(minor: Minor, platform: Machine) -> str:
    """The name of a minor's variants file, such as torch29.toml, torch29-cu126.toml and torch29-aarch64.toml."""
    return f"{minor.tag}{platform.suffix}.toml"


def _read_file(path: Path, problems: list[str]) -> Variant | None:
    """The variant in a file; None, and a line in `problems` for each problem, if it cannot be used."""
    table = load_toml(path, problems)
    if table is None:
        return None
    # Files of farms up to 0.1 state the pin, which follows from the minor.
    pin = table.pop("pin", None)
    variant = read_table(Variant, table, str(path), problems)
    if variant:
        contradictions = _contradictions(variant, path.name, pin)
        problems += [f"{path}: {contradiction}" for contradiction in contradictions]
    return variant


def _contradictions(variant: Variant, name: str, pin: Any) -> list[str]:
    """What a variants file states that cannot all be true."""
    problems = _name_contradictions(variant, name)
    if pin is not None and pin != variant.pin:
        problems.append(
            f"pin: {pin!r} contradicts torch = {str(variant.torch)!r}; wheels are pinned to {variant.pin!r}: "
            "remove the key"
        )
    problems += _flavour_contradictions(variant)
    problems += _release_contradictions(variant)
    problems += _cuda_contradictions(variant)
    if len(set(variant.cpython)) != len(variant.cpython):
        problems.append("cpython: a tag is listed twice")
    return problems


def _name_contradictions(variant: Variant, name: str) -> list[str]:
    """What is wrong with a file of that name, a sentence at most."""
    expected = file_name(variant.torch, variant.platform)
    if name == expected:
        return []
    for machine in MACHINES:
        if name == file_name(variant.torch, machine):
            key = f'platform = "{machine.name}"'
            return [f"platform: {name} is for {machine.words}: it needs {key}, or the name {expected}"]
    return [f"torch: {variant.on_platform} belongs in {expected}, not in {name}"]


def _flavour_contradictions(variant: Variant) -> list[str]:
    """What is wrong with the keys that only a flavour has, a sentence each."""
    flavour = variant.torch.flavour
    if not flavour:
        if variant.index:
            return [f"index: torch {variant.torch} is that of uv's own index; a flavour such as 2.9:cu126 has one"]
        return []
    problems = []
    if not variant.index:
        problems.append(f"index: missing key; the default index has no torch {variant.torch}")
    if flavour != f"cu{variant.cuda.replace('.', '')}":
        problems.append(f"cuda: {variant.cuda} contradicts torch = {str(variant.torch)!r}")
    return problems


def _release_contradictions(variant: Variant) -> list[str]:
    """What is wrong with `release` and `releases`, a sentence each."""
    problems = []
    for release in variant.releases:
        if Version(release).release[:2] != (variant.torch.major, variant.torch.minor):
            problems.append(f"releases: {release} is not a release of torch {variant.torch}")
        if (Version(release).local or "") != variant.torch.flavour:
            local = f"+{variant.torch.flavour}" if variant.torch.flavour else ""
            expected = f"{Version(release).public}{local}"
            problems.append(f"releases: {release} is not of torch {variant.torch}, which is {expected}")
    if variant.release not in variant.releases:
        problems.append(f"release: {variant.release} is not among releases")
    if list(variant.releases) != sorted(variant.releases, key=Version):
        problems.append("releases: must be in order of version")
    return problems


def _cuda_contradictions(variant: Variant) -> list[str]:
    """What is wrong with the CUDA requirements, a sentence each."""
    problems = []
    if not variant.cuda:
        of_cuda = ("cuda_runtime", "cuda_toolkit", "cuda_image", "cuda_architectures")
        set_keys = [kebab(key) for key in of_cuda if getattr(variant, key)]
        return [f'{", ".join(set_keys)}: contradicts cuda = ""'] if set_keys else []
    try:
        versions = [specifier.version for specifier in Requirement(variant.cuda_runtime).specifier]
    except InvalidRequirement as error:
        problems.append(f"cuda-runtime: {error}")
    else:
        # The dots keep 12.80 apart from 12.8.
        of_this_cuda = [version for version in versions if f"{version}.".startswith(f"{variant.cuda}.")]
        if not of_this_cuda:
            problems.append(f"cuda-runtime: {variant.cuda_runtime} contradicts cuda = {variant.cuda!r}")
    if OF_TORCH in variant.cuda_architectures:
        problems.append(f'cuda-architectures: {OF_TORCH!r} stands for this list; name the architectures, such as "9.0"')
    for position, text in enumerate(variant.cuda_toolkit):
        try:
            Requirement(text)
        except InvalidRequirement as error:
            problems.append(f"cuda-toolkit[{position}]: {error}")
    return problems


def deprecated_keys() -> Mapping[str, Mapping[str, object]]:
    """Keys that variants files may still have, each as JSON Schema describes it."""
    return {
        "pin": {
            "type": "string",
            "deprecated": True,
            "description": 'Ignored: `"==2.9.*"` follows from `torch`. Any other value is an error.',
        }
    }
