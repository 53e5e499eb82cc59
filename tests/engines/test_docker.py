"""What the Docker engine works out without an engine."""

import csv
import io
import subprocess
import tarfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from docker import DockerClient

from tests.conftest import CHECKOUT
from tests.until import DEADLINE_S
from torch_build_farm.core.errors import CudaToolkitError, EngineError, Interrupted
from torch_build_farm.core.machine import ARM64, X86_64
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.base import BuildRequest, check_nvcc
from torch_build_farm.engines.docker import cibuildwheel_config, images, store_access
from torch_build_farm.engines.docker.client import Daemon
from torch_build_farm.engines.docker.containers import Confinement, Labels, Watch, mount
from torch_build_farm.engines.docker.contents import look_into
from torch_build_farm.engines.docker.engine import DockerEngine
from torch_build_farm.engines.docker.images import Base, ways_out
from torch_build_farm.engines.docker.pinned import identifiers, pins
from torch_build_farm.engines.docker.store_access import Helper, StoreAccess, find_access, put_folder
from torch_build_farm.engines.slots import DEFAULT_GB, compile_slots
from torch_build_farm.engines.variables import NVCC_WITH_TOKENS, Places, build_variables
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load

PROJECT = load(CHECKOUT, CHECKOUT)
DAEMON = Daemon("id", "28", X86_64, cpus=64, memory=10**12, rootless=False, userns=False, gpus=False)


def request(minor: str) -> BuildRequest:
    job = Job("x", "1.0", PROJECT.variants[Minor.parse(minor)], CPython(3, 11))
    shell = Shell(Runner(), {}, Path(), Path(), lambda _: None)
    return BuildRequest(job, Path("t"), Path("s"), Path("o"), "-j4 --jobserver-auth=fifo:/js", 1, 0, False, shell)


def test_pins_and_identifiers_are_cibuildwheels_own() -> None:
    assert "@sha256:" in pins(X86_64)["manylinux_2_28"]
    assert " " not in pins(X86_64)["manylinux_2_28"]
    assert all(variant.image in pins(X86_64) for variant in PROJECT.variants.values())
    assert identifiers(X86_64)[CPython(3, 11)] == "cp311-manylinux_x86_64"
    assert CPython(3, 13, True) not in identifiers(X86_64), "cibuildwheel 4.3 has dropped it"


def test_a_configuration_is_valid_toml_and_keeps_commands_as_they_are() -> None:
    commands = ["echo 'a' && echo \"$HOME\"", "echo {project} {wheel}"]
    arguments = ["--env=A=x y", "--label=a=b"]
    settings = replace(PROJECT.settings, before_build=tuple(commands), external_libraries={"libacme.so*": "acme"})
    text = cibuildwheel_config.configuration("image:tag", X86_64, arguments, "/store/env", settings)
    table = tomllib.loads(text)["tool"]["cibuildwheel"]
    assert table["container-engine"]["disable-host-mount"] is True
    assert table["container-engine"]["create-args"] == ["--env=A=x y", "--label=a=b"]
    assert table["build-frontend"] == {"name": "build[uv]", "args": ["--verbose", "--env-dir=/store/env"]}
    assert "#{project}" in table["before-build"]
    assert "--exclude libtorch_cpu.so" in table["repair-wheel-command"]
    assert "--exclude 'libacme.so*'" in table["repair-wheel-command"]
    assert table["repair-wheel-command"].endswith(" {wheel}")
    assert cibuildwheel_config.was_repairing(["Building wheel...", "Repairing wheel...", "x"])
    assert not cibuildwheel_config.was_repairing(["Repairing wheel...", "Copying wheels back to host...", "no space"])


@dataclass
class EngineOnAnotherMachine:
    """In place of the docker SDK's client, for an engine whose machine is not here."""

    architecture: str

    def info(self) -> dict[str, Any]:
        return {"ID": "id", "OSType": "linux", "Architecture": self.architecture, "NCPU": 4, "MemTotal": 10**10}

    def version(self) -> dict[str, Any]:
        return {"ApiVersion": "1.47", "Version": "28.2"}


def test_an_engine_is_on_a_machine_that_torch_has_wheels_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "docker").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Daemon.ask(cast(DockerClient, EngineOnAnotherMachine("aarch64"))).platform == ARM64
    with pytest.raises(EngineError, match="linux/riscv64 containers, not linux/x86_64 or linux/aarch64"):
        Daemon.ask(cast(DockerClient, EngineOnAnotherMachine("riscv64")))


