"""Rendered workflows: what may be written over, what a project decides, and what every job is allowed."""

import os
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import CHECKOUT, Farm
from tests.family import describe_arm64
from tests.integration.expressions import fill
from tests.project.test_tree import git
from torch_build_farm.cli import ci
from torch_build_farm.core.machine import X86_64
from torch_build_farm.core.versions import CPython
from torch_build_farm.project.plan import Selection, jobs_of, plan
from torch_build_farm.project.settings import load

MINE = "a line of mine"


def workflows(folder: Path) -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml")}


def settings(farm: Farm, *lines: str) -> None:
    path = farm.project / "pyproject.toml"
    path.write_text("\n".join([path.read_text(), "[tool.torch-build-farm.ci]", *lines]))


def rendered(farm: Farm) -> dict[str, Any]:
    assert farm("ci").code == 0
    return workflows(farm.project / ".github" / "workflows")


def test_what_somebody_changed_is_not_written_over(tiny: Farm) -> None:
    folder = tiny.project / ".github" / "workflows"
    answer = tiny("ci", "--json")
    assert (answer.code, [file["state"] for file in answer.document["files"]]) == (0, ["new", "new"])
    assert "nothing to do" in tiny("ci").out

    settings(tiny, 'engine = "local"')
    before = (folder / "torch-wheels.yml").read_text()
    answer = tiny("ci", "--dry-run")
    assert "-          torch-build-farm build --engine docker" in answer.out
    assert (folder / "torch-wheels.yml").read_text() == before
    assert tiny("ci").code == 0
    assert "--engine docker" not in (folder / "torch-wheels.yml").read_text()

    with (folder / "torch-watch.yml").open("a") as stream:
        stream.write(f"# {MINE}\n")
    wheels = (folder / "torch-wheels.yml").read_text()
    tiny.edit("pyproject.toml", 'engine = "local"', 'engine = "docker"')
    answer = tiny("ci")
    assert answer.code == 29, answer.err
    assert f"-# {MINE}" in answer.out, answer.err
    assert (folder / "torch-wheels.yml").read_text() == wheels, "all or nothing"
    assert MINE in (folder / "torch-watch.yml").read_text()
    assert tiny("ci", "--force").code == 0
    assert MINE not in (folder / "torch-watch.yml").read_text()

    (folder / "torch-wheels.yml").write_text("on: push\n")
    assert tiny("ci").code == 29, "a file that the farm never wrote"


