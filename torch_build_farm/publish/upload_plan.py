"""What is to be published and in which order. Pure, except that it reads the index.

Variants come first, then the rungs and the middle wheel, the plain wheel last: at no moment does the index have a wheel
whose requirements it lacks.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.errors import PublishError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.wheel_archive import dist_info
from torch_build_farm.pipeline import records
from torch_build_farm.project.settings import Project

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

_PENDING = 3  # publishers that an account may have waiting for names that do not exist yet (measured)
State = Literal["new", "there", "kept"]


@dataclass(frozen=True)
class Item:
    """A wheel to be published, and where it stands.

    `state` is "new"; "there", if the index has the same bytes; or "kept", if the index has an older wheel behind the
    one name, which stays. `sha256` is that of the file that the index has afterwards, `size` is in bytes.
    """

    path: Path
    name: str
    version: str
    sha256: str
    size: int
    state: State


@dataclass(frozen=True)
class PublishPlan:
    """The items in their order, names that the index does not know yet, and warnings for the maintainer."""

    items: tuple[Item, ...]
    new_names: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def due(self) -> tuple[Item, ...]:
        """The items to upload."""
        return tuple(item for item in self.items if item.state == "new")

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """The new names, in groups that may have a pending publisher at the same time."""
        starts = range(0, len(self.new_names), _PENDING)
        return tuple(self.new_names[start : start + _PENDING] for start in starts)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was published, or would be. `waves` groups the names that are new to the index, in the order of uploads."""

    target: str
    version: str
    dry_run: bool
    files: tuple[Item, ...]
    waves: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]


def proven(wheels: Iterable[Path], work: Path) -> list[str]:
    """Reasons why these variants may not be published, one sentence each.

    A variant needs a record of its hash, an audit and a full smoke test of the same bytes.
    """
    jobs = records.by_wheel(work)
    problems = []
    for wheel in wheels:
        digest = sha256(wheel)
        job = jobs.get(digest)
        smoke = job.read("smoke") if job else None
        audit = job.read("audit") if job else None
        if job is None:
            problems.append(f"{wheel.name}: no record has its SHA-256 {digest}")
        elif audit is None or audit.inputs.get("wheel") != records.digest(digest):
            problems.append(f"{wheel.name}: not audited")
        elif smoke is None or smoke.inputs.get("wheel") != records.digest(digest):
            problems.append(f"{wheel.name}: not smoke-tested")
        elif smoke.inputs.get("mode") != records.digest("full"):
            problems.append(f"{wheel.name}: smoke-tested, but not in full")
    return problems


def plan(project: Project, variants: Sequence[Path], behind: Sequence[Path], index: PackageIndex) -> PublishPlan:
    """Compare what is built with what the index has. `behind` are the wheels behind the one name, in order.

    Raises PublishError where the index has another file of the same name.
    """
    listed: dict[str, list[DistributionPackage]] = {}
    items = []
    for path in (*variants, *behind):
        name, version, _, _ = parse_wheel_filename(path.name)
        if name not in listed:
            listed[name] = index.files(name)
        published = next((file for file in listed[name] if file.filename == path.name), None)
        digest = sha256(path)
        state: State = "new"
        if published:
            published_digest = digest_of(published, index, path.parent)
            if published_digest == digest:
                state = "there"
            elif path in behind and _consistent(path, published, index):
                # It has the extras of the variants known when it was made; the new ones come with the next version.
                state, digest = "kept", published_digest
            else:
                raise PublishError(
                    f"the index has another {path.name}",
                    where=f"sha256 here {digest}, there {published_digest}",
                    next_step="a published file never changes: raise the version, or re-issue a broken variant with "
                    "--build-number 1",
                )
        items.append(Item(path, name, str(version), digest, path.stat().st_size, state))
    new_names = tuple(dict.fromkeys(item.name for item in items if not listed[item.name]))
    plain = listed.get(canonicalize_name(project.settings.name), [])
    auto = listed.get(canonicalize_name(project.auto_name), [])
    return PublishPlan(tuple(items), new_names, tuple(_warnings(project, plain, auto, items[-1].version)))


def digest_of(file: DistributionPackage, index: PackageIndex, folder: Path) -> str:
    """SHA-256 of a file on the index: as the index states it, else of the file, downloaded to `folder` meanwhile."""
    if "sha256" in file.digests:
        return str(file.digests["sha256"])
    path = folder / f".{file.filename}.published"
    try:
        index.download(file, path)
        return sha256(path)
    finally:
        path.unlink(missing_ok=True)


def _metadata(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{dist_info(archive)}/METADATA").decode("utf-8").splitlines()


def _consistent(path: Path, file: DistributionPackage, index: PackageIndex) -> bool:
    """Whether a published wheel behind the one name only lacks variants that came later."""
    published = path.with_name(f".{path.name}.published")
    try:
        index.download(file, published)
        older, newer = _metadata(published), _metadata(path)
    finally:
        published.unlink(missing_ok=True)
    lacking = [line for line in newer if line not in older]
    dropped = [line for line in older if line not in newer]
    only_extras = all("extra ==" in line or line.startswith("Provides-Extra") for line in lacking)
    return only_extras and not dropped


def _warnings(
    project: Project, plain: Sequence[DistributionPackage], auto: Sequence[DistributionPackage], version: str
) -> list[str]:
    """Versions on the index that get in the way of the one name.

    `plain` and `auto` are the index's files of the one name and of the middle wheel; versions that have a middle wheel
    are the farm's own, and get in nobody's way.
    """
    farm_versions = {file.version for file in auto}
    unyanked = set()
    for file in plain:
        with contextlib.suppress(InvalidVersion):
            if not file.is_yanked:
                unyanked.add(Version(file.version or ""))

    name, new = project.settings.name, Version(version)
    warnings = []
    higher = [other for other in unyanked if other > new]
    if higher:
        warnings.append(f"{name} {max(higher)} is on the index: a plain `install {name}` takes that, not {version}")
    finals = sorted(other for other in unyanked if other < new and not other.is_prerelease)
    older = [other for other in finals if str(other) not in farm_versions]
    if older:
        warnings.append(
            f"{len(older)} older versions of {name} are not yanked ({older[0]} to {older[-1]}): resolvers fall back to "
            "them wherever the new one refuses; see docs/how-to/publish.md#the-first-release"
        )
    return warnings
