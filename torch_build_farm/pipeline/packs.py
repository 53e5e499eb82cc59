"""Packs: finished jobs in one file each, to go from one machine to another.

A record is a proof only on the machine whose key sealed it. A pack holds wheels with their records, and its SHA-256
travels another way than the pack: in CI as the job's own output, which no other job can write. The machine that accepts
a pack compares the two before it reads anything, and then seals the records with its own key.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from torch_build_farm.core import foreign_files
from torch_build_farm.core.archives import Limits, unpack
from torch_build_farm.core.errors import PackError, SourceError
from torch_build_farm.core.files import remove_tree, replace_file, sha256
from torch_build_farm.core.machine import Machine
from torch_build_farm.core.paths import inside
from torch_build_farm.pipeline import records, workfolder
from torch_build_farm.pipeline.records import SCHEMA, WHEEL_STAGE, Record
from torch_build_farm.pipeline.shared_wheels import serves
from torch_build_farm.pipeline.stages.order import ALL
from torch_build_farm.project.plan import jobs_of
from torch_build_farm.project.settings import Project
from torch_build_farm.wheels import platforms

SHA256 = re.compile(r"[0-9a-f]{64}")
_STAGES = tuple(stage.name for stage in ALL)
_PER_CPYTHON = tuple(stage.name for stage in ALL if stage.per_cpython)
_PIECE = 1 << 20  # bytes
# A pack is not compressed: what it unpacks to is its own size. The largest wheels that an index takes are 1 GB.
_LIMITS = Limits(members=20_000, size=64 << 30)


@dataclass(frozen=True)
class PackedWheel:
    """A wheel in a pack, and the job that made it."""

    job: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Pack:
    """A pack that was written: its SHA-256 and its wheels, in order of their jobs."""

    path: Path
    sha256: str
    wheels: tuple[PackedWheel, ...]


# ---- making one


def finished_jobs(work: Path) -> tuple[str, ...]:
    """The jobs of a work folder that have made a wheel, by the records' own word."""
    return tuple(sorted(path.parent.parent.name for path in work.glob(f"jobs/*/records/{WHEEL_STAGE}.json")))


def write(work: Path, jobs: Sequence[str], path: Path) -> Pack:
    """Pack the wheels and records of finished jobs. The same files give the same bytes.

    Raises PackError for a job that lacks the proof of a stage, or whose wheel is not the one that was proven.
    """
    packed = []
    proofs = {job: _proofs(work, job) for job in jobs}
    with replace_file(path) as scratch:
        with tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as archive:
            for job, job_records in sorted(proofs.items()):
                for stage in _STAGES:
                    content = foreign_files.content(job_records[stage], records.MOST_BYTES, follow_links=False)
                    archive.addfile(_member(f"jobs/{job}/records/{stage}.json", len(content)), io.BytesIO(content))
                packed.append(_add_wheel(archive, work, job))
        digest = sha256(scratch)
    return Pack(path, digest, tuple(packed))


def _proofs(work: Path, job: str) -> dict[str, Path]:
    """The files of a job's records, one a stage, each of them a proof. Raises PackError."""
    paths = {stage: records.path_of(work / "jobs" / job, stage) for stage in _STAGES}
    for stage, path in paths.items():
        if records.read(path) is None:
            raise PackError(
                f"{job}: {stage} is not proven: {records.doubt(path) or 'it has left no record'}",
                where=str(path),
                next_step="build and smoke-test the job with this work folder, then pack it",
            )
    return paths


def _add_wheel(archive: tarfile.TarFile, work: Path, job: str) -> PackedWheel:
    """Add the wheel that a job has delivered. Raises PackError where it is not the one of the job's record."""
    made = records.JobRecords(work / "jobs" / job).read(WHEEL_STAGE)
    assert made is not None  # all are read before
    expected = made.outputs[0]
    path = work / "dist" / Path(expected.path).name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            file.seek(0)
            archive.addfile(_member(f"dist/{path.name}", size), file)
    except OSError as error:
        raise PackError(f"{job}: its wheel cannot be read: {error.strerror}", where=str(path)) from None
    if digest != expected.sha256:
        raise PackError(
            f"{job}: the wheel is not the one that was proven",
            where=f"{path}, sha256 {digest}; proven was {expected.sha256}",
            next_step="build and smoke-test the job again, then pack it",
        )
    return PackedWheel(job, path.name, expected.sha256)


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A file of a pack, without date, owner or permissions of this machine's."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


# ---- accepting some


@dataclass(frozen=True)
class _Unpacked:
    """A job out of a pack: its records, by stage, and its wheel."""

    job: str
    records: Mapping[str, Record]
    wheel: Path

    @property
    def packed(self) -> PackedWheel:
        return PackedWheel(self.job, self.wheel.name, self.records[WHEEL_STAGE].outputs[0].sha256)


