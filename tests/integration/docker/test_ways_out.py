"""A build and an imported package that try to get out of their containers: nothing changes that the host reads later.

The store, the work folder and the home folder are the test's own, and so is torch, a few kilobytes in Python: where a
protection is missing, nothing else is damaged. What is compared is each file's kind, mode, owner and content.
"""

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer, Farm, need
from tests.integration.docker.conftest import STAND_IN, Docker, left_behind
from tests.made_up import Front
from torch_build_farm.core.machine import ARM64, X86_64, Machine

MARK = b"-".join([b"ways", b"out", b"was", b"here"])
# torch.version of what the index has for a platform: CUDA builds, or builds for CPUs alone.
VERSIONS = {
    X86_64: "__version__ = '2.8.0+cu128'\ncuda = '12.8'\n",
    ARM64: "__version__ = '2.8.0'\ncuda = None\n",
}


def torch_wheel(folder: Path, platform: Machine) -> Path:
    tag = f"cp311-cp311-manylinux_2_28_{platform}"
    files = {
        "torch/__init__.py": "from torch import cuda, version\n__version__ = version.__version__\n",
        "torch/version.py": VERSIONS[platform],
        "torch/cuda.py": "def device_count():\n    return 0\n",
        "torch/notes.py": "# as it was\n",
        "torch-2.8.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 2.8.0\nRequires-Python: >=3.9\n",
        "torch-2.8.0.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    path = folder / f"torch-2.8.0-{tag}.whl"
    record = "".join(f"{name},,\n" for name in [*files, "torch-2.8.0.dist-info/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, "torch-2.8.0.dist-info/RECORD": record}.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def platform(request: pytest.FixtureRequest) -> Machine:
    """Whose programs the containers run: the engine's own platform, or one that its kernel has QEMU for."""
    named: Machine = getattr(request, "param", X86_64)
    if named == ARM64:
        request.getfixturevalue("arm64_image")
    return named


@pytest.fixture
def job(platform: Machine) -> str:
    return "escape-torch28-cp311" if platform == X86_64 else f"escape-torch28-cp311-{platform}"


@pytest.fixture
def index(docker: Docker, tmp_path: Path, platform: Machine) -> Iterator[Front]:
    """The real index with a torch of its own, where containers reach it."""
    # Not by `docker network inspect`: it names no gateway until the engine's second start (moby#26799).
    hosts = docker("run", "--rm", "--add-host", "the-host:host-gateway", STAND_IN, "getent", "hosts", "the-host")
    address, _ = hosts.split()
    front = Front({path.name: path for path in [torch_wheel(tmp_path, platform)]}, hidden="torch-", address=address)
    yield front
    front.close()


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A store of which the engine can make overlays; and one that lies on an overlay itself, so that it cannot."""
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    if request.param == "overlays":
        yield folder
        return
    need(os.geteuid() == 0, "needs root, to mount the store")
    layers = {name: tmp_path / "layers" / name for name in ("lowerdir", "upperdir", "workdir")}
    for layer in layers.values():
        layer.mkdir(parents=True, mode=0o700)
    options = ",".join(f"{name}={layer}" for name, layer in layers.items())
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def farms(make_farm: Callable[..., Farm], store: Path, index: Front, tmp_path: Path) -> tuple[Farm, Farm]:
    """The project that tries to get out, and the next one: a copy of it that tries nothing. One store, one home."""
    env = {
        "TORCH_BUILD_FARM_STORE": str(store),
        "HOME": str(tmp_path / "home"),
        "UV_DEFAULT_INDEX": index.url,
        "TORCH_BUILD_FARM_CCACHE": "on",
    }
    hostile = make_farm("escape", **env)
    hostile.engine = "docker"
    project = tmp_path / "next"
    shutil.copytree(hostile.project, project)
    harmless = Farm(project, tmp_path / "work-next", env, engine="docker")
    (project / "escape" / "ways_out.py").write_text("def main(where): pass\ndef leave_links(): pass\n")
    return hostile, harmless


Entry = tuple[str, int, int, str]


def entry(path: Path) -> Entry:
    status = path.lstat()
    kind = stat.filemode(status.st_mode)[0]
    content = ""
    if kind == "-":
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif kind == "l":
        content = str(path.readlink())
    return kind, stat.S_IMODE(status.st_mode), status.st_uid, content


def manifest(*folders: Path) -> dict[Path, Entry]:
    """Everything in the folders, but what the farm's own uv writes at every call (pages, pointers), and environments."""
    entries = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            if not {"simple-v28", "interpreter-v5", "wheels-v8", "envs"} & set(path.parts):
                entries[path] = entry(path)
    return entries


def plant(store: Path, home: Path) -> None:
    """What a store and a home folder have that builds would like to change."""
    files = {
        store / "sources" / "git-1" / ".git" / "config": "[core]\n",
        store / "sources" / "git-1" / "setup.py": "",
        store / "sdk" / "0" / "torch.whl": "",
        store / "ccache" / "another" / "result": "",
        store / "compiled" / "cp311" / "torch-2.7.0.dist-info" / "a.pyc": "",
        store / "images" / "0.json": "{}",
        home / ".gitconfig": "[user]\n",
        home / "sentinel": "as it was\n",
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def marked(folder: Path) -> list[Path]:
    """Files with the mark in them."""
    return [path for path in folder.rglob("*") if path.is_file() and MARK in path.read_bytes()]


def check_outputs(hostile: Farm, answer: Answer, job: str) -> None:
    """What a build that tried all ways left for the host, in its own work folder."""
    # The job's own outputs are files and folders of the farm's, none of them a link or a program that becomes root.
    for path, (kind, mode, owner, _) in manifest(hostile.work).items():
        assert kind in "-d", path
        assert mode & 0o7000 == 0, path
        assert owner == os.geteuid(), path
    raw = {path.name for path in (hostile.work / "jobs" / job / "raw").iterdir()}
    assert {name for name in raw if not name.endswith(".whl")} <= {"peak", ".ninja_log", "asked"}
    assert len([name for name in raw if name.endswith(".whl")]) == 1
    assert set(marked(hostile.work)) <= {hostile.work / "logs" / f"{job}.log"}
    assert "\x1b" not in answer.err

    # At least 20 ways were tried, in the build and in the smoke test.
    log = hostile.log(job)
    for where in ("ask", "build", "import"):
        tried = {line.split(": ")[1] for line in log.splitlines() if line.startswith(f"way out, {where}: ")}
        assert len(tried) >= 20, tried


@pytest.mark.parametrize(
    ("store", "platform"),
    [("overlays", X86_64), ("copies", X86_64), ("overlays", ARM64)],
    indirect=True,
    ids=["overlays", "copies", "arm64"],
)
def test_no_way_leads_out(
    farms: tuple[Farm, Farm], store: Path, platform: Machine, job: str, docker: Docker, index: Front, tmp_path: Path
) -> None:
    hostile, harmless = farms
    run = ("run", "--torch", "2.8", "--platform", platform.name, "--json")
    home = tmp_path / "home"
    home.mkdir()
    # The next project comes first as well, so that caches are filled and its own work folder is there to be changed.
    answer = harmless(*run)
    assert answer.code == 0, answer.err
    clean = answer.document["jobs"][0]["wheel"]["sha256"]
    plant(store, home)
    abstract = f"\0ways-out-{os.getpid()}"  # the test runs for two engines at a time
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(abstract)
        listener.listen()
        listener.settimeout(0)
        targets = {
            "where_files_are_read": True,
            "store": str(store), "home": str(home), "work": str(hostile.work), "job": job, "build": "/tmp/build",
            "url": index.url, "socket": abstract, "pid": os.getpid(),
        }  # fmt: skip
        file = hostile.project / "escape" / "targets.json"
        file.write_text(json.dumps(targets))
        before = manifest(store, home, harmless.work)
        volumes = docker.volumes()
        refused = hostile(*run)
        assert refused.code == 13, refused.err
        assert "is not a regular file but a link" in refused.err
        assert left_behind(hostile, docker) == []
        file.write_text(json.dumps({**targets, "where_files_are_read": False}))
        answer = hostile(*run)
        assert answer.code == 0, answer.err
        with pytest.raises(BlockingIOError):
            listener.accept()

    # All that was there is as it was, and what is new in the store is of the farm's own uv.
    after = manifest(store, home, harmless.work)
    changed = [f"{path}: {old}, {after.get(path)}" for path, old in before.items() if after.get(path) != old]
    assert not changed, "\n".join(changed)
    pointers = [path for path in store.glob("uv/wheels-v*/**/*") if path.is_symlink()]
    assert {path.resolve().parent for path in pointers} == {store / "uv" / "archive-v0"}
    new = {path.relative_to(tmp_path).parts[:2] for path in after.keys() - before.keys()}
    assert new <= {("store", "uv"), ("store", "locks"), ("store", "ccache"), ("home", ".cache"), ("home", ".local")}, (
        new
    )
    assert marked(store) + marked(home) + marked(harmless.work) == []
    assert left_behind(hostile, docker) == []
    assert docker.volumes() == volumes

    check_outputs(hostile, answer, job)

    answer = harmless(*run, "--force")
    assert answer.code == 0, answer.err
    assert answer.document["jobs"][0]["wheel"]["sha256"] == clean
    assert "way out" not in harmless.log(job)
    assert marked(harmless.work) == []
