"""Whatever happens to a run, its containers, volumes, environments and tokens are gone, and it can go on."""

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import docker as docker_sdk
import psutil
import pytest

from tests.conftest import Farm
from tests.integration.docker.conftest import Docker, PrivateEngine, hold, left_behind, release
from tests.integration.test_bad_input import waiting
from tests.until import DEADLINE_S, until
from torch_build_farm.core import process_identity
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.engines.docker.containers import Labels, sweep

JOB = "tiny-torch28-cp311"
ONE = ("build", "--torch", "2.8", "--json")


def goes_on(farm: Farm, docker: Docker) -> None:
    """The same command, started again, ends well: its gate is opened."""
    (farm.work / "logs" / f"{JOB}.log").unlink()
    run = farm.start("build", "--torch", "2.8")
    until(lambda: (farm.work / "logs" / f"{JOB}.log").exists() and waiting(farm))
    release(docker, docker.of_job(JOB))
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, out
    assert left_behind(farm, docker) == []


def building_on(engine: PrivateEngine, farm: Farm) -> subprocess.Popen[str]:
    """A build that waits in its container on a private engine, which is started for it."""
    engine.start()
    farm.env["DOCKER_HOST"] = engine.host
    hold(farm)
    run = farm.start("build", "--torch", "2.8")
    until(lambda: waiting(farm))
    return run


def test_a_failed_build_leaves_nothing(contained: Farm, docker: Docker) -> None:
    volumes = docker.volumes()
    contained.edit("core.cpp", "name ? 0 : 42", "name ? 0 : nothing")
    answer = contained(*ONE)
    assert answer.code == 14, answer.err
    assert re.search(r": core\.cpp:\d+:\d+: error: ", answer.document["jobs"][0]["error"]["what"])
    assert left_behind(contained, docker) == []
    assert docker.volumes() == volumes


def test_a_wheel_without_a_library(contained: Farm, docker: Docker) -> None:
    contained.edit("CMakeLists.txt", "install(", "if(FALSE)\ninstall(")
    contained.edit("CMakeLists.txt", "DESTINATION tiny)", "DESTINATION tiny)\nendif()")
    answer = contained(*ONE)
    assert answer.code == 16, answer.err
    assert "holds no compiled library" in answer.err
    contained.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.scikit-build]\nwheel.platlib = false\nwheel.py-api = "py3"\n\n[tool.torch-build-farm]')  # fmt: skip
    answer = contained(*ONE)
    assert answer.code == 16, answer.err
    assert "holds no compiled library" in answer.err
    assert left_behind(contained, docker) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(contained: Farm, docker: Docker, number: int, code: int) -> None:
    hold(contained)
    run = contained.start("build", "--torch", "2.8")
    until(lambda: waiting(contained))
    run.send_signal(number)
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == code, out
    assert left_behind(contained, docker) == []
    goes_on(contained, docker)


def test_interrupted_while_the_wheel_is_tested(contained: Farm, docker: Docker) -> None:
    contained.edit("pyproject.toml", 'imports = ["tiny", "tiny._core"]', 'smoke-script = "smoke.py"')
    (contained.project / "smoke.py").write_text("import time\nprint('waiting', flush=True)\ntime.sleep(3600)\n")
    run = contained.start("run", "--torch", "2.8")
    until(lambda: waiting(contained))
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 130, out
    assert left_behind(contained, docker) == []


def test_interrupted_while_an_image_is_made(contained: Farm, docker: Docker) -> None:
    """And while the engine has nothing to say."""
    (contained.project / "templates").mkdir()
    (contained.project / "templates" / "Dockerfile.j2").write_text(
        "FROM {{ base.reference }}\nRUN echo waiting {{ tools }}; sleep infinity\n"
    )
    before = docker("ps", "--all", "--quiet")
    run = contained.start("build", "--torch", "2.8")
    log = contained.work / "logs" / "engine.log"
    until(lambda: log.exists() and "\nwaiting" in log.read_text())
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 130, out
    until(lambda: docker("ps", "--all", "--quiet") == before)


def test_the_farm_killed(contained: Farm, docker: Docker) -> None:
    """Its supervisor outlives it for as long as cibuildwheel needs to remove the container."""
    hold(contained)
    run = contained.start("build", "--torch", "2.8")
    until(lambda: waiting(contained))
    run.kill()
    run.wait()
    until(lambda: not docker.containers())
    goes_on(contained, docker)


@pytest.mark.parametrize("by", ["the next start", "clean", "another work folder's start"])
def test_everything_killed(contained: Farm, docker: Docker, tmp_path: Path, by: str) -> None:
    """Farm, supervisor and cibuildwheel at once: the container is left, and swept by its label."""
    hold(contained)
    run = contained.start("build", "--torch", "2.8")
    until(lambda: waiting(contained))
    processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    run.wait()
    left = docker.containers()
    assert left, "nothing was left, so this proves nothing"
    if by == "clean":
        assert "removed 1 containers" in contained("clean").out
    elif by == "the next start":
        goes_on(contained, docker)
    else:
        other = Farm(contained.project, tmp_path / "other", engine="docker")
        assert "removed 1 containers that killed farms had left" in other("render", "--torch", "2.8").out
    assert not set(left) & set(docker.containers())


