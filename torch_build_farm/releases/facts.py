"""The facts of a torch minor, each with where it was read: remote wheels by range requests, nothing is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING, TypeVar

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from torch_build_farm.core.errors import PackageIndexError, UnknownTorchError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.releases.listing import Listing, Release

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

    from torch_build_farm.core.remote_wheel import RemoteWheel

_VERSION, _CMAKE = "torch/version.py", "torch/share/cmake/Torch/TorchConfig.cmake"
_ATEN, _CXX = "torch/include/ATen/ATen.h", "torch/include/c10/util/C++17.h"
# The first GCC that takes -std=c++NN by that name (GCC's manual, "Options Controlling C Dialect", of each version).
_FIRST_GCC = {11: 5, 14: 5, 17: 8, 20: 10, 23: 11, 26: 14}
_TOOLKIT = ("nvcc", "crt", "nvvm", "cccl")  # extras of cuda-toolkit: what a CUDA source takes beside torch's own
_OF_NO_MAJOR = re.compile(r"nvidia-\w+")  # parts of the toolkit; cuDNN, NCCL and others name a CUDA major: -cu13


@dataclass(frozen=True)
class Fact:
    """A value as TOML has it, and where it was read."""

    value: str | int | float | tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Facts:
    """What variants/torchNN.toml says of a minor: facts by key, in the file's order, read of `wheel`."""

    minor: Minor
    wheel: str
    facts: Mapping[str, Fact]

    def __getitem__(self, key: str) -> Fact:
        return self.facts[key]

    def for_documents(self) -> dict[str, Fact]:
        """The facts as JSON documents have them: with the pin, which follows from the minor and is in no file."""
        reason = "also accepts vendors' pre-release builds, which >=X.Y,<X.Z does not"
        return {**self.facts, "pin": Fact(self.minor.pin, reason)}


def tags_of(releases: Iterable[Release]) -> tuple[str, ...]:
    """CPython tags that any of the releases has, in order."""
    return tuple(sorted({tag for one in releases for tag in one.wheels}, key=CPython.parse))


def read(minor: Minor, listing: Listing, index: PackageIndex, *, pre: bool = False, sizes: bool = True) -> Facts:
    """Read a minor's facts; without `sizes` a dozen wheels fewer are asked.

    Raises UnknownTorchError where it cannot be served, with the reason, and PackageIndexError.
    """
    releases = listing.usable(minor, pre=pre)
    first = releases[0]
    file, members = _first_that_answers(first, index, _members)
    config, metadata = members[_CMAKE], members["METADATA"]
    cuda = re.search(r"^cuda\b.*=\s*'([\d.]+)'", members[_VERSION], re.MULTILINE)
    if not cuda:
        raise _refused(first, "it is built without CUDA", f"{_VERSION} of {file.filename}")
    python = CPython.parse(next(tag for tag, one in first.wheels.items() if one.filename == file.filename))
    requires = _requirements(metadata, python)
    runtime = next(
        (one for one in requires if one.name in ("cuda-toolkit", f"nvidia-cuda-runtime-cu{cuda[1][:2]}")), None
    )
    if runtime is None:
        raise _refused(first, f"its METADATA requires no CUDA runtime for CUDA {cuda[1]}", file.filename)
    facts = {
        "torch": Fact(str(minor), ""),
        "releases": Fact(tuple(one.name for one in releases), "file names on the index, what is yanked left out"),
        "release": Fact(
            first.name, "built against: the minor's first, so that the wheel needs nothing that a later patch added"
        ),
        "cuda": Fact(cuda[1], f"torch.version.cuda, in {_VERSION}"),
        "cuda-runtime": Fact(f"{runtime.name}{runtime.specifier}", "METADATA, Requires-Dist"),
        "cuda-toolkit": _toolkit(runtime, requires, index),
        "cpython": Fact(tags_of(releases), "file names on the index"),
        "cxx-standard": _standard(config, members[_ATEN]),
    }
    facts["gcc"] = _gcc(int(str(facts["cxx-standard"].value)), members[_CXX])
    facts["image"] = Fact(
        _platform(file), "the wheels' platform; the container image that cibuildwheel pins under this name"
    )
    if sizes:
        facts |= _sizes(int(members["size"]), requires, python, index)
    return Facts(minor, file.filename, facts)