def test_a_project_below_the_repository(tiny: Farm, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert tiny("ci").code == 0
    found = workflows(tmp_path / ".github" / "workflows")
    assert found["torch-wheels"]["defaults"]["run"]["working-directory"] == "tiny"
    upload = next(step for step in found["torch-wheels"]["jobs"]["wheel"]["steps"] if "upload" in step.get("uses", ""))
    assert upload["with"]["path"] == "tiny/work/packs"


@pytest.mark.parametrize("credentials", ["trusted-publisher", "token"])
def test_no_more_rights_than_needed(tiny: Farm, credentials: str) -> None:
    settings(tiny, f'credentials = "{credentials}"')
    publishing = {"publish", "new-name"} if credentials == "trusted-publisher" else {"publish"}
    for name, workflow in rendered(tiny).items():
        assert workflow["permissions"] == {}
        for job, content in workflow["jobs"].items():
            allowed = {"contents": "read"}
            if job in publishing and credentials == "trusted-publisher":
                allowed |= {"id-token": "write"}
            if job in ("propose", "record"):
                allowed = {"contents": "write", "pull-requests": "write"}
            assert content["permissions"] == allowed, f"{name}: {job}"
            assert ("environment" in content) == (job in publishing)
            assert content["timeout-minutes"] <= 360
            secret = "secrets." in str(content)
            assert secret == (job == "publish" and credentials == "token")


def test_a_matrix_job_has_an_output_of_its_own(tiny: Farm) -> None:
    """Instances of a matrix share one set of outputs, and the last that sets one would win."""
    wheel = rendered(tiny)["torch-wheels"]["jobs"]["wheel"]
    for job, value in wheel["outputs"].items():
        assert value == f"${{{{ matrix.job == '{job}' && steps.pack.outputs.sha256 || '' }}}}"
    possible = set()
    for job, (variant, python) in jobs_of(load(tiny.project, CHECKOUT)).items():
        if variant.platform == X86_64 and not python.free_threaded:
            possible.add(job)
    assert possible < set(wheel["outputs"])
    assert "tiny-torch216-cp312" in wheel["outputs"], "of the next minors too: the watch adds variants, and no workflow"
    settings(tiny, 'python = ["3.12", "3.13t"]')
    jobs = rendered(tiny)["torch-wheels"]["jobs"]
    assert {job.rpartition("-")[2] for job in jobs["wheel"]["outputs"]} == {"cp312", "cp313t"}
    assert jobs["plan"]["env"]["KNOWN"].split() == list(jobs["wheel"]["outputs"])


def runs(job: dict[str, Any]) -> list[str]:
    """The commands of the farm that a job runs."""
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    return re.findall(r"torch-build-farm ([a-z]+)", script)


@pytest.mark.parametrize("credentials", ["trusted-publisher", "token"])
def test_a_job_with_credentials_runs_nothing_that_was_built(tiny: Farm, credentials: str) -> None:
    settings(tiny, f'credentials = "{credentials}"')
    for workflow in rendered(tiny).values():
        for name, job in workflow["jobs"].items():
            if "environment" in job:
                assert runs(job) == ["accept", "publish"], name
                assert "needs.release.outputs.sha256" in str(job)
            if "write" in job["permissions"].get("contents", ""):
                assert runs(job) == [], name
                assert "sha256sum --check" in str(job)
                assert "pip install" not in str(job)
            if {"build", "smoke", "add", "check"} & set(runs(job)):
                assert job["permissions"] == {"contents": "read"}, name
                assert "environment" not in job
                assert "secrets." not in str(job)


def test_no_job_trusts_what_another_could_write(tiny: Farm) -> None:
    """Artifacts are kept apart and compared; nothing comes out of a cache that builds share."""
    for workflow in rendered(tiny).values():
        for job in workflow["jobs"].values():
            assert "merge-multiple" not in str(job)
            assert "actions/cache" not in str(job)
            for step, following in pairwise(job["steps"]):
                if "actions/download-artifact" in step.get("uses", ""):
                    assert re.search(r"torch-build-farm accept --(digests|sha256)|sha256sum --check", following["run"])


def test_every_action_is_pinned_and_no_value_becomes_shell(tiny: Farm) -> None:
    pins = {f"{pin.uses}@{pin.commit}" for pin in ci.pins().values()}
    used = set()
    for workflow in rendered(tiny).values():
        for step in (step for job in workflow["jobs"].values() for step in job["steps"]):
            used |= {step["uses"]} if "uses" in step else set()
            assert "${{" not in step.get("run", "")
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    assert used == pins
    assert all(re.fullmatch(r"[0-9a-f]{40}", pin.commit) for pin in ci.pins().values())
    text = (tiny.project / ".github" / "workflows" / "torch-wheels.yml").read_text()
    assert all(f"{pin.commit} # {pin.version}\n" in text for pin in ci.pins().values())


def test_the_farms_own_checkout_installs_itself() -> None:
    assert load(CHECKOUT, CHECKOUT).settings.ci.farm == "."


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('farm = "torch build farm"', "ci.farm"),
        ('runner = "ubuntu-latest; true"', "only letters, digits"),
        ('index = "https://user:secret@example.org/"', "neither pypi"),
        ('enigne = "local"', "did you mean 'engine'?"),
    ],
)
def test_settings_that_cannot_be(tiny: Farm, line: str, words: str) -> None:
    settings(tiny, line)
    answer = tiny("ci")
    assert answer.code == 3, answer.err
    assert words in answer.err


