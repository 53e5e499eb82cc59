"""Machines and callers that lack what a program takes for granted: a message and an exit code of its kind, each time."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer, Farm
from torch_build_farm.cli import main as command_line
from torch_build_farm.cli.main import main
from torch_build_farm.core.errors import DiskError, FarmError, InternalError, LimitError, of_the_machine

RENDER = ("render", "--torch", "2.8")


def in_shell(farm: Farm, script: str, *words: str) -> Answer:
    """The farm's command as FARM in a shell's script."""
    command = shlex.join(farm.command(*words))
    done = subprocess.run(
        ["sh", "-c", f"FARM() {{ {command}; }}; {script}"],
        env=farm.environment, cwd=farm.project, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("script", "words", "code", "said"),
    [
        ("FARM > /dev/full", ("plan", "--torch", "2.8"), 9, "standard output cannot be written: No space left"),
        ("FARM > /dev/full", RENDER, 9, "standard output cannot be written: No space left"),
        ("FARM > /dev/full", ("plan", "--torch", "2.8", "--json"), 9, "standard output cannot be written"),
        ("FARM > /dev/full", ("plan", "--help"), 9, "standard output cannot be written"),
        ("FARM 2> /dev/full", ("plan", "--torch", "2.7"), 4, ""),
        ("FARM > /dev/full 2>&1", ("plan", "--torch", "2.8"), 9, ""),
        ("FARM >&-", ("plan", "--torch", "2.8"), 0, ""),
        ("FARM >&-", ("plan", "--torch", "2.8", "--json"), 9, "standard output is closed"),
        ("FARM <&- >&- 2>&-", RENDER, 0, ""),
        ("FARM <&- >&- 2>&-", ("plan", "--torch", "2.7"), 4, ""),
        ("mkdir gone; cd gone; rmdir ../gone; FARM", ("plan", "--torch", "2.7"), 4, "2.7"),
        (
            "LC_ALL=C FARM",
            ("plan", "--torch", "2.7\xe9"),
            4,
            "torch 2.7\xe9 has no",
        ),
        ("PYTHONIOENCODING=ascii FARM", ("plan", "--torch", "2.7\u20ac"), 4, r"torch 2.7\u20ac has no"),
        ("ulimit -n 5; FARM", RENDER, None, ""),
        ("ulimit -v 40000; FARM", RENDER, None, ""),
    ],
)
def test_streams_and_limits(tiny: Farm, script: str, words: tuple[str, ...], code: int | None, said: str) -> None:
    answer = in_shell(tiny, script, *words)
    if code is None:  # the interpreter itself, or a tool, may be the first to fail
        assert answer.code != 0
    else:
        assert answer.code == code, answer.err
        assert said in answer.err, answer.err
        assert "Traceback" not in answer.out + answer.err
        assert "Exception ignored" not in answer.err


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Answer]]:
    """The farm in this process, in a current folder."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(folder: Path, *words: str, **env: str) -> Answer:
        monkeypatch.chdir(folder)
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            code = main(words)
        return Answer(code, *capsys.readouterr())

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("here")
def test_a_current_folder_that_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    start = Path.cwd()
    os.chdir(gone)
    gone.rmdir()
    try:
        assert main(["plan", "--torch", "2.8"]) == 2
        assert "the current folder is gone" in capsys.readouterr().err
    finally:
        os.chdir(start)


# As sitecustomize, it takes away what the machine of the test has.
LACKING = """
import errno, fcntl, os, pwd

def refuse(number):
    def call(*_):
        raise OSError(number, os.strerror(number))
    return call

def nobody(*_):
    raise KeyError("getpwuid(): uid not found: 12345")

what = os.environ["LACKING"]
if what == "home":
    os.environ.pop("HOME", None)
    pwd.getpwuid = pwd.getpwnam = nobody
if what == "flock":
    fcntl.flock = refuse(errno.ENOLCK)
if what == "fifo":
    os.mkfifo = refuse(errno.EPERM)
if what == "disk":
    os.fsync = refuse(errno.ENOSPC)
    def full(self, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    import pathlib
    pathlib.Path.write_bytes = pathlib.Path.write_text = full
"""