def accept(
    packs: Sequence[Path], digests: Mapping[str, str] | str, project: Project, work: Path
) -> tuple[PackedWheel, ...]:
    """Take over the jobs of packs: their wheels go to the dist folder, their records are sealed with this user's key.

    `digests` are the SHA-256 of packs, each by the job that it is of, alone or with others of its variant; or the one
    SHA-256 of a pack of any jobs. All packs are taken over, or none of them.

    Raises PackError for a pack that nobody vouches for, or that has something else in it than it should; for a pack
    that is missing; for a job in two packs; and for two jobs with different wheels of the same name.
    """
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="accept-", dir=work) as folder:
        # Copies of this process's own, so that what is unpacked is what was hashed.
        copies = _copies(packs, digests, Path(folder))
        jobs: list[_Unpacked] = []
        for number, (copy, voucher) in enumerate(copies):
            of_pack = _unpack(copy, Path(folder) / f"unpacked-{number}", project)
            if voucher:
                _check_voucher(voucher, [unpacked.job for unpacked in of_pack], project, copy.name)
            jobs += of_pack
        _check_each_once(jobs)
        makers = _makers(jobs, project)

        def makes_its_wheel(unpacked: _Unpacked) -> bool:
            return makers[unpacked.wheel.name] == unpacked.job

        # Those that do come last, since a job that made the same wheel in an earlier run withdraws it first.
        for unpacked in sorted(jobs, key=makes_its_wheel):
            _take_over(unpacked, work, makes_wheel=makes_its_wheel(unpacked))
    return tuple(job.packed for job in jobs)


def _check_voucher(voucher: str, jobs: Sequence[str], project: Project, pack: str) -> None:
    """Raise PackError for a pack that `voucher` vouches for, with other jobs than it and those of its variant.

    A variant has jobs on several platforms, each with machines of its own.
    """
    known_jobs = jobs_of(project)
    known = [known_jobs[job][0] for job in (voucher, *jobs) if job in known_jobs]
    variants = {(variant.tag, variant.platform) for variant in known}
    if voucher not in jobs or len(variants) > 1:
        raise PackError(f"the pack that {voucher} vouches for is of {', '.join(jobs) or 'no job'}", where=pack)


def _check_each_once(jobs: Sequence[_Unpacked]) -> None:
    """Raise PackError for a job in two packs: which of them its machine vouches for, nothing says."""
    packs_with = Counter(unpacked.job for unpacked in jobs)
    for job, count in packs_with.items():
        if count > 1:
            raise PackError(
                f"{job} is in two packs",
                next_step="give the packs of one run: one for each job, or one for all jobs of a variant",
            )


def _copies(packs: Sequence[Path], digests: Mapping[str, str] | str, folder: Path) -> list[tuple[Path, str]]:
    """A private copy of each pack, with the job that vouches for it ("" where one digest is for any jobs).

    Raises PackError with every pack that nobody vouches for, and every one that is missing.
    """
    expected = {digests: ""} if isinstance(digests, str) else {digest: job for job, digest in digests.items()}
    if not isinstance(digests, str) and len(expected) != len(digests):
        raise PackError("two jobs vouch for the same pack", where=", ".join(sorted(digests)))
    missing = dict(expected)
    problems = []
    copies = []
    for number, pack in enumerate(packs):
        copy = folder / f"{number}.tar"
        digest = _copy(pack, copy)
        if digest not in expected:
            problems.append(f"{pack}: nobody vouches for it (sha256 {digest})")
        elif digest not in missing:
            problems.append(f"{pack}: the same pack is given twice")
        else:
            copies.append((copy, missing.pop(digest)))
    for digest, job in missing.items():
        problems.append(f"{job or 'the pack'} is missing: sha256 {digest}")
    if problems:
        raise PackError(
            "the packs are not those that were made:" + "".join(f"\n  - {problem}" for problem in problems),
            next_step="give the packs of one run, and the SHA-256 that `pack` printed for each",
        )
    return copies


