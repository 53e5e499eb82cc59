"""What may be published: wheels whose records carry the seal of this user's farm, and nothing that only looks like it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer
from tests.proofs import prove
from tests.release import Release
from torch_build_farm.core.errors import MetaError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.seals import STATE_VARIABLE
from torch_build_farm.pipeline import records
from torch_build_farm.publish.upload_plan import proven

JOB = "demo-torch29-cp311"
NAME = "demo_torch29-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "dist" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"built")
    return path


@pytest.fixture
def work(tmp_path: Path, wheel: Path) -> Path:
    prove(wheel, tmp_path / "work", JOB)
    return tmp_path / "work"


def record_files(work: Path, job: str = JOB) -> dict[str, Path]:
    return {path.stem: path for path in (work / "jobs" / job / "records").iterdir()}


def test_a_wheel_with_its_records_is_proven(work: Path, wheel: Path) -> None:
    assert proven([wheel], work) == []


def test_records_written_by_hand_prove_nothing(work: Path, wheel: Path) -> None:
    """Beside a wheel that nobody built, with everything right but the seal, which their author cannot make."""
    wheel.write_bytes(b"evil")
    for stage, path in record_files(work).items():
        document = json.loads(path.read_text())
        del document["seal"]
        if stage == "relocate":
            document["outputs"] = [{"path": f"dist/{NAME}", "sha256": sha256(wheel), "size": 4}]
        else:
            document["inputs"]["wheel"] = records.digest(sha256(wheel))
        path.write_text(json.dumps(document))
    (problem,) = proven([wheel], work)
    assert problem.startswith(f"{NAME}: ")
    assert "not sealed by this user's farm" in problem


@pytest.mark.parametrize(("stage", "words"), [("audit", "not audited"), ("smoke", "not smoke-tested")])
def test_one_forged_record_among_sealed_ones(work: Path, wheel: Path, stage: str, words: str) -> None:
    path = record_files(work)[stage]
    path.write_text(path.read_text().replace('"seconds": 1', '"seconds": 2'))
    (problem,) = proven([wheel], work)
    assert problem == f"{NAME}: {words}: the record is not sealed by this user's farm for this job and work folder"
    path.unlink()
    assert proven([wheel], work) == [f"{NAME}: {words}"]


def test_records_of_a_wheel_do_not_prove_another_of_the_same_name(work: Path, wheel: Path) -> None:
    wheel.write_bytes(b"another")
    assert proven([wheel], work) == [f"{NAME}: no record has its SHA-256 {sha256(wheel)}"]


def test_an_audit_of_an_earlier_wheel_is_none_of_this_one(work: Path, wheel: Path) -> None:
    """The job has built again, and its sealed audit and smoke test are those of the wheel before."""
    old = {stage: path.read_bytes() for stage, path in record_files(work).items()}
    wheel.write_bytes(b"built again")
    prove(wheel, work, JOB)
    assert proven([wheel], work) == []
    record_files(work)["audit"].write_bytes(old["audit"])
    assert proven([wheel], work) == [f"{NAME}: not audited"]
    prove(wheel, work, JOB)
    record_files(work)["smoke"].write_bytes(old["smoke"])
    assert proven([wheel], work) == [f"{NAME}: not smoke-tested"]


def test_a_smoke_test_of_imports_is_not_enough(work: Path, wheel: Path) -> None:
    prove(wheel, work, JOB, mode="import")
    assert proven([wheel], work) == [f"{NAME}: smoke-tested, but not in full"]


def test_records_that_were_carried_here_prove_nothing(work: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """From another job's folder, from another work folder, and of another user."""
    folder = work / "jobs" / JOB
    folder.rename(work / "jobs" / "demo-torch28-cp311")
    (problem,) = proven([wheel], work)
    assert "no record has its SHA-256" in problem
    (work / "jobs" / "demo-torch28-cp311").rename(folder)
    assert proven([wheel], work) == []

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(work, elsewhere)
    (problem,) = proven([elsewhere / "dist" / NAME], elsewhere)
    assert "not sealed" in problem

    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "another user's"))
    (problem,) = proven([wheel], work)
    assert "not sealed" in problem


def test_the_record_of_one_stage_is_not_that_of_another(work: Path, wheel: Path) -> None:
    files = record_files(work)
    files["smoke"].write_bytes(files["audit"].read_bytes())
    (problem,) = proven([wheel], work)
    assert problem.startswith(f"{NAME}: not smoke-tested")


@pytest.mark.parametrize("words", [("meta", "--offline"), ("publish", "testpypi")])
def test_nothing_is_built(call: Callable[..., Answer], words: tuple[str, ...]) -> None:
    answer = call(*words)
    assert answer.code == MetaError.exit_code, answer.err
    assert "no variant of demo is built" in answer.err


def test_meta_says_what_is_not_proven(release: Release, call: Callable[..., Answer]) -> None:
    """It makes wheels for what lies there, and publish would refuse them."""
    release.proven(release.variant("2.8"))
    wheel = release.variant("2.9")
    answer = call("meta", "--offline")
    assert answer.code == 0, answer.err
    lines = [line for line in answer.out.splitlines() if line.startswith("not proven")]
    assert lines == [f"not proven, so publish refuses it: {wheel.name}: no record has its SHA-256 {sha256(wheel)}"]
