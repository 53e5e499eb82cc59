"""A torch release that the farm has never seen becomes a variant: discovered, added, built and proven."""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, PROJECTS, Answer, Farm, need
from tests.made_up import Front, pure, remade, without_symbol
from torch_build_farm.audit.demangle import demangled
from torch_build_farm.core.errors import NEWS_EXIT_CODE
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.store import STORE_VARIABLE, default_folder
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.interpreters import find_interpreters

pytestmark = pytest.mark.torch

SYMBOL, TYPE = "_ZN3c1011GetNUMANodeEPKv", "c10::ExtraMeta"
MODEL, NEW = "torch-2.15.0-cp312-cp312-manylinux_2_28_x86_64.whl", "2.16.0"
REMOVED, FOR_ARM64 = ("torch214.toml", "torch215.toml"), "torch215-aarch64.toml"
# Of the CPythons that the release has which never was, so that its predecessor's wheel can be held against it.
PYTHON = ("--python", "3.12") if CPython(3, 12) in find_interpreters(os.environ) else ()


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    """A store of its own, since what it learns of 2.16 would change the audits of other runs; uv's cache is the shared one."""
    root = default_folder() / "tests" / f"{os.getpid()}-add"
    root.mkdir(parents=True)
    (root / "uv").symlink_to(default_folder() / "uv")
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Farm:
    """A small torch extension in a checkout without history, and without some variants of 2.14 and 2.15."""
    root = tmp_path_factory.mktemp("add")
    project = root / "project"
    shutil.copytree(PROJECTS / "probe", project)
    for folder in ("variants", "templates", "torch_build_farm"):
        shutil.copytree(CHECKOUT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "build_farm.py", project)
    for name in (*REMOVED, FOR_ARM64):
        (project / "variants" / name).unlink()
    return Farm(project, root / "work", {STORE_VARIABLE: str(store)}, checkout=project)


@pytest.fixture(scope="module")
def built(farm: Farm) -> dict[str, Answer]:
    """What every command said on the way to the two variants and the wheel of the newer one, which are there now."""
    said = {"discover": farm("discover", "--json"), "dry run": farm("add", "2.14", "2.15", "--dry-run")}
    assert not any((farm.project / "variants" / name).exists() for name in REMOVED)
    said["add"] = farm("add", "2.14", "2.15", "--json")
    said["discover again"] = farm("discover")
    said["discover for arm64"] = farm("discover", "--platform", "aarch64", "--json")
    said["add for arm64"] = farm("add", "2.15", "--platform", "aarch64", "--json")
    said["run"] = farm("run", "--torch", "2.15", *PYTHON, "--json")
    return said


def test_removed_variants_come_back(farm: Farm, built: dict[str, Answer]) -> None:
    found = built["discover"]
    assert found.code == NEWS_EXIT_CODE
    missing = {one["torch"]: one for one in found.document["minors"] if one["status"] == "missing"}
    assert set(missing) == {"2.14", "2.15"}
    assert missing["2.15"]["facts"]["cuda"]["value"] == "13.2"
    assert missing["2.15"]["facts"]["pin"]["value"] == "==2.15.*"
    assert found.document["bytes"] < 5_000_000

    assert built["dry run"].code == 0
    assert "+cuda = " in built["dry run"].out

    added = built["add"]
    assert added.code == 0, added.err
    for name, told in zip(REMOVED, added.document["variants"], strict=True):
        made = farm.project / "variants" / name
        assert tomllib.loads(made.read_text()) == tomllib.loads((CHECKOUT / "variants" / name).read_text())
        assert all(fact["source"] for key, fact in told["facts"].items() if key != "torch")
        assert all("#" in line for line in made.read_text().splitlines() if not line.startswith("torch ="))
    assert built["discover again"].code == 0

    missing = {
        one["torch"]: one for one in built["discover for arm64"].document["minors"] if one["status"] == "missing"
    }
    assert {torch: one["platform"] for torch, one in missing.items()} == {"2.15": "aarch64"}
    assert built["add for arm64"].code == 0, built["add for arm64"].err
    made = farm.project / "variants" / FOR_ARM64
    assert tomllib.loads(made.read_text()) == tomllib.loads((CHECKOUT / "variants" / FOR_ARM64).read_text())

    run = built["run"]
    assert run.code == 0, run.err
    (job,) = run.document["jobs"]
    assert job["stages"][-1]["stage"] == "smoke"


