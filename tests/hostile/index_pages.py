"""Pages of package indexes, damaged, and some that explode."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.hostile.damage import damage_text
from torch_build_farm.core import index_pages
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.releases.listing import Listing

_JSON, _HTML = "application/vnd.pypi.simple.v1+json", "text/html"
_NAMES = [
    "torch-2.9.0-cp312-cp312-manylinux_2_28_x86_64.whl",
    "torch-2.9.1-1-cp313-cp313t-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    "torch-2.8.0rc1.tar.gz",
    "torch-2.8.0+cpu-cp312-cp312-linux_x86_64.whl",
]


def _valid(chance: random.Random) -> tuple[str, str]:
    if chance.random() < 0.5:
        files = []
        for name in _NAMES:
            digest = {"sha256": chance.randbytes(32).hex()}
            files.append(
                {"filename": name, "url": f"../{name}", "hashes": digest, "core-metadata": digest, "yanked": ""}
            )
        return json.dumps({"name": "torch", "meta": {"api-version": "1.4"}, "files": files}), _JSON
    links = [f'<a href="{name}#sha256=ab" data-requires-python="&gt;=3.9">{name}</a><br>' for name in _NAMES]
    return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>", _HTML


def _bomb(chance: random.Random) -> tuple[str, str]:
    size = chance.randrange(1, 1 << 20)
    version = "9" * chance.choice([200, 5000, 100_000])
    name = chance.choice([f"torch-{version}.tar.gz", f"torch-1.{'0.' * 60}0.zip", f"torch-1-{version}-a-b-c.whl"])
    return chance.choice(
        [
            ("[" * size, _JSON),
            ('{"files":' * size, _JSON),
            ('{"files":[' + "{}," * size + "{}]}", _JSON),
            ('"\\"' * size, _JSON),
            ('{"files": 1.' + "1" * size + "}", _JSON),
            ('{"files": ' + "1" * size + "}", _JSON),
            ("<a href=x>" * size, _HTML),
            ("<a " * size, _HTML),
            ("<!--" * size, _HTML),
            ('<a "' * size, _HTML),
            ("<a href=x>" + "<b>" * size, _HTML),
            ("&#" + "9" * size, _HTML),
            (f'<a href="{"&#9" * (size // 4)};">x</a>', _HTML),
            (f'<a href="x">{name}</a>' * min(9000, size // len(name) + 1), _HTML),
            ("\U0001f600" * size, _HTML),
        ]
    )


def examples(seed: int) -> tuple[str, str]:
    """A page and its content type."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        return _bomb(chance)
    text, kind = _valid(chance)
    return damage_text(text, chance), kind


def check(data: tuple[str, str], folder: Path) -> None:
    text, kind = data
    try:
        files = index_pages.files(
            text.encode(errors="surrogatepass"), kind, "https://index.example/simple/torch/", "torch"
        )
    except (ValueError, RecursionError) as error:  # as `PackageIndex.files` does
        raise PackageIndexError("the list cannot be read") from error
    Listing.of(files)
