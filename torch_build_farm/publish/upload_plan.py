"""What is to be published and in which order. Pure, except that it reads the index.

The core comes first where there is one, then variants, the rungs and the middle wheel, and the plain wheel last: at no
moment does the index have a wheel whose requirements it lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.errors import PackageIndexError, PublishError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.wheel_archive import dist_info
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.records import JobRecords
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import served_platforms
from torch_build_farm.publish.names import IndexFile, IndexNames, distribution_of
from torch_build_farm.publish.private_copies import PrivateCopy
from torch_build_farm.publish.publication import Item, PublishPlan, State
from torch_build_farm.wheels.wheel import opened


def proven(wheels: Iterable[Path], work: Path) -> list[str]:
    """Reasons why these variants may not be published, one sentence each; `work` is the folder that holds the records.

    A variant needs a record of its SHA-256, and an audit and a full smoke test of the same bytes, each with the seal of
    this user's farm.
    """
    return list(doubts({wheel.name: sha256(wheel) for wheel in wheels}, work).values())


def doubts(wheels: Mapping[str, str], work: Path) -> dict[str, str]:
    """As `proven`, for the SHA-256 of wheels by their names: those that are proven have no doubt."""
    jobs = records.by_wheel(work)
    problems = {}
    for name, digest in wheels.items():
        job = jobs.get(digest)
        if job is None:
            doubt = records.doubt_about(digest, work) or f"no record has its SHA-256 {digest}"
            problems[name] = f"{name}: {doubt}"
            continue
        # A record may be that of an earlier wheel of the same job. Its inputs decide; records keep digests of them.
        audit = job.read("audit")
        smoke = job.read("smoke")
        if audit is None or audit.inputs.get("wheel") != records.digest(digest):
            problems[name] = f"{name}: not audited{_because(job, 'audit')}"
        elif smoke is None or smoke.inputs.get("wheel") != records.digest(digest):
            problems[name] = f"{name}: not smoke-tested{_because(job, 'smoke')}"
        elif smoke.inputs.get("mode") != records.digest("full"):
            problems[name] = f"{name}: smoke-tested, but not in full"
    return problems


def _because(job: JobRecords, stage: str) -> str:
    """Why the record of a stage is no proof, as the end of a sentence; empty where there is none, or it is one."""
    doubt = records.doubt(job.path(stage))
    return f": the record is {doubt}" if doubt else ""


def plan(
    project: Project, variants: Sequence[PrivateCopy], behind: Sequence[PrivateCopy], names: IndexNames, target: str
) -> PublishPlan:
    """Compare what is built with what the index has. `variants` has the wheels of their core first; `behind` are the
    wheels behind the one name, in order.

    Raises PublishError if the index has another file of the same name, or a file under one of the names that is not
    this project's, PackageIndexError if it cannot be read.
    """
    listed: dict[str, list[IndexFile]] = {}
    for wheel in (*variants, *behind):
        name = parse_wheel_filename(wheel.path.name)[0]
        if name not in listed:  # a variant has a wheel for each CPython
            listed[name] = names.files(name)
    names.require_own(chain.from_iterable(listed.values()), target)

    items = []
    for wheel in (*variants, *behind):
        name, version, _, _ = parse_wheel_filename(wheel.path.name)
        published = find_file(listed[name], wheel.path.name)
        digest = wheel.sha256
        state: State = "new"
        if published:
            if published.sha256 == digest:
                state = "there"
            elif wheel in behind and _consistent(wheel.path, published, names, _flavours_among(project, variants)):
                # It has the extras of the variants known when it was made; the new ones come with the next version.
                state = "kept"
                digest = published.sha256
            else:
                raise PublishError(
                    f"the index has another {wheel.path.name}",
                    where=f"sha256 here {digest}, there {published.sha256}",
                    next_step="a published file never changes: raise the version, or re-issue a broken variant with "
                    "--build-number 1",
                )
        items.append(Item(wheel.original, name, str(version), digest, wheel.size, state))

    # `listed` has the names in the order of the items.
    new_names = tuple(name for name, files in listed.items() if not files)
    plain = listed.get(canonicalize_name(project.settings.name), [])
    auto = listed.get(canonicalize_name(project.auto_name), [])
    warnings = _warnings(project, plain, auto, items[-1].version)
    # Which platforms are served the variants say: a core without one serves none.
    core = canonicalize_name(project.settings.core.name) if project.settings.core else ""
    wheels = [copy.path.name for copy in variants if distribution_of(copy.path.name) != core]
    on_index = chain.from_iterable(files for name, files in listed.items() if name != core)
    warnings += served_platforms.warnings(project, wheels, list(on_index), items[-1].version)
    return PublishPlan(tuple(items), new_names, tuple(warnings))


def find_file(files: Iterable[IndexFile], name: str) -> IndexFile | None:
    """The file of that name among those of a project on the index; None if it is not there."""
    for file in files:
        if file.file_name == name:
            return file
    return None


def _metadata(path: Path) -> list[str]:
    """The lines of a wheel's METADATA."""
    with opened(path) as archive:
        return archive.read(f"{dist_info(archive)}/METADATA").decode("utf-8").splitlines()


