"""What each stage leaves behind: one JSON file with the digest of its inputs, its outputs' SHA-256 and how it went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path, PurePath

from pydantic import TypeAdapter, ValidationError

from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.pipeline.facts import BuildFacts, Facts, RenderFacts, SomeFacts

SCHEMA = 2  # 1 had the facts as text
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
    """The file of a job's record of a stage."""
    return folder / "records" / f"{stage}.json"


def read(path: Path) -> Record | None:
    """The record in a file; None where the file is absent, damaged, or of a farm with another schema."""
    # A stage without a record runs again, which is always right, so none of these is an error.
    try:
        record = _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return record if record.schema == SCHEMA else None


def write(record: Record, path: Path) -> None:
    """Write a record atomically."""
    replace_text(path, json.dumps(asdict(record), indent=2) + "\n")


# ---- which job made this wheel?


@dataclass(frozen=True)
class JobRecords:
    """The records in a job's folder."""

    folder: Path

    def read(self, stage: str) -> Record | None:
        """The record of a stage; None as in `read`."""
        return read(path_of(self.folder, stage))


def by_wheel(work: Path) -> dict[str, JobRecords]:
    """The records of every job in a work folder that has made a wheel, by the wheel's SHA-256."""
    # By content: a wheel keeps its name when it is built again, and a copy of it may have another.
    jobs = {}
    for path in sorted(work.glob(f"jobs/*/records/{WHEEL_STAGE}.json")):
        record = read(path)
        if record:
            for wheel in record.outputs:
                jobs[wheel.sha256] = JobRecords(path.parent.parent)
    return jobs


@dataclass(frozen=True)
class WheelRecords:
    """The records of the job that made a wheel: what `verify` needs to build it again."""

    render: Record
    build: Record

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
    """The records of the job that made `wheel`, found in `work` by its SHA-256.

    Raises UsageError where there are none.
    """
    if not wheel.is_file():
        raise UsageError("the wheel does not exist", where=str(wheel), next_step="work/dist holds finished wheels")
    wheel_digest = sha256(wheel)
    job = by_wheel(work).get(wheel_digest)
    render = job.read("render") if job else None
    build = job.read("build") if job else None
    if render and build:
        return WheelRecords(render, build)
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
