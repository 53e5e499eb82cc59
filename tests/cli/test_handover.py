"""`pack` on one machine and `accept` on another, as scripts call them."""

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Farm
from tests.proofs import prove
from torch_build_farm.core.files import sha256
from torch_build_farm.core.seals import STATE_VARIABLE

JOBS = ["tiny-torch28-cp312", "tiny-torch29-cp312"]


def wheel_of(job: str) -> str:
    return f"{job.rpartition('-')[0].replace('-', '_')}-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"


@pytest.fixture
def built(tiny: Farm) -> Farm:
    """A machine that has built both jobs."""
    for job in JOBS:
        wheel = tiny.work / "dist" / wheel_of(job)
        wheel.parent.mkdir(parents=True, exist_ok=True)
        wheel.write_text(job)
        prove(wheel, tiny.work, job)
    return tiny


def other_machine(farm: Farm, folder: Path) -> Farm:
    return Farm(farm.project, folder / "other", {STATE_VARIABLE: str(folder / "other's state")})


def test_from_one_machine_to_another(built: Farm, tmp_path: Path) -> None:
    digests = {}
    for job in JOBS:
        packed = built("pack", "--only", job, "--out", str(tmp_path / f"{job}.tar"))
        assert packed.code == 0, packed.err
        digests[job] = packed.out.strip()
        assert digests[job] == sha256(tmp_path / f"{job}.tar"), "alone, for $(...)"
    publisher = other_machine(built, tmp_path)
    packs = [str(tmp_path / f"{job}.tar") for job in JOBS]
    # As toJSON(needs.wheel.outputs) has it: jobs that did not run have no value.
    given = json.dumps({**digests, "tiny-torch214-cp312": "", "tiny-torch215-cp312": None})
    answer = publisher("accept", *packs, "--digests", given, "--json")
    assert answer.code == 0, answer.err
    assert [(wheel["job"], wheel["name"]) for wheel in answer.document["wheels"]] == [(j, wheel_of(j)) for j in JOBS]
    assert (publisher.work / "dist" / wheel_of(JOBS[0])).read_text() == JOBS[0]

    release = publisher("pack", "--json")
    assert release.document["pack"] == str(publisher.work / "packs" / "jobs.tar")
    assert [wheel["job"] for wheel in release.document["wheels"]] == JOBS
    third = Farm(built.project, tmp_path / "third", {STATE_VARIABLE: str(tmp_path / "third's state")})
    answer = third("accept", release.document["pack"], "--sha256", release.document["sha256"])
    assert answer.code == 0, answer.err
    assert f"accepted {wheel_of(JOBS[1])} of {JOBS[1]}" in answer.out

    # Another machine's records are none here: what was carried over without a pack is refused.
    answer = other_machine(built, tmp_path)("pack", "--work", str(built.work))
    assert answer.code == 34
    assert "not sealed by this user's farm" in answer.err


def test_the_jobs_of_one_platform(built: Farm) -> None:
    """The pattern for a variant's CPythons matches the jobs of every platform."""
    arm64_job = f"{JOBS[0]}-aarch64"
    wheel = built.work / "dist" / wheel_of(JOBS[0]).replace("x86_64", "aarch64")
    wheel.write_text(arm64_job)
    prove(wheel, built.work, arm64_job)
    for platform, jobs in {"x86_64": [JOBS[0]], "aarch64": [arm64_job], "all": [JOBS[0], arm64_job]}.items():
        packed = built("pack", "--only", "tiny-torch28-cp[0-9]*", "--platform", platform, "--json")
        assert packed.code == 0, packed.err
        assert [row["job"] for row in packed.document["wheels"]] == jobs
    answer = built("pack", "--platform", "arm64")
    assert answer.code == 2
    assert "'arm64' is no platform" in answer.err
    wheel.unlink()
    shutil.rmtree(built.work / "jobs" / arm64_job)
    answer = built("pack", "--platform", "aarch64")
    assert answer.code == 2
    assert "no job for arm64 in the work folder has made a wheel" in answer.err


def test_what_accept_refuses(built: Farm, tmp_path: Path) -> None:
    packed = built("pack", "--only", JOBS[0], "--json").document
    publisher = other_machine(built, tmp_path)
    good = json.dumps({JOBS[0]: packed["sha256"]})
    for words, code, message in (
        (["--digests", json.dumps({JOBS[0]: "0" * 64})], 34, "nobody vouches for it"),
        (["--digests", json.dumps({JOBS[0]: packed["sha256"], JOBS[1]: "0" * 64})], 34, f"{JOBS[1]} is missing"),
        (["--digests", "{}"], 2, "no job vouches for a pack"),
        (["--digests", "[" * 5000], 2, "not a JSON object"),
        (["--digests", json.dumps({JOBS[0]: "$(id)"})], 2, "not a SHA-256"),
        (["--sha256", ""], 2, "not a SHA-256"),
        (["--sha256", "0" * 64], 34, "nobody vouches for it"),
        ([], 2, "which SHA-256"),
        (["--sha256", packed["sha256"], "--digests", good], 2, "which SHA-256"),
    ):
        answer = publisher("accept", packed["pack"], *words)
        assert (answer.code, message in answer.err) == (code, True), answer.err
    assert not (publisher.work / "dist").exists()


def test_what_pack_refuses(built: Farm, tmp_path: Path) -> None:
    answer = built("pack", "--only", "tiny-torch30-*")
    assert answer.code == 2
    assert "did you mean" in answer.err or "known:" in answer.err
    answer = Farm(built.project, tmp_path / "empty")("pack")
    assert (answer.code, "no job in the work folder" in answer.err) == (2, True)


def test_a_run_says_which_record_is_no_proof(tiny: Farm, tmp_path: Path) -> None:
    """In a work folder from elsewhere everything is done again, and nobody has to wonder why."""
    assert tiny("render", "--torch", "2.8").code == 0
    assert "nothing to do" in tiny("render", "--torch", "2.8").out
    answer = other_machine(tiny, tmp_path)("render", "--torch", "2.8", "--work", str(tiny.work))
    assert answer.code == 0
    assert (
        "the record of render is not sealed by this user's farm for this job and work folder, so it runs again"
        in answer.out
    )
