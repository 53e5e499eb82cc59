"""What the farm's own records say of a wheel's build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_build_farm.pipeline.records import Record


def release(path: Path, work: Path) -> str:
    """The torch release that the farm built a wheel against, by the records of a work folder; empty without one."""
    relocated = sorted(work.glob("jobs/*/records/relocate.json"))
    if not relocated or not path.is_file():
        return ""
    from torch_build_farm.core.files import sha256  # noqa: PLC0415
    from torch_build_farm.pipeline import records  # noqa: PLC0415 (slow to import)

    digest = sha256(path)
    for file in relocated:
        made = records.read(file)
        if made and any(output.sha256 == digest for output in made.outputs):
            return built_against(records.read(file.with_name("build.json")))
    return ""


def built_against(build: Record | None) -> str:
    """The torch release in the environment of a build, by its record."""
    environment = dict(one.split("==", 1) for one in (build.details.get("environment", "") if build else "").split())
    return environment.get("torch", "").partition("+")[0]
