"""The steps of rendered workflows that take what others made: each script runs as it is, on what a hostile job could send."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.conftest import CHECKOUT, PROJECTS, need
from torch_build_farm.cli import ci
from torch_build_farm.project.settings import load
from torch_build_farm.publish import published_list
from torch_build_farm.publish.published_list import PublishedFile, PublishedList

PREFIX = "packages/"
OLD_VARIANT, VARIANT, FOR_ARM64 = "variants/torch215.toml", "variants/torch216.toml", "variants/torch216-aarch64.toml"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, *words]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass
class Machine:
    """A runner with a checkout, on which one step of a workflow runs; `origin` is the repository."""

    folder: Path
    origin: Path
    workflows: dict[str, Any]

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def temp(self) -> Path:
        return self.folder / "temp"

    def pull_requests(self) -> list[str]:
        """The pull requests that `gh` was asked for."""
        calls = self.folder / "calls"
        return [line for line in calls.read_text().splitlines() if "pr create" in line] if calls.exists() else []

    def run(self, workflow: str, job: str, step: str, **env: str) -> subprocess.CompletedProcess[str]:
        (script,) = [one["run"] for one in self.workflows[workflow]["jobs"][job]["steps"] if one.get("name") == step]
        shell = self.workflows[workflow]["defaults"]["run"]["shell"].replace("{0}", str(self.folder / "step.sh"))
        (self.folder / "step.sh").write_text(script)
        variables = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder),
            "GITHUB_WORKSPACE": str(self.checkout), "RUNNER_TEMP": str(self.temp), "GIT_CONFIG_NOSYSTEM": "1",
            "GH_TOKEN": "token", "BASE": "main",
        }  # fmt: skip
        return subprocess.run(
            shell.split(), cwd=self.checkout, env={**variables, **env}, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a project in a folder below."""
    origin = tmp_path_factory.mktemp("repository") / "origin"
    project = origin / PREFIX
    shutil.copytree(PROJECTS / "tiny", project)
    git(origin, "init", "--quiet")
    for file in ci.render(load(project, CHECKOUT), "github", origin / ".github" / "workflows"):
        write(file.path, file.text)
    write(project / OLD_VARIANT, "old\n")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "first")
    return origin


@pytest.fixture
def machine(repository: Path, tmp_path: Path) -> Machine:
    origin = tmp_path / "origin"
    shutil.copytree(repository, origin)
    folder = tmp_path / "machine"
    (folder / "bin").mkdir(parents=True)
    (folder / "temp").mkdir()
    write(folder / "bin" / "gh", f'#!/bin/sh\necho "$@" >> {folder / "calls"}\n')
    (folder / "bin" / "gh").chmod(0o755)
    git(tmp_path, "clone", "--quiet", f"file://{origin}", str(folder / "checkout"))
    workflows = {}
    for path in (origin / ".github" / "workflows").glob("*.yml"):
        workflows[path.stem] = yaml.safe_load(path.read_text())
    return Machine(folder, origin, workflows)


def test_installing_the_farm_runs_no_module_of_the_checkout(machine: Machine) -> None:
    """The publishing job does it too, which may ask for the index's token."""
    python = machine.folder / "bin" / "python"
    python.symlink_to(sys.executable)
    trace = machine.folder / "trace"
    write(machine.checkout / "pip.py", f"open({str(trace)!r}, 'w')\n")
    machine.run("torch-wheels", "publish", "Install the farm", FARM="torch-build-farm @ file:///nonexistent")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("workflow", "job", "step", "code"),
    [
        ("torch-wheels", "wheel", "Pack the wheel and its records", 1),
        ("torch-wheels", "release", "Pack the release", 1),
        ("torch-watch", "look", "Discover", 28),  # with an answer that jq cannot read
    ],
)
def test_a_step_fails_where_its_command_does(machine: Machine, workflow: str, job: str, step: str, code: int) -> None:
    """Bash forgets the status of a command that is among the words of another one."""
    need(shutil.which("jq") is not None, "needs jq")
    farm = machine.folder / "bin" / "torch-build-farm"
    write(farm, f"#!/bin/sh\necho none\nexit {code}\n")
    farm.chmod(0o755)
    output = machine.folder / "output"
    assert machine.run(workflow, job, step, JOB="job", GITHUB_OUTPUT=str(output)).returncode != 0
    assert not output.exists()


def only_words(machine: Machine) -> list[str]:
    """The words after `--only` of each command that the farm's stand-in was called with."""
    lines = (machine.folder / "calls").read_text().splitlines()
    return [line.partition(" --only ")[2].split()[0] for line in lines if " --only " in line]


