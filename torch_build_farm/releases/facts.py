"""The facts of a torch minor, each with where it was read: remote wheels, by range requests. Nothing is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from packaging.version import InvalidVersion

from torch_build_farm.core.errors import PackageIndexError, UnknownTorchError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.requirements import parse_metadata, read_version
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.cuda_architectures import of_gencode
from torch_build_farm.project.variant import minor_on
from torch_build_farm.releases import torch_wheel
from torch_build_farm.releases.listing import Listing, Release
from torch_build_farm.releases.required_wheels import Target

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from torch_build_farm.core.remote_wheel import RemoteWheel

_VERSION, _CMAKE = "torch/version.py", "torch/share/cmake/Torch/TorchConfig.cmake"
_ATEN, _CXX = "torch/include/ATen/ATen.h", "torch/include/c10/util/C++17.h"
_PYBIND11 = "torch/include/pybind11/detail/common.h"
_LIBRARY = "torch/lib/libtorch_python.so"
# In 2.8 and 2.9 no NUL separates it from the text before it.
_ARCHITECTURES = re.compile(rb"((?:sm|compute)_\d{2,3}[af]?(?: (?:sm|compute)_\d{2,3}[af]?)*)\0")
_METADATA = re.compile(r"torch-[^/]+\.dist-info/METADATA")
# The first GCC that takes -std=c++NN by that name (GCC's manual, "Options Controlling C Dialect", of each version).
_FIRST_GCC = {11: 5, 14: 5, 17: 8, 20: 10, 23: 11, 26: 14}
_TOOLKIT = ("nvcc", "crt", "nvvm", "cccl")  # extras of cuda-toolkit: what a CUDA source takes beside torch's own
# Parts of the toolkit. cuDNN, NCCL and others, which are not parts of it, name a CUDA major: -cu13.
_TOOLKIT_PART = re.compile(r"nvidia-\w+")


@dataclass(frozen=True)
class Fact:
    """A value as TOML has it, and where it was read."""

    value: str | int | float | tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Facts:
    """The content of a minor's variants file: facts by key, in the file's order, read from `wheel`, for `platform`."""

    minor: Minor
    platform: Machine
    wheel: str
    facts: Mapping[str, Fact]

    def __getitem__(self, key: str) -> Fact:
        return self.facts[key]

    @property
    def on_platform(self) -> str:
        """The minor as people read it where platforms differ: "2.9", and "2.9 for arm64"."""
        return minor_on(self.minor, self.platform)

    def with_fact(self, key: str, fact: Fact) -> Facts:
        """These facts with another one under `key`, in the same place."""
        return replace(self, facts={**self.facts, key: fact})

    def for_documents(self) -> dict[str, Fact]:
        """The facts as JSON documents have them: with the pin, which follows from the minor and is in no file."""
        reason = "also accepts vendors' pre-release builds, which >=X.Y,<X.Z does not"
        return {**self.facts, "pin": Fact(self.minor.pin, reason)}


def tags_of(releases: Iterable[Release]) -> tuple[str, ...]:
    """CPython tags that any of the releases has, in order."""
    tags: set[str] = set()
    for release in releases:
        tags.update(release.wheels)
    return tuple(sorted(tags, key=CPython.parse))


def newest_usable_minor(listings: Sequence[Listing], *, pre: bool = False) -> Minor:
    """The newest minor that can be served on one of the listings' machines.

    Raises UnknownTorchError for an index without torch for any of them.
    """
    served = set()
    for listing in listings:
        for minor in listing.by_minor:
            with suppress(UnknownTorchError):
                listing.usable(minor, pre=pre)
                served.add(minor)
    if not served:
        machines = " or ".join(listing.machine.words for listing in listings)
        raise UnknownTorchError(
            f"the index has no torch for {machines} Linux", where="the package index", next_step="discover"
        )
    return max(served)


def read(minor: Minor, listing: Listing, index: PackageIndex, *, pre: bool = False, sizes: bool = True) -> Facts:
    """Read a minor's facts, of the listing's machine.

    Without `sizes` three keys are left out, for which parts of a dozen more wheels and a library of 30 MB are read.

    Raises UnknownTorchError, with the reason, if the minor cannot be served, and PackageIndexError.
    """
    releases = listing.usable(minor, pre=pre)
    torch = _Torch.read(releases[0], listing.machine, index)
    content, target = torch.content, torch.target

    facts = {"torch": Fact(str(minor), "")}
    if target.machine != X86_64:
        facts["platform"] = Fact(target.machine.name, f"the machines that these wheels are for: {target.machine.words}")
    if minor.flavour:
        facts["index"] = Fact(index.first[0], "the index that has this flavour")
    standard, standard_source = _cxx_standard(content.cmake, content.aten)
    facts |= {
        "releases": Fact(
            tuple(release.name for release in releases), "file names on the index, what is yanked left out"
        ),
        "release": Fact(
            torch.release.name,
            "built against: the minor's first, so that the wheel needs nothing that a later patch added",
        ),
        **_cuda_facts(torch, index),
        "cpython": Fact(tags_of(releases), "file names on the index"),
        "cxx-standard": Fact(standard, standard_source),
        "gcc": _gcc(standard, content.cxx),
        "image": Fact(torch.image, "the wheels' platform; the container image that cibuildwheel pins under this name"),
    }
    pybind11 = _pybind11(content.pybind11)
    if pybind11:
        facts["pybind11"] = Fact(pybind11, f"the one among torch's headers: {_PYBIND11}")
    if sizes:
        facts |= _sizes(torch, index)
        if facts["cuda"].value:
            facts |= _cuda_architectures(torch.wheel, index)
    return Facts(minor, target.machine, torch.wheel.filename, facts)


def _refusal(release: Release, reason: str, where: str) -> UnknownTorchError:
    return UnknownTorchError(
        f"torch {release.name} cannot be served: {reason}",
        where=where,
        next_step="another index: docs/how-to/add-a-torch.md#when-add-refuses",
    )


# ---- torch's own wheel


@dataclass(frozen=True)
class _WheelContent:
    """The text of the members that facts are read from, empty for one that the wheel does not have.

    `unpacked_size` is that of all members, in bytes.
    """

    version: str
    cmake: str
    aten: str
    cxx: str
    pybind11: str
    metadata: str
    unpacked_size: int

    @classmethod
    def read(cls, wheel: RemoteWheel) -> _WheelContent:
        """Read the members. Raises PackageIndexError if the wheel cannot be read or has no METADATA."""
        paths = (_VERSION, _CMAKE, _ATEN, _CXX, _PYBIND11)
        contents = wheel.read_many(path for path in paths if path in wheel.members)
        version, cmake, aten, cxx, pybind11 = (contents.get(path, b"").decode("utf-8", "replace") for path in paths)
        metadata_path = "torch.dist-info/METADATA"  # for the error that names it, if there is none
        for path in wheel.members:
            if _METADATA.fullmatch(path):
                metadata_path = path
                break
        metadata = wheel.read(metadata_path).decode("utf-8", "replace")
        return cls(version, cmake, aten, cxx, pybind11, metadata, _unpacked_size(wheel))


def _unpacked_size(wheel: RemoteWheel) -> int:
    """Bytes of all members of a wheel, once unpacked."""
    return sum(member.file_size for member in wheel.members.values())


@dataclass(frozen=True)
class _Torch:
    """A wheel of torch, where it is installed, and what it requires there."""

    release: Release
    wheel: DistributionPackage
    content: _WheelContent
    target: Target

    @classmethod
    def read(cls, release: Release, machine: Machine, index: PackageIndex) -> _Torch:
        """Read one of a release's wheels for a machine. Raises PackageIndexError if none can be read."""
        tag, content = _read_first_available(release, index)
        return cls(release, release.wheels[tag], content, Target(machine, CPython.parse(tag)))

    @cached_property
    def requires(self) -> Sequence[Requirement]:
        """What METADATA requires. Raises PackageIndexError for a requirement that cannot be read."""
        return self.target.requirements(self.content.metadata)

    @property
    def image(self) -> str:
        """The oldest platform that the wheel is tagged for, without the machine, such as manylinux_2_28."""
        _, _, _, tags = parse_wheel_filename(self.wheel.filename)

        def glibc_version(tag: Tag) -> list[int]:
            return list(map(int, re.findall(r"\d+", tag.platform)))

        return min(tags, key=glibc_version).platform.removesuffix(f"_{self.target.machine.name}")


