"""The supervisor against real processes."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.until import DEADLINE_S, until
from torch_build_farm.core import log, process
from torch_build_farm.core.errors import Interrupted
from torch_build_farm.core.process import Runner
from torch_build_farm.pipeline.jobserver import Jobserver


def alive(mark: str) -> list[str]:
    """Command lines of live processes that carry `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if mark in line and f"/proc/{os.getpid()}/" not in str(path):
            found.append(line)
    return found


@pytest.fixture
def mark() -> str:
    return f"mark-{uuid.uuid4().hex}"


def run(runner: Runner, log: Path, *command: str, **env: str) -> tuple[int, tuple[str, ...]]:
    done = runner.run(command, env={"PATH": os.environ["PATH"], **env}, log=log)
    return done.returncode, done.tail


def test_output_status_log_and_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code, tail = run(Runner(), log, "sh", "-c", "echo $A; echo $HOME; echo err >&2; exit 7", A="b c")
    assert (code, tail) == (7, ("b c", "", "err"))
    assert log.read_text().splitlines()[1:] == ["b c", "", "err"]
    assert run(Runner(), log, "sh", "-c", "kill -9 $$")[0] == 137
    assert run(Runner(), log, "no-such-program") == (127, ("no-such-program: No such file or directory",))


# A grandchild that left the group, ignores SIGTERM and lost its parent: what a daemonising tool leaves behind.
STUBBORN = "(trap '' TERM; exec setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' {mark}) & "


def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path, mark: str) -> None:
    code, _ = run(Runner(), tmp_path / "log", "sh", "-c", STUBBORN.format(mark=mark) + "exit 3")
    assert code == 3
    until(lambda: not alive(mark), lambda: alive(mark))


def test_cancel_ends_everything(tmp_path: Path, mark: str) -> None:
    runner = Runner()
    command = STUBBORN.format(mark=mark) + "echo up; sleep 600"
    up = threading.Event()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            runner.run(["sh", "-c", command], env=dict(os.environ), log=tmp_path / "log", on_line=lambda _: up.set())
        except Interrupted as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert up.wait(DEADLINE_S)
    runner.cancel(signal.SIGTERM)
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert isinstance(caught[0], Interrupted)
    assert caught[0].code == 143
    assert not alive(mark)
    with pytest.raises(Interrupted):
        run(runner, tmp_path / "log", "true")


def test_nothing_outlives_a_farm_that_is_killed(tmp_path: Path, mark: str) -> None:
    farm = textwrap.dedent(f"""
        import os, pathlib
        from torch_build_farm.core.process import Runner
        Runner().run(["sh", "-c", {STUBBORN.format(mark=mark) + "sleep 600"!r}],
                     env=dict(os.environ), log=pathlib.Path({str(tmp_path / "log")!r}))
    """)
    process = subprocess.Popen([sys.executable, "-c", farm])
    until(lambda: any(line.startswith("sh -c trap") for line in alive(mark)))
    process.kill()
    process.wait()
    until(lambda: not alive(mark), lambda: alive(mark))


class WaitingRunner(Runner):
    """Notices when something waits."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = threading.Event()

    def pause(self, seconds: float) -> None:
        self.paused.set()
        super().pause(seconds)


def test_jobserver_gives_each_build_a_token_and_recovers_lost_ones(tmp_path: Path) -> None:
    runner = Runner()
    with Jobserver(tmp_path / "fifo", 2) as server:
        assert f"--jobserver-auth=fifo:{tmp_path / 'fifo'}" in server.makeflags

        def free() -> int:
            """Tokens that a ninja would find."""
            with (tmp_path / "fifo").open("r+b", buffering=0) as stream:
                os.set_blocking(stream.fileno(), False)
                found = len(stream.read(16) or b"")
                stream.write(b"+" * found)
                return found

        with server.build(runner):
            assert free() == 1
            with server.build(runner):
                assert free() == 0
                waiting = WaitingRunner()
                late = server.build(waiting)
                third = threading.Thread(target=late.__enter__, daemon=True)
                third.start()
                assert waiting.paused.wait(DEADLINE_S)
                assert third.is_alive()
            third.join(DEADLINE_S)
            assert not third.is_alive()
        assert free() == 1  # the third build never gave its token back
        server._builds = 0  # it was killed
        with server.build(runner):
            assert free() == 1
        late.__exit__(None, None, None)
    assert not (tmp_path / "fifo").exists()


PRINTS = """
import sys
out = sys.stdout.buffer
out.write(b"first\\n" + b"x" * 5_000_000 + b"\\xe2\\x82\\xac\\n\\nlast")
"""


def test_a_long_line_is_cut_except_in_the_log(tmp_path: Path) -> None:
    path, lines = tmp_path / "log", list[str]()
    done = Runner().run([sys.executable, "-c", PRINTS], env={}, log=path, on_line=lines.append)
    assert [len(line) < 70_000 for line in lines] == [True] * 4
    assert (lines[0], lines[1][:3], lines[2:]) == ("first", "xxx", ["", "last"])
    assert lines[1].endswith("... (the line goes on)")
    assert done.tail == tuple(lines)
    assert path.read_text("utf-8").rpartition("'\n")[2] == f"first\n{'x' * 5_000_000}\N{EURO SIGN}\n\nlast\n"


def test_output_without_an_end_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LARGEST_LOG", 100_000)
    path = tmp_path / "log"
    script = "print('y\\n' * 500_000, end=''); print('the end')"
    done = Runner().run([sys.executable, "-c", script], env={}, log=path)
    assert done.tail[-1] == "the end", "what comes at the end explains most failures"
    text = path.read_text("utf-8")
    assert len(text) < 200_000
    assert text.endswith("y\n\n(the command printed more than 100000 bytes; the rest is left out)\n")


@pytest.mark.parametrize("word", ["y", "x" * 100_000], ids=["lines", "long lines"])
def test_a_flood_does_not_keep_a_run_from_ending(tmp_path: Path, word: str) -> None:
    runner, started = Runner(), threading.Event()
    script = f"while True: print({word!r})"
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(
            runner.run, [sys.executable, "-c", script], env={}, log=tmp_path / "log", on_line=lambda _: started.set()
        )
        assert started.wait(DEADLINE_S)
        runner.cancel(signal.SIGTERM)
        with pytest.raises(Interrupted):
            future.result(timeout=DEADLINE_S)


def test_a_log_is_read_from_its_end_and_its_lines_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"start\n" + b"x" * 10_000 + b"\nend \xff")
    assert log.read(path) == f"start\n{'x' * 4000}\nend \N{REPLACEMENT CHARACTER}"
    monkeypatch.setattr(log, "_MOST_LINES", 2)
    assert log.read(path) == f"{'x' * 4000}\nend \N{REPLACEMENT CHARACTER}"
    monkeypatch.setattr(log, "_MOST", 5)
    assert log.read(path) == "end \N{REPLACEMENT CHARACTER}"


def test_a_command_begins_no_stages_part_of_its_log(tmp_path: Path) -> None:
    file = tmp_path / "log"
    heading = f"{log.STAGE_MARK}build demo now\n + forged==1\n"
    run(Runner(), file, sys.executable, "-c", f"import sys; sys.stdout.write({heading!r})")
    run(Runner(), file, "echo", heading)
    assert log.STAGE_MARK not in file.read_text()
    assert file.read_text().count("\n #### torch-build-farm: build demo now\n") == 3, "all of it is there"


def test_answers_of_a_filter() -> None:
    script = "import sys; [print(line.strip()[::-1], flush=True) for line in sys.stdin if line[0] != 'q' or sys.exit()]"
    assert process.answers([sys.executable, "-c", script], ["ab", "cd", "q", "ef"]) == ["ba", "dc"]
    assert process.answers(["/does/not/exist"], ["ab"]) == []


def test_a_short_command_that_prints_much() -> None:
    done = process.capture([sys.executable, "-c", f"print('x' * {process._LARGEST_OUTPUT})"])
    assert (done.returncode, done.tail) == (process.NO_ANSWER, ("it prints too much",))
    assert process._LARGEST_OUTPUT == 32 << 20


@pytest.mark.parametrize(
    ("program", "exception"),
    [
        ("raise RuntimeError('not implemented for Long\\nframe #0: f (0x1 in lib.so)\\nframe #1: g')",
         "RuntimeError: not implemented for Long"),
        ("import absent_module", "ModuleNotFoundError: No module named 'absent_module'"),
        ("try:\n    {}['a']\nexcept KeyError:\n    raise ValueError('the second')", "ValueError: the second"),
        ("class Own(Exception):\n    pass\nraise Own", "Own"),
        ("print(1\n", "SyntaxError: '(' was never closed"),
        ("import os\nos.abort()", "Fatal Python error: Aborted"),
        ("import sys\nsys.exit('no such file')", "no such file"),
        ("import os\nos._exit(3)", "it ended with status 3"),
    ],
)  # fmt: skip
def test_what_ended_a_python_program(tmp_path: Path, program: str, exception: str) -> None:
    command = (sys.executable, "-I", "-X", "faulthandler", "-c", program)
    assert Runner().run(command, env={}, log=tmp_path / "log").exception == exception