def test_mounts_survive_commas_and_quotes() -> None:
    (row,) = csv.reader([mount(type="bind", source='/a,b"c', target="/t", readonly="")])
    assert row == ["type=bind", 'source=/a,b"c', "target=/t", "readonly"]


@dataclass
class EngineOnThisMachine:
    """In place of the docker SDK's client: its containers are processes of this machine, or print what is prepared."""

    output: str = ""
    started: int = 0

    @property
    def containers(self) -> "EngineOnThisMachine":
        return self

    def run(self, image: str, command: list[str], **options: Any) -> bytes:
        self.started += 1
        return self.output.encode() or subprocess.run(command, check=True, capture_output=True).stdout

    def create(self, image: str, command: list[str], **options: Any) -> "ProcessOfThisMachine":
        return ProcessOfThisMachine(command)


@dataclass
class ProcessOfThisMachine:
    """In place of a container."""

    command: list[str]

    def start(self) -> None:
        self.done = subprocess.run(self.command, check=False, capture_output=True)

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.done.returncode}

    def logs(self, *, stdout: bool = True, stderr: bool = True) -> bytes:
        return self.done.stdout if stdout else self.done.stderr

    def put_archive(self, path: str, content: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(path, filter="data")

    def remove(self, *, force: bool, v: bool) -> None:
        assert force
        assert v, "its volumes would stay"


def test_no_password_stands_in_a_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = {"UV_INDEX_PRIVATE_PASSWORD": "geheim", "UV_DEFAULT_INDEX": "https://me:geheim@index.example/simple",
               "UV_FIND_LINKS": "https://me:geheim@links.example", "HTTPS_PROXY": "http://me:geheim@proxy.example", "https_proxy": "http://me:geheim@proxy.example"}  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    labels = Labels("s", "c", "r")
    helper = Helper(cast(DockerClient, EngineOnThisMachine()), DAEMON, "image", X86_64, labels)
    access = find_access(helper, TorchStore.at(tmp_path / "store", tmp_path), 10**9)
    assert access.shared
    words = access.confinement.arguments(labels.all("job"), {})
    assert not [word for word in words if "geheim" in word]
    assert {f"--env={name}" for name in secrets} <= set(words)
    assert not [word for word in words if word.startswith(("--env=PATH=", "--env=CXX="))]
    assert f"--env=HOME={Path.home()}" not in words


def test_without_overlays_environments_are_copies(tmp_path: Path) -> None:
    """Foreign code writes into them there; this machine's `mv` knows no mount of the engine's."""
    helper = Helper(cast(DockerClient, EngineOnThisMachine()), DAEMON, "image", X86_64, Labels("s", "c", "r"))
    access = find_access(helper, TorchStore.at(tmp_path / "store", tmp_path), 10**9)
    assert access.overlay is None
    assert access.confinement.environment["UV_LINK_MODE"] == "copy"
    assert "UV_LINK_MODE" not in access.foreign([], network=True).environment


def test_farms_that_put_the_same_into_a_volume_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "torch.whl").write_bytes(b"1" * 1_000_000)
    store = TorchStore(tmp_path / "volume", "")
    store.root.mkdir()
    helper = Helper(cast(DockerClient, EngineOnThisMachine()), DAEMON, "image", X86_64, Labels("s", "c", "r"))
    confinement = Confinement((), "", False, 0, {}, ())
    access = StoreAccess(store, shared=False, free_gb=1.0, on_engine=store.root, confinement=confinement)
    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(lambda _: put_folder(helper, access, tmp_path / "sdk", "sdk/0"), range(4)))
    assert places == {store.root / "sdk" / "0"}
    assert (store.root / "sdk" / "0" / "torch.whl").read_bytes() == b"1" * 1_000_000
    assert [path.name for path in (store.root / "sdk").iterdir()] == ["0"]