@pytest.fixture
def made_up_index(tmp_path: Path) -> Iterator[Front]:
    """torch 2.15 under another version: one symbol less, one type grown, another CUDA major, C++ standard, no cp311."""
    need(bool(PYTHON), "needs CPython 3.12")
    index = PackageIndex.configured()
    (file,) = (one for one in index.files("torch") if one.filename == MODEL)
    index.download(file, tmp_path / MODEL)
    made = tmp_path / "made.whl"
    remade(tmp_path / MODEL, made, NEW, {
        "torch/version.py": lambda text: text.replace(b"2.15.0+cu132", b"2.16.0+cu140").replace(b"'13.2'", b"'14.0'"),
        "torch/share/cmake/Torch/TorchConfig.cmake":
            lambda text: text + b"\nset_target_properties(torch PROPERTIES CXX_STANDARD 23)\n",
        "torch/lib/libc10.so": lambda library: without_symbol(library, SYMBOL),
        "torch/include/c10/core/TensorImpl.h": lambda text: text.replace(
            b" fake_constant_ = nullptr;", b" fake_constant_ = nullptr; int64_t made_up_ = 0;"),
        "torch-2.15.0.dist-info/METADATA": lambda text: text.replace(b"]==13.2.2", b"]==14.0.0"),
    })  # fmt: skip
    (tmp_path / MODEL).unlink()
    (toolkit,) = (one for one in index.files("cuda-toolkit") if one.filename.startswith("cuda_toolkit-13.2.2-"))
    text = index.metadata(toolkit).replace("\nVersion: 13.2.2", "\nVersion: 14.0.0", 1)
    stand_in = pure(tmp_path, "cuda-toolkit", "14.0.0", text)
    files = {MODEL.replace("2.15.0", NEW).replace("cp312", tag): made for tag in ("cp312", "cp313", "cp314")}
    front = Front(files | {stand_in.name: stand_in}, real="torch|cuda-toolkit")
    yield front
    front.close()
    _forget(default_folder() / "uv")


def _forget(cache: Path) -> None:
    """Take the release that never was out of uv's cache, which all tests share."""
    for version in cache.glob("archive-v*/*/torch/version.py"):
        if NEW in version.read_text():
            shutil.rmtree(version.parent.parent)
    for entry in cache.glob(f"wheels-v*/index/*/torch/{NEW}*"):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.mark.usefixtures("built")
def test_a_release_that_never_was(farm: Farm, made_up_index: Front) -> None:
    farm.env["UV_INDEX"] = made_up_index.url
    try:
        answer = farm("add", "2.16", "--build", *PYTHON, "--engine", "local", "--json")
    finally:
        del farm.env["UV_INDEX"]
    assert answer.code == 0, answer.err
    (variant,) = answer.document["variants"]
    made = tomllib.loads((farm.project / "variants" / "torch216.toml").read_text())
    assert made["cuda"] == "14.0"
    assert made["cuda-runtime"] == "cuda-toolkit==14.0.0"
    assert made["cpython"] == ["cp312", "cp313", "cp314"]
    assert made["cxx-standard"] == 23
    assert variant["changes"]["from"] == "2.15.0"
    assert variant["changes"]["gone"] == {"libc10.so": [SYMBOL]}
    assert set(variant["changes"]["types"]) == {TYPE}
    (job,) = answer.document["run"]["jobs"]
    assert (job["job"], job["status"]) == ("torch-probe-torch216-cp312", "done")
    evidence = Path(answer.document["evidence"]).read_text()
    assert demangled(SYMBOL) in evidence
    assert f"`{TYPE}`: size 128 -> 136" in evidence
    for words in ("CUDA 13.2 -> 14.0: another major", "no CPython 3.11, ", "C++ 20 -> 23"):
        assert words in evidence
    assert "| torch-probe-torch216-cp312 |" in evidence
    (hit,) = variant["changes"]["wheels"].values()
    assert hit["verdict"] == "OK", hit
