"""What is to be published and in which order; pure, but for the index that it reads.

Variants come first, then the rungs and the middle wheel, the plain wheel last: at no moment does the index have a wheel
whose requirements it has not.
"""

from __future__ import annotations

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
    """A wheel on its way: `there`: the index has the same bytes; `kept`: it has an older wheel behind the one name.

    `sha256` is that of the file that the index then has, `size` is in bytes.
    """

    path: Path
    name: str
    version: str
    sha256: str
    size: int
    state: State


@dataclass(frozen=True)
class PublishPlan:
    """The items in order, names that the index does not know yet, and what the maintainer should know before."""

    items: tuple[Item, ...]
    new_names: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def due(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.state == "new")

    @property
    def waves(self) -> tuple[tuple[str, ...], ...]:
        """The new names in groups that can wait for their first upload at one time."""
        return tuple(self.new_names[n : n + _PENDING] for n in range(0, len(self.new_names), _PENDING))


def proven(wheels: Iterable[Path], work: Path) -> list[str]:
    """What speaks against publishing these variants, a sentence each.

    No record of that hash, no audit of it, or no full smoke test.
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
        there = next((file for file in listed[name] if file.filename == path.name), None)
        state: State = "new"
        digest = sha256(path)
        if there:
            state = "there" if digest_of(there, index, path.parent) == digest else "kept"
        if there and state == "kept" and not (path in behind and _consistent(path, there, index)):
            raise PublishError(
                f"the index has another {path.name}",
                where=f"sha256 here {digest}, there {digest_of(there, index, path.parent)}",
                next_step="a published file never changes: raise the version, or re-issue a broken variant with "
                "--build-number 1",
            )
        if there and state == "kept":
            digest = digest_of(there, index, path.parent)
        items.append(Item(path, name, str(version), digest, path.stat().st_size, state))
    new = tuple(dict.fromkeys(item.name for item in items if not listed[item.name]))
    plain, auto = (listed.get(canonicalize_name(name), []) for name in (project.settings.name, project.auto_name))
    return PublishPlan(tuple(items), new, tuple(_warnings(project, plain, auto, items[-1].version)))


def digest_of(file: DistributionPackage, index: PackageIndex, folder: Path) -> str:
    """SHA-256 of a file on the index, as the index states it, else of what it serves."""
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
    there = path.with_name(f".{path.name}.published")
    try:
        index.download(file, there)
        older, newer = _metadata(there), _metadata(path)
    finally:
        there.unlink(missing_ok=True)
    lacking = [line for line in newer if line not in older]
    more = [line for line in older if line not in newer]
    return not more and all("extra ==" in line or line.startswith("Provides-Extra") for line in lacking)


def _warnings(
    project: Project, plain: Sequence[DistributionPackage], auto: Sequence[DistributionPackage], version: str
) -> list[str]:
    """What on the index would get in the way of the one name; versions with a middle wheel are the farm's own."""
    ours = {file.version for file in auto}
    own = Version(version)
    unyanked: dict[Version, None] = {}
    for file in plain:
        try:
            if not file.is_yanked:
                unyanked[Version(file.version or "")] = None
        except InvalidVersion:
            continue
    name = project.settings.name
    found = []
    if higher := [one for one in unyanked if one > own]:
        found.append(f"{name} {max(higher)} is on the index: a plain `install {name}` takes that, not {version}")
    if older := sorted(one for one in unyanked if one < own and not one.is_prerelease and str(one) not in ours):
        found.append(
            f"{len(older)} older versions of {name} are not yanked ({older[0]} to {older[-1]}): resolvers fall back to "
            "them wherever the new one refuses; see docs/how-to/publish.md#the-first-release"
        )
    return found
