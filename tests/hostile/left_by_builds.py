"""What a build leaves where the farm reads: ninja's log, names asked of the SDK, lines of its own log."""

from __future__ import annotations

import math
import random
from pathlib import Path

from tests.hostile.damage import damage_text
from torch_build_farm.engines import ninja_log
from torch_build_farm.pipeline import installed_packages
from torch_build_farm.releases.sdk import fallback

_NINJA = "# ninja log v6\n" + "".join(
    f"{start}\t{start + 500}\t17000000000000000{start % 10}\tCMakeFiles/{name}.o\t{start:x}\n"
    for start, name in enumerate("abcdefgh")
)
_LOG = """#### torch-build-farm: build demo-torch29-cp311 2026-01-01T00:00:00+00:00
 + ninja==1.13.2
 ~ torch==2.9.0+sdk
torch.cuda is not in torch's SDK, which is for building and runs nothing
ModuleNotFoundError: No module named 'sympy'
"""
_NAMES = "torch.cuda\ntorch.utils.cpp_extension\ntorch._C._GLIBCXX_USE_CXX11_ABI\n"


def _numbers(chance: random.Random) -> str:
    numbers = ("0", "-1", "9" * 12, "9" * 19, "9" * 5000, "1e308", "nan", "٣", "0x1", " 1", "")
    columns = [chance.choice(numbers) for _ in range(chance.randint(3, 6))]
    return "\t".join(columns)


def examples(seed: int) -> str:
    """A text for all three: one of them, damaged, or a bomb."""
    chance = random.Random(seed)
    match chance.randrange(6):
        case 0:
            return damage_text(_NINJA, chance)
        case 1:
            return damage_text(_LOG, chance)
        case 2:
            return damage_text(_NAMES, chance)
        case 3:
            return "# ninja log v7\n" + "\n".join(_numbers(chance) for _ in range(100))
        case 4:
            words = (
                "torch",
                "torch.",
                " + a==1",
                "-",
                "==",
                " is not in torch's SDK",
                "No module named '",
                "\t",
                "\x1b[",
            )
            return "".join(chance.choice(words) for _ in range(chance.choice((10, 20_000))))
        case _:
            word = chance.choice(("torch.a", "torch", " + a", "a.", "\x1b[1;", "x\t", "1\t"))
            return word * (chance.choice((1_000, 2_000_000)) // len(word))


def check(data: str, folder: Path) -> None:
    """Read the text as each of them."""
    content = data.encode("utf-8", "surrogatepass")
    build, out = folder / "build", folder / "out"
    for place in (build, out):
        place.mkdir()
    (build / ninja_log.NAME).write_bytes(content)
    ninja_log.keep(build, out)
    seconds = ninja_log.compile_seconds(out)
    assert seconds is None or math.isfinite(seconds)

    log = content.decode("utf-8", "replace")
    packages = installed_packages.installed(log)
    assert all(len(name) <= len(log) for name in packages)
    assert len(fallback.missing_module(log)) < 100
    (out / "asked").write_bytes(content)
    assert len(fallback.names_refused(out / "asked", log)) < 5000
