"""The wheels that torch requires: the requirements that apply to a machine and a CPython, and the file for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.requirements import parse_metadata, read_requirement
from torch_build_farm.core.versions import CPython

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage


@dataclass(frozen=True)
class Target:
    """Where torch is installed: Linux on a machine, with a CPython."""

    machine: Machine
    python: CPython

    def requirements(self, metadata: str, extras: Iterable[str] = ("",)) -> list[Requirement]:
        """What METADATA requires there for any of the extras; "" stands for none.

        Raises PackageIndexError for a requirement that cannot be read.
        """
        environments = [self._markers | {"extra": extra} for extra in extras]
        applying = []
        try:
            for text in parse_metadata(metadata).get_all("Requires-Dist", []):
                requirement = read_requirement(text)
                if _applies(requirement, environments):
                    applying.append(requirement)
        except ValueError as error:
            raise PackageIndexError(
                f"what a distribution requires cannot be read: {error}",
                where="METADATA of a wheel of the package index",
                next_step="check which index uv is configured for",
            ) from None
        return applying

    def newest_wheel(self, requirement: Requirement, index: PackageIndex) -> DistributionPackage:
        """The newest wheel that a requirement admits there. Raises PackageIndexError if there is none."""
        candidates = []
        for file in index.files(requirement.name):
            try:
                _, version, build, tags = parse_wheel_filename(file.filename)
            except InvalidWheelFilename:
                continue
            if file.is_yanked or not requirement.specifier.contains(version):
                continue
            if any(self._fits(tag) for tag in tags):
                candidates.append(((version, build, file.filename), file))
        if not candidates:
            raise PackageIndexError(
                f"torch requires {requirement}, of which the index has no wheel for {self.machine.words} Linux",
                where=requirement.name,
                next_step="use an index that has everything that torch requires",
            )
        # The file name decides between platforms, so that the same wheel is chosen every time.
        _, newest = max(candidates, key=lambda candidate: candidate[0])
        return newest

    @property
    def _markers(self) -> dict[str, str]:
        """The variables of markers (Dependency specifiers, "Environment Markers")."""
        release = self.python.release
        return {
            "implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix",
            "sys_platform": "linux", "platform_system": "Linux", "platform_machine": self.machine.name,
            "platform_release": "", "platform_version": "", "python_version": release,
            "python_full_version": f"{release}.0", "implementation_version": f"{release}.0",
        }  # fmt: skip

    def _fits(self, tag: Tag) -> bool:
        """Whether a wheel with that tag can be used there."""
        if tag.abi not in ("none", "abi3", self.python.tag):
            return False
        if tag.platform in ("any", f"linux_{self.machine.name}"):
            return True
        return tag.platform.startswith("manylinux") and tag.platform.endswith(f"_{self.machine.name}")


def _applies(requirement: Requirement, environments: Sequence[Mapping[str, str]]) -> bool:
    """Whether a requirement has no marker, or one that is true in any of the environments."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate(dict(environment)) for environment in environments)
