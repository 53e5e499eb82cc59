"""The core goes to the index before the variants that were tested beside it, and by its SHA-256."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer
from tests.family import make_wheel
from tests.index import Index
from tests.proofs import prove
from tests.release import Release
from torch_build_farm.core.errors import PublishError
from torch_build_farm.pipeline import packs

Call = Callable[..., Answer]
LINUX = "cp312-cp312-manylinux_2_28_x86_64"
TABLE = """
[tool.torch-build-farm.core]
name = "demo-core"
pyproject = "pyproject-core.toml"
packages = ["base"]
"""


@pytest.fixture
def core(release: Release) -> Path:
    """A proven core in work/dist, of a project with the table."""
    project = release.project.root / "pyproject.toml"
    project.write_text(project.read_text() + TABLE)
    wheel = made(release, "1.0")
    prove(wheel, release.folder / "work", wheel.name)
    return wheel


def made(release: Release, version: str, tag: str = "py3-none-any") -> Path:
    release.dist.mkdir(parents=True, exist_ok=True)
    return make_wheel(release.dist, "demo-core", version, {"base/__init__.py": f"version = '{version}'\n"}, tag=tag)


def dry_run(call: Call, index: Index, *words: str) -> Answer:
    return call("publish", index.url, "--index-url", index.url, "--json", *words)


def variant(release: Release, torch: str, core: Path) -> Path:
    wheel = release.variant(torch)
    prove(wheel, release.folder / "work", wheel.name, core=core)
    return wheel


def test_the_core_goes_first(release: Release, call: Call, index: Index, core: Path) -> None:
    variant(release, "2.8", core)
    variant(release, "2.9", core)
    made(release, "0.9")  # an older one, which no variant was tested beside
    answer = dry_run(call, index)
    assert answer.code == 0, answer.err
    assert [file["name"] for file in answer.document["files"]] == [
        "demo-core", "demo-torch28", "demo-torch29", "demo-select", "demo-select", "demo-auto", "demo",
    ]  # fmt: skip
    assert "demo-core" in answer.document["waves"][0]


def test_one_that_is_on_the_index_is_not_needed_here(release: Release, call: Call, index: Index, core: Path) -> None:
    variant(release, "2.8", core)
    index.add_wheel(core)
    release.list(index, core)
    assert {file["name"]: file["state"] for file in dry_run(call, index).document["files"]}["demo-core"] == "there"
    core.unlink()
    answer = dry_run(call, index)
    assert answer.code == 0, answer.err
    assert "demo-core" not in {file["name"] for file in answer.document["files"]}


def test_a_variant_whose_core_is_nowhere(release: Release, call: Call, index: Index, core: Path) -> None:
    variant(release, "2.8", core)
    core.unlink()
    made(release, "1.1")
    answer = dry_run(call, index)
    assert answer.code == PublishError.exit_code
    assert "was smoke-tested beside a demo-core that is neither in dist nor on the index" in answer.err + answer.out


def test_a_core_that_is_not_proven(release: Release, call: Call, index: Index, core: Path) -> None:
    variant(release, "2.8", core)
    (release.folder / "work" / "jobs" / core.name / "records" / "smoke.json").unlink()
    answer = dry_run(call, index)
    assert answer.code == PublishError.exit_code
    assert f"{core.name}: not smoke-tested" in answer.err + answer.out


def test_a_variant_may_not_go_before_its_core(release: Release, call: Call, index: Index, core: Path) -> None:
    variant(release, "2.8", core)
    answer = dry_run(call, index, "--names", "demo-torch28")
    assert answer.code == PublishError.exit_code
    assert f"{core.name} has to be on the index before demo_torch28" in answer.err + answer.out


@pytest.mark.parametrize(
    ("tag", "earlier", "warned"), [("py3-none-any", "demo", True), (LINUX, "demo", True), (LINUX, "demo-core", False)]
)
def test_the_platforms_of_a_release_are_those_of_its_variants(
    release: Release, call: Call, index: Index, core: Path, tag: str, earlier: str, warned: bool
) -> None:
    """The core's wheels do not count: neither this one, which may be for every platform, nor an earlier one."""
    core.unlink()
    core = made(release, "1.0", tag)
    prove(core, release.folder / "work", core.name)
    wheel = release.variant("2.8", tag=LINUX)
    prove(wheel, release.folder / "work", wheel.name, core=core)
    old = make_wheel(release.folder / "earlier", earlier, "0.1", {"a.py": ""}, tag="cp312-cp312-win_amd64")
    index.add_wheel(old)
    release.list(index, old)
    answer = dry_run(call, index)
    assert answer.code == 0, answer.err
    warnings = [warning for warning in answer.document["warnings"] if "platforms" in warning]
    assert ["0.1 for Windows AMD64" in warning for warning in warnings] == ([True] if warned else [])


@pytest.fixture
def of_several_pythons(release: Release, core: Path) -> Path:
    """The work folder that accepted, each from a machine of its own, the cores of three CPythons, and a variant's one
    wheel for two of them.
    """
    core.unlink()
    work = release.folder / "work"
    cores = {}
    for tag in ("cp310", "cp311", "cp312"):
        cores[tag] = made(release, "1.0", f"{tag}-{tag}-manylinux_2_28_x86_64")
        prove(cores[tag], work, f"demo-core-{tag}")
    shared = release.variant("2.8", tag="cp311-abi3-manylinux_2_28_x86_64")
    for tag in ("cp311", "cp312"):
        records_of_job = prove(shared, work, f"demo-torch28-{tag}", core=cores[tag])
    for stage, path in records_of_job.items():
        if stage != "smoke":  # as a run leaves it of a job that tests an earlier one's wheel
            path.unlink()

    digests = {}
    paths = []
    for job in ("demo-core-cp310", "demo-core-cp311", "demo-core-cp312", "demo-torch28-cp311"):
        pack = packs.write(work, [job], release.folder / f"{job}.tar")
        digests[job] = pack.sha256
        paths.append(pack.path)
    shutil.rmtree(work)
    packs.accept(paths, digests, release.project, work)
    return work


def test_a_wheel_for_several_cpythons_brings_the_core_of_each(
    release: Release, call: Call, index: Index, of_several_pythons: Path
) -> None:
    """Only the test beside the oldest one's core came along with the wheel. Another CPython's core is not for it."""
    made(release, "0.9", "cp312-cp312-manylinux_2_28_x86_64")
    answer = dry_run(call, index)
    assert answer.code == 0, answer.err
    files = [Path(file["path"]).name for file in answer.document["files"] if file["name"] == "demo-core"]
    assert [file.split("-")[1:3] for file in files] == [["1.0", "cp311"], ["1.0", "cp312"]]


def test_the_core_of_another_cpython_is_proven_too(call: Call, index: Index, of_several_pythons: Path) -> None:
    (of_several_pythons / "jobs/demo-core-cp312/records/smoke.json").unlink()
    answer = dry_run(call, index)
    assert answer.code == PublishError.exit_code
    assert "demo_core-1.0-cp312-cp312-manylinux_2_28_x86_64.whl: not smoke-tested" in answer.err + answer.out
