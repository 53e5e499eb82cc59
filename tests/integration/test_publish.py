"""Publishing to a real index server, interrupted at every place, and what users then install."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECTS, Farm
from tests.family import make_wheel
from tests.server import PASSWORD, USER, Server
from tests.until import until

pytestmark = pytest.mark.torch

FILES = [
    "tiny_torch28-1.0-cp", "tiny_torch29-1.0-cp", "tiny_select-1.0.0.0.0.208-py3", "tiny_select-1.0.0.0.0.209-py3",
    "tiny_auto-1.0-py3", "tiny-1.0-py3",
]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    folder = tmp_path_factory.mktemp("publish")
    shutil.copytree(PROJECTS / "tiny", folder / "tiny")
    farm = Farm(folder / "tiny", folder / "work", {"TWINE_USERNAME": USER, "TWINE_PASSWORD": PASSWORD, "CI": ""})
    answer = farm("run", "--torch", "2.8", "2.9")
    assert answer.code == 0, answer.err
    return farm


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "files")
    yield made
    made.stop()


@pytest.fixture
def restored(built: Farm, tmp_path: Path) -> Iterator[Farm]:
    """The same farm, whose work folder is afterwards as it was: records are proofs in no other folder."""
    shutil.copytree(built.work, tmp_path / "kept")
    yield built
    shutil.rmtree(built.work)
    shutil.copytree(tmp_path / "kept", built.work)


def short(names: list[str]) -> list[str]:
    return [next(one for one in FILES if name.startswith(one)) for name in names]


def test_a_dry_run_is_the_default(built: Farm, server: Server) -> None:
    answer = built("publish", server.url)
    assert answer.code == 0, answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert short([words[1] for words in lines if words and words[0].isdigit()]) == FILES
    assert "wave 1 of pending publishers: tiny-torch28, tiny-torch29, tiny-select" in answer.out
    assert "wave 2 of pending publishers: tiny-auto, tiny" in answer.out
    assert "a dry run" in answer.out
    assert server.files() == {}


def test_build_and_publish_in_one_call(built: Farm, server: Server) -> None:
    words = ("run", "--torch", "2.8", "2.9", "--publish", server.url, "--json")
    answer = built(*words)
    assert answer.code == 0, answer.err
    assert [job["status"] for job in answer.document["jobs"]] == ["kept", "kept"]
    assert answer.document["publish"]["dry_run"] is True
    assert server.files() == {}
    answer = built(*words, "--yes")
    assert answer.code == 0, answer.err
    assert [file["state"] for file in answer.document["publish"]["files"]] == ["new"] * len(FILES)
    assert len(server.files()) == len(FILES)


@pytest.mark.parametrize("count", range(1, len(FILES) + 1))
def test_killed_after_each_upload_it_ends_complete(built: Farm, server: Server, count: int) -> None:
    uploaded = 0
    with built.start("publish", server.url, "--yes") as run:
        assert run.stdout is not None
        for line in run.stdout:
            uploaded += line.startswith("uploaded ")
            if uploaded == count:
                run.send_signal(signal.SIGKILL)  # what it prints until the signal arrives counts too
    there = server.files()
    assert uploaded <= len(there) <= uploaded + 1, "one at a time"
    assert short(sorted(there, key=lambda name: FILES.index(short([name])[0]))) == FILES[: len(there)]

    answer = built("publish", server.url, "--yes", "--json")
    assert answer.code == 0, answer.err
    states = {Path(file["path"]).name: file["state"] for file in answer.document["files"]}
    assert [states[name] for name in there] == ["there"] * len(there)
    assert list(states.values()).count("new") == len(FILES) - len(there)
    assert server.files() == {Path(file["path"]).name: file["sha256"] for file in answer.document["files"]}
    assert len(server.files()) == len(FILES)
    for torch in ("28", "29"):
        assert f"tiny[torch{torch}]==1.0, imports" in answer.err


def test_a_server_killed_in_mid_upload(built: Farm, server: Server) -> None:
    """It is asked again until it is back; then again nothing is to be done."""
    log = built.work / "logs" / "publish.log"
    before = len(log.read_text()) if log.exists() else 0
    with built.start("publish", server.url, "--yes") as run:
        assert run.stdout is not None
        # Twine takes a second to start, so the upload itself meets a frozen server.
        until(lambda: log.exists() and " upload " in log.read_text()[before:])
        server.freeze()
        try:
            until(lambda: server.unread() > 0)
        finally:
            server.stop()
        server.start()
        out = run.stdout.read()
    assert run.returncode == 0, out
    assert short(sorted(server.files(), key=lambda name: FILES.index(short([name])[0]))) == FILES
    calls = [line for line in log.read_text()[before:].splitlines() if line.startswith("$ ") and " upload " in line]
    assert len(calls) > len(FILES), "the first had to be sent again"
    again = built("publish", server.url, "--yes")
    assert again.code == 0, again.err
    assert "uploaded" not in again.out


def test_files_that_are_there(built: Farm, server: Server) -> None:
    wheel = next(built.work.glob("dist/tiny_torch28*"))
    shutil.copy(wheel, server.folder)
    answer = built("publish", server.url)
    assert f"{wheel.name}  " in answer.out
    assert "already there" in answer.out
    (server.folder / wheel.name).write_bytes(wheel.read_bytes()[:-1] + b"x")
    answer = built("publish", server.url, "--yes")
    assert answer.code == 24
    assert f"the index has another {wheel.name}" in answer.err
    assert list(server.files()) == [wheel.name]


def test_a_broken_variant_is_reissued(built: Farm, server: Server) -> None:
    assert built("publish", server.url, "--yes").code == 0
    before = server.files()
    assert built("publish", server.url, "--yes", "--build-number", "1").code == 2
    answer = built("publish", server.url, "--yes", "--only", "*torch28*", "--build-number", "1")
    assert answer.code == 0, answer.err
    after = server.files()
    assert {name: after[name] for name in before} == before
    (new,) = after.keys() - before.keys()
    assert new.startswith("tiny_torch28-1.0-1-cp")


def test_what_is_not_proven_is_not_published(restored: Farm, server: Server) -> None:
    farm, work = restored, restored.work
    wheel = next(work.glob("dist/tiny_torch28*"))
    content = wheel.read_bytes()
    shutil.copy(next(work.glob("jobs/*torch28*/repaired/*.whl")), wheel)
    answer = farm("publish", server.url, "--yes")
    assert answer.code == 24
    assert f"{wheel.name}: no record has its SHA-256" in answer.err
    wheel.write_bytes(content)
    next(work.glob("jobs/*torch28*/records/smoke.json")).unlink()
    assert f"{wheel.name}: not smoke-tested" in farm("publish", server.url, "--yes").err
    assert farm("run", "--torch", "2.8", "--smoke", "import").code == 0
    assert f"{wheel.name}: smoke-tested, but not in full" in farm("publish", server.url, "--yes").err
    assert server.files() == {}


def test_a_wrong_password(built: Farm, server: Server) -> None:
    farm = Farm(built.project, built.work, {**built.env, "TWINE_PASSWORD": "not-the-password"})
    answer = farm("publish", server.url, "--yes")
    assert answer.code == 25, answer.err
    assert "does not accept these credentials" in answer.err
    assert server.files() == {}


def test_no_secret_is_told(built: Farm, server: Server) -> None:
    """A password in the URL reaches twine through its environment: no log, record or process list has it."""
    env = {name: value for name, value in built.env.items() if not name.startswith("TWINE")}
    farm = Farm(built.project, built.work, env)
    shown: set[str] = set()
    command = farm.command("publish", server.url.replace("//", f"//{USER}:{PASSWORD}@"), "--yes")
    run = subprocess.Popen(
        command, env=farm.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    typed = "".join(f"{word}\0" for word in command).encode()
    while run.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes()
            except OSError:
                continue
            if words != typed and PASSWORD.encode() in words:  # a child that was forked and has not begun is the same
                shown.add(words.decode())
        time.sleep(0.02)
    out, _ = run.communicate()
    assert run.returncode == 0, out
    assert not shown
    assert PASSWORD not in out
    assert all(PASSWORD not in path.read_text("utf-8", "replace") for path in built.work.rglob("*.log"))
    assert len(server.files()) == len(FILES)


def test_warnings_of_what_upstream_has(built: Farm, server: Server, tmp_path: Path) -> None:
    for version in ("0.8", "0.9", "2.0"):
        shutil.copy(make_wheel(tmp_path / "old", "tiny", version, {"tiny/old.py": ""}), server.folder)
    refused = built("publish", server.url)
    assert refused.code == 24
    assert "tiny has files on the index that this project has not published" in refused.err
    assert built("adopt", server.url, "tiny", "--yes").code == 0
    answer = built("publish", server.url, "--json")
    assert answer.code == 0, answer.err
    higher, older = answer.document["warnings"]
    assert higher == "tiny 2.0 is on the index: a plain `install tiny` takes that, not 1.0"
    assert older.startswith("2 older versions of tiny are not yanked (0.8 to 0.9)")


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ([(503, "busy"), (429, "slow down"), (502, "")], 0, "uploaded tiny-1.0-py3"),
        ([(403, "The user 'x' isn't allowed to upload to project 'tiny-torch28'.")], 25, "tiny-torch28 is not registered for these"),
        ([(403, "Invalid or non-existent authentication information.")], 25, "does not accept these credentials"),
        ([(400, "This filename has already been used")], 25, "was refused"),
    ],
)  # fmt: skip
def test_an_index_that_says_no(
    built: Farm, server: Server, answers: list[tuple[int, str]], code: int, said: str
) -> None:
    with server.front(answers) as url:
        answer = built("publish", url, "--yes")
    assert answer.code == code, answer.out + answer.err
    assert said in answer.out + answer.err
    assert len(server.files()) == (len(FILES) if code == 0 else 0)


def test_a_name_of_somebody_elses(built: Farm, server: Server, tmp_path: Path) -> None:
    shutil.copy(make_wheel(tmp_path / "old", "tiny-torch28", "0.1", {"tiny/old.py": ""}), server.folder)
    refused = built("publish", server.url, "--yes")
    assert refused.code == 24
    assert "tiny-torch28 has files on the index that this project has not published" in refused.err
    assert len(server.files()) == 1
    # Adopting it gives no right to it either.
    assert built("adopt", server.url, "tiny-torch28", "--yes").code == 0
    with server.front([(403, "The user 'x' isn't allowed to upload to project 'tiny-torch28'.")]) as url:
        answer = built("publish", url, "--yes")
    assert answer.code == 25
    assert "tiny-torch28 is not a project of yours" in answer.err


def test_a_new_minor_for_the_published_version(restored: Farm, server: Server) -> None:
    """One variant and one rung; the plain wheel stays as it is, and its extra, declared ahead, works."""
    farm, work = restored, restored.work
    (later,) = work.glob("dist/tiny_torch29*")
    content = later.read_bytes()
    later.unlink()
    for made in work.glob("dist/*-py3-none-any.whl"):
        made.unlink()
    assert farm("publish", server.url, "--yes").code == 0
    before = server.files()
    assert short(sorted(before, key=lambda name: FILES.index(short([name])[0]))) == [FILES[n] for n in (0, 2, 4, 5)]
    later.write_bytes(content)
    answer = farm("publish", server.url, "--yes")
    assert answer.code == 0, answer.err
    assert re.search(r"tiny-1.0-py3-none-any.whl  \d kB  published earlier, stays as it is", answer.out)
    after = server.files()
    assert {name: after[name] for name in before} == before
    assert short(sorted(after.keys() - before.keys())) == [FILES[3], FILES[1]]
    assert "installed from" in answer.out
    assert "tiny[torch29]==1.0, imports" in answer.out