def make_stand_in(machine: Machine) -> None:
    """A farm that does nothing, and notes what it is called with."""
    farm = machine.folder / "bin" / "torch-build-farm"
    write(farm, f'#!/bin/sh\necho "$@" >> {machine.folder / "calls"}\n')
    farm.chmod(0o755)


# A core and variants of another distribution, the name of which begins as a CPython's tag does.
CORE, VARIANTS = ["acme-cp311", "acme-cp313t"], ["acme-cpu-torch29-cp311", "acme-cpu-torch29-cp313t"]


@pytest.mark.parametrize(("job", "jobs"), [("acme-cp311", CORE), ("acme-cpu-torch29-cp311", VARIANTS)])
def test_a_machine_does_the_jobs_of_one_distribution(machine: Machine, job: str, jobs: list[str]) -> None:
    make_stand_in(machine)
    env = {"JOB": job, "TORCH": "all", "PYTHON": "3.11 3.13t", "GITHUB_OUTPUT": str(machine.folder / "output")}
    for step in ("Build and audit", "Smoke test", "Pack the wheel and its records"):
        done = machine.run("torch-wheels", "wheel", step, **env)
        assert done.returncode == 0, done.stdout

    project = machine.folder / "project"
    shutil.copytree(PROJECTS / "tiny", project)
    (script,) = ci.render(load(project, CHECKOUT), "shell", project / "ci")
    write(script.path, script.text)
    words = ["bash", str(script.path), "wheel", job, "all", "3.11,3.13t", "2.8.0"]
    path = f"{machine.folder / 'bin'}:{os.environ['PATH']}"
    subprocess.run(words, env={**os.environ, "PATH": path}, check=True, cwd=project)

    patterns = only_words(machine)
    assert len(patterns) == 6
    for pattern in patterns:
        assert [name for name in (*CORE, *VARIANTS) if fnmatchcase(name, pattern)] == jobs, pattern


# ---- the watch


def test_the_watch_adds_each_minor_once(machine: Machine) -> None:
    """`discover` lists a minor for each platform, and flavours, which are of other indexes."""
    need(shutil.which("jq") is not None, "needs jq")
    rows = [("2.10", "missing"), ("2.9", "changed"), ("2.8", "served"), ("2.10", "yanked"), ("2.9:cu126", "changed")]
    rows += [("2.7\nminors=2.6", "missing"), ("2.5\n", "missing")]
    discovered = {"minors": [{"torch": torch, "status": status} for torch, status in rows]}
    write(machine.folder / "discovered", json.dumps(discovered))
    farm = machine.folder / "bin" / "torch-build-farm"
    write(farm, f"#!/bin/sh\ncat {machine.folder / 'discovered'}\nexit 28\n")
    farm.chmod(0o755)
    output = machine.folder / "output"
    done = machine.run("torch-watch", "look", "Discover", GITHUB_OUTPUT=str(output))
    assert done.returncode == 0, done.stdout
    assert output.read_text() == "minors=2.9 2.10\n"


def test_the_watch_sends_the_variants_of_each_platform(machine: Machine) -> None:
    farm = machine.folder / "bin" / "torch-build-farm"
    written = (VARIANT, FOR_ARM64, "variants/torch2.toml", "work/evidence.md")
    write(farm, "#!/bin/sh\nmkdir variants work\n" + "".join(f"echo new > {path}\n" for path in written))
    farm.chmod(0o755)
    output = machine.folder / "output"
    done = machine.run("torch-watch", "look", "Add, build and prove", MINORS="2.16 2.17", GITHUB_OUTPUT=str(output),
                       GITHUB_STEP_SUMMARY=str(machine.folder / "summary"))  # fmt: skip
    assert done.returncode == 0, done.stdout
    patch = (machine.temp / "proposal" / "change.patch").read_text()
    changed = [line.split(" b/")[1] for line in patch.splitlines() if line.startswith("diff --git")]
    assert sorted(changed) == sorted([VARIANT, FOR_ARM64])


