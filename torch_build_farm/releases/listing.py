"""What a package index lists of torch: minors, releases, and their wheels for x86-64 Linux by CPython."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.errors import PackageIndexError, UnknownTorchError, nearest
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import CPython, Minor

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

_Build = tuple[int, str] | tuple[()]


@dataclass(frozen=True)
class Release:
    """A torch release: its wheels by their CPython's tag, the highest build of each that is not yanked.

    `yanked`: all of it is. `elsewhere`: platforms and kinds of its other files, such as "macosx_11_0_arm64" or "sdist".
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
        return minor_of(self.version)

    @property
    def usable(self) -> bool:
        return bool(self.wheels) and not self.yanked

    @property
    def tags(self) -> tuple[str, ...]:
        """CPython tags in their order."""
        return tuple(sorted(self.wheels, key=CPython.parse))


def minor_of(version: Version) -> Minor:
    return Minor(version.major, version.minor)


@dataclass(frozen=True)
class Listing:
    """Every release that an index lists, oldest first."""

    releases: tuple[Release, ...]

    @classmethod
    def read(cls, index: PackageIndex) -> Listing:
        """One request. Raises PackageIndexError, also for an index that has no torch at all."""
        found = cls.of(index.files("torch"))
        if not found.releases:
            raise PackageIndexError(
                "the package index lists no torch",
                where="torch",
                next_step="check which index uv is configured for, and whether a proxy answers in its place",
            )
        return found

    @classmethod
    def of(cls, files: Iterable[DistributionPackage]) -> Listing:
        """The releases of these files; local versions, which other indexes have, are another build and left out."""
        wheels: defaultdict[str, dict[str, tuple[_Build, DistributionPackage]]] = defaultdict(dict)
        elsewhere: defaultdict[str, set[str]] = defaultdict(set)
        yanked: defaultdict[str, list[bool]] = defaultdict(list)
        for file in files:
            try:
                version, build, tag, other = _read(file)
            except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
                continue
            if version.local:
                continue
            yanked[str(version)].append(file.is_yanked)
            if tag is None:
                elsewhere[str(version)].add(other)
            elif not file.is_yanked and (tag not in wheels[str(version)] or wheels[str(version)][tag][0] < build):
                wheels[str(version)][tag] = (build, file)
        found = [
            Release(
                name,
                {tag: file for tag, (_, file) in sorted(wheels[name].items())},
                all(yanked[name]),
                tuple(sorted(elsewhere[name])),
            )
            for name in yanked
        ]
        return cls(tuple(sorted(found, key=lambda one: one.version)))

    @cached_property
    def by_minor(self) -> Mapping[Minor, tuple[Release, ...]]:
        """Releases by minor, both in their order."""
        found: defaultdict[Minor, list[Release]] = defaultdict(list)
        for release in self.releases:
            found[release.minor].append(release)
        return {minor: tuple(found[minor]) for minor in sorted(found)}

    def usable(self, minor: Minor, *, pre: bool = False) -> tuple[Release, ...]:
        """The minor's releases that can be built against; pre-releases only with `pre`, while there is no final.

        Raises UnknownTorchError, with the reason, where there is none.
        """
        every = self.by_minor.get(minor, ())
        finals = [one for one in every if one.usable and not one.version.is_prerelease]
        if finals or (pre and (finals := [one for one in every if one.usable and not one.version.is_devrelease])):
            return tuple(finals)
        raise UnknownTorchError(
            f"torch {minor} cannot be served: {self._why_not(minor, every)}",
            where="the package index",
            next_step="add --pre takes a release candidate" if any(one.usable for one in every) else "discover",
        )

    def _why_not(self, minor: Minor, every: tuple[Release, ...]) -> str:
        if not every:
            return f"the index has no release of it; {nearest(str(minor), map(str, self.by_minor))}"
        if candidates := [one.name for one in every if one.usable]:
            return f"there is no final release yet, only {', '.join(candidates)}"
        if all(one.yanked for one in every):
            return f"every release is yanked: {', '.join(one.name for one in every)}"
        others = sorted({what for one in every for what in one.elsewhere})
        return f"no wheel for x86-64 Linux, only {', '.join(others)}"

    def release(self, name: str) -> Release:
        """A release by its version. Raises UnknownTorchError for one that has no wheel for x86-64 Linux."""
        for one in self.releases:
            if one.name == name and one.wheels:
                return one
        names = [one.name for one in self.releases if one.wheels]
        raise UnknownTorchError(
            f"the package index has no torch {name} for x86-64 Linux; {nearest(name, names)}",
            where="the package index",
            next_step=f"the newest there is {names[-1] if names else 'none'}",
        )


def _read(file: DistributionPackage) -> tuple[Version, _Build, str | None, str]:
    """Version, build and CPython tag of a file; without a tag, what it is instead."""
    if not file.filename.endswith(".whl"):
        return parse_sdist_filename(file.filename)[1], (), None, "sdist"
    _, version, build, tags = parse_wheel_filename(file.filename)
    tag = min(tags, key=str)
    ours = tag.platform.startswith("manylinux") and tag.platform.endswith("_x86_64")
    return version, build, tag.abi if ours and _is_cpython(tag.abi) else None, tag.platform


def _is_cpython(abi: str) -> bool:
    try:
        CPython.parse(abi)
    except ValueError:  # cp27mu, abi3
        return False
    return True