def test_a_sweep_spares_the_living(contained: Farm, docker: Docker, tmp_path: Path) -> None:
    hold(contained)
    run = contained.start("build", "--torch", "2.8")
    until(lambda: waiting(contained))
    other = Farm(contained.project, tmp_path / "other", engine="docker")
    assert other("render", "--torch", "2.8").code == 0
    assert other("clean").code == 0
    release(docker, docker.of_job(JOB))
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, out


def test_a_container_killed_and_the_other_jobs_go_on(contained: Farm, docker: Docker) -> None:
    """Told apart from a failed build; the other job is not touched."""
    hold(contained)
    run = contained.start("build", "--torch", "2.8", "2.9")
    jobs = (JOB, JOB.replace("28", "29"))
    until(lambda: waiting(contained, len(jobs)))
    docker("kill", docker.of_job(JOB))
    until(lambda: len(docker.containers()) == 1)
    release(docker, docker.of_job(jobs[1]))
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 18, out
    assert f"{JOB}: its container was stopped by somebody else" in out
    assert "1 done, 0 kept, 1 failed" in out
    assert left_behind(contained, docker) == []
    goes_on(contained, docker)


def test_out_of_memory(contained: Farm, docker: Docker) -> None:
    bomb = ["#define A0 1"] + [f"#define A{n} {','.join([f'A{n - 1}'] * 10)}" for n in range(1, 9)]
    contained.edit("core.cpp", "#include <Python.h>", "#include <Python.h>\n" + "\n".join(bomb) + "\nint numbers[] = {A8};")  # fmt: skip
    contained.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\nmemory-per-compile-gb = 0.3")
    answer = contained(*ONE)
    assert answer.code == 15, answer.err
    what = answer.document["jobs"][0]["error"]["what"]
    assert "out of memory" in what
    assert "which may use 1.6 GB" in what
    assert left_behind(contained, docker) == []


def test_out_of_memory_that_no_compiler_tells_of(contained: Farm, docker: Docker) -> None:
    """A command that dies without a word: only the engine's events know why."""
    hog = "cat /dev/zero | head -c 4G | tail -c 4G > /dev/null 2>&1"
    contained.edit("pyproject.toml", "[tool.torch-build-farm]",
                   f"[tool.torch-build-farm]\nmemory-per-compile-gb = 0.3\nbefore-build = ['{hog} || exit 7; exit 7']")  # fmt: skip
    answer = contained(*ONE)
    assert answer.code == 15, answer.err
    assert left_behind(contained, docker) == []


def test_the_engine_restarted_in_mid_build(contained: Farm, private_engine: PrivateEngine) -> None:
    run = building_on(private_engine, contained)
    private_engine.stop()
    private_engine.start()
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 18, out
    assert "the Docker engine went away" in out
    assert left_behind(contained, private_engine.docker) == []
    goes_on(contained, private_engine.docker)


def test_an_engine_that_stays_away(contained: Farm, private_engine: PrivateEngine) -> None:
    """The run ends all the same; what it left is swept when the engine is back."""
    run = building_on(private_engine, contained)
    assert private_engine.process
    os.killpg(private_engine.process.pid, signal.SIGKILL)
    private_engine.process.wait()
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 18, out
    subprocess.run(["pkill", "-f", str(private_engine.folder / "exec")], check=False)
    private_engine.stop()
    (private_engine.folder / "pid").unlink(missing_ok=True)
    private_engine.start()
    goes_on(contained, private_engine.docker)


def test_the_engines_disk_full(contained: Farm, private_engine: PrivateEngine) -> None:
    """A build writes into its container until the engine's disk is full."""
    private_engine.start()
    contained.env["DOCKER_HOST"] = private_engine.host
    contained.edit("CMakeLists.txt", "install(",
                   'execute_process(COMMAND dd if=/dev/zero of=${CMAKE_SOURCE_DIR}/big bs=1M count=600 COMMAND_ERROR_IS_FATAL ANY)\ninstall(')  # fmt: skip
    assert contained("render", "--torch", "2.8").code == 0
    filler = private_engine.root / "filler"
    free = os.statvfs(private_engine.root)
    subprocess.run(["fallocate", "-l", str(free.f_bfree * free.f_frsize - 500_000_000), str(filler)], check=True)
    try:
        answer = contained(*ONE)
        assert answer.code == 9, answer.err
        assert "the disk is full" in answer.document["jobs"][0]["error"]["what"]
        assert left_behind(contained, private_engine.docker) == []
    finally:
        filler.unlink()
    assert contained(*ONE).code == 0


