"""Engines that do not share this machine's files: named by DOCKER_HOST or by a context."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Farm
from tests.integration.docker.conftest import Docker, PrivateEngine, hold
from tests.integration.test_bad_input import waiting
from tests.until import DEADLINE_S, until
from torch_build_farm.core.files import sha256
from torch_build_farm.engines.docker.store_access import _certificates


@pytest.fixture
def elsewhere(private_engine: PrivateEngine) -> Iterator[tuple[Docker, str]]:
    """An engine behind TCP that sees another file system where the store is; and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    private_engine.start(shares=False, tcp=port)
    yield private_engine.docker, f"tcp://127.0.0.1:{port}"
    for volume in private_engine.docker.volumes():  # gigabytes
        private_engine.docker("volume", "rm", volume)


def test_a_remote_engine_builds_and_tests(contained: Farm, elsewhere: tuple[Docker, str], tmp_path: Path) -> None:
    """By DOCKER_HOST; the store is a volume there, which stays until `clean --store`."""
    docker, host = elsewhere
    contained.env["DOCKER_HOST"] = host
    contained.edit("pyproject.toml", 'imports = ["tiny", "tiny._core"]', 'imports = ["tiny._core"]\nsmoke-script = "smoke.py"')  # fmt: skip
    (contained.project / "smoke.py").write_text("import tiny\nprint('answer', tiny.answer())\n")
    answer = contained("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    assert "the engine does not share this machine's files" in answer.err
    assert answer.document["jobs"][0]["stages"][-1]["details"]["script"] == "answer 42"
    assert docker.containers() == []
    (volume,) = [name for name in docker.volumes() if name.startswith("torch-build-farm-")]
    listed = docker("run", "--rm", "--volume", f"{volume}:/v", "torch-build-farm-base:latest", "sh", "-c", "ls /v/envs/* 2>/dev/null; du -sm /v/uv | cut -f1")  # fmt: skip
    environments, size = listed.split()[:-1], int(listed.split()[-1])
    assert not [name for name in environments if "tiny" in name], "its environments are gone"
    assert size > 1000, "torch lies in the volume"
    _by_context(contained, host, tmp_path)
    _killed(contained, docker)
    _removed(contained, docker)


# Tries to write each part of the store that is mounted in the container, and the files in it.
PROBE = """\
while read -r _ place _; do
    case $place in */engines/*) ;; *) continue ;; esac
    result=refused
    if touch "$place/planted"; then result=written; fi
    for file in "$place"/*.*; do
        if [ -f "$file" ] && echo planted >> "$file"; then result=written; fi
    done
    if mount -o remount,rw "$place"; then result=written; fi
    echo "probe $place: $result"
done < /proc/self/mounts 2> /dev/null
"""


def test_what_builds_share_on_a_remote_engine_is_read_only(contained: Farm, elsewhere: tuple[Docker, str]) -> None:
    """Torch's SDK, and with a network certificates and uv's settings; a build writes its own job's folders alone."""
    docker, host = elsewhere
    contained.env["DOCKER_HOST"] = host
    (contained.project / "probe.sh").write_text(PROBE)
    contained.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        '[tool.torch-build-farm]\nnetwork = true\nbefore-build = ["sh probe.sh"]',
    )
    answer = contained("build", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    found = re.findall(r"^probe \S+/engines/\w+/(\w+)\S*: (.+)$", contained.log("tiny-torch28-cp311"), re.MULTILINE)
    assert set(found) == {("sdk", "refused"), ("settings", "refused"), ("envs", "written")}

    (volume,) = [name for name in docker.volumes() if name.startswith("torch-build-farm-")]
    look = "find /v -name planted; cd /v && sha256sum sdk/*/*.whl settings/certificates.pem"
    words = ["run", "--rm", "--volume", f"{volume}:/v", "torch-build-farm-base:latest", "sh", "-c", look]
    (digest, wheel), (certificates, _) = [line.split() for line in docker(*words).splitlines()]
    assert wheel.split("/")[1] == digest
    bundle = _certificates()
    assert bundle
    assert certificates == sha256(bundle)


def _by_context(farm: Farm, host: str, tmp_path: Path) -> None:
    """The same engine as the current context of a docker configuration; torch is there already."""
    config = str(tmp_path / "docker-config")
    for words in (["context", "create", "elsewhere", "--docker", f"host={host}"], ["context", "use", "elsewhere"]):
        env = {**os.environ, "DOCKER_CONFIG": config}
        env.pop("DOCKER_HOST", None)
        subprocess.run(["docker", *words], env=env, check=True, capture_output=True)
    del farm.env["DOCKER_HOST"]
    farm.env["DOCKER_CONFIG"] = config
    farm.edit("core.cpp", "name ? 0 : 42", "name ? 0 : 6 * 7")
    answer = farm("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["jobs"][0]["status"] == "done"
    assert "downloading torch" not in farm.log("tiny-torch28-cp311")


def _killed(farm: Farm, docker: Docker) -> None:
    """Interrupted, nothing is left there either."""
    hold(farm)
    run = farm.start("build", "--torch", "2.8")
    until(lambda: waiting(farm))
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 130, out
    assert docker.containers() == []


def _removed(farm: Farm, docker: Docker) -> None:
    """`clean --store` removes the volume and the farm's images; here with a store of its own, so that torch stays."""
    answer = farm("clean")
    assert answer.code == 0, answer.err
    assert [name for name in docker.volumes() if name.startswith("torch-build-farm-")]
    store = farm.project.parent / "store"
    farm.env["TORCH_BUILD_FARM_STORE"] = str(store)
    before = set(docker("images", "--quiet", "--filter", "label=torch-build-farm.store").split())
    volume = docker("volume", "create", "--label", f"torch-build-farm.store={_owner(store)}")
    assert farm("clean", "--store").code == 0
    assert volume not in docker.volumes()
    assert before == set(docker("images", "--quiet", "--filter", "label=torch-build-farm.store").split())


def _owner(store: Path) -> str:
    from torch_build_farm.core.store import TorchStore  # noqa: PLC0415
    from torch_build_farm.engines.docker.containers import Labels  # noqa: PLC0415

    return Labels.of(TorchStore.at(store, store), "").store
