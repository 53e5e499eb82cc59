"""What each stage leaves behind: one JSON file with the digest of its inputs, its outputs' SHA-256 and how it went.

A record lies where builds may write, so it counts as a proof only with the seal of this user's farm (core/seals).
Without one it is a claim: `verify` may look into that, and nothing else does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from torch_build_farm.core import foreign_files, paths, seals
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.pipeline.facts import BuildFacts, Facts, RenderFacts, RepairFacts, SomeFacts

SCHEMA = 3  # 1 had the facts as text, 2 no seal
_SAME_BUT_FOR_THE_SEAL = (2,)
MOST_BYTES = 2_000_000  # of a record's file; a build environment of 5,000 distributions makes 0.4 MB
WHEEL_STAGE = "relocate"  # the stage whose output is the finished wheel


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a stage made: path relative to the work folder, SHA-256, size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """How one stage of one job went.

    `digest` is over all inputs; `inputs` has the digest of each by its name, so that a later run can name those that
    changed. `details` are the stage's facts, None for a stage without any.
    """

    stage: str
    job: str
    digest: str
    outputs: tuple[Artifact, ...]
    seconds: float
    finished: str  # ISO 8601, UTC
    tools: dict[str, str] = field(default_factory=dict)
    details: Facts | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def facts(self, kind: type[SomeFacts]) -> SomeFacts:
        """The stage's facts. Raises TypeError where they are of another kind: the record is of another stage."""
        if not isinstance(self.details, kind):
            raise TypeError(f"the record of {self.stage} has no {kind.__name__}")
        return self.details


_ADAPTER = TypeAdapter(Record)


def digest(inputs: object) -> str:
    """SHA-256 of a stage's inputs, or of one of them, over a canonical form that is the same in every process.

    Raises TypeError for a value without one, such as a set or a function: its text may differ in the next process, and
    the stage would run again each time.
    """
    return hashlib.sha256(json.dumps(_canonical(inputs), sort_keys=True).encode()).hexdigest()


def _canonical(value: object) -> object:
    """`value` as JSON can have it: a dataclass as its class and fields, a path as its text, a tuple as a list."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        # With the name of the class, so that two classes with the same fields differ.
        entries = {entry.name: _canonical(getattr(value, entry.name)) for entry in fields(value)}
        return {type(value).__name__: entries}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("no canonical form for a mapping with keys other than text")
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_canonical(entry) for entry in value]
    raise TypeError(f"no canonical form for {type(value).__name__}")


def artifact(path: Path, work: Path) -> Artifact:
    """Describe a file, or a folder with all in it, under the work folder."""
    name = path.relative_to(work).as_posix()
    if path.is_dir():
        return Artifact(name, *_tree_digest(path))
    return Artifact(name, sha256(path), path.stat().st_size)


def _tree_digest(folder: Path) -> tuple[str, int]:
    """SHA-256 over the names, contents and links in a folder, and the bytes of its files."""
    total, size = hashlib.sha256(), 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # No dates, which a copy does not share, and of the permissions only those to execute.
        if path.is_symlink():
            total.update(f"{name}\0->{path.readlink()}\n".encode())
        elif path.is_file():
            total.update(f"{name}\0{sha256(path)}\0{path.stat().st_mode & 0o111}\n".encode())
            size += path.stat().st_size
    return total.hexdigest(), size


def intact(expected: Artifact, work: Path) -> bool:
    """Whether an artifact still exists, byte for byte."""
    path = work / expected.path
    return path.exists() and artifact(path, work) == expected


def path_of(folder: Path, stage: str) -> Path:
    """The file of a job's record of a stage: WORK/jobs/JOB/records/STAGE.json."""
    return folder / "records" / f"{stage}.json"


def write(record: Record, path: Path) -> None:
    """Write a record with its seal, atomically. Raises DiskError where this user has no key to seal with, or keeps it
    in the work folder.
    """
    seals.require_apart(_place(path)[0])
    document = asdict(record)
    document["seal"] = seals.seal(_sealed_content(document, path))
    replace_text(path, json.dumps(document, indent=2) + "\n")


def read(path: Path) -> Record | None:
    """The record in a file that this user's farm wrote there; None where the file is absent or no proof."""
    # A stage without a record runs again, which is always right, so none of these is an error.
    return _look(path)[0]


def doubt(path: Path) -> str:
    """Why the file of a record is no proof, in words for people; empty for a proof, and where there is no file."""
    return _look(path)[1]


def claim(path: Path) -> Record | None:
    """The record in a file, whoever wrote it; None where it is absent or damaged, or of another job or stage.

    It is somebody's claim about a wheel, to be checked by building that again, and never a proof.
    """
    document = _document(path)
    return _record(document, path, schemas=(SCHEMA, *_SAME_BUT_FOR_THE_SEAL)) if document else None


def _look(path: Path) -> tuple[Record | None, str]:
    """The record in a file if it is a proof, and the doubt if it is none."""
    document = _document(path)
    if document is None:
        return None, "damaged" if os.path.lexists(path) else ""
    if document.get("schema") != SCHEMA:
        return None, "of another release of the farm"
    # The seal first: nothing else of a file is looked at before it is known to be the farm's.
    seal = document.pop("seal", None)
    if not isinstance(seal, str) or not seals.holds(_sealed_content(document, path), seal):
        return None, "not sealed by this user's farm for this job and work folder"
    record = _record(document, path, schemas=(SCHEMA,))
    return record, "" if record else "damaged"


