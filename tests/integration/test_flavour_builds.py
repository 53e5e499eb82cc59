"""torch for another CUDA than the default index has: found on its own index, added, built against, and proven with it."""

from __future__ import annotations

import shutil
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Farm
from tests.made_up import Front, remade
from torch_build_farm.core.errors import NEWS_EXIT_CODE, UnknownTorchError, UsageError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import default_folder
from torch_build_farm.core.versions import CPython

pytestmark = pytest.mark.torch

VERSION = "2.9.1+cu126"
TAG = CPython.running().tag
MODEL = f"torch-2.9.1-{TAG}-{TAG}-manylinux_2_28_x86_64.whl"


@pytest.fixture
def flavours_index(tmp_path: Path) -> Iterator[Front]:
    """An index with torch 2.9.1 for CUDA 12.6: the real one for 12.8 under another name, beside the runtime of 12.6."""
    index = PackageIndex.configured()
    (file,) = (one for one in index.files("torch") if one.filename == MODEL)
    index.download(file, tmp_path / MODEL)
    made = tmp_path / MODEL.replace("2.9.1", VERSION)
    remade(tmp_path / MODEL, made, VERSION, {
        "torch/version.py": lambda text: text.replace(b"2.9.1+cu128", b"2.9.1+cu126").replace(b"'12.8'", b"'12.6'"),
        "torch-2.9.1.dist-info/METADATA": lambda text: text.replace(
            b"nvidia-cuda-runtime-cu12==12.8.90", b"nvidia-cuda-runtime-cu12==12.6.77"),
    })  # fmt: skip
    (tmp_path / MODEL).unlink()
    # As the real index of a flavour: no other torch, and not all that torch requires.
    front = Front({made.name: made}, real="(?!)")
    yield front
    front.close()
    cache = default_folder() / "uv"
    for version in cache.glob("archive-v*/*/torch/version.py"):
        if VERSION in version.read_text():
            shutil.rmtree(version.parent.parent)


def test_from_the_index_to_a_wheel(make_farm: Callable[..., Farm], flavours_index: Front) -> None:
    farm, url = make_farm("probe"), flavours_index.url

    # Without the variant the command says how to get it; without the index `add` asks for it.
    unknown = farm("plan", "--torch", "2.9:cu126")
    assert unknown.code == UnknownTorchError.exit_code
    assert "`add 2.9:cu126 --index URL`" in unknown.err
    assert farm("add", "2.9:cu126").code == UsageError.exit_code
    assert farm("add", "2.9", "--index", url).code == UsageError.exit_code

    found = farm("discover", "--index", url, "--json")
    assert found.code == NEWS_EXIT_CODE, found.err
    (minor,) = found.document["minors"]
    assert (minor["torch"], minor["status"], minor["releases"]) == ("2.9:cu126", "missing", [VERSION])

    added = farm("add", "2.9:cu126", "--index", url, "--json")
    assert added.code == 0, added.err
    path = farm.project / "variants" / "torch29-cu126.toml"
    variant = tomllib.loads(path.read_text())
    assert (variant["torch"], variant["index"], variant["release"]) == ("2.9:cu126", url, VERSION)
    assert (variant["cuda"], variant["cuda-runtime"]) == ("12.6", "nvidia-cuda-runtime-cu12==12.6.77")
    assert variant["cuda-image"] == "pytorch/manylinux2_28-builder:cuda12.6"
    assert farm("discover", "--index", url).code == 0

    done = farm("run", "--torch", "2.9:cu126", "--json")
    assert done.code == 0, done.err
    (job,) = done.document["jobs"]
    details = {stage["stage"]: stage["details"] for stage in job["stages"]}
    smoke = details["smoke"]
    assert (smoke["torch"], smoke["cuda"], smoke["refuses"]) == (VERSION, "12.6", "torch 2.10")
    assert "2.9.1=OK" in details["audit"]["releases"]
    (wheel,) = farm.work.glob("dist/*torch29_cu126*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assert any("/_torch29_cu126/" in name for name in names)
    assert "Requires-Dist: torch==2.9.*\n" in metadata
    assert "+cu126" not in metadata

    # Beside the minor's own variant, with all of torch, and as users read of it.
    assert farm("run", "--torch", "2.9", "2.9:cu126", "--smoke", "import").code == 0
    assert farm("meta", "--offline").code == 0
    table = (farm.work / "COMPATIBILITY.md").read_text()
    assert "| 2.9:cu126 |" in table
    assert f'`pip install "torch-probe[torch29-cu126]" --extra-index-url {url}`' in table
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\ntorch-build = "full"')
    full = farm("build", "--torch", "2.9:cu126")
    assert full.code == 0, full.err
    (log,) = farm.work.glob("logs/*cu126*.log")
    assert f"torch=={VERSION}" in log.read_text()
