"""What each stage leaves behind: one JSON file with the digest of its inputs, its outputs' SHA-256 and how it went."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import replace_text, sha256
from torch_build_farm.releases.sdk.wheel import LOCAL

SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a stage made: path relative to the work folder, SHA-256, size in bytes."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Record:
    """How one stage of one job went. `details` are facts for people and for the report.

    `digest` is over all inputs; `inputs` has the digest of each by its name, to tell later which one changed.
    """

    stage: str
    job: str
    digest: str
    outputs: tuple[Artifact, ...]
    seconds: float
    finished: str  # ISO 8601, UTC
    tools: dict[str, str] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA


_ADAPTER = TypeAdapter(Record)


def digest(inputs: object) -> str:
    """SHA-256 of a stage's inputs, or of one of them, in canonical JSON; dataclasses in it count by their repr."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=repr).encode()).hexdigest()


def _tree_digest(folder: Path) -> tuple[str, int]:
    total, size = hashlib.sha256(), 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            total.update(f"{name}\0->{path.readlink()}\n".encode())
        elif path.is_file():
            total.update(f"{name}\0{sha256(path)}\0{path.stat().st_mode & 0o111}\n".encode())
            size += path.stat().st_size
    return total.hexdigest(), size


def artifact(path: Path, work: Path) -> Artifact:
    """Describe a file, or a folder with all in it, under the work folder."""
    name = path.relative_to(work).as_posix()
    if path.is_dir():
        return Artifact(name, *_tree_digest(path))
    return Artifact(name, sha256(path), path.stat().st_size)


def intact(found: Artifact, work: Path) -> bool:
    """Whether an artifact is still there, byte for byte."""
    path = work / found.path
    return path.exists() and artifact(path, work) == found


def path_of(folder: Path, stage: str) -> Path:
    """Where a job's record of a stage lies."""
    return folder / "records" / f"{stage}.json"


def read(path: Path) -> Record | None:
    """The record in a file; None where there is none, or none that this version of the farm wrote."""
    try:
        record = _ADAPTER.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return record if record.schema == SCHEMA else None


def write(record: Record, path: Path) -> None:
    """Write a record whole or not at all."""
    replace_text(path, json.dumps(asdict(record), indent=2) + "\n")


@dataclass(frozen=True)
class Recorded:
    """The records of the job that made a wheel."""

    render: Record
    build: Record
    relocate: Record

    @property
    def job(self) -> str:
        return self.relocate.job

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH of the build, Unix seconds."""
        return int(self.render.details["epoch"])

    @property
    def commit(self) -> str:
        """The commit that a git source was at; empty for other sources."""
        kind, _, place = self.render.details["source"].partition(" ")
        return place.rpartition("@")[2] if kind == "git" else ""

    @property
    def environment(self) -> tuple[str, ...]:
        """The distributions of the build environment, name==version; torch's SDK counts as its torch."""
        pins = self.build.details["environment"].split()
        return tuple(pin.removesuffix(f"+{LOCAL}") if pin.startswith("torch==") else pin for pin in pins)


def find(wheel: Path, work: Path) -> Recorded:
    """The records of the job that made `wheel`, found in `work` by its SHA-256.

    Raises UsageError where there are none.
    """
    if not wheel.is_file():
        raise UsageError("there is no such wheel", where=str(wheel), next_step="work/dist holds finished wheels")
    digest = sha256(wheel)
    for path in sorted(work.glob("jobs/*/records/relocate.json")):
        found = [read(path.with_name(f"{stage}.json")) for stage in ("render", "build", "relocate")]
        render, build, relocate = found
        known = render and "content" in render.details  # else of an older farm
        if render and build and relocate and known and digest in [one.sha256 for one in relocate.outputs]:
            return Recorded(render, build, relocate)
    raise UsageError(
        f"no record tells how this wheel was made (sha256 {digest})",
        where=str(work / "jobs"),
        next_step="name the work folder of the run that made it with --work DIR",
    )