def test_the_watch_builds_for_its_own_machine_alone(machine: Machine) -> None:
    """It writes the variants for the other platform too, whichever of them torch has already."""
    project = machine.origin / PREFIX
    settings = project / "pyproject.toml"
    settings.write_text(settings.read_text().replace("packages =", 'platforms = ["x86_64", "aarch64"]\npackages ='))
    (project / OLD_VARIANT).unlink()  # it is none that could be read
    files = ci.render(load(project, CHECKOUT), "github", machine.origin / ".github" / "workflows")
    machine = replace(machine, workflows={file.path.stem: yaml.safe_load(file.text) for file in files})
    farm = machine.folder / "bin" / "torch-build-farm"
    calls = machine.folder / "calls-of-the-farm"
    lines = [f'echo "$*" >> {calls}', "mkdir -p work", "echo evidence > work/evidence.md"]
    lines.append("case $* in *x86_64*) exit 5 ;; esac")
    write(farm, "\n".join(["#!/bin/sh", *lines, ""]))
    farm.chmod(0o755)
    output = machine.folder / "output"
    done = machine.run("torch-watch", "look", "Add, build and prove", MINORS="2.16", GITHUB_OUTPUT=str(output),
                       GITHUB_STEP_SUMMARY=str(machine.folder / "summary"))  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert calls.read_text().splitlines() == [
        "add 2.16 --platform x86_64 --build --engine docker",
        "add 2.16 --platform aarch64",
    ]
    assert "draft=exit code 5" in output.read_text()