@pytest.mark.parametrize(
    ("lacking", "words", "said"),
    [
        ("home", ("plan", "--torch", "2.8"), "this user has no home folder"),
        ("home", ("discover",), "this user has no home folder"),
        ("flock", RENDER, "the file system has no locks (flock): No locks available"),
        ("fifo", RENDER, "the file system has no FIFOs: Operation not permitted"),
        ("disk", RENDER, "the disk is full"),
    ],
)
def test_what_a_machine_may_lack(tiny: Farm, tmp_path: Path, lacking: str, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    tiny.env |= {"PYTHONPATH": str(tmp_path), "LACKING": lacking, "XDG_CACHE_HOME": "", "TORCH_BUILD_FARM_STORE": ""}
    answer = tiny(*words)
    assert answer.code == 9, answer.out + answer.err
    told = answer.out + answer.err
    assert said in told
    assert "  next:  " in told
    assert "Traceback" not in told


def test_names_that_are_not_utf8(tiny: Farm, tmp_path: Path, here: Callable[..., Answer]) -> None:
    name = os.fsdecode(b"caf\xe9")
    answer = here(tiny.project, "plan", "--only", name)
    assert (answer.code, r"an argument is not UTF-8: caf\udce9" in answer.err) == (2, True), answer.err
    for variable in ("TORCH_BUILD_FARM_STORE", "XDG_CACHE_HOME"):
        answer = here(tiny.project, *RENDER, **{variable: str(tmp_path / name)})
        assert (answer.code, "a path that is not UTF-8" in answer.err) == (2, True), answer.err
    (tiny.project / name).touch()
    answer = here(tiny.project, *RENDER)
    assert answer.code == 6, answer.err
    assert r"caf\udce9" in answer.err
    (tiny.project / name).unlink()
    tiny.project.rename(tmp_path / name)
    answer = here(tmp_path / name, "plan", "--torch", "2.8")
    assert (answer.code, "the project's folder is not UTF-8: " in answer.err) == (2, True), answer.err


def test_an_audit_where_nothing_can_be_built(tiny: Farm, tmp_path: Path, here: Callable[..., Answer]) -> None:
    """A folder with a space, and a store with one: nothing is built there."""
    folder = tiny.project.rename(tmp_path / "a b")
    wheel = folder / "x y-1.0-py3-none-any.whl"
    wheel.write_bytes(b"no wheel")
    answer = here(folder, "audit", str(wheel), TORCH_BUILD_FARM_STORE=str(tmp_path / "c d"))
    assert answer.code == 26, answer.err
    assert "a path with a space" not in answer.out + answer.err
    assert "a path with a space" in here(folder, *RENDER).err


def test_places_that_are_no_folders(tiny: Farm, tmp_path: Path, here: Callable[..., Answer]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "loop", Path("/dev/null")):
        answer = here(tiny.project, "plan", "--project", str(place))
        assert answer.code in (3, 9), answer.err
    for name in ("jobs", "logs", "lock"):
        work = tmp_path / name
        work.mkdir()
        (work / name).mkdir() if name == "lock" else (work / name).touch()
        answer = here(tiny.project, *RENDER, "--work", str(work), "--engine", "local")
        assert answer.code == 9, answer.err


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskError, "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), DiskError, "quota"),
        (OSError(errno.EFBIG, "File too large"), DiskError, "ulimit -f"),
        (OSError(errno.EIO, "Input/output error"), DiskError, "Input/output error"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), DiskError, "Read-only"),
        (PermissionError(errno.EACCES, "Permission denied", b"/x\xff"), DiskError, "Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), DiskError, "temporary"),
        (OSError(errno.EMFILE, "Too many open files"), LimitError, "ulimit -n"),
        (OSError(errno.ENFILE, "Too many open files in system", "/x"), LimitError, "machine"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), LimitError, "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), LimitError, "memory"),
        (MemoryError(), LimitError, "memory"),
    ],
)
def test_the_machine_is_to_blame(error: BaseException, kind: type[FarmError], said: str) -> None:
    problem = of_the_machine(error)
    assert type(problem) is kind
    assert said in problem.what
    assert problem.next_step
    str(problem).encode()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "error",
    [
        KeyError("HOME"), RecursionError("maximum recursion depth exceeded"), UnicodeEncodeError("utf-8", "\udcff", 0, 1, "no"),
        OSError("of a library"), ValueError("\x1b[2J"), ZeroDivisionError(), MemoryError(), ImportError("no module"),
        BufferError("x" * 10_000), StopIteration(),
    ],
    ids=repr,
)  # fmt: skip
def test_whatever_comes_next(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback: a message that says where the traceback lies, and the code of its kind; --json has a document."""

    def fail(_: str) -> None:
        raise error

    monkeypatch.setattr(command_line, "load_command", fail)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    code = main(["plan", "--json"], tmp_path)
    captured = capsys.readouterr()
    assert code == {"MemoryError": 32, "ImportError": 8}.get(type(error).__name__, InternalError.exit_code)
    assert "Traceback" not in captured.err
    assert "\x1b[2J" not in captured.err
    assert len(captured.err) < 2000
    assert f'"exit_code": {code}' in captured.out
    files = list((tmp_path / "state").rglob("*.txt"))
    assert len(files) == (code == InternalError.exit_code)
    for file in files:
        assert str(file) in captured.err
        assert "Traceback" in file.read_text()
        assert file.stat().st_mode & 0o077 == 0


@pytest.mark.usefixtures("here")
def test_a_traceback_that_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: str) -> None:
        raise KeyError("x")

    monkeypatch.setattr(command_line, "load_command", fail)
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null/x")
    monkeypatch.setattr("tempfile.tempdir", "/dev/null/y")
    assert main(["plan"], tmp_path) == InternalError.exit_code
    told = capsys.readouterr().err
    assert "please report it" in told
    assert "where: " in told
    assert f"{Path(__file__).name}:" in told
