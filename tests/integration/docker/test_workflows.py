"""The workflow as it is rendered where a project says nothing: in containers, for the embedded project."""

import tarfile
from pathlib import Path

import pytest

from tests.integration.docker.conftest import Docker
from tests.integration.workflow_project import checkout, machine
from tests.integration.workflow_runner import Event, Run

pytestmark = pytest.mark.workflows


def test_the_embedded_project_in_containers(docker: Docker, tools: Path, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    workflow = root / ".github" / "workflows" / "torch-wheels.yml"
    event = Event("workflow_dispatch", inputs={"torch": "2.9"})
    run = Run(workflow, root, tmp_path / "run", machine(tmp_path), event, tools)
    results = run()
    (job,) = [name for name in results if name.startswith("pymomentum-gpu-torch29-")]
    ends = {"release": "success", **dict.fromkeys(["new-name", "publish", "check", "record"], "skipped")}
    assert results == {"plan": "success", job: "success", **ends}, run.job(job).log
    assert "engine: docker" in run.job(job).log
    assert "values and gradients agree on cpu" in run.job(job).log
    assert "| 2.9" in run.job("release").summary
    # The variants are in the pack, whose SHA-256 the job states; the others follow from them, and are made again.
    (path,) = (run.artifacts / "release").rglob("*.tar")
    with tarfile.open(path) as pack:
        names = [Path(name).name.split("-")[0] for name in pack.getnames() if name.endswith(".whl")]
    names += [path.name.split("-")[0] for path in (run.artifacts / "release").rglob("*-none-any.whl")]
    assert sorted(names) == ["pymomentum_gpu", "pymomentum_gpu_auto", "pymomentum_gpu_select", "pymomentum_gpu_torch29"]
