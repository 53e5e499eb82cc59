"""The wheels of the core that variants need: each has to be on the index before its variants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from torch_build_farm.core.errors import PublishError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.machine import MACHINES, Machine
from torch_build_farm.core.versions import CPython
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.shared_wheels import serves
from torch_build_farm.project.settings import Project
from torch_build_farm.publish.names import IndexNames
from torch_build_farm.publish.private_copies import PrivateCopy
from torch_build_farm.wheels import platforms


@dataclass(frozen=True)
class CoreWheels:
    """The `wheels` in the dist folder that variants are published with, and the variants, by name, that lack one.

    Those are the wheels that they were tested beside, and others of the same version for further CPythons of theirs.
    `lacking` has for each variant without its own the digest of the core's SHA-256, as records keep it.
    """

    name: str
    wheels: tuple[Path, ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, project: Project, variants: Sequence[PrivateCopy], work: Path) -> CoreWheels:
        """By the records of the smoke tests of `variants`, whose wheels are proven. This proves none of the core's."""
        if project.settings.core is None:
            return cls("")
        name = canonicalize_name(project.settings.core.name)
        in_dist = _wheels_of(name, work / "dist")
        by_digest = {records.digest(sha256(path)): path for path in in_dist}
        tested_beside = _tested_beside(work)
        wheels: dict[Path, None] = {}  # an ordered set
        lacking = []
        for variant in variants:
            beside = []
            for digest in tested_beside.get(records.digest(variant.sha256), [""]):
                if digest in by_digest:
                    beside.append(by_digest[digest])
                else:
                    lacking.append((variant.path.name, digest))
            wheels |= dict.fromkeys((*beside, *_further(in_dist, beside, _served(project, variant.path.name))))
        return cls(name, tuple(wheels), tuple(lacking))

    def require_all(self, names: IndexNames) -> None:
        """Raise PublishError for a variant whose core is neither here nor on the index."""
        if not self.lacking:
            return
        on_index = {records.digest(file.sha256) for file in names.files(self.name) if file.is_own}
        for variant, digest in self.lacking:
            if digest not in on_index:
                raise PublishError(
                    f"{variant} was smoke-tested beside a {self.name} that is neither in dist nor on the index",
                    where="work/dist",
                    next_step="run again with this work folder, which tests the variants beside the core that is there",
                )


def _tested_beside(work: Path) -> dict[str, list[str]]:
    """The cores that each wheel was tested beside, as digests, by the digest of the wheel's SHA-256."""
    # A wheel for several CPythons has a test beside the core of each.
    cores: dict[str, list[str]] = {}
    for path in sorted(work.glob("jobs/*/records/smoke.json")):
        smoke = records.read(path)
        if smoke and "wheel" in smoke.inputs:
            cores.setdefault(smoke.inputs["wheel"], []).append(smoke.inputs.get("core", ""))
    return cores


def _served(project: Project, variant: str) -> set[tuple[Machine, CPython]]:
    """The machines and CPythons of the core that a variant's wheel is for as well, by its file name."""
    served = set()
    for machine in MACHINES:
        core = project.on(machine).core
        if core and platforms.installs_on(variant, machine):
            served |= {(machine, python) for python in core.cpython if serves(variant, python)}
    return served


def _further(
    in_dist: Sequence[Path], beside: Sequence[Path], served: Collection[tuple[Machine, CPython]]
) -> list[Path]:
    """The core's wheels for `served` that have the version of those `beside` which a variant was tested.

    A pack with a wheel for several CPythons brings the test with the oldest alone.
    """
    versions = {_version(wheel) for wheel in beside}
    return [
        wheel
        for wheel in in_dist
        if _version(wheel) in versions
        and any(platforms.installs_on(wheel.name, machine) and serves(wheel.name, python) for machine, python in served)
    ]


def _version(wheel: Path) -> Version:
    return parse_wheel_filename(wheel.name)[1]


def _wheels_of(name: str, dist: Path) -> list[Path]:
    """The wheels of a distribution in a folder, by their file names."""
    paths = []
    for path in sorted(dist.glob("*.whl")):
        try:
            if parse_wheel_filename(path.name)[0] == name:
                paths.append(path)
        except InvalidWheelFilename:  # somebody else's file
            continue
    return paths
