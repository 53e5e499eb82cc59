"""What each stage leaves behind: one JSON file with the digest of its inputs, its outputs' SHA-256 and how it went."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from torch_build_farm.core.files import sha256

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
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(record), indent=2) + "\n", "utf-8")
    scratch.replace(path)
