"""A real Docker engine with the base image that ci/base-image makes; and engines of the tests' own, to be mistreated."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Farm, need
from tests.until import DEADLINE_S, until
from torch_build_farm.core.machine import ARM64, X86_64
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore, default_folder
from torch_build_farm.engines.docker.images import STAND_INS

LABEL = "torch-build-farm"
STAND_IN = STAND_INS[X86_64]  # the image that ci/base-image makes


@dataclass
class Docker:
    """The docker command, for the engine of the environment or for one named by DOCKER_HOST."""

    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", *words], env={**os.environ, **self.env}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def answers(self) -> bool:
        command = ["docker", "version"]
        return subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, check=False).returncode == 0

    def containers(self, *filters: str) -> list[str]:
        """Containers of the farm, running or not."""
        words = [word for one in (f"label={LABEL}", *filters) for word in ("--filter", one)]
        return self("ps", "--all", "--quiet", "--no-trunc", *words).split()

    def of_job(self, job: str) -> str:
        """The one container of a job."""
        (found,) = self.containers(f"label={LABEL}.job={job}")
        return found

    def inspect(self, container: str) -> Any:
        return json.loads(self("inspect", container))[0]

    def volumes(self) -> set[str]:
        return set(self("volume", "ls", "--quiet").split())


@pytest.fixture(scope="session")
def docker() -> Docker:
    found = Docker()
    need(shutil.which("docker") is not None and found.answers(), "needs a Docker engine: ci/docker-engine")
    need(bool(found("images", "--quiet", STAND_IN)), "needs the base image: ci/base-image")
    return found


@pytest.fixture
def contained(make_farm: Callable[..., Farm], docker: Docker) -> Farm:
    """The smallest project, built in containers."""
    farm = make_farm("tiny")
    farm.engine = "docker"
    return farm


GATE = "echo waiting; while ! test -e /tmp/gate; do sleep 0.1; done"


def hold(farm: Farm) -> None:
    """Let each build wait in its container until `release`."""
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['{GATE}']")


def release(docker: Docker, container: str) -> None:
    docker("exec", container, "touch", "/tmp/gate")


def left_behind(farm: Farm, docker: Docker) -> list[str]:
    """What a run must not leave: containers, environments, the jobserver's FIFO, scratch folders."""
    store = TorchStore.at(Path(farm.env.get(STORE_VARIABLE) or default_folder()), farm.work)
    found = docker.containers(f"label={LABEL}.scope={store.scope}")
    found += [str(path) for path in store.environment("").glob("*")]
    return found + [str(path) for path in farm.work.glob("jobs/*/scratch")]


class PrivateEngine:
    """A Docker engine with a disk, a network and a socket of its own, that other tests do not notice.

    With `shares=False` it lives in a mount name space in which the store is hidden, as an engine on another machine.
    """

    def __init__(self, folder: Path) -> None:
        self.bridge, self.network = f"farm{os.getpid()}", f"172.31.{os.getpid() % 250}"  # others may test here too
        self.folder = folder
        self.root = folder / "disk"
        self.host = f"unix://{folder}/docker.sock"
        self.docker = Docker({"DOCKER_HOST": self.host})
        self.process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        self.root.mkdir(parents=True)
        disk = self.folder / "disk.img"
        subprocess.run(["truncate", "-s", "16G", str(disk)], check=True)
        subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
        subprocess.run(["mount", "-o", "loop,discard", str(disk), str(self.root)], check=True)
        for words in (
            f"ip link add {self.bridge} type bridge", f"ip addr add {self.network}.1/24 dev {self.bridge}",
            f"ip link set {self.bridge} up", "sysctl -qw net.ipv4.ip_forward=1",
            f"iptables -t nat -I POSTROUTING -s {self.network}.0/24 ! -o {self.bridge} -j MASQUERADE",
            f"iptables -I FORWARD -s {self.network}.0/24 -j ACCEPT", f"iptables -I FORWARD -d {self.network}.0/24 -j ACCEPT",
        ):  # fmt: skip
            subprocess.run(words.split(), check=True)

    def destroy(self) -> None:
        self.stop()
        for words in (
            f"ip link delete {self.bridge}",
            f"iptables -t nat -D POSTROUTING -s {self.network}.0/24 ! -o {self.bridge} -j MASQUERADE",
            f"iptables -D FORWARD -s {self.network}.0/24 -j ACCEPT", f"iptables -D FORWARD -d {self.network}.0/24 -j ACCEPT",
        ):  # fmt: skip
            subprocess.run(words.split(), check=False)
        subprocess.run(["umount", "-l", str(self.root)], check=False)
        (self.folder / "disk.img").unlink(missing_ok=True)

    def start(self, *more: str, shares: bool = True, tcp: int = 0, env: Mapping[str, str] | None = None) -> None:
        hide = "true" if shares else f"mount -t tmpfs none {default_folder()}"
        command = [
            "dockerd", "--host", self.host, "--data-root", str(self.root / "docker"), "--exec-root",
            str(self.folder / "exec"), "--pidfile", str(self.folder / "pid"), "--bridge", self.bridge, "--iptables=false",
        ]  # fmt: skip
        command += [*more, *(["--host", f"tcp://127.0.0.1:{tcp}"] if tcp else [])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh", *command],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **(env or {})},
            )  # fmt: skip
        process = self.process

        def answers() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()[-3000:]
            return self.docker.answers()

        until(answers, lambda: (self.folder / "log").read_text()[-3000:])

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(DEADLINE_S)
            self.process = None