def _read_first_available(release: Release, index: PackageIndex) -> tuple[str, _WheelContent]:
    """The CPython tag and the content of the first of a release's wheels that can be read.

    A wheel that the index lists may be missing. The running CPython's comes first, then the others, newest CPython
    first, and free-threaded ones last. Raises the PackageIndexError of the first wheel if none can be read.
    """
    running = CPython.running().tag
    with_gil, free_threaded = list[str](), list[str]()
    for tag in release.wheels:
        if tag.endswith("t"):
            free_threaded.append(tag)
        else:
            with_gil.append(tag)
    tags = [*sorted(with_gil, key=CPython.parse, reverse=True), *free_threaded]
    if running in tags:
        tags.remove(running)
        tags.insert(0, running)
    first_error: PackageIndexError | None = None
    for tag in tags:
        try:
            with torch_wheel.looked_at(release.wheels[tag], index) as wheel:
                return tag, _WheelContent.read(wheel)
        except PackageIndexError as error:
            first_error = first_error or error
    assert first_error is not None, "a release without wheels is not usable"
    raise first_error


def _cxx_standard(cmake: str, aten: str) -> tuple[int, str]:
    """The C++ standard that torch's headers take, such as 17, and where it was read."""
    match = re.search(r"CXX_STANDARD (\d+)", cmake)
    if match:
        return int(match[1]), f"{_CMAKE}, CXX_STANDARD"
    match = re.search(r"__cplusplus < (20\d\d)\d\dL", aten)
    if match:
        return int(match[1]) % 100, f"{_CMAKE} names none; {_ATEN} is an error below it"
    return 17, f"neither {_CMAKE} nor {_ATEN} names one"


