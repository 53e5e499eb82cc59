"""Files and locks: whole or not at all, and one holder at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torch_build_farm.core import locks
from torch_build_farm.core.files import copy_whole, replace_bytes, replace_folder


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")

    def disk_full(scratch: Path, content: bytes) -> int:
        with scratch.open("wb") as stream:
            stream.write(content[:1])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    dead, live, other = (tmp_path / name for name in (".a[1].whl.0123.new", ".a[1].whl.4567.new", ".b.whl.0123.new"))
    for path in (dead, live, other):
        path.touch()
    for path in (dead, other):
        os.utime(path, (0, 0))
    replace_bytes(tmp_path / "a[1].whl", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [live.name, other.name, "a[1].whl"]


def test_a_copy_without_its_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        copy_whole(tmp_path / "nothing", tmp_path / "dist" / "wheel.whl")
    assert list((tmp_path / "dist").iterdir()) == []


def test_a_folder_that_cannot_be_filled_stays_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(FileNotFoundError), replace_folder(folder) as scratch:
        (scratch / "no-such-folder" / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["old"]
    with replace_folder(folder) as scratch:
        (scratch / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "name"
    holder = (
        "import sys, pathlib; from torch_build_farm.core import locks\n"
        "with locks.hold(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert locks.is_held(path)
        with pytest.raises(BlockingIOError), locks.hold(path):
            pass
        process.kill()
        process.wait()
    assert not locks.is_held(path)


def test_shared_locks_keep_out_an_exclusive_one(tmp_path: Path) -> None:
    path = tmp_path / "in-use"
    with locks.hold(path, shared=True), locks.hold(path, shared=True), pytest.raises(BlockingIOError), locks.hold(path):
        pytest.fail("the exclusive lock was given")