def _copy(pack: Path, copy: Path) -> str:
    """Copy a pack; returns the SHA-256 of the copy. Raises PackError for what is no file, or larger than a pack is."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(foreign_files.opened(pack, follow_links=True))
        except OSError as error:
            raise PackError(f"the pack cannot be read: {error.strerror}", where=str(pack)) from None
        if os.fstat(file.fileno()).st_size > _LIMITS.size:
            raise PackError("the pack is too large", where=str(pack))
        with copy.open("xb") as output:
            shutil.copyfileobj(file, output, _PIECE)
    return sha256(copy)


def _unpack(copy: Path, folder: Path, project: Project) -> list[_Unpacked]:
    """The jobs in a pack. Raises PackError where it has anything else in it than a pack has."""
    try:
        unpack(copy, folder, _LIMITS)
    except SourceError as error:
        raise PackError(f"the pack cannot be unpacked: {error.what}", where=copy.name) from None
    files = set()
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise PackError(f"the pack has a link: {path.name!r}", where=copy.name)
        if path.is_file():
            files.add(path)
    wheels = {path.name: path for path in sorted((folder / "dist").glob("*.whl"))}
    known_jobs = jobs_of(project)
    jobs = []
    for job_folder in sorted((folder / "jobs").glob("*")):
        job = job_folder.name
        if job not in known_jobs:
            raise PackError(f"the pack has the job {job!r}, which this project does not have", where=copy.name)
        variant, _ = known_jobs[job]
        claims = _claims(job_folder)
        wheel = _wheel_of(job_folder, wheels, project.distribution(variant), variant.platform)
        unpacked = _Unpacked(job, claims, wheel)
        jobs.append(unpacked)
        files -= {unpacked.wheel, *(records.path_of(job_folder, stage) for stage in _STAGES)}
    if files:
        raise PackError(f"the pack has a file of no job: {min(files).name!r}", where=copy.name)
    return jobs


def _claims(job_folder: Path) -> dict[str, Record]:
    """A job's records, one a stage, without a proof of this machine's yet. Raises PackError."""
    claims = {}
    for stage in _STAGES:
        record = records.claim(records.path_of(job_folder, stage))
        if record is None or record.schema != SCHEMA:
            raise PackError(
                f"{job_folder.name}: the pack has no record of {stage} that this farm can read",
                next_step="pack and accept with the same release of the farm",
            )
        claims[stage] = record
    return claims


def _wheel_of(job_folder: Path, wheels: Mapping[str, Path], distribution: str, platform: Machine) -> Path:
    """The wheel that a job's record speaks of.

    Raises PackError where it is not there, of another distribution, or for another platform than the job's.
    """
    job = job_folder.name
    record = records.claim(records.path_of(job_folder, WHEEL_STAGE))
    outputs = record.outputs if record else ()
    wheel = wheels.get(Path(outputs[0].path).name) if len(outputs) == 1 else None
    if wheel is None or sha256(wheel) != outputs[0].sha256:
        raise PackError(f"{job}: the pack does not have the wheel that its records speak of")
    try:
        name = parse_wheel_filename(wheel.name)[0]
    except InvalidWheelFilename:
        raise PackError(f"{job}: {wheel.name!r} is no wheel's name") from None
    if name != canonicalize_name(distribution):
        raise PackError(f"{job}: the pack has a wheel of {name}")
    if not platforms.installs_on(wheel.name, platform):
        raise PackError(f"{job}: the pack has {wheel.name}, which is not for {platform.words}")
    return wheel


def _makers(jobs: Sequence[_Unpacked], project: Project) -> dict[str, str]:
    """The job whose wheel is taken, for each wheel's name: of several with the same wheel, that of the oldest CPython.

    So it is where one machine does these jobs. Raises PackError where two jobs have different wheels of the same name,
    or one that does not serve the CPythons of both.
    """
    known_jobs = jobs_of(project)
    of_name: dict[str, list[_Unpacked]] = {}
    for unpacked in jobs:
        of_name.setdefault(unpacked.wheel.name, []).append(unpacked)
    makers = {}
    for name, unpacked_jobs in of_name.items():
        maker, *others = sorted(unpacked_jobs, key=lambda unpacked: known_jobs[unpacked.job][1])
        for other in others:
            same_wheel = other.packed.sha256 == maker.packed.sha256
            if not (same_wheel and all(serves(name, known_jobs[job][1]) for job in (maker.job, other.job))):
                raise PackError(
                    f"{maker.job} and {other.job} both bring {name}",
                    next_step="let one machine build a wheel for several CPythons and test it on each: `plan --json` "
                    "puts them together where the build files name such a tag (py-api, py_limited_api, abi3)",
                )
        makers[name] = maker.job
    return makers


def _take_over(unpacked: _Unpacked, work: Path, *, makes_wheel: bool) -> None:
    """Put a job's wheel into the dist folder, and its records, sealed, into the job's.

    A job that does not make its wheel has records of what holds for its CPython alone, as after a run.
    """
    job_folder = inside(work, f"jobs/{unpacked.job}")
    # What lies there is of an earlier run, whose wheel may have had another name.
    workfolder.withdraw(job_folder, work)
    remove_tree(job_folder)
    if makes_wheel:
        workfolder.deliver(unpacked.wheel, job_folder, work)
    for stage, record in unpacked.records.items():
        if makes_wheel or stage in _PER_CPYTHON:
            records.write(record, records.path_of(job_folder, stage))