def propose(machine: Machine, change: Callable[[Path], object], minors: str = "2.16", **env: str) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Propose what `change` does to a checkout, as the job sends it that foreign code ran in."""
    look = machine.folder / "look"
    shutil.rmtree(look, ignore_errors=True)
    git(machine.folder, "clone", "--quiet", f"file://{machine.origin}", str(look))
    change(look)
    git(look, "add", "--all", "--force")
    patch = git(look, "diff", "--cached", "--binary", "--no-renames")
    proposal = machine.temp / "proposal"
    proposal.mkdir(exist_ok=True)
    (proposal / "change.patch").write_text(patch)
    (proposal / "evidence.md").write_text("evidence\n")
    digest = hashlib.sha256((patch + "evidence\n").encode()).hexdigest()
    variables = {"MINORS": minors, "DRAFT": "", "SHA256": digest}
    return machine.run("torch-watch", "propose", "Open a pull request", **{**variables, **env})


def new_variant(look: Path) -> None:
    write(look / PREFIX / VARIANT, "new\n")


def branches(machine: Machine) -> str:
    return git(machine.origin, "branch", "--list", "torch-build-farm/*")


def test_a_variant_is_proposed(machine: Machine) -> None:
    done = propose(machine, new_variant)
    assert done.returncode == 0, done.stdout
    changed = git(machine.origin, "diff", "--name-only", "main", "torch-build-farm/2.16").split()
    assert changed == [PREFIX + VARIANT]
    assert len(machine.pull_requests()) == 1


def test_a_variant_is_brought_up_to_date(machine: Machine) -> None:
    def change(look: Path) -> None:
        new_variant(look)
        write(look / PREFIX / FOR_ARM64, "new\n")
        write(look / PREFIX / OLD_VARIANT, "changed\n")

    assert propose(machine, change, "2.15 2.16").returncode == 0
    assert "torch-build-farm/2.15-2.16" in branches(machine)


# What foreign code could do in the folder of the project, beside the variant that `add` writes.
MORE: dict[str, Callable[[Path], object]] = {
    "a workflow": lambda folder: write(folder / ".github" / "workflows" / "evil.yml", "on: push\n"),
    "the source": lambda folder: write(folder / "setup.py", "evil\n"),
    "a variant for no platform": lambda folder: write(folder / "variants" / "torch216-arch64.toml", "evil\n"),
    "another variant": lambda folder: write(folder / OLD_VARIANT, "evil\n"),
    "one variant less": lambda folder: (folder / OLD_VARIANT).unlink(),
    "a variant elsewhere": lambda folder: write(folder / "other" / VARIANT, "evil\n"),
    "an executable file": lambda folder: (folder / VARIANT).chmod(0o755),
    "a link": lambda folder: (folder / VARIANT).symlink_to("/etc/passwd"),
    "a submodule": lambda folder: git(folder, "clone", "--quiet", "..", "variants/sub"),
    "a strange name": lambda folder: write(folder / "variants" / "a\nb.toml", "evil\n"),
    "two names in one": lambda folder: write(folder / f"{VARIANT} {VARIANT}", "evil\n"),
}


@pytest.mark.parametrize("more", MORE)
def test_a_patch_that_does_more_is_not_proposed(machine: Machine, more: str) -> None:
    def change(look: Path) -> None:
        if more != "a link":
            new_variant(look)
        MORE[more](look / PREFIX)

    done = propose(machine, change)
    assert done.returncode != 0
    assert "the patch may not change" in done.stdout
    assert branches(machine) == ""
    assert machine.pull_requests() == []


def test_a_variant_of_the_minor_is_not_removed(machine: Machine) -> None:
    done = propose(machine, lambda look: (look / PREFIX / OLD_VARIANT).unlink(), "2.15")
    assert "the patch may not change" in done.stdout
    assert branches(machine) == ""


@pytest.mark.parametrize(
    "env",
    [
        {"SHA256": "0" * 64}, {"SHA256": ""}, {"MINORS": "2.16; touch x"}, {"MINORS": "../../x"}, {"MINORS": ""},
        {"MINORS": "2.16\n2.15"}, {"MINORS": "--force"},
    ],
)  # fmt: skip
def test_what_the_watch_says_is_looked_at(machine: Machine, env: dict[str, str]) -> None:
    assert propose(machine, new_variant, **env).returncode != 0
    assert branches(machine) == ""


def test_evidence_that_was_exchanged_is_not_proposed(machine: Machine) -> None:
    assert propose(machine, new_variant).returncode == 0
    (machine.temp / "proposal" / "evidence.md").write_text("other\n")
    patch = (machine.temp / "proposal" / "change.patch").read_text()
    digest = hashlib.sha256((patch + "evidence\n").encode()).hexdigest()
    done = machine.run(
        "torch-watch", "propose", "Open a pull request", MINORS="2.16", DRAFT="", SHA256=digest
    )  # fmt: skip
    assert done.returncode != 0
    assert "FAILED" in done.stdout


# ---- the list of what was published


def entry(file: str, index: str = "pypi") -> PublishedFile:
    name = canonicalize_name(file.partition("-")[0])
    return PublishedFile(name, file, index, hashlib.sha256(file.encode()).hexdigest())


def record(machine: Machine, *files: PublishedFile) -> subprocess.CompletedProcess[str]:
    published_list.write(PublishedList(frozenset(files)), machine.temp)
    (machine.temp / "published").mkdir(exist_ok=True)
    (machine.temp / "published.json").rename(machine.temp / "published" / "published.json")
    need(shutil.which("jq") is not None, "needs jq")
    git(machine.checkout, "fetch", "--quiet", "origin")
    git(machine.checkout, "reset", "--quiet", "--hard", "origin/main")
    return machine.run("torch-wheels", "record", "Open a pull request")


def test_the_list_of_what_was_published_grows(machine: Machine) -> None:
    """What the default branch and an open proposal have stays in it, in the form that the farm itself writes."""
    project = machine.origin / PREFIX
    published_list.write(PublishedList(frozenset({entry("demo-0.9.whl")})), project)
    git(machine.origin, "add", "--all")
    git(machine.origin, "commit", "--quiet", "--message", "an earlier release")

    def proposed() -> PublishedList:
        text = git(machine.origin, "show", f"torch-build-farm/published:{PREFIX}published.json")
        (machine.temp / "published.json").write_text(text)
        assert published_list.read(machine.temp).text() == text
        return published_list.read(machine.temp)

    done = record(machine, entry("demo-1.0.whl"), entry("demo_torch28-1.0.whl"))
    assert done.returncode == 0, done.stdout
    expected = {entry("demo-0.9.whl"), entry("demo-1.0.whl"), entry("demo_torch28-1.0.whl")}
    assert proposed().files == expected

    assert record(machine, entry("demo-1.1.whl"), entry("demo-1.0.whl")).returncode == 0
    assert proposed().files == expected | {entry("demo-1.1.whl")}
    git(machine.origin, "merge", "--quiet", "torch-build-farm/published")
    git(machine.origin, "branch", "--quiet", "--delete", "--force", "torch-build-farm/published")
    done = record(machine, entry("demo-1.0.whl"))
    assert "the list has this already" in done.stdout
    assert branches(machine) == ""


def test_a_list_that_was_exchanged_is_not_recorded(machine: Machine) -> None:
    folder = machine.temp / "published"
    folder.mkdir()
    (folder / "published.json").write_text(json.dumps({"schema": 1, "files": []}))
    digest = hashlib.sha256((folder / "published.json").read_bytes()).hexdigest()
    for job in ("check", "record"):
        step = "Compare the list of what was published"
        assert machine.run("torch-wheels", job, step, SHA256=digest).returncode == 0
        for other in ("0" * 64, "", f"{digest}  /etc/passwd\n{digest}"):
            assert machine.run("torch-wheels", job, step, SHA256=other).returncode != 0