def _gcc(standard: int, header: str) -> Fact:
    """The oldest GCC that takes the standard and that torch's headers, of which this is one, do not refuse."""
    oldest = _FIRST_GCC.get(standard, max(_FIRST_GCC.values()))
    refused = re.search(r"__GNUC__ < (\d+)\s*\n#error", header)
    if refused and int(refused[1]) >= oldest:
        return Fact(int(refused[1]), f"the oldest that builds: {_CXX} is an error below it")
    return Fact(
        oldest, f"the oldest that builds: the first that takes -std=c++{standard}; torch's headers ask for none"
    )


def _pybind11(header: str) -> str:
    """The version that pybind11's header states; empty where it states none."""
    parts = dict(re.findall(r"^#\s*define PYBIND11_VERSION_(MAJOR|MINOR|PATCH) (\S+)", header, re.MULTILINE))
    version = ".".join(parts.get(part, "") for part in ("MAJOR", "MINOR", "PATCH"))
    try:
        return str(read_version(version))
    except InvalidVersion:
        return ""


# ---- CUDA, and the wheels that torch requires


def _cuda_facts(torch: _Torch, index: PackageIndex) -> dict[str, Fact]:
    """CUDA and where a build gets it.

    Raises UnknownTorchError for a torch that is neither for CUDA nor for CPUs alone.
    """
    backends = dict(re.findall(r"^(cuda|hip|xpu)\b.*=\s*'([^']+)'", torch.content.version, re.MULTILINE))
    cuda = backends.get("cuda")
    if cuda:
        runtime = _cuda_runtime(cuda, torch.requires)
        if runtime is None:
            raise _refusal(
                torch.release, f"its METADATA requires no CUDA runtime for CUDA {cuda}", torch.wheel.filename
            )
        return {
            "cuda": Fact(cuda, f"torch.version.cuda, in {_VERSION}"),
            "cuda-runtime": Fact(f"{runtime.name}{runtime.specifier}", "METADATA, Requires-Dist"),
            "cuda-toolkit": _toolkit(runtime, torch, index),
            "cuda-image": Fact(_cuda_image(torch, cuda), "by its tag; PyTorch's builder image, with nvcc of this CUDA"),
        }
    # For x86-64 every torch of the default index has CUDA: one without it is that of another index.
    if backends or torch.target.machine == X86_64:
        raise _refusal(torch.release, "it is built without CUDA", f"{_VERSION} of {torch.wheel.filename}")
    return {
        "cuda": Fact("", f"for CPUs alone: torch.version.cuda is None, in {_VERSION}"),
        "cuda-runtime": Fact("", "it requires none"),
        "cuda-toolkit": Fact((), "no CUDA sources can be built for it"),
    }


def _cuda_runtime(cuda: str, requires: Iterable[Requirement]) -> Requirement | None:
    """The requirement that brings the CUDA runtime.

    The default index's torch for CUDA 13 requires it as a part of cuda-toolkit, that of other indexes by its own name.
    """
    names = ("cuda-toolkit", f"nvidia-cuda-runtime-cu{cuda[:2]}", "nvidia-cuda-runtime")
    for requirement in requires:
        if requirement.name in names:
            return requirement
    return None


