"""RECORD of a wheel: rows that lie, lead out, repeat or never end."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from tests.hostile.damage import damage, damage_text
from tests.hostile.wheels import INFO, NAME, packed, row
from torch_build_farm.audit import read_wheel as audited
from torch_build_farm.core.errors import FarmError
from torch_build_farm.wheels.record import sha256_by_member
from torch_build_farm.wheels.wheel import record_problems

_FILES = {
    "demo/__init__.py": b"",
    "demo/a.py": b"x",
    f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: demo-torch29\nVersion: 1.0\n",
    f"{INFO}/WHEEL": b"Wheel-Version: 1.0\n",
}
_STRANGE = [
    "demo/a.py,md5=AAAA,1", "demo/a.py,,", "demo/a.py", "demo/a.py,sha256=,", "demo/a.py,sha256=%,1", "demo/a.py,=,1",
    "demo/a.py,shake_128=AA,1", "demo/a.py,sha256=AA=AA,1", "demo/a.py,sha256=AA,-1", f"demo/a.py,sha256=AA,{'9' * 5000}",
    "../../etc/passwd,,", "/etc/passwd,,", ",,", ",", '"', '"a', f'"{"a" * 200_000}",,', "a\0b,,", "\ufeffdemo/a.py,,",
    "demo/libmissing.so,,", ",,,,,", "demo/a.py,sha256=ÄÖ,1", "demo/a.py,sha256=AA,١", "a" * 200_000,
]  # fmt: skip


def examples(seed: int) -> bytes:
    """The bytes of a RECORD."""
    chance = random.Random(seed)
    rows = [row(name, content) for name, content in _FILES.items()] + [f"{INFO}/RECORD,,"]
    for _ in range(chance.choice((0, 1, 1, 3))):
        rows.insert(chance.randint(0, len(rows)), chance.choice(_STRANGE))
    if chance.random() < 0.02:
        # Some a little larger than the farm reads; a larger one would only show what the generator takes.
        rows *= min(chance.choice((1000, 50_000)), 40_000_000 // sum(map(len, rows)))
    text = "".join(f"{line}{chance.choice((chr(10), chr(13) + chr(10)))}" for line in rows)
    if chance.random() < 0.4:
        text = damage_text(text, chance)
    content = text.encode("utf-8", "surrogatepass")
    return damage(content, chance) if chance.random() < 0.3 else content


def check(data: bytes, folder: Path) -> None:
    """Hand it to what reads a RECORD by itself, and to what reads it in a wheel."""
    wheel = folder / NAME
    wheel.write_bytes(packed(_FILES, data, random.Random(0)))
    for read in (record_problems, audited.read):
        with contextlib.suppress(FarmError):
            read(wheel)
    with contextlib.suppress(ValueError):  # what callers catch
        sha256_by_member(data)
