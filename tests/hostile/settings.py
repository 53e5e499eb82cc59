"""A project's file and a variant's file, damaged: what a fork or a pull request could hold."""

from __future__ import annotations

import random
from pathlib import Path

from tests.conftest import CHECKOUT, PROJECTS
from tests.hostile.damage import damage_text
from torch_build_farm.project import settings

_VALID = [
    (PROJECTS / "tiny" / "pyproject.toml").read_text("utf-8"),
    (CHECKOUT / "pyproject.toml").read_text("utf-8"),
    (CHECKOUT / "variants" / "torch29.toml").read_text("utf-8"),
]


def examples(seed: int) -> tuple[str, str]:
    """The name of a file in the project's folder, and its text."""
    chance = random.Random(seed)
    kind = chance.randrange(len(_VALID))
    name = "variants/torch29.toml" if kind == 2 else "pyproject.toml"
    bombs = ["a = " + "[" * 3000, "a = " + "{b=" * 3000, "[" + "a." * 3000 + "a]", "a = " + "9" * 100_000, ""]
    text = chance.choice(bombs) if chance.random() < 0.1 else damage_text(_VALID[kind], chance)
    return name, text


def check(data: tuple[str, str], folder: Path) -> None:
    name, text = data
    (folder / "variants").mkdir()
    (folder / "pyproject.toml").write_text(_VALID[0])
    (folder / name).write_text(text, "utf-8", errors="surrogatepass")
    settings.load(folder, CHECKOUT)
