"""Wheels whose members, METADATA and libraries are hostile, handed to everything of the farm that reads a wheel."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.elves import library
from tests.family import project
from tests.hostile.damage import damage, damage_text
from torch_build_farm.audit import read_wheel as audited
from torch_build_farm.core.errors import FarmError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.releases.sdk import fallback
from torch_build_farm.wheels import checks, compare, one_name, relocate
from torch_build_farm.wheels.limited_api import limited_api_problems
from torch_build_farm.wheels.machine_code import read_machine_code
from torch_build_farm.wheels.wheel import members_naming, read_wheel, record_problems, reissued

NAME = "demo_torch29-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
INFO = "demo_torch29-1.0.dist-info"
_METADATA = f"""Metadata-Version: 2.1
Name: demo-torch29
Version: 1.0
Requires-Python: >=3.10,<3.15
Requires-Dist: torch==2.9.*
Requires-Dist: numpy>=1.2; python_version >= "3.10" and extra == "more"
Provides-Extra: more
License-File: LICENSE
Description-Content-Type: text/markdown

{"# A demo " * 20}
"""
_BOMBS = [
    "Requires-Dist: torch" + "(" * 3000,
    "Requires-Dist: torch; " + "(" * 3000 + "a",
    "Requires-Dist: torch " + "==1," * 3000,
    "Requires-Dist: torch==" + "9" * 100_000,
    "Requires-Python: " + ">=3," * 3000,
    "Requires-Python: >=" + "1." * 3000,
    "Version: " + "1." * 3000,
    "Version: " + "9" * 100_000,
    "License-File: ../../../etc/passwd",
    "License-File: METADATA",
    "Requires-Dist: torch @ file:///etc/passwd",
    " continued" * 10_000,
]
_PARTS = ["demo", "demo", "demo", "demo.libs", "demo-1.0.data", "purelib", "scripts", "..", ".", "", "a.py", "_core.so",
          INFO, "RECORD", "METADATA", "WHEEL", "entry_points.txt", "_torch29", "_variant.txt", "__init__.py", "LICENSE",
          "a\nb", "a\\b", "\0", "x" * 256, "\u202e", "\x1b[2J", "${{ x }}"]  # fmt: skip


@functools.cache
def _library() -> bytes:
    return library((), ["PyInit__core"], ["libtorch_cpu.so", "libc.so.6"])


def row(name: str, content: bytes) -> str:
    """RECORD's row of a member."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}"


def members(chance: random.Random) -> dict[str, bytes]:
    """A wheel's members without RECORD, some of them hostile."""
    metadata = _METADATA
    if chance.random() < 0.3:
        metadata = damage_text(metadata, chance)
    if chance.random() < 0.2:
        lines = metadata.split("\n")
        lines.insert(chance.randint(0, 6), chance.choice(_BOMBS))
        metadata = "\n".join(lines)
    files = {
        "demo/__init__.py": b"",
        "demo/_core.so": damage(_library(), chance) if chance.random() < 0.3 else _library(),
        f"{INFO}/METADATA": metadata.encode("utf-8", "surrogatepass"),
        f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_x86_64\n",
        f"{INFO}/entry_points.txt": b"[console_scripts]\ndemo = demo:main\n",
    }
    for _ in range(chance.choice((0, 0, 0, 1, 1, 3))):
        name = "/".join(chance.choice(_PARTS) for _ in range(chance.randint(1, 4)))
        files[name] = chance.choice((b"", b"x", b"\x7fELF", _library()))
    if chance.random() < 0.02:
        files["demo/zeros.so"] = b"\x7fELF" + bytes(30 << 20)
    if chance.random() < 0.2:
        files.pop(chance.choice(list(files)))
    return files


def packed(files: dict[str, bytes], record: bytes, chance: random.Random) -> bytes:
    """The wheel of these members and this RECORD."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files, f"{INFO}/RECORD": record}.items():
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED
            modes = (0o100644, 0o100755, 0o120777, 0o010644)
            entry.external_attr = chance.choices(modes, (100, 10, 1, 1))[0] << 16
            archive.writestr(entry, content)
    return stream.getvalue()


def examples(seed: int) -> bytes:
    """A wheel."""
    chance = random.Random(seed)
    files = members(chance)
    rows = [row(name, content) for name, content in files.items()] + [f"{INFO}/RECORD,,"]
    content = packed(files, "".join(f"{line}\n" for line in rows).encode("utf-8", "surrogatepass"), chance)
    return damage(content, chance) if chance.random() < 0.3 else content


def check(data: bytes, folder: Path) -> None:
    """Hand the wheel to everything that reads one; each may refuse it by itself."""
    wheel = folder / NAME
    wheel.write_bytes(data)
    for name in ("out", "scratch"):
        (folder / name).mkdir()
    settings = project().settings
    shell = Shell(Runner(), {}, folder / "scratch", folder / "scratch" / "log", lambda _: None)
    readers: list[Callable[[], object]] = [
        lambda: limited_api_problems(read_wheel(wheel), read_machine_code(read_wheel(wheel))),
        lambda: record_problems(wheel),
        lambda: members_naming(wheel, ["/builder/work"]),
        lambda: checks.problems(read_wheel(wheel), settings, ["demo/__init__.py"]),
        lambda: audited.read(wheel),
        lambda: reissued(wheel, 1, folder / "out"),
        lambda: fallback.member_with_sdk_version(wheel, "2.9.0"),
        lambda: one_name.read_model(wheel, ["demo"]),
        lambda: compare.differences(
            wheel,
            relocate.relocate(wheel, folder / "out", folder / "scratch", settings=settings, tag="torch29", shell=shell),
        ),
    ]
    for read in readers:
        with contextlib.suppress(FarmError):
            read()
