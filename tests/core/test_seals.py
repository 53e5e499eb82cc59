"""The seals, and the key that they are made with: this user's alone, and made once."""

import errno
import os
import pwd
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torch_build_farm.core import seals
from torch_build_farm.core.errors import DiskError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv(seals.STATE_VARIABLE, str(folder))
    return folder


def key_of(folder: Path) -> Path:
    (key,) = folder.iterdir()
    return key


def test_a_seal_holds_for_the_same_bytes_and_the_same_key(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    seal = seals.seal(b"content")
    assert seals.holds(b"content", seal)
    assert not seals.holds(b"contenT", seal)
    for other in ("", seal[:-1], seal.upper() + "0", "é" * 64, "\ud800", "0" * 64):
        assert not seals.holds(b"content", other)
    monkeypatch.setenv(seals.STATE_VARIABLE, str(tmp_path / "another machine"))
    assert not seals.holds(b"content", seal)


def test_who_only_looks_gets_no_key(state: Path) -> None:
    """Such as `audit` of a work folder, by a user who may not write anywhere."""
    assert not seals.holds(b"content", "0" * 64)
    assert not state.exists()


def test_the_key_is_this_users_alone(state: Path) -> None:
    seals.seal(b"")
    key = key_of(state)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.stat().st_size == 32
    assert len(set(key.read_bytes())) > 8, "random, not filled"


def test_the_key_stays(state: Path) -> None:
    """Another process makes the same seal."""
    seal = seals.seal(b"x")
    code = "from torch_build_farm.core import seals; print(seals.seal(b'x'))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == seal


def test_farms_that_start_at_the_same_time_share_one_key(state: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: seals._make_key(state), range(40)))
    assert keys == {key_of(state).read_bytes()}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_use_is_refused(state: Path, mode: int) -> None:
    seals.seal(b"")
    key_of(state).chmod(mode)
    seals._keys.clear()
    with pytest.raises(DiskError, match=rf"open to other users \(mode {mode:o}\)"):
        seals.seal(b"")


def test_a_folder_that_others_may_write_to_is_refused(state: Path) -> None:
    """They could put their own key there."""
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(DiskError, match="open to other users"):
        seals.seal(b"")
    assert list(state.iterdir()) == []


def test_a_folder_that_others_may_exchange_is_refused(state: Path) -> None:
    seals.seal(b"")
    state.parent.chmod(0o777)
    seals._keys.clear()
    with pytest.raises(DiskError, match=f"every user may write {re.escape(str(state.parent))}\n"):
        seals.seal(b"")


@pytest.mark.parametrize("what", ["key", "folder"])
def test_another_users_key_is_refused(state: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seals.seal(b"")
    if os.geteuid() == 0:
        os.chown(key_of(state) if what == "key" else state, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    seals._keys.clear()
    with pytest.raises(DiskError, match="belongs to user"):
        seals.seal(b"")


def test_what_is_no_key_is_refused(state: Path, tmp_path: Path) -> None:
    """A link would let another file stand in for it; a named pipe would wait for ever."""
    seals.seal(b"")
    key = key_of(state)
    whole = key.read_bytes()

    def refused(words: str) -> None:
        seals._keys.clear()
        with pytest.raises(DiskError, match=words):
            seals.seal(b"")
        if key.is_dir():
            key.rmdir()
        else:
            key.unlink()

    for content in (b"", whole[:-1], whole + b"0"):
        key.write_bytes(content)
        key.chmod(0o600)
        refused("has not 32 bytes")
    (tmp_path / "elsewhere").write_bytes(whole)
    (tmp_path / "elsewhere").chmod(0o600)
    key.symlink_to(tmp_path / "elsewhere")
    refused("is a link")
    os.mkfifo(key, 0o600)
    refused("is not a file")
    key.mkdir(0o700)
    refused("is not a file")


def test_a_key_that_cannot_be_read(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seals.seal(b"")
    seals._keys.clear()
    open_file = os.open

    def fail(path: Path, *arguments: int) -> int:
        if Path(path).name == "seal-key":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_file(path, *arguments)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(DiskError, match="cannot be kept: Input/output error"):
        seals.seal(b"")


def test_reading_the_key_leaves_no_file_open(state: Path) -> None:
    seals.seal(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        seals._keys.clear()
        seals.seal(b"")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(seals.STATE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)

    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(DiskError, match="no home folder") as refusal:
        seals.seal(b"")
    assert seals.STATE_VARIABLE in refusal.value.next_step


def test_a_folder_that_cannot_be_made(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(DiskError) as refusal:
        seals.seal(b"")
    assert str(state) in refusal.value.where


def test_the_key_does_not_lie_where_builds_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_BUILD_FARM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(seals.STATE_VARIABLE, str(tmp_path / "store" / "state"))
    with pytest.raises(DiskError, match="would lie in the store"):
        seals.seal(b"")
    assert list(tmp_path.iterdir()) == []


def test_the_key_does_not_lie_in_the_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(seals.STATE_VARIABLE, str(tmp_path / "work" / "state"))
    with pytest.raises(DiskError, match="would lie in the work folder"):
        seals.require_apart(tmp_path / "work")
    seals.require_apart(tmp_path / "work" / "state" / "more")
    seals.require_apart(tmp_path / "work2")
