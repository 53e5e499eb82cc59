"""Records, damaged and forged: what a build, or another machine, could leave in a work folder."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from tests.hostile.damage import damage, damage_text
from torch_build_farm.pipeline import rebuild, records
from torch_build_farm.pipeline.facts import BuildFacts, RenderFacts
from torch_build_farm.pipeline.records import Artifact, Record
from torch_build_farm.publish import upload_plan

JOB = "demo-torch29-cp311"
WHEEL = b"a wheel"
WHEEL_SHA256 = hashlib.sha256(WHEEL).hexdigest()
_TREE = Artifact(f"jobs/{JOB}/source", "0" * 64, 0)
_RECORDS = {
    "render": Record("render", JOB, "d", (_TREE,), 1.5, "2026-01-01", details=RenderFacts("1.0", "path", "c", 315532800)),
    "build": Record(
        "build", JOB, "d", (), 1.5, "2026-01-01",
        details=BuildFacts("local", "", "", 812.0, 17.5, (("ninja", "1.13.2"), ("torch", "2.9.0+sdk"))),
    ),
    "relocate": Record("relocate", JOB, "d", (Artifact("dist/demo.whl", WHEEL_SHA256, 7),), 1.5, "2026-01-01"),
}  # fmt: skip


@functools.cache
def _valid() -> dict[str, str]:
    """The text of each record as the farm writes it."""
    texts = {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, record in _RECORDS.items():
            path = records.path_of(Path(folder) / "jobs" / JOB, stage)
            records.write(record, path)
            texts[stage] = path.read_text()
    return texts


def _other_values(value: Any, chance: random.Random) -> Any:
    """`value` with other types and sizes somewhere in it."""
    if chance.random() < 0.15:
        odd: list[Any] = [
            None,
            -1,
            2**63,
            10**400,
            1e308,
            "",
            "\ud800",
            "x" * 10_000,
            [],
            {},
            [[[]]],
            {"a": {"b": 1}},
            True,
        ]
        return chance.choice(odd)
    if isinstance(value, dict):
        return {name: _other_values(entry, chance) for name, entry in value.items() if chance.random() < 0.97}
    if isinstance(value, list):
        return [_other_values(entry, chance) for entry in value]
    return value


def examples(seed: int) -> dict[str, bytes]:
    """The content of each record's file, by stage: one or all of them are not as the farm wrote them."""
    chance = random.Random(seed)
    files = {stage: text.encode() for stage, text in _valid().items()}
    for stage in chance.sample(sorted(files), chance.randint(1, len(files))):
        text = files[stage].decode()
        bombs = [
            b"[" * 1_000_000, b'{"a":' * 300_000, b"9" * 1_900_000, b'{"schema": NaN}', b'{"schema": 1e999}', b"",
            b"\xff" * 1000, b"0" * 3_000_000, b'{"schema": 3, "seal": "' + b"a" * 1_000_000 + b'"}',
        ]  # fmt: skip
        match chance.randrange(5):
            case 0:
                files[stage] = damage(files[stage], chance)
            case 1:
                files[stage] = damage_text(text, chance).encode("utf-8", "surrogatepass")
            case 2:
                files[stage] = chance.choice(bombs)
            case _:
                files[stage] = json.dumps(_other_values(json.loads(text), chance)).encode()
    return files


def check(data: dict[str, bytes], folder: Path) -> None:
    for stage, content in data.items():
        path = records.path_of(folder / "jobs" / JOB, stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        records.doubt(path)
        assert records.read(path) is None, "sealed for another folder, at best"
    wheel = folder / "demo.whl"
    wheel.write_bytes(WHEEL)
    assert upload_plan.proven([wheel], folder) != []
    rebuild.require_plausible(records.find(wheel, folder))
