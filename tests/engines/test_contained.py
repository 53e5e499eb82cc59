"""What comes back from containers, and what goes into the farm's own: bytes and names, nothing else."""

import importlib.util
import io
import os
import select
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from torch_build_farm.core.errors import BuildError
from torch_build_farm.core.process import Runner
from torch_build_farm.core.store import TorchStore
from torch_build_farm.engines.docker.build import only_wheel
from torch_build_farm.engines.docker.containers import Confinement, mount
from torch_build_farm.engines.docker.requirements import answer_of_back_end, checked_requirements
from torch_build_farm.engines.docker.store_access import StoreAccess
from torch_build_farm.pipeline.jobserver import Jobserver

DATA = Path(sys.modules["torch_build_farm"].__path__[0]) / "data"
WHEEL = "demo-1.0-cp311-cp311-linux_x86_64.whl"


@pytest.fixture(scope="module")
def contained() -> ModuleType:
    """data/cibuildwheel-contained.py, which is a program."""
    spec = importlib.util.spec_from_file_location("contained", DATA / "cibuildwheel-contained.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(*members: tuple[str, bytes | str, bytes]) -> io.BytesIO:
    """A tar archive of members: name, type, and content or target."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o4755
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    stream.seek(0)
    return stream


def test_wheels_alone_are_copied(contained: ModuleType, tmp_path: Path) -> None:
    """Not what a link leads to: neither a file beside a link, nor a folder that has become one, nor a link itself."""
    outside, folder = tmp_path / "outside", tmp_path / "raw"
    outside.mkdir()
    folder.mkdir()
    (outside / "secret").write_bytes(b"as it was")
    stream = archive(
        ("./", b"", tarfile.DIRTYPE),
        (f"./{WHEEL}", b"wheel", tarfile.REGTYPE),
        ("./exchanged", str(outside), tarfile.SYMTYPE),
        ("./exchanged/planted.txt", b"x", tarfile.REGTYPE),
        ("./exchanged/other-1.0-py3-none-any.whl", b"y", tarfile.REGTYPE),
        ("./linked.whl", str(outside / "secret"), tarfile.SYMTYPE),
        ("./hard.whl", str(outside / "secret"), tarfile.LNKTYPE),
        ("./fifo.whl", b"", tarfile.FIFOTYPE),
        ("./../up.txt", b"x", tarfile.REGTYPE),
        ("./peak", b"99", tarfile.REGTYPE),
        ("./.ninja_log", str(outside / "secret"), tarfile.SYMTYPE),
    )
    contained.copy_wheels(stream, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        WHEEL: b"wheel",
        "other-1.0-py3-none-any.whl": b"y",
    }
    assert not [path for path in folder.iterdir() if path.is_symlink() or path.stat().st_mode & 0o6111]
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_wheel_does_not_replace_what_is_there(contained: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"as it was")
    (tmp_path / WHEEL).symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        contained.copy_wheels(archive((f"./{WHEEL}", b"wheel", tarfile.REGTYPE)), tmp_path)
    assert (tmp_path / "target").read_bytes() == b"as it was"


def test_what_is_copied_has_a_bound(contained: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = archive(*[(f"./{number}", b"", tarfile.REGTYPE) for number in range(1001)])
    with pytest.raises(SystemExit, match="more to copy"):
        contained.copy_wheels(many, tmp_path)
    monkeypatch.setattr(contained, "_MOST_BYTES", 1000)
    with pytest.raises(SystemExit, match="more to copy"):
        contained.copy_wheels(archive((f"./{WHEEL}", bytes(1001), tarfile.REGTYPE)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_build_leaves_one_wheel(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="job: the build left 0 wheels where one is expected"):
        only_wheel("job", tmp_path, tmp_path / "log")
    (tmp_path / WHEEL).touch()
    (tmp_path / "peak").touch()
    assert only_wheel("job", tmp_path, tmp_path / "log") == tmp_path / WHEEL
    (tmp_path / "other-1.0-py3-none-any.whl").touch()
    with pytest.raises(BuildError, match=f"left 2 wheels where one is expected: {WHEEL}, other-1.0-py3-none-any.whl"):
        only_wheel("job", tmp_path, tmp_path / "log")


def test_long_lines_come_in_parts_and_their_end_in_one(contained: ModuleType) -> None:
    """cibuildwheel looks for the end of a command at the end of a line, however long that is."""
    footer = b"0000" + b"f" * 36 + b"\n"
    for length in range(contained._LINE - 80, contained._LINE + 80):
        lines = contained.BoundedLines(io.BytesIO(b"x" * length + footer))
        parts = []
        while part := lines.readline():
            parts.append(part)
        assert b"".join(parts) == b"x" * length + footer
        assert parts[-1].endswith(footer)
        assert max(map(len, parts)) <= contained._LINE + 64


def test_what_is_captured_has_a_bound(contained: ModuleType) -> None:
    lines = contained.BoundedLines(io.BytesIO(b"x" * 1_000_000))
    lines.left = 500_000
    with pytest.raises(SystemExit, match="printed more"):
        list(iter(lines.readline, b""))


@pytest.mark.parametrize(
    "text",
    [
        "--index-url=https://example.org",
        "-r/etc/passwd",
        "-e .",
        "./vendor/x.whl",
        "/project/x.whl",
        "x @ file:///project/x.whl",
        "x @ git+https://example.org/x",
        "x @ git+file:///store/sources/x",
        "x @ ../x.whl",
        "setuptools\n--index-url=https://example.org",
        "x" * 100_000 + ";",
        "x" * 5_000,
        "x; " + "(" * 2_000 + "os_name == ''" + ")" * 2_000,
        "",
    ],
)
def test_requirements_are_no_options_paths_or_repositories(text: str) -> None:
    with pytest.raises(BuildError, match="the build requires"):
        checked_requirements("job", ["setuptools", text])


def test_requirements_of_an_index_pass() -> None:
    required = [
        "setuptools>=77",
        "cmake; python_version > '3'",
        "x[y]==1.*",
        "z @ https://example.org/z-1-py3-none-any.whl",
    ]
    assert checked_requirements("job", required) == required
    with pytest.raises(BuildError, match="requires 1001 distributions"):
        checked_requirements("job", ["x"] * 1001)


def test_a_back_ends_answer_is_a_list_of_strings_or_nothing() -> None:
    prefix = "torch-build-farm: the back end requires "
    assert answer_of_back_end(f'{prefix}["cmake", "ninja"]') == ["cmake", "ninja"]
    for line in ("", "cmake", prefix, f"{prefix}{{}}", f"{prefix}{'[' * 100_000}", f'{prefix}"cmake"'):
        assert answer_of_back_end(line) == []
    with pytest.raises(BuildError):
        checked_requirements("job", answer_of_back_end(f'{prefix}[["-r", "x"], 1]'))


CONFINEMENT = Confinement(("all", "certificates"), "", False, 10**9, {
    "UV_CACHE_DIR": "/s/uv", "UV_CONFIG_FILE": "/etc/uv.toml", "SSL_CERT_FILE": "/etc/x", "LANG": "C"}, ("HTTPS_PROXY",))  # fmt: skip


def access(shared: bool, overlay: tuple[str, ...] | None) -> StoreAccess:
    engine = Path("/s") if shared else Path("/var/lib/docker/volumes/v/_data")
    return StoreAccess(TorchStore(Path("/s"), "w"), shared, 1.0, engine, CONFINEMENT, overlay)


def test_foreign_code_gets_no_store_no_network_and_no_credentials() -> None:
    confinement = access(True, ()).foreign(["one"], network=False)
    assert confinement.mounts == ("one",)
    arguments = confinement.arguments({}, {})
    assert "--network=none" in arguments
    assert "--cap-drop=ALL" in arguments
    assert {word for word in arguments if word.startswith("--cap-add=")} == {
        "--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE", "--cap-add=FOWNER",
    }  # fmt: skip
    assert not [word for word in arguments if "PROXY" in word or "UV_CONFIG" in word or "SSL" in word or "/s/" in word]
    with_network = access(True, ()).foreign(["one"], network=True)
    assert with_network.mounts == ("certificates", "one")
    assert "--network=none" not in with_network.arguments({}, {})
    assert "--env=HTTPS_PROXY" in with_network.arguments({}, {})


def test_an_environment_is_the_lower_layer_of_an_overlay() -> None:
    """Its changes go to a folder of the job's own; commas and colons in names do not become other options."""
    text = access(True, ("redirect_dir=on",)).environment(Path("/s/a,upperdir=x:b"), Path("/s/c"))
    assert "lowerdir=/s/a\\,upperdir=x\\:b,upperdir=/s/c/upper,workdir=/s/c/work,nosuid,nodev,redirect_dir=on" in text
    elsewhere = access(False, ()).environment(Path("/s/a"), Path("/s/c"))
    assert "lowerdir=/var/lib/docker/volumes/v/_data/a,upperdir=/var/lib/docker/volumes/v/_data/c/upper" in elsewhere
    assert access(True, None).environment(Path("/s/a"), Path("/s/c")) == "type=bind,source=/s/a,target=/s/a"


def test_parts_of_the_store_are_read_only_unless_they_are_the_jobs_own() -> None:
    assert access(True, ()).mount(Path("/s/sdk")) == "type=bind,source=/s/sdk,target=/s/sdk,readonly"
    assert access(True, ()).mount(Path("/s/x"), writable=True) == "type=bind,source=/s/x,target=/s/x"
    elsewhere = access(False, ()).mount(Path("/s/sdk"))
    assert '"volume-opt=o=bind,nosuid,nodev,ro"' in elsewhere
    assert "ro" not in access(False, ()).mount(Path("/s/x"), writable=True).rpartition("nodev")[2]
    assert "volume-opt=device=/var/lib/docker/volumes/v/_data/sdk" in elsewhere


def test_volume_options_are_one_field_each() -> None:
    text = mount({"type": "overlay", "o": "a,b"}, target="/t")
    assert text == 'target=/t,type=volume,volume-driver=local,volume-opt=type=overlay,"volume-opt=o=a,b"'


def fill(fifo: Path) -> None:
    """What a hostile build does: put tokens into the jobserver until it takes no more."""
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    while select.select([], [descriptor], [], 0)[1]:
        os.write(descriptor, b"+" * 4096)
    os.close(descriptor)


def test_a_build_that_fills_the_jobserver_stops_no_other(tmp_path: Path) -> None:
    """Tokens that a build adds are gone once a build has ended; a FIFO that is full does not fail the farm."""
    with Jobserver(tmp_path / "fifo", 4) as jobserver:
        with jobserver.build(Runner()):
            fill(tmp_path / "fifo")
        assert jobserver._drain() == 4


def test_a_build_that_fills_the_jobserver_at_the_wrong_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps of the farm's own."""
    drain = Jobserver._drain

    def drain_in_vain(jobserver: Jobserver) -> int:
        count = drain(jobserver)
        fill(tmp_path / "fifo")
        return count

    monkeypatch.setattr(Jobserver, "_drain", drain_in_vain)
    with Jobserver(tmp_path / "fifo", 4) as jobserver:
        for _ in range(2):
            with jobserver.build(Runner()):
                pass


def test_a_projects_build_py_is_not_pypas_build(contained: ModuleType, tmp_path: Path) -> None:
    """Python looks in the working folder first, which is the project for each of cibuildwheel's commands."""
    (tmp_path / "build.py").write_text("print('the script of the project')\n")
    container = contained.Container.__new__(contained.Container)
    container.cwd = str(tmp_path)
    with subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        container.bash_stdin, container.bash_stdout = shell.stdin, shell.stdout
        version = container.call(["python", "-m", "build", "--version"], env=os.environ, capture_output=True)
        folder = container.call(["pwd"], env=os.environ, capture_output=True)
    assert version.startswith("build ")
    assert folder.strip() == str(tmp_path)
