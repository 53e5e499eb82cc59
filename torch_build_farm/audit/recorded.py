"""What the farm's own records say of a wheel's build."""

from __future__ import annotations

from pathlib import Path

from torch_build_farm import records
from torch_build_farm.records import Record
from torch_build_farm.source import sha256


def release(path: Path, work: Path) -> str:
    """The torch release that the farm built a wheel against, by the records of a work folder; empty without one."""
    digest = sha256(path) if path.is_file() else ""
    for file in work.glob("jobs/*/records/relocate.json"):
        made = records.read(file)
        if made and any(output.sha256 == digest for output in made.outputs):
            return built_against(records.read(file.with_name("build.json")))
    return ""


def built_against(build: Record | None) -> str:
    """The torch release in the environment of a build, by its record."""
    environment = dict(one.split("==", 1) for one in (build.details.get("environment", "") if build else "").split())
    return environment.get("torch", "").partition("+")[0]
