"""What a package index lists of torch: minors, releases, and their wheels for Linux on one machine by CPython."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.errors import PackageIndexError, UnknownTorchError, nearest
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import FLAVOUR, CPython, Minor

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

_Build = tuple[int, str] | tuple[()]


def flavour_of(release: str) -> str:
    """The flavour of a release such as 2.9.1+cu126; empty for 2.9.1."""
    return Version(release).local or ""


def flavours(files: Iterable[DistributionPackage]) -> list[str]:
    """The CUDA flavours among an index's files of torch, sorted."""
    local_parts = {version.local or "" for version in _versions(files)}
    return sorted(local for local in local_parts if re.fullmatch(FLAVOUR, local))


def builds_of_minor(files: Iterable[DistributionPackage], minor: Minor) -> set[str]:
    """The local parts of the versions that an index has of a minor, such as "cu126"; "" for a version without one."""
    number = (minor.major, minor.minor)
    return {version.local or "" for version in _versions(files) if (version.major, version.minor) == number}


def _versions(files: Iterable[DistributionPackage]) -> Iterator[Version]:
    """The versions that the names of torch's files have; names of another form are left out."""
    for file in files:
        with contextlib.suppress(InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            yield _File.parse(file.filename).version


@dataclass(frozen=True)
class Release:
    """A torch release: its wheels by their CPython's tag, of each the highest build that is not yanked.

    `yanked`: all of its files are. `elsewhere`: platforms and kinds of its other files, such as "macosx_11_0_arm64" or
    "sdist".
    """

    name: str
    wheels: Mapping[str, DistributionPackage]
    yanked: bool = False
    elsewhere: tuple[str, ...] = ()

    @property
    def version(self) -> Version:
        return Version(self.name)

    @property
    def minor(self) -> Minor:
        return Minor(self.version.major, self.version.minor, flavour_of(self.name))

    @property
    def usable(self) -> bool:
        """Whether it has a wheel for Linux on the listing's machine that is not yanked."""
        return bool(self.wheels) and not self.yanked

    @property
    def tags(self) -> tuple[str, ...]:
        """CPython tags in their order."""
        return tuple(sorted(self.wheels, key=CPython.parse))


@dataclass(frozen=True)
class _File:
    """What the name of a torch file says: its version and build number, and the CPython of a wheel for one machine.

    `tag` is None for any file but a wheel for Linux on that machine. `platform` is its platform tag, or "sdist".
    """

    version: Version
    build: _Build
    tag: str | None
    platform: str

    @classmethod
    def parse(cls, filename: str, machine: Machine = X86_64) -> _File:
        """Read a file name. Raises InvalidWheelFilename, InvalidSdistFilename or InvalidVersion for other names."""
        if not filename.endswith(".whl"):
            _, version = parse_sdist_filename(filename)
            return cls(version, (), None, "sdist")
        _, version, build, tags = parse_wheel_filename(filename)
        # The tags of one of torch's wheels differ in their platform alone, such as manylinux_2_27 and manylinux_2_28.
        tag = min(tags, key=str)
        is_linux = tag.platform.startswith("manylinux") and tag.platform.endswith(f"_{machine.name}")
        return cls(version, build, tag.abi if is_linux and _is_cpython(tag.abi) else None, tag.platform)


def _is_cpython(abi: str) -> bool:
    """Whether an ABI tag names one CPython, as cp312 and cp313t do and cp27mu and abi3 do not."""
    try:
        CPython.parse(abi)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Listing:
    """Every release that an index lists, oldest first, with its wheels for Linux on `machine`."""

    releases: tuple[Release, ...]
    machine: Machine = X86_64

    @classmethod
    def read(cls, index: PackageIndex, flavour: str = "", *, machine: Machine = X86_64) -> Listing:
        """Read the index's page of torch, in one request. Raises PackageIndexError, also if it lists no such torch."""
        (listing,) = cls.read_each(index, flavour, machines=[machine])
        return listing

    @classmethod
    def read_each(cls, index: PackageIndex, flavour: str = "", *, machines: Iterable[Machine]) -> tuple[Listing, ...]:
        """As `read`, for several machines: a listing for each of them."""
        files = index.files("torch")
        listings = tuple(cls.of(files, flavour, machine=machine) for machine in machines)
        if not all(listing.releases for listing in listings):
            raise PackageIndexError(
                f"the package index lists no torch{f' of flavour {flavour}' if flavour else ''}",
                where="torch",
                next_step="check which index uv is configured for, and whether a proxy answers in its place",
            )
        return listings

    @classmethod
    def of(cls, files: Iterable[DistributionPackage], flavour: str = "", *, machine: Machine = X86_64) -> Listing:
        """The releases of one flavour: local versions are other builds that other indexes have, such as 2.9.1+cu126."""
        wheels: defaultdict[str, dict[str, DistributionPackage]] = defaultdict(dict)
        builds: dict[tuple[str, str], _Build] = {}  # of these wheels, by release and tag
        elsewhere: defaultdict[str, set[str]] = defaultdict(set)
        all_yanked: dict[str, bool] = {}
        for file in files:
            try:
                parsed = _File.parse(file.filename, machine)
            except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
                continue
            if (parsed.version.local or "") != flavour:
                continue
            name = str(parsed.version)
            all_yanked[name] = all_yanked.get(name, True) and file.is_yanked
            if parsed.tag is None:
                elsewhere[name].add(parsed.platform)
            elif not file.is_yanked:
                # Of two builds of one wheel, installers take the one with the higher number (PEP 427).
                key = (name, parsed.tag)
                if key not in builds or builds[key] < parsed.build:
                    builds[key] = parsed.build
                    wheels[name][parsed.tag] = file

        releases = []
        for name, yanked in all_yanked.items():
            releases.append(Release(name, dict(sorted(wheels[name].items())), yanked, tuple(sorted(elsewhere[name]))))
        return cls(tuple(sorted(releases, key=lambda release: release.version)), machine)

    @cached_property
    def by_minor(self) -> Mapping[Minor, tuple[Release, ...]]:
        """Releases by minor, both in their order."""
        releases: defaultdict[Minor, list[Release]] = defaultdict(list)
        for release in self.releases:
            releases[release.minor].append(release)
        return {minor: tuple(releases[minor]) for minor in sorted(releases)}

    def usable(self, minor: Minor, *, pre: bool = False) -> tuple[Release, ...]:
        """The minor's releases that can be built against, oldest first.

        With `pre`, pre-releases count as long as there is no final release. Raises UnknownTorchError, with the reason,
        if there is none to build against.
        """
        releases = self.by_minor.get(minor, ())
        usable = [release for release in releases if release.usable]
        finals = [release for release in usable if not release.version.is_prerelease]
        if finals:
            return tuple(finals)
        if pre:
            candidates = [release for release in usable if not release.version.is_devrelease]
            if candidates:
                return tuple(candidates)
        raise UnknownTorchError(
            f"torch {minor} cannot be served: {self._why_not(minor, releases)}",
            where="the package index",
            next_step="add --pre takes a release candidate" if usable else "discover",
        )

    def _why_not(self, minor: Minor, releases: tuple[Release, ...]) -> str:
        """Why none of the minor's releases can be built against, in words."""
        if not releases:
            return f"the index has no release of it; {nearest(str(minor), map(str, self.by_minor))}"
        candidates, yanked = [], []
        elsewhere: set[str] = set()
        for release in releases:
            if release.usable:
                candidates.append(release.name)
            if release.yanked:
                yanked.append(release.name)
            elsewhere.update(release.elsewhere)
        if candidates:
            return f"there is no final release yet, only {', '.join(candidates)}"
        if len(yanked) == len(releases):
            return f"every release is yanked: {', '.join(yanked)}"
        return f"no wheel for {self.machine.words} Linux, only {', '.join(sorted(elsewhere))}"

    def release(self, name: str) -> Release:
        """A release by its version. Raises UnknownTorchError for one without a wheel for the listing's machine."""
        with_wheels = {release.name: release for release in self.releases if release.wheels}
        if name in with_wheels:
            return with_wheels[name]
        names = list(with_wheels)
        raise UnknownTorchError(
            f"the package index has no torch {name} for {self.machine.words} Linux; {nearest(name, names)}",
            where="the package index",
            next_step=f"the newest release is {names[-1]}" if names else "discover",
        )