def test_paths_are_no_part_of_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume has the paths of this machine's store, and a user may call a folder what he likes."""
    (tmp_path / "sdk").mkdir()
    (tmp_path / "sdk" / "torch.whl").write_bytes(b"1")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    store = TorchStore(tmp_path / "it's; touch planted; $(touch planted) *", "scope")
    store.environment("left").mkdir(parents=True)
    helper = Helper(cast(DockerClient, EngineOnThisMachine()), DAEMON, "image", X86_64, Labels("s", "c", "r"))
    assert store_access._prime_volume(helper, store, {}) > 0
    confinement = Confinement((), "", False, 0, {}, ())
    access = StoreAccess(store, shared=False, free_gb=1.0, on_engine=store.root, confinement=confinement)
    assert put_folder(helper, access, tmp_path / "sdk", "sdk/0") == store.root / "sdk" / "0"
    assert (store.root / "sdk" / "0" / "torch.whl").read_bytes() == b"1"
    assert sorted(path.name for path in store.root.iterdir()) == ["envs", "locks", "sdk", "settings", "uv"]
    assert not store.environment("left").exists()
    assert list((tmp_path / "current").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"sdk", "current", store.root.name}


def test_slots_follow_this_machine_for_an_engine_on_it(tmp_path: Path) -> None:
    """Its CPUs as far as this process may use them; an engine elsewhere goes by its own."""
    store = TorchStore.at(tmp_path, tmp_path)

    def engine(host: str) -> DockerEngine:
        return DockerEngine(PROJECT, store, DockerClient(base_url=host, version="1.41"), DAEMON, None)

    assert engine("unix:///nowhere.sock").slots() == compile_slots(DEFAULT_GB)
    assert engine("tcp://127.0.0.1:9").slots() == 64


def test_an_engine_that_hangs_does_not_keep_a_run_from_being_cancelled() -> None:
    runner = Runner()
    end = threading.Event()

    class Hanging:
        def events(self, **_: object) -> None:
            runner.cancel(2)
            end.wait(DEADLINE_S)

    with pytest.raises(Interrupted), Watch(Hanging(), Labels("s", "c", "r"), "job", runner):  # type: ignore[arg-type]
        pass
    end.set()


def test_a_layers_tag_is_the_hash_of_what_goes_into_it() -> None:
    base = Base("manylinux_2_28", "some:tag", X86_64, "sha256:1")
    tag = images.plan_layer(PROJECT, base, "").tag
    assert tag == images.plan_layer(PROJECT, base, "").tag
    packages = replace(PROJECT.settings.system_packages, dnf=("xz-devel",))
    other = replace(PROJECT, settings=replace(PROJECT.settings, system_packages=packages))
    layers = [images.plan_layer(PROJECT, replace(base, id="sha256:2"), ""), images.plan_layer(PROJECT, base, "1:1"),
              images.plan_layer(other, base, "")]  # fmt: skip
    assert len({tag, *(layer.tag for layer in layers)}) == 4
    assert "dnf install -y xz-devel" in layers[2].dockerfile
    assert "apt-get install" not in layers[2].dockerfile


def test_what_is_said_of_an_image() -> None:
    builder = "pytorch/manylinux2_28-builder:cuda12.8"
    digest = f"pytorch/manylinux2_28-builder@sha256:{'0' * 64}"
    assert "by a tag that may move" in Base(builder, builder, X86_64, "sha256:1", digest).note
    assert digest in Base(builder, builder, X86_64, "sha256:1", digest).note
    assert Base(builder, builder, X86_64, "sha256:1").note == builder, "made on this machine"
    assert Base(digest, digest, X86_64, "sha256:1", digest).note == digest
    stand_in = Base(builder, "torch-build-farm-base:builder", X86_64, "sha256:1")
    assert f"in place of {builder} (--base-image {builder} takes that)" in stand_in.note


@pytest.mark.parametrize(
    ("requested", "way_out"),
    [
        ("pytorch/manylinux2_28-builder:cuda12.8", "--builder"),
        (f"pytorch/manylinux2_28-builder:cuda12.6@sha256:{'0' * 64}", "--builder"),
        ("pytorch/manylinux2_28-builder:cuda13.0", "tagged torch-build-farm-base:latest"),
        ("manylinux_2_28", "tagged torch-build-farm-base:latest"),
        ("ours:cuda12.8", "tagged torch-build-farm-base:latest"),
    ],
)
def test_the_way_out_has_nvcc_where_the_image_had(requested: str, way_out: str) -> None:
    assert way_out in ways_out(requested, X86_64)


