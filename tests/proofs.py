"""Records of jobs that never ran, as the farm writes and seals them."""

from pathlib import Path

from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.facts import AuditFacts, BuildFacts, Facts, RenderFacts, RepairFacts, SmokeFacts
from torch_build_farm.pipeline.records import Artifact, Record

_FACTS: dict[str, Facts | None] = {
    "render": RenderFacts("1.0", "path", "c" * 64, 315532800),
    "build": BuildFacts("local", "", "torch's SDK 2.9.0", 812.0, 17.5, (("ninja", "1.13.2"), ("torch", "2.9.0+sdk"))),
    "repair": RepairFacts("manylinux_2_28_x86_64"),
    "relocate": None,
    "audit": AuditFacts("2.9", {"2.9.0": "OK"}, ("GLIBC_2.17",)),
    "smoke": SmokeFacts("2.9.0", "12.8", ("cpu",), ("demo",), "passed"),
}
STAGES = tuple(_FACTS)


def prove(wheel: Path, work: Path, job: str, mode: str = "full", core: Path | None = None) -> dict[str, Path]:
    """Write the records of a job that made, audited and tested `wheel`, beside `core`; returns their files, by stage."""
    digest = sha256(wheel)
    inputs = {
        "wheel": records.digest(digest),
        "mode": records.digest(mode),
        "core": records.digest(sha256(core) if core else ""),
    }
    made = Artifact(f"jobs/{job}/relocated/{wheel.name}", digest, wheel.stat().st_size)
    tree = Artifact(f"jobs/{job}/source", "0" * 64, 0)
    outputs = {"render": (tree,), "relocate": (made,)}
    paths = {}
    for stage, facts in _FACTS.items():
        record = Record(stage, job, "d" * 64, outputs.get(stage, ()), 1, "2026-01-01", details=facts, inputs=inputs)
        paths[stage] = records.path_of(work / "jobs" / job, stage)
        records.write(record, paths[stage])
    return paths