def checkouts(workflows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the first checkout of each job of the wheels' workflow is given."""
    jobs = workflows["torch-wheels"]["jobs"]
    return {name: job["steps"][0].get("with", {}) for name, job in jobs.items()}


def test_a_checkout_has_what_the_source_needs(tiny: Farm) -> None:
    plain = checkouts(rendered(tiny))
    assert all(not {"submodules", "lfs"} & set(given) for given in plain.values())
    (tiny.project / ".gitmodules").write_text('[submodule "x"]\n\tpath = x\n\turl = https://example.org/x\n')
    given = checkouts(rendered(tiny))
    assert given["wheel"] == {**plain["wheel"], "submodules": "recursive"}
    assert given["plan"] == {**plain["plan"], "submodules": "recursive"}
    # What builds nothing fetches nothing.
    assert given["publish"] == plain["publish"]

    (tiny.project / "data").mkdir()
    (tiny.project / "data/.gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(tiny.project, "init", "-q")
    git(tiny.project, "add", "data")
    assert checkouts(rendered(tiny))["wheel"] == {**given["wheel"], "lfs": True}

    # The source of another repository brings its own.
    tiny.edit(
        "pyproject.toml",
        'name = "tiny"\npackages',
        'git = "https://example.org/x"\nrevision = "v1"\nname = "tiny"\npackages',
    )
    assert checkouts(rendered(tiny)) == plain


def test_the_jobs_of_a_project_with_a_stable_wheel(tiny: Farm) -> None:
    """Its wheel serves the next torch minors: no job of theirs can come."""
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\nstable-abi = "2.10"')
    settings(tiny, 'python = ["3.12"]')
    text = str(rendered(tiny)["torch-wheels"])
    names = set(re.findall(r"\btiny[\w-]*-torch[\w-]*-cp312\b", text))
    assert {name.split("-torch")[-1] for name in names} == {"28-cp312", "29-cp312", "-stable-cp312"}


def test_the_jobs_of_a_project_with_a_core(make_farm: Callable[..., Farm]) -> None:
    """A job of the core has an output of its own, and the plan's torch for it is one that --torch takes."""
    addon = make_farm("addon")
    settings(addon, 'python = ["3.11"]')
    job = rendered(addon)["torch-wheels"]["jobs"]["wheel"]
    assert "acme-core-cp311" in job["outputs"]
    assert "acme-gpu-torch29-cp311" in job["outputs"]
    planned = addon("plan", "--torch", "2.9", "--python", "3.11", "--json").document["include"][0]
    assert planned["job"] == "acme-core-cp311"
    alone = addon("plan", "--torch", planned["torch"], "--python", "3.11", "--only", planned["job"], "--json")
    assert [entry["job"] for entry in alone.document["include"]] == ["acme-core-cp311"]


@pytest.fixture
def both_platforms(tiny: Farm) -> Farm:
    """A project for x86-64 and arm64."""
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\nplatforms = ["x86_64", "aarch64"]')
    settings(tiny, 'runner = "my-x86"', 'arm64-runner = "my-arm"', 'python = ["3.11"]')
    describe_arm64(tiny.project, "torch28", "torch29")
    return tiny


def test_jobs_of_both_platforms_run_on_machines_of_their_own(both_platforms: Farm) -> None:
    jobs = rendered(both_platforms)["torch-wheels"]["jobs"]
    project = load(both_platforms.project, CHECKOUT)
    python = CPython(3, 11)
    selection = Selection.parse(project, ["2.8", "2.9"], ["3.11"])
    plan_of_both = plan(
        project,
        selection,
        version="1.0",
        requires_python="",
        engine=lambda _: {python: "3.11.1"},
        running=python,
    )
    planned = plan_of_both.matrix(project)["include"]
    runners = {}
    artifacts = set()
    for entry in planned:
        runners[entry["job"]] = fill(jobs["wheel"]["runs-on"], {"matrix": entry})
        uploads = [step["with"]["name"] for step in jobs["wheel"]["steps"] if "upload" in step.get("uses", "")]
        artifacts |= {fill(name, {"matrix": entry}) for name in uploads}
    assert runners == {
        "tiny-torch28-cp311": "my-x86",
        "tiny-torch29-cp311": "my-x86",
        "tiny-torch28-cp311-aarch64": "my-arm",
        "tiny-torch29-cp311-aarch64": "my-arm",
    }
    assert len(artifacts) == 2 * len(planned)
    assert set(runners) < set(jobs["wheel"]["outputs"])
    assert jobs["plan"]["env"]["KNOWN"].split() == list(jobs["wheel"]["outputs"])
    for name, job in jobs.items():
        if name not in ("wheel", "check"):
            assert job["runs-on"] == "my-x86", name

    # Each command that could mix them up is told which one is meant.
    for step in jobs["wheel"]["steps"]:
        for line in step.get("run", "").splitlines():
            if re.search(r"torch-build-farm (index learn|build|smoke|pack)", line):
                assert '--platform "$PLATFORM"' in line
    assert jobs["wheel"]["env"]["PLATFORM"] == "${{ matrix.platform }}"


def test_users_of_each_platform_are_checked_on_a_machine_like_theirs(both_platforms: Farm) -> None:
    check = rendered(both_platforms)["torch-wheels"]["jobs"]["check"]
    include = check["strategy"]["matrix"]["include"]
    assert {entry["platform"]: fill(check["runs-on"], {"matrix": entry}) for entry in include} == {
        "x86_64": "my-x86",
        "aarch64": "my-arm",
    }
    step = check["steps"][-1]
    assert step["run"].splitlines()[-1] == 'torch-build-farm check "$INDEX" "$VERSION" --platform "$PLATFORM"'
    assert step["env"]["PLATFORM"] == "${{ matrix.platform }}"


def test_a_project_for_arm64_alone(both_platforms: Farm) -> None:
    both_platforms.edit("pyproject.toml", '"x86_64", "aarch64"', '"aarch64"')
    jobs = rendered(both_platforms)["torch-wheels"]["jobs"]
    assert {name: job["runs-on"] for name, job in jobs.items() if job["runs-on"] != "my-x86"} == {
        "wheel": "my-arm",
        "check": "my-arm",
    }
    assert all(job.endswith("-cp311-aarch64") for job in jobs["wheel"]["outputs"])
    assert jobs["check"]["steps"][-1]["env"]["PLATFORM"] == "aarch64"
    assert "strategy" not in jobs["check"]


@pytest.mark.parametrize("line", ["", 'platforms = ["x86_64"]'])
def test_a_project_for_x86_64_alone_has_nothing_of_platforms(tiny: Farm, line: str) -> None:
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\n{line}")
    describe_arm64(tiny.project, "torch28", "torch29")
    assert tiny("ci").code == tiny("ci", "shell").code == 0
    for path in (tiny.project / ".github/workflows/torch-wheels.yml", tiny.project / "ci/torch-wheels.sh"):
        assert not re.search("(?i)platform|aarch64|arm64", path.read_text()), path


def test_the_script_tells_each_command_the_platform_of_its_job(both_platforms: Farm, tmp_path: Path) -> None:
    assert both_platforms("ci", "shell").code == 0
    calls = tmp_path / "calls"
    program = tmp_path / "bin" / "torch-build-farm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {calls}\n')
    program.chmod(0o755)
    script = both_platforms.project / "ci" / "torch-wheels.sh"
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    for job, platform in {"tiny-torch29-cp311": "x86_64", "tiny-torch29-cp311-aarch64": "aarch64"}.items():
        calls.unlink(missing_ok=True)
        subprocess.run([script, "wheel", job, "2.9", "3.11,3.12", "2.9.0"], env=env, check=True)
        lines = calls.read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["index", "build", "smoke", "pack"]
        assert all(f"--platform {platform}" in line for line in lines)
        assert f"--only tiny-torch29-cp[0-9]* --out work/packs/{job}.tar" in lines[-1]