def test_another_platform_has_images_and_identifiers_of_its_own() -> None:
    arm64 = pins(ARM64)["manylinux_2_28"]
    assert "_aarch64@sha256:" in arm64
    assert arm64 not in pins(X86_64).values()
    assert identifiers(ARM64)[CPython(3, 11)] == "cp311-manylinux_aarch64"
    assert "ci/base-image --platform aarch64 (tagged torch-build-farm-base:aarch64" in ways_out("manylinux_2_28", ARM64)
    # What stands in for PyTorch's builder images has nvcc for x86-64 alone.
    assert "--builder" not in ways_out("pytorch/manylinuxaarch64-builder:cuda12.9", ARM64)
    table = tomllib.loads(cibuildwheel_config.configuration("image:tag", ARM64, [], "", PROJECT.settings))
    assert table["tool"]["cibuildwheel"]["manylinux-aarch64-image"] == "image:tag"


def test_an_nvcc_that_is_older_than_the_architectures() -> None:
    job = Job("demo-torch28", "1", PROJECT.variants[Minor(2, 8)], CPython(3, 12))
    check_nvcc(job, "12.4", ("8.0", "9.0a+PTX"), "the image", "name another")
    check_nvcc(job, "12.8", ("8.0", "12.0+PTX"), "the image", "name another")
    check_nvcc(job, "12.1", ("12.0",), "the image", "name another")  # what that one knows is not known here
    with pytest.raises(CudaToolkitError, match=r"nvcc 12\.4 does not compile for 10.0, 12.0") as caught:
        check_nvcc(job, "12.4", ("8.0", "10.0", "12.0+PTX"), "the image", "name another")
    assert "CUDA 12.8" in caught.value.where
    assert "up to 9.0" in (caught.value.next_step or "")


def test_an_image_is_probed_once(tmp_path: Path) -> None:
    engine = EngineOnThisMachine(
        "python\tcp311\t3.11.7\t/opt/python/cp311-cp311/bin/python\t1.6.1\n"
        "python\tcp313t\t3.13.1\t/opt/python/cp313-cp313t/bin/python\t1.6.1\n"
        "lacking\tpatchelf\ncompiler\tc++ 12\nnvcc\t12.8\n"
    )
    base = Base("manylinux_2_28", "some:tag", X86_64, "sha256:1")
    contents = look_into(cast(DockerClient, engine), base, tmp_path / "cache", {})
    assert list(contents.interpreters(X86_64)) == [CPython(3, 11)], "cibuildwheel cannot build for the other"
    assert contents.interpreters(X86_64)[CPython(3, 11)].path == Path("/opt/python/cp311-cp311/bin/python")
    assert (contents.lacking, contents.compiler, contents.nvcc) == (("patchelf",), "c++ 12", "12.8")
    assert contents.auditwheel == ""
    assert look_into(cast(DockerClient, engine), base, tmp_path / "cache", {}) == contents
    assert engine.started == 1
    look_into(cast(DockerClient, engine), replace(base, id="sha256:2"), tmp_path / "cache", {})
    assert engine.started == 2


def test_a_build_knows_that_it_is_for_others() -> None:
    """Projects test for these before they compile for the machine at hand alone. The settings may say otherwise."""
    places = Places(None, Path("/t"), Path("/b"), {})
    found = build_variables(PROJECT.settings, request("2.13"), places)
    assert (found["CIBUILDWHEEL"], found["CI"]) == ("1", "true")
    settings = replace(PROJECT.settings, environment={"CI": ""})
    assert build_variables(settings, request("2.13"), places)["CI"] == ""


def test_build_variables_map_folders_and_join_the_projects_flags() -> None:
    settings = replace(PROJECT.settings, environment={"CXXFLAGS": "-DX", "CXX": "g++-13"}, cuda_arch_list=("9.0",))
    places = Places(Path("/e"), Path("/project"), Path("/tmp/b"), {"/project": "."})
    found = build_variables(settings, request("2.13"), places)
    assert found["CXXFLAGS"].startswith("-DX -ffile-prefix-map=/project=. ")
    assert found["NVCC_APPEND_FLAGS"].count("-Xcompiler=-ffile-prefix-map=") == 3
    assert found["CUDA_HOME"] == "/e/lib/python3.11/site-packages/nvidia/cu13"
    assert found["CUDAHOSTCXX"] == "g++-13"
    assert "CUDA_HOME" not in build_variables(settings, request("2.8"), places), "there are no such wheels for CUDA 12"
    plain = build_variables(PROJECT.settings, request("2.13"), replace(places, environment=None))
    assert "CMAKE_PREFIX_PATH" not in plain
    assert "TORCH_CUDA_ARCH_LIST" not in plain
    assert "TORCH_STABLE_ONLY" not in " ".join(plain.values())