def _toolkit(runtime: Requirement, torch: _Torch, index: PackageIndex) -> Fact:
    """The requirements that bring nvcc and its headers; none if no wheel has them."""
    if runtime.name != "cuda-toolkit":
        return Fact((), "for CUDA sources; it requires no cuda-toolkit: the nvcc of cuda-image or the machine must do")
    metadata = index.metadata(torch.target.newest_wheel(runtime, index))
    offered = parse_metadata(metadata).get_all("Provides-Extra", [])
    lacking = [extra for extra in _TOOLKIT if extra not in offered]
    if lacking:
        return Fact((), f"for CUDA sources; cuda-toolkit has no {', '.join(lacking)}: the machine's own must do")
    # torch's headers and CMake files ask for the libraries too; its SDK, unlike all of torch, requires none of them.
    extras = ",".join([*_TOOLKIT, *sorted(runtime.extras)])
    requirements = [f"cuda-toolkit[{extras}]{runtime.specifier}"]
    for requirement in torch.requires:
        if _TOOLKIT_PART.fullmatch(requirement.name):
            requirements.append(f"{requirement.name}{requirement.specifier}")
    return Fact(
        tuple(requirements),
        "for CUDA sources: nvcc and its headers, and the parts of the toolkit that METADATA requires",
    )


def _cuda_image(torch: _Torch, cuda: str) -> str:
    """The builder image that PyTorch publishes for wheels like this one with a CUDA, such as "13.0"."""
    machine = torch.target.machine
    manylinux = torch.image.replace("_", "", 1) if machine == X86_64 else f"manylinux{machine.name}"
    return f"pytorch/{manylinux}-builder:cuda{cuda}"


def _cuda_architectures(wheel: DistributionPackage, index: PackageIndex) -> dict[str, Fact]:
    """What torch is compiled for, as torch.cuda.get_arch_list() has it from CUDA_ARCH_FLAGS in its library."""
    with torch_wheel.looked_at(wheel, index) as content:
        if _LIBRARY not in content.members:
            return {}
        lists = _ARCHITECTURES.findall(content.read(_LIBRARY))
    # An error message may name one; of all such texts the list is the longest.
    words = max(lists, key=len, default=b"").decode().split()
    if not words:
        return {}
    source = f"torch.cuda.get_arch_list(), in {_LIBRARY}; and PTX of the newest, for GPUs to come"
    return {"cuda-architectures": Fact(of_gencode(words), source)}


def _sizes(torch: _Torch, index: PackageIndex) -> dict[str, Fact]:
    """Unpacked sizes in GB, of torch and from the directories of the wheels that it requires."""
    # From CUDA 13 on torch requires cuda-toolkit, whose extras stand for the wheels with the libraries.
    requirements = list(torch.requires)
    for requirement in torch.requires:
        if requirement.name == "cuda-toolkit":
            metadata = index.metadata(torch.target.newest_wheel(requirement, index))
            requirements += torch.target.requirements(metadata, requirement.extras)
    large: dict[str, Requirement] = {}
    for requirement in requirements:
        if requirement.name == "triton" or requirement.name.startswith("nvidia-"):
            large[requirement.name] = requirement

    def size(requirement: Requirement) -> int:
        with index.open_wheel(torch.target.newest_wheel(requirement, index), small=True) as wheel:
            return _unpacked_size(wheel)

    # Small answers of a dozen wheels: nearly all of the time is waiting for them.
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(large, pool.map(size, large.values()), strict=True))
    of_torch = "torch and triton" if "triton" in sizes else "torch"
    triton = sizes.pop("triton", 0)
    shared = "mostly shared by minors with one cuda-runtime"
    return {
        "torch-gb": Fact(
            _gb(torch.content.unpacked_size + triton), f"unpacked: {of_torch}, sizes in the wheels' directories"
        ),
        "cuda-runtime-gb": Fact(
            _gb(sum(sizes.values())),
            f"unpacked: its {len(sizes)} CUDA wheels, {shared}" if sizes else "it requires no CUDA wheels",
        ),
    }


def _gb(size: int) -> float:
    """Bytes as GB, to one decimal."""
    return round(size / 1e9, 1)