def _flavours_among(project: Project, variants: Iterable[PrivateCopy]) -> dict[str, str]:
    """The distributions of flavours among the wheels, by their extra's name."""
    published = {distribution_of(copy.path.name) for copy in variants}
    flavours = [minor for minor in project.by_minor if minor.flavour]
    names = {flavour.tag: canonicalize_name(project.distribution(flavour)) for flavour in flavours}
    return {tag: name for tag, name in names.items() if name in published}


def _consistent(path: Path, published: IndexFile, names: IndexNames, flavours: Mapping[str, str]) -> bool:
    """Whether the published wheel behind the one name differs only in that it lacks variants that came later.

    It is this project's, by its SHA-256: this is only about what the maintainer changed since. Raises PublishError
    where nobody would get one of the `flavours`.
    """
    older_wheel = names.scratch / "published.whl"
    try:
        names.index.download(published.file, older_wheel)
        if sha256(older_wheel) != published.sha256:
            raise PackageIndexError(
                f"the index served another {published.file_name} than it lists",
                where=f"sha256 {published.sha256}",
                next_step="run again; if it stays so, this index cannot be trusted",
            )
        older = _metadata(older_wheel)
    finally:
        older_wheel.unlink(missing_ok=True)
    newer = _metadata(path)
    require_extras(published.file_name, older, flavours)
    if not set(older) <= set(newer):
        return False
    # A variant adds its extra, and requirements under that extra; any other line would be a change to the wheel.
    for line in newer:
        is_of_extra = line.startswith("Provides-Extra") or "extra ==" in line
        if line not in older and not is_of_extra:
            return False
    return True


def require_extras(published: str, metadata: Collection[str], flavours: Mapping[str, str]) -> None:
    """Raise PublishError for a published plain wheel without the extra of a flavour that is to be published with it.

    Unlike those of minors they are not declared ahead. `metadata` are its lines, `flavours` the distributions by their
    extras. A wheel without extras, which is none of the plain name, is good.
    """
    if not any(line.startswith("Provides-Extra: torch") for line in metadata):
        return
    lacking = [name for tag, name in flavours.items() if f"Provides-Extra: {tag}" not in metadata]
    if lacking:
        raise PublishError(
            f"{published} is published without the extra that leads to {', '.join(lacking)}",
            where="the plain wheel, whose dispatcher does not know that flavour either",
            next_step="a published file never changes: publish the flavour with a new version, or remove its wheel",
        )


def _warnings(project: Project, plain: Sequence[IndexFile], auto: Sequence[IndexFile], version: str) -> list[str]:
    """Warnings of versions on the index that resolvers take in place of `version`, one sentence each.

    `plain` and `auto` are the index's files of the one name and of the middle wheel. Versions that have a middle wheel
    come from the farm, and resolvers may take them.
    """
    farm_versions = {file.file.version for file in auto}
    new = Version(version)
    higher = set()
    older = set()
    for file in plain:
        if file.file.is_yanked:
            continue
        try:
            other = Version(file.file.version or "")
        except InvalidVersion:  # from before PEP 440; resolvers ignore it
            continue
        if other > new:
            higher.add(other)
        elif other < new and not other.is_prerelease and str(other) not in farm_versions:
            older.add(other)

    name = project.settings.name
    warnings = []
    if higher:
        warnings.append(f"{name} {max(higher)} is on the index: a plain `install {name}` takes that, not {version}")
    if older:
        warnings.append(
            f"{len(older)} older versions of {name} are not yanked ({min(older)} to {max(older)}): resolvers fall back "
            "to them wherever the new one refuses; see docs/how-to/publish.md#the-first-release"
        )
    return warnings
