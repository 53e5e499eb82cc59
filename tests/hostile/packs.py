"""Packs whose SHA-256 is right, and whose content is not: what a build that owns its machine could hand over."""

from __future__ import annotations

import functools
import io
import random
import tarfile
import tempfile
from pathlib import Path

from tests.conftest import CHECKOUT
from tests.hostile.damage import damage
from tests.hostile.records import examples as records_of
from tests.proofs import prove
from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline import packs
from torch_build_farm.project.settings import Project, load

JOB = "pymomentum-gpu-torch29-cp312"
WHEEL = "pymomentum_gpu_torch29-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"


@functools.cache
def _project() -> Project:
    return load(CHECKOUT, CHECKOUT)


@functools.cache
def _valid() -> dict[str, bytes]:
    """The members of a pack as the farm writes it."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / "dist" / WHEEL
        wheel.parent.mkdir()
        wheel.write_bytes(b"a wheel")
        prove(wheel, Path(folder), JOB)
        pack = packs.write(Path(folder), [JOB], Path(folder) / "pack.tar")
        with tarfile.open(pack.path) as archive:
            return {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]


def _tar(content: dict[str, bytes], chance: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if chance.random() < 0.05:
                member.type = chance.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
                member.linkname = chance.choice(("/etc/passwd", "../..", "records", JOB, "a" * 5000))
                member.size = 0
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def examples(seed: int) -> bytes:
    """The bytes of a pack."""
    chance = random.Random(seed)
    content = dict(_valid())
    names = sorted(content)
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(names)
        match chance.randrange(6):
            case 0:
                content.pop(name, None)
            case 1:
                content[name] = damage(_valid()[name], chance)
            case 2:
                content[name] = chance.choice(list(records_of(chance.randrange(1000)).values()))
            case 3:
                strange = chance.choice(
                    ("../" * 30 + "x", "/tmp/x", "a/" * 400 + "x", "dist/\x1b[2J.whl", "dist/" + "x" * 300)
                )
                content[strange] = b"x"
            case 4:
                other = name.replace(JOB, chance.choice(("..", "pymomentum-gpu-torch28-cp312", "x" * 300)))
                content[other] = content.pop(name, b"")
            case _:
                content[f"jobs/{JOB}/{chance.randrange(10_000)}"] = b"x" * chance.randrange(10_000)
    data = _tar(content, chance)
    return damage(data, chance) if chance.random() < 0.4 else data


def check(data: bytes, folder: Path) -> None:
    pack = folder / "pack.tar"
    pack.write_bytes(data)
    packs.accept([pack], sha256(pack), _project(), folder / "work")
