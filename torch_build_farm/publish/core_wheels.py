"""The wheels of the core that variants were tested beside: each has to be on the index before its variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from torch_build_farm.core.errors import PublishError
from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline import records
from torch_build_farm.project.settings import Project
from torch_build_farm.publish.names import IndexNames
from torch_build_farm.publish.private_copies import PrivateCopy


@dataclass(frozen=True)
class CoreWheels:
    """The `wheels` in the dist folder that variants were tested beside, and the variants, by name, that lack theirs.

    `lacking` has for each such variant the digest of the core's SHA-256, as records keep it.
    """

    name: str
    wheels: tuple[Path, ...] = ()
    lacking: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, project: Project, variants: Sequence[PrivateCopy], work: Path) -> CoreWheels:
        """By the records of the smoke tests of `variants`, whose wheels are proven."""
        if project.settings.core is None:
            return cls("")
        name = canonicalize_name(project.settings.core.name)
        by_digest = {records.digest(sha256(path)): path for path in _wheels_of(name, work / "dist")}
        tested_beside = _tested_beside(work)
        wheels: dict[Path, None] = {}  # an ordered set
        lacking = []
        for variant in variants:
            for digest in tested_beside.get(records.digest(variant.sha256), [""]):
                if digest in by_digest:
                    wheels[by_digest[digest]] = None
                else:
                    lacking.append((variant.path.name, digest))
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
