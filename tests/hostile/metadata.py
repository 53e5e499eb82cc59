"""METADATA and RECORD in a wheel, damaged, and some that take long to read."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

from tests.elves import library
from tests.hostile.damage import damage_text
from torch_build_farm.audit import read_wheel
from torch_build_farm.core.errors import AuditError
from torch_build_farm.wheels.wheel import read_wheel as read_wheel_of_the_farm

_METADATA = """Metadata-Version: 2.1
Name: demo
Version: 1.0
Requires-Python: >=3.9,<4
Requires-Dist: torch==2.9.*
Requires-Dist: numpy[a,b]>=1.2; python_version < "3.13" and (extra == "x" or sys_platform == "linux")
Requires-Dist: other @ https://example.org/other-1.0.zip
Provides-Extra: x

A description.
"""
_RECORD = """demo/_core.so,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0
demo-1.0.dist-info/METADATA,,
demo-1.0.dist-info/RECORD,,
"""
_NAME = "demo-1.0-cp312-cp312-linux_x86_64.whl"


def _bomb(chance: random.Random) -> tuple[str, str]:
    count = chance.choice([50, 300, 5000, 100_000])
    field = chance.choice(
        [
            f"a>={'1' * count}",
            f"a=={'1.' * count}*",
            f"a; {'(' * count}python_version>'3'{')' * count}",
            f"a; {' and '.join([chr(39) + '3' + chr(39) + '<python_version'] * count)}",
            f"a[{','.join(['b'] * count)}]",
            f"a @ https://example.org/{'%' * count}",
            "a" * count,
            f"a {' ' * count}x",
            f"a>=1{',>=1' * count}",
            f"torch>={'0' * count}1+{'a.' * count}",
        ]
    )
    metadata = chance.choice(
        [
            f"Name: demo\nVersion: 1.0\nRequires-Dist: {field}\n",
            f"Name: demo\nRequires-Python: {field.partition('a')[2]}\n",
            "Requires-Dist: a\n" * count,
            "X:" + "\n x" * count,
            ":" * count,
            "\r" * count,
            f"Requires-Dist: =?utf-8?q?{'=41' * count}?=\n",
        ]
    )
    record = chance.choice(
        ['"' * count, "a,,\n" * count, "," * count, f"a,sha256={'=' * count},{'9' * count}\n", "a,x=,\n"]
    )
    return metadata, record


def examples(seed: int) -> tuple[str, str]:
    """METADATA and RECORD."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        return _bomb(chance)
    return damage_text(_METADATA, chance), damage_text(_RECORD, chance) if chance.random() < 0.5 else _RECORD


def check(data: tuple[str, str], folder: Path) -> None:
    path = folder / _NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo/_core.so", library(["a"]))
        for name, text in zip(("METADATA", "RECORD"), data, strict=True):
            archive.writestr(f"demo-1.0.dist-info/{name}", text.encode(errors="surrogatepass"))
    failure: AuditError | None = None
    try:
        read_wheel.read(path)
    except AuditError as error:
        failure = error
    wheel = read_wheel_of_the_farm(path)
    wheel.requirements("torch"), wheel.requires_python
    if failure:
        raise failure