@pytest.fixture(scope="session")
def _private(tmp_path_factory: pytest.TempPathFactory, docker: Docker) -> Iterator[PrivateEngine]:
    need(os.geteuid() == 0, "needs root, for a Docker engine of its own")
    need(shutil.which("dockerd") is not None, "needs dockerd: ci/docker-engine")
    engine = PrivateEngine(tmp_path_factory.mktemp("engine", numbered=True))
    try:
        engine.create()
        engine.start()
        load = f"docker save {STAND_IN} | docker --host {engine.host} load"
        subprocess.run(["bash", "-o", "pipefail", "-c", load], check=True, capture_output=True)
        engine.stop()
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def private_engine(_private: PrivateEngine) -> Iterator[PrivateEngine]:
    """A private engine that is not started yet."""
    yield _private
    _private.stop()


BUILDER = "torch-build-farm-base:builder"  # the image that ci/base-image --builder makes


@pytest.fixture(scope="session")
def builder_image(docker: Docker) -> str:
    """An image with the layout of PyTorch's builder images, nvcc of CUDA 12 among it."""
    found = docker("images", "--quiet", BUILDER)
    need(bool(found), "needs the image with nvcc: ci/base-image --suite trixie --builder")
    return BUILDER


@pytest.fixture(scope="session")
def arm64_image(docker: Docker) -> str:
    """An image for arm64, whose programs the engine starts under QEMU."""
    image = STAND_INS[ARM64]
    need(bool(docker("images", "--quiet", image)), "needs the image for arm64: ci/base-image --platform aarch64")
    started = subprocess.run(
        ["docker", "run", "--rm", "--network=none", image, "true"], capture_output=True, check=False
    )
    need(started.returncode == 0, "needs QEMU registered with the kernel: ci/qemu")
    return image


class Registry:
    """A registry of containers' images on this machine's loopback (Debian's package docker-registry)."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder, self.address = folder, f"127.0.0.1:{port}"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        configuration = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "images")}},
            "http": {"addr": self.address},
        }
        settings = self.folder / "config.yml"
        settings.write_text(json.dumps(configuration))  # which is YAML too
        with self.log.open("ab") as log:
            command = [self._program(), "serve", str(settings)]
            self.process = process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        def answers() -> bool:
            assert process.poll() is None, self.log.read_text()[-3000:]
            try:
                return bool(requests.get(f"http://{self.address}/v2/", timeout=5).ok)
            except requests.ConnectionError:
                return False

        until(answers, self.log.read_text)

    def _program(self) -> str:
        """The registry's program: this machine's, or unpacked from its package, so that nothing is installed."""
        found = shutil.which("docker-registry")
        if found:
            return found
        need(shutil.which("apt-get") is not None, "needs docker-registry, of Debian's package of that name")
        for command in (["apt-get", "-q", "update"], ["apt-get", "-q", "download", "docker-registry"]):
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        (package,) = self.folder.glob("docker-registry_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(self.folder / "unpacked")], check=True)
        return str(self.folder / "unpacked" / "usr" / "bin" / "docker-registry")

    def take(self, docker: Docker, image: str, name: str) -> None:
        """Have an image of an engine served under another name."""
        here = f"{self.address}/{name}"
        docker("tag", image, here)
        try:
            docker("push", "--quiet", here)
        finally:
            docker("rmi", here)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(DEADLINE_S)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    served = Registry(tmp_path)
    try:
        served.start()
        yield served
    finally:
        served.stop()
        shutil.rmtree(tmp_path / "images", ignore_errors=True)