def _refused(release: Release, why: str, where: str) -> UnknownTorchError:
    return UnknownTorchError(
        f"torch {release.name} cannot be served: {why}",
        where=where,
        next_step="another index: docs/how-to/add-a-torch.md#when-add-refuses",
    )


T = TypeVar("T")


def _first_that_answers(
    release: Release, index: PackageIndex, ask: Callable[[RemoteWheel], T]
) -> tuple[DistributionPackage, T]:
    """The first of a release's wheels that is there, the running CPython's first: a listed file may be missing."""
    running = CPython.running().tag
    plain = sorted((tag for tag in release.wheels if not tag.endswith("t")), key=CPython.parse, reverse=True)
    order = [tag for tag in (running, *plain, *release.wheels) if tag in release.wheels]
    problem: PackageIndexError | None = None
    for tag in dict.fromkeys(order):
        try:
            with index.open_wheel(release.wheels[tag]) as wheel:
                return release.wheels[tag], ask(wheel)
        except PackageIndexError as error:
            problem = problem or error
    assert problem is not None, "a release without wheels is not usable"
    raise problem


def _members(wheel: RemoteWheel) -> dict[str, str]:
    metadata = next((path for path in wheel.members if re.fullmatch(r"torch-[^/]+\.dist-info/METADATA", path)), "")
    wanted = [path for path in (_VERSION, _CMAKE, _ATEN, _CXX) if path in wheel.members]
    found = {path: content.decode("utf-8", "replace") for path, content in wheel.read_many(wanted).items()}
    found["METADATA"] = wheel.read(metadata or "torch.dist-info/METADATA").decode("utf-8", "replace")
    found["size"] = str(sum(member.file_size for member in wheel.members.values()))
    return {_ATEN: "", _CXX: "", _CMAKE: "", **found}


def _environment(python: CPython) -> dict[str, str]:
    """Markers' variables on x86-64 Linux (Dependency specifiers, "Environment Markers")."""
    return {
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "platform_release": "",
        "platform_version": "", "python_version": python.release, "python_full_version": f"{python.release}.0",
        "implementation_version": f"{python.release}.0",
    }  # fmt: skip


def _requirements(metadata: str, python: CPython, extras: Iterable[str] = ("",)) -> list[Requirement]:
    """What METADATA requires on x86-64 Linux."""
    every = [Requirement(text) for text in HeaderParser().parsestr(metadata).get_all("Requires-Dist", [])]
    places = [_environment(python) | {"extra": extra} for extra in extras]
    return [one for one in every if one.marker is None or any(one.marker.evaluate(place) for place in places)]


def _best(requirement: Requirement, index: PackageIndex, tag: str) -> DistributionPackage:
    """The newest wheel for x86-64 Linux that a requirement takes. Raises PackageIndexError where there is none."""
    found = []
    for file in index.files(requirement.name):
        try:
            _, version, build, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if requirement.specifier.contains(version) and not file.is_yanked and any(_fits(one, tag) for one in tags):
            found.append((version, build, file.filename, file))
    if not found:
        raise PackageIndexError(
            f"torch requires {requirement}, of which the index has no wheel",
            where=requirement.name,
            next_step="an index that has all of what torch requires",
        )
    return max(found, key=lambda one: one[:3])[3]


def _fits(tag: Tag, abi: str) -> bool:
    return tag.abi in ("none", "abi3", abi) and (tag.platform == "any" or tag.platform.endswith("linux_x86_64") or (
        tag.platform.startswith("manylinux") and tag.platform.endswith("x86_64")))  # fmt: skip