def test_the_work_folders_disk_full(contained: Farm, docker: Docker) -> None:
    """The wheel is copied out of the container, and does not fit."""
    contained.edit("CMakeLists.txt", "install(", 'execute_process(COMMAND dd if=/dev/urandom of=${CMAKE_BINARY_DIR}/big bs=1M count=30)\n'
                   "install(FILES ${CMAKE_BINARY_DIR}/big DESTINATION tiny)\ninstall(")  # fmt: skip
    contained.work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20M", "none", str(contained.work)], check=True)
    try:
        answer = contained(*ONE)
        assert answer.code == 9, answer.err
        assert left_behind(contained, docker) == []
    finally:
        subprocess.run(["umount", str(contained.work)], check=True)


def test_an_image_that_cannot_be_pulled(contained: Farm, private_engine: PrivateEngine) -> None:
    """The engine has no stand-in: both ways out are named. A name that no registry has is no better."""
    private_engine.start()
    contained.env["DOCKER_HOST"] = private_engine.host
    private_engine.docker("tag", "torch-build-farm-base:latest", "kept:latest")
    private_engine.docker("rmi", "torch-build-farm-base:latest")
    try:
        answer = contained(*ONE)
    finally:
        private_engine.docker("tag", "kept:latest", "torch-build-farm-base:latest")
    assert answer.code == 19, answer.err
    assert "cannot be pulled (manylinux_2_28, as cibuildwheel pins it)" in answer.err
    assert "ci/base-image" in answer.err
    assert "--engine local" in answer.err
    answer = contained(*ONE, "--base-image", "manylinux_2_34")
    assert answer.code == 19, "a stand-in was taken"
    assert "cannot be pulled (manylinux_2_34" in answer.err, "a stand-in was taken"
    answer = contained(*ONE, "--base-image", "no-such-image:1")
    assert answer.code == 19, answer.err
    assert "no-such-image:1 cannot be pulled" in answer.err
    assert not (contained.work / "jobs").exists()


def test_no_engine(contained: Farm, tmp_path: Path) -> None:
    contained.env["DOCKER_HOST"] = f"unix://{tmp_path}/none.sock"
    answer = contained(*ONE)
    assert (answer.code, answer.document["error"]["kind"]) == (18, "EngineError"), answer.err
    contained.engine = "auto"
    answer = contained("build", "--torch", "2.8")
    assert answer.code == 0, answer.err
    assert "engine: local (no Docker engine answers)" in answer.out


def test_the_sdk_and_the_docker_command_must_mean_one_engine(contained: Farm, docker: Docker, tmp_path: Path) -> None:
    """Without a config.json the SDK knows no contexts; the command does."""
    config = tmp_path / "docker-config"
    env = {**os.environ, "DOCKER_CONFIG": str(config)}
    create = ["docker", "context", "create", "nowhere", "--docker", "host=tcp://127.0.0.1:9"]
    subprocess.run(create, env=env, check=True, capture_output=True)
    (config / "config.json").unlink(missing_ok=True)
    contained.env |= {"DOCKER_CONFIG": str(config), "DOCKER_CONTEXT": "nowhere"}
    answer = contained(*ONE)
    assert (answer.code, answer.document["error"]["kind"]) == (18, "EngineError"), answer.err


def test_errands_are_swept_when_they_are_old(contained: Farm, docker: Docker) -> None:
    """A container of no job may be another farm's that plans; one that lies there for minutes is nobody's."""
    labels = Labels.of(TorchStore.at(default_folder(), contained.work), "gone").all()
    options = [f"--label={name}={value}" for name, value in labels.items()]
    young = docker("create", *options, "torch-build-farm-base:latest", "true")
    try:
        assert contained("render", "--torch", "2.8").code == 0
        assert contained("clean").code == 0
        assert young in docker.containers()
        client = docker_sdk.from_env()
        old = sweep(client, TorchStore.at(default_folder(), contained.work), errand_s=0)
        assert old == 1
        assert young not in docker.containers()
    finally:
        subprocess.run(["docker", "rm", "--force", young], check=False, capture_output=True)


def test_what_killed_farms_of_other_stores_left_is_swept(contained: Farm, docker: Docker, tmp_path: Path) -> None:
    """Their stores may never be used again; what a live farm has there stays, with a job or without."""
    ended = subprocess.Popen(["true"])
    dead, alive = process_identity.of(ended.pid), process_identity.of(os.getpid())
    ended.wait()
    elsewhere = Labels.of(TorchStore.at(tmp_path / "other-store", tmp_path / "other-work"), "run")
    left = []
    for process, job in ((dead, ""), (dead, "demo"), (alive, ""), (alive, "demo"), ("", "")):
        labels = replace(elsewhere, process=process).all(job)
        options = [f"--label={name}={value}" for name, value in labels.items()]
        left.append(docker("create", *options, "torch-build-farm-base:latest", "true"))
    try:
        assert contained("clean").code == 0
        assert [container in docker.containers() for container in left] == [False, False, True, True, True]
    finally:
        for container in left:
            subprocess.run(["docker", "rm", "--force", container], check=False, capture_output=True)


def test_the_store_is_not_touched_by_faults() -> None:
    """Nothing of the tests above lies in the store."""
    assert not list(default_folder().glob("shared-*"))
