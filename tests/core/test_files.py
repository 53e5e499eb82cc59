"""Files and locks: whole or not at all, and one holder at a time."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torch_build_farm.core import locks
from torch_build_farm.core.errors import BuildError, DiskError
from torch_build_farm.core.files import (
    clear,
    copy_foreign,
    copy_whole,
    link_or_copy,
    read_foreign,
    remove,
    replace_bytes,
    replace_folder,
)


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


def _link(path: Path) -> None:
    path.symlink_to("secret")


def _folder(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("plant", [_link, _folder, os.mkfifo, _device])
def test_what_foreign_code_left_is_read_only_from_a_file(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    (tmp_path / "secret").write_text("password")
    plant(tmp_path / "peak")
    with pytest.raises(BuildError, match="'peak' is not a regular file"):
        read_foreign(tmp_path / "peak", 100)
    with pytest.raises(BuildError, match="'peak' is not a regular file"):
        copy_foreign(tmp_path / "peak", tmp_path / "copy", 100)
    assert not (tmp_path / "copy").exists()


def test_what_foreign_code_left_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"12345")
    assert read_foreign(tmp_path / "log", 5) == b"12345"
    with pytest.raises(BuildError, match="larger than"):
        read_foreign(tmp_path / "log", 4)
    with pytest.raises(FileNotFoundError):
        read_foreign(tmp_path / "nothing", 4)


def test_removing_stays_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(outside)
    (tmp_path / "link").symlink_to(outside)
    for path in (tmp_path / "tree", tmp_path / "link"):
        assert remove(path) < 100
        assert not os.path.lexists(path)
    clear(tmp_path / "link")
    (outside / "again").symlink_to("file")
    clear(outside / "again")
    assert (outside / "again").is_dir()
    assert (outside / "file").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_tree_that_its_owner_may_not_write_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tree" / "a" / "b").mkdir(parents=True)
    for folder in ("tree/a/b", "tree/a", "tree"):
        (tmp_path / folder).chmod(0)
    remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_tree_deeper_than_pythons_stack_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(1000):
        Path("deep").mkdir()
        os.chdir("deep")
    os.chdir(tmp_path)
    (tmp_path / "deep" / "file").write_bytes(b"12345")
    try:
        assert remove(tmp_path / "deep") == 5
        assert not (tmp_path / "deep").exists()
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)  # pytest could not remove it either


def test_a_lock_is_not_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"), locks.hold(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_: object, __: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(DiskError, match="no locks"), locks.hold(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("links", [True, False])
def test_a_file_has_a_second_name_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    source, path = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"content")
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(source, path)
    assert path.read_bytes() == b"content"
    assert path.samefile(source) == links
