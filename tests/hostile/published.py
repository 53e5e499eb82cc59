"""published.json, damaged: what a merge, a pull request or a job of a CI system could leave beside a project's file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.hostile.damage import damage, damage_text
from torch_build_farm.publish import published_list
from torch_build_farm.publish.published_list import PublishedFile, PublishedList

_VALID = (
    PublishedList()
    .with_files(
        PublishedFile(
            name, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", index, digit * 64, adopted=digit == "a"
        )
        for name in ("demo", "demo-torch28")
        for version in ("1.0", "1.1")
        for index, digit in (("pypi", "a"), ("https://index.example/", "b"))
    )
    .text()
)


def _odd(value: Any, chance: random.Random) -> Any:
    """`value` with other types and texts somewhere in it."""
    if chance.random() < 0.1:
        texts = ["", "../x", "a/b", "\0", "\x1b[2J", "\ud800", "x" * 10_000, "A" * 64, "9" * 64]
        return chance.choice([None, -1, 2**63, 1e308, [], {}, True, *texts])
    if isinstance(value, dict):
        return {name: _odd(entry, chance) for name, entry in value.items() if chance.random() < 0.97}
    if isinstance(value, list):
        return [_odd(entry, chance) for entry in value]
    return value


def examples(seed: int) -> bytes:
    """The content of the file."""
    chance = random.Random(seed)
    bombs = [
        b"[" * 300_000, b'{"schema":' * 300_000, b'{"schema": 1, "files": [' + b"{}," * 200_000 + b"{}]}", b"\xff" * 1000,
        b'{"schema": 1e999, "files": []}', b'{"schema": 1, "files": "' + b"a" * 2_000_000 + b'"}', b"", b" " * 17_000_000,
    ]  # fmt: skip
    match chance.randrange(8):
        case 0:
            return damage(_VALID.encode(), chance)
        case 1 if chance.random() < 0.5:
            return chance.choice(bombs)
        case 2 | 3 | 4:
            return damage_text(_VALID, chance).encode("utf-8", "surrogatepass")
        case _:
            return json.dumps(_odd(json.loads(_VALID), chance)).encode()


def check(data: bytes, folder: Path) -> None:
    (folder / published_list.NAME).write_bytes(data)
    published = published_list.read(folder)
    # What is read is written, and read again, as the same.
    published_list.write(published, folder)
    assert published_list.read(folder) == published