def test_what_builds_need_is_looked_for_in_prefixes_and_in_torch() -> None:
    """Neither loses the other, nor what the project itself names."""
    settings = replace(PROJECT.settings, environment={"CMAKE_PREFIX_PATH": "/own", "CPATH": "/own/include"})
    places = Places(Path("/e"), Path("/project"), Path("/tmp/b"), {}, prefixes=[Path("/opt/fmt")])
    found = build_variables(settings, request("2.13"), places)
    assert found["CMAKE_PREFIX_PATH"] == "/own:/opt/fmt:/e/lib/python3.11/site-packages/torch"
    assert found["CPATH"] == "/own/include:/opt/fmt/include"
    assert found["PKG_CONFIG_PATH"].startswith("/opt/fmt/lib/pkgconfig:")
    assert "-ffile-prefix-map=/opt/fmt=prefix" in found["CXXFLAGS"]


def test_a_build_with_cuda_sources_links_against_a_stub_of_the_driver() -> None:
    settings = replace(PROJECT.settings, environment={"LDFLAGS": "-s"}, cuda_arch_list=("9.0",), subdirectory="below")
    found = build_variables(settings, request("2.13"), Places(None, Path("/project"), Path("/tmp/b"), {}))
    assert found["LDFLAGS"] == "-s -L/project/below/.torch-build-farm/driver"
    assert found["CMAKE_LIBRARY_PATH"] == "/project/below/.torch-build-farm/driver"
    without = build_variables(
        replace(settings, cuda_arch_list=()), request("2.13"), Places(None, Path("/p"), Path("/b"), {})
    )
    assert without["LDFLAGS"] == "-s"


def test_nvcc_takes_tokens_of_the_jobserver() -> None:
    """By itself from CUDA 13 on, else by the farm's launcher; without a jobserver it is left alone."""
    settings = replace(PROJECT.settings, cuda_arch_list=("9.0",), compress_device_code=True)
    places = Places(None, Path("/p"), Path("/b"), {})

    def variables(torch: str, makeflags: str) -> dict[str, str]:
        return build_variables(settings, replace(request(torch), makeflags=makeflags), places)

    with_wheels = variables("2.13", "-j2 --jobserver-auth=fifo:/js")
    assert "--jobserver --threads=0" in with_wheels["NVCC_APPEND_FLAGS"]
    assert "-Xfatbin=-compress-all" in with_wheels["NVCC_APPEND_FLAGS"]
    assert "PYTORCH_NVCC" not in with_wheels
    older = variables("2.8", "-j2 --jobserver-auth=fifo:/js")
    assert "--jobserver" not in older["NVCC_APPEND_FLAGS"]
    assert older["CMAKE_CUDA_COMPILER_LAUNCHER"] == older["PYTORCH_NVCC"] == f"/p/{NVCC_WITH_TOKENS}"
    for torch in ("2.8", "2.13"):
        alone = variables(torch, "")
        assert "--jobserver" not in alone["NVCC_APPEND_FLAGS"]
        assert "PYTORCH_NVCC" not in alone


def test_a_build_for_the_stable_abi_gets_no_more_than_its_oldest_torch_has() -> None:
    project = replace(PROJECT, settings=replace(PROJECT.settings, stable_abi=Minor(2, 10), cuda_arch_list=("9.0",)))
    places = Places(Path("/e"), Path("/project"), Path("/tmp/b"), {})
    of_stable = replace(request("2.10"), job=Job("x", "1.0", project.variants[Minor(2, 10)], CPython(3, 11)))
    found = build_variables(project.settings, of_stable, places)
    for name in ("CFLAGS", "CXXFLAGS", "NVCC_APPEND_FLAGS"):
        assert found[name].endswith(" -DTORCH_STABLE_ONLY -DTORCH_TARGET_VERSION=0x020a000000000000"), name
    below = replace(request("2.9"), job=Job("x", "1.0", project.variants[Minor(2, 9)], CPython(3, 11)))
    assert "TORCH_STABLE_ONLY" not in " ".join(build_variables(project.settings, below, places).values())