def _document(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where the file is absent, too large, or anything else."""
    try:
        document = json.loads(foreign_files.content(path, MOST_BYTES, follow_links=False))
        json.dumps(document, allow_nan=False)  # NaN and Infinity are no JSON; 1e999 is infinite too
    except (OSError, ValueError, RecursionError):  # the last of which ends deep nesting
        return None
    return document if isinstance(document, dict) else None


def _sealed_content(document: Mapping[str, Any], path: Path) -> bytes:
    """What the seal of a record is made over: all of it, and the place of its file.

    With the place, because a copy in another job's folder, under another stage's name or in another work folder would
    be a claim that nobody has looked at.
    """
    work, job, stage = _place(path)
    content = {name: value for name, value in document.items() if name != "seal"}
    return json.dumps(["record", str(work), job, stage, content], sort_keys=True, allow_nan=False).encode()


def _place(path: Path) -> tuple[Path, str, str]:
    """The work folder, job and stage that the file of a record belongs to."""
    job_folder = path.parent.parent
    return job_folder.parent.parent.resolve(), job_folder.name, path.stem


def _record(document: Mapping[str, Any], path: Path, schemas: Collection[int]) -> Record | None:
    """A document as a record; None where it is none, or of another schema, job or stage."""
    fields_of_record = {name: value for name, value in document.items() if name != "seal"}
    try:
        # As JSON, which pydantic reads by other rules than Python's objects: a list there is a tuple here.
        record = _ADAPTER.validate_json(json.dumps(fields_of_record))
    except ValidationError:
        return None
    _, job, stage = _place(path)
    # Whoever reads a record joins these paths to the work folder, also those of another machine's record.
    if any(paths.fault(output.path) for output in record.outputs):
        return None
    return record if record.schema in schemas and (record.job, record.stage) == (job, stage) else None


# ---- which job made this wheel?


@dataclass(frozen=True)
class JobRecords:
    """The records in a job's folder."""

    folder: Path

    def path(self, stage: str) -> Path:
        """The file of the record of a stage."""
        return path_of(self.folder, stage)

    def read(self, stage: str) -> Record | None:
        """The record of a stage; None as in `read`."""
        return read(self.path(stage))

    def claim(self, stage: str) -> Record | None:
        """The record of a stage, proof or not; None as in `claim`."""
        return claim(self.path(stage))


def by_wheel(work: Path) -> dict[str, JobRecords]:
    """The records of every job in a work folder that has made a wheel, by the wheel's SHA-256; only proofs count."""
    return _by_wheel(work, read)


def _by_wheel(work: Path, read_record: Callable[[Path], Record | None]) -> dict[str, JobRecords]:
    # By content: a wheel keeps its name when it is built again, and a copy of it may have another.
    jobs = {}
    for path in sorted(work.glob(f"jobs/*/records/{WHEEL_STAGE}.json")):
        record = read_record(path)
        if record:
            for wheel in record.outputs:
                jobs[wheel.sha256] = JobRecords(path.parent.parent)
    return jobs


def doubt_about(wheel_sha256: str, work: Path) -> str:
    """Why the record that claims to have made a wheel is no proof; empty where no record claims that."""
    job = _by_wheel(work, claim).get(wheel_sha256)
    return f"{job.path(WHEEL_STAGE)} is {doubt(job.path(WHEEL_STAGE))}" if job else ""


@dataclass(frozen=True)
class WheelRecords:
    """The records of the job that made a wheel: what `verify` needs to build it again.

    They are somebody's claim unless they are `proven`.
    """

    render: Record
    build: Record
    proven: bool = True

    @property
    def job(self) -> str:
        return self.build.job

    @property
    def rendered(self) -> RenderFacts:
        return self.render.facts(RenderFacts)

    @property
    def built(self) -> BuildFacts:
        return self.build.facts(BuildFacts)


def find(wheel: Path, work: Path) -> WheelRecords:
    """The records of the job that made `wheel`, found in `work` by its SHA-256, proofs or claims.

    Raises UsageError where there are none.
    """
    if not wheel.is_file():
        raise UsageError("the wheel does not exist", where=str(wheel), next_step="work/dist holds finished wheels")
    wheel_digest = sha256(wheel)
    jobs = {**_by_wheel(work, claim), **by_wheel(work)}  # a proof is better than a claim
    job = jobs.get(wheel_digest)
    render = job.claim("render") if job else None
    build = job.claim("build") if job else None
    if job and render and build and isinstance(render.details, RenderFacts) and isinstance(build.details, BuildFacts):
        doubts = [why for stage in ("render", "build", WHEEL_STAGE) if (why := doubt(job.path(stage)))]
        return WheelRecords(render, build, proven=not doubts)
    raise UsageError(
        f"no record shows how this wheel was made (sha256 {wheel_digest})",
        where=str(work / "jobs"),
        next_step="name the work folder of the run that made it with --work DIR; records of an older farm do not count",
    )


def torch_built_against(wheel: Path, work: Path) -> str:
    """The torch release that the farm built a wheel against, by the records of a work folder; empty without one."""
    if not wheel.is_file():
        return ""
    job = by_wheel(work).get(sha256(wheel))
    build = job.read("build") if job else None
    return build.facts(BuildFacts).torch_release if build else ""


def external_libraries(wheel: Path, work: Path) -> Mapping[str, str]:
    """The setting of that name that the farm repaired a wheel by, from the records of a work folder, if it has them."""
    if not wheel.is_file():
        return {}
    job = by_wheel(work).get(sha256(wheel))
    repair = job.read("repair") if job else None
    return repair.facts(RepairFacts).external_libraries if repair else {}