def _toolkit(runtime: Requirement, requires: Iterable[Requirement], index: PackageIndex) -> Fact:
    if runtime.name != "cuda-toolkit":
        return Fact((), "for CUDA sources; the CUDA 12 wheels hold no nvcc: the image's or machine's own must do")
    metadata = index.metadata(_best(runtime, index, "none"))
    offered = HeaderParser().parsestr(metadata).get_all("Provides-Extra", [])
    if lacking := [extra for extra in _TOOLKIT if extra not in offered]:
        return Fact((), f"for CUDA sources; cuda-toolkit has no {', '.join(lacking)}: the machine's own must do")
    # torch's headers and CMake files ask for the libraries too; its SDK, unlike all of torch, requires none of them.
    extras = ",".join([*_TOOLKIT, *sorted(runtime.extras)])
    others = [f"{one.name}{one.specifier}" for one in requires if _OF_NO_MAJOR.fullmatch(one.name)]
    return Fact(
        (f"cuda-toolkit[{extras}]{runtime.specifier}", *others),
        "for CUDA sources: nvcc and its headers, and the parts of the toolkit that METADATA requires",
    )


def _standard(config: str, aten: str) -> Fact:
    if match := re.search(r"CXX_STANDARD (\d+)", config):
        return Fact(int(match[1]), f"{_CMAKE}, CXX_STANDARD")
    if match := re.search(r"__cplusplus < (20\d\d)\d\dL", aten):
        return Fact(int(match[1]) % 100, f"{_CMAKE} names none; {_ATEN} is an error below it")
    return Fact(17, f"neither {_CMAKE} nor {_ATEN} names one")


def _gcc(standard: int, header: str) -> Fact:
    """The oldest GCC: what torch's headers refuse, and what takes the standard."""
    first = _FIRST_GCC.get(standard, max(_FIRST_GCC.values()))
    asked = re.search(r"__GNUC__ < (\d+)\s*\n#error", header)
    if asked and int(asked[1]) >= first:
        return Fact(int(asked[1]), f"the oldest that builds: {_CXX} is an error below it")
    return Fact(first, f"the oldest that builds: the first that takes -std=c++{standard}; torch's headers ask for none")


def _platform(file: DistributionPackage) -> str:
    platforms = {tag.platform for tag in parse_wheel_filename(file.filename)[3]}
    return min(platforms, key=lambda name: [int(part) for part in re.findall(r"\d+", name)]).removesuffix("_x86_64")


def _sizes(torch: int, requires: Iterable[Requirement], python: CPython, index: PackageIndex) -> dict[str, Fact]:
    """Unpacked sizes in GB, from the directories of the wheels that are required."""
    with_toolkit = list(requires)
    for toolkit in [one for one in with_toolkit if one.name == "cuda-toolkit"]:
        metadata = index.metadata(_best(toolkit, index, "none"))
        with_toolkit += _requirements(metadata, python, toolkit.extras)
    wanted = {one.name: one for one in with_toolkit if one.name == "triton" or one.name.startswith("nvidia-")}

    def size(requirement: Requirement) -> int:
        with index.open_wheel(_best(requirement, index, python.tag), small=True) as wheel:
            return sum(member.file_size for member in wheel.members.values())

    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip(wanted, pool.map(size, wanted.values()), strict=True))
    triton = sizes.pop("triton", 0)
    directories = "sizes in the wheels' directories"
    return {
        "torch-gb": Fact(_gb(torch + triton), f"unpacked: torch and triton, {directories}"),
        "cuda-runtime-gb": Fact(
            _gb(sum(sizes.values())),
            f"unpacked: its {len(sizes)} CUDA wheels, mostly shared by minors with one cuda-runtime",
        ),
    }  # fmt: skip


def _gb(size: int) -> float:
    return round(size / 1e9, 1)


def newest(listing: Listing, *, pre: bool = False) -> Minor:
    """The newest minor that can be served. Raises UnknownTorchError for an index without torch."""
    for minor in sorted(listing.by_minor, reverse=True):
        try:
            listing.usable(minor, pre=pre)
        except UnknownTorchError:
            continue
        return minor
    raise UnknownTorchError("the index has no torch for x86-64 Linux", where="the package index", next_step="discover")
