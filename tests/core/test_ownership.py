"""The store and other folders of the farm belong to their user, and so does the way there."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torch_build_farm.core import ownership, seals
from torch_build_farm.core.errors import DiskError
from torch_build_farm.core.store import STORE_VARIABLE, TorchStore, default_folder
from torch_build_farm.pipeline.workplace import work_folder

SOMEBODY = 12345


@pytest.fixture
def as_root(tmp_path: Path) -> Path:
    """A folder of this user's, where only root can give files to somebody else."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    return tmp_path


def test_a_new_store_is_for_its_user_alone(tmp_path: Path) -> None:
    store = TorchStore.at(tmp_path / "cache" / "store", tmp_path)
    with store.in_use():
        assert store.root.stat().st_mode & 0o777 == 0o700


def test_what_the_farm_makes_itself_is_closed_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(seals.STATE_VARIABLE, str(tmp_path / ".local" / "state" / "farm"))
    before = os.umask(0)
    try:
        TorchStore.at(tmp_path / ".cache" / "store", tmp_path).make()
        seals.seal(b"")
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
    assert len(made) == 5


def test_nothing_is_made_where_others_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(DiskError, match="every user may write"):
        ownership.private_folder(tmp_path / "store", "")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="File name too long"):
        ownership.check_path(tmp_path / ("x" * 256), "")


@pytest.mark.parametrize(
    ("group", "members", "primary", "accepted"),
    [
        ("me", [], True, True),
        ("me", ["me"], True, True),
        ("me", ["me", "somebody"], True, False),
        ("staff", [], True, False),
        ("me", [], False, False),
    ],
)
def test_a_group_may_write_that_is_its_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, members: list[str], primary: bool, accepted: bool
) -> None:
    """As distributions make one for each user, whose umask then lets it write."""
    tmp_path.chmod(0o770)
    status = tmp_path.lstat()
    gid = status.st_gid if primary else status.st_gid + 1
    user = pwd.struct_passwd(("me", "", status.st_uid, gid, "", "", ""))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group((group, "", gid, members)))
    if accepted:
        ownership.check_status(tmp_path, status, "")
    else:
        with pytest.raises(DiskError, match=f"the group {group} may write"):
            ownership.check_status(tmp_path, status, "")


def test_a_store_that_others_may_read_goes_on_working(tmp_path: Path) -> None:
    (tmp_path / "store" / "uv").mkdir(parents=True, mode=0o755)
    with TorchStore.at(tmp_path / "store", tmp_path).in_use():
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o755


def _writable(path: Path) -> None:
    path.chmod(0o777)


def _writable_by_group(path: Path) -> None:
    os.chown(path, -1, 1)  # the group daemon, which is nobody's own
    path.chmod(0o775)


def _of_somebody(path: Path) -> None:
    os.chown(path, SOMEBODY, -1)


@pytest.mark.parametrize("change", [_writable, _writable_by_group, _of_somebody])
@pytest.mark.parametrize("name", ["store", "store/uv", "."])
def test_what_somebody_else_may_change_is_refused(as_root: Path, name: str, change: Callable[[Path], None]) -> None:
    root = as_root / "here" / "store"
    (root / "uv").mkdir(parents=True)
    TorchStore.at(root, as_root)
    change(as_root / "here" / name)
    with pytest.raises(DiskError) as caught:
        TorchStore.at(root, as_root)
    assert str((as_root / "here" / name).resolve()) in caught.value.what
    assert "TORCH_BUILD_FARM_STORE=DIR" in caught.value.next_step


def test_a_store_below_a_folder_with_a_sticky_bit(as_root: Path) -> None:
    as_root.chmod(0o1777)
    (as_root / "store").mkdir(mode=0o700)
    TorchStore.at(as_root / "store", as_root)
    # The store itself is more than a way: there the bit does not help against new names.
    (as_root / "store").chmod(0o1777)
    with pytest.raises(DiskError, match="every user may write"):
        TorchStore.at(as_root / "store", as_root)


def test_a_link_into_a_folder_of_somebody_else(as_root: Path) -> None:
    (as_root / "theirs" / "store").mkdir(parents=True)
    _of_somebody(as_root / "theirs")
    (as_root / "mine").symlink_to("theirs/store")
    with pytest.raises(DiskError, match="theirs belongs to the user"):
        TorchStore.at(as_root / "mine", as_root)


def test_a_link_of_somebody_else_to_a_folder_of_ones_own(as_root: Path) -> None:
    (as_root / "mine").mkdir()
    (as_root / "link").symlink_to("mine")
    os.chown(as_root / "link", SOMEBODY, -1, follow_symlinks=False)
    with pytest.raises(DiskError, match="link belongs to the user"):
        TorchStore.at(as_root / "link", as_root)


def test_a_folder_of_the_store_that_is_a_link_elsewhere(as_root: Path) -> None:
    (as_root / "other-disk").mkdir()
    (as_root / "store").mkdir()
    (as_root / "store" / "uv").symlink_to(as_root / "other-disk")
    TorchStore.at(as_root / "store", as_root)
    _of_somebody(as_root / "other-disk")
    with pytest.raises(DiskError, match="other-disk belongs to"):
        TorchStore.at(as_root / "store", as_root)


def test_a_store_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "store").touch(mode=0o600)
    with pytest.raises(DiskError, match="Not a directory"):
        TorchStore.at(tmp_path / "store", tmp_path)
    with pytest.raises(DiskError, match=r"File exists|Not a directory"):
        TorchStore(tmp_path / "store" / "below", "").make()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_user_name_space_shows_folders_of_others_as_nobodys(as_root: Path) -> None:
    """Containers without root, and sandboxes: who owns `/` is not to be seen there."""
    code = (
        "import sys; from pathlib import Path; from torch_build_farm.core.store import TorchStore; "
        "print(TorchStore.at(Path(sys.argv[1]), Path(sys.argv[1])).root)"
    )
    (as_root / "above" / "store").mkdir(parents=True)
    _of_somebody(as_root / "above")
    command = [sys.executable, "-c", code, str(as_root / "above" / "store")]
    name_space = ["unshare", "--user", "--map-root-user"]  # root is the one user that it knows
    done = subprocess.run([*name_space, *command], capture_output=True, text=True, check=False)
    if done.stderr.startswith("unshare"):
        pytest.skip(f"no user name spaces: {done.stderr}")
    assert done.stdout.strip() == command[-1], done.stderr
    _of_somebody(as_root / "above" / "store")
    done = subprocess.run([*name_space, *command], capture_output=True, text=True, check=False)
    assert "store belongs to the user" in done.stderr


def test_nobody_else_enters_where_foreign_code_writes(tmp_path: Path) -> None:
    """A container's root may leave a program there that becomes its owner (setuid); the store itself may be read."""
    store = TorchStore.at(tmp_path / "store", tmp_path)
    private = [store.root / "envs", store.root / "ccache"]
    (tmp_path / "store" / "envs").mkdir(parents=True, mode=0o755)
    for _ in range(2):
        with store.environments():
            assert [folder.stat().st_mode & 0o777 for folder in private] == [0o700, 0o700]
    assert store.root.stat().st_mode & 0o777 == 0o755


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DiskError, match="too many links"):
        ownership.check_path(tmp_path / "a", "")


def test_the_real_path_is_the_systems(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/../a/b")
    for path in (tmp_path / "link" / ".." / "new" / "folder", tmp_path / "link", tmp_path / "no" / ".." / "a"):
        assert ownership.check_path(path, "") == path.resolve()


@pytest.mark.parametrize("change", [_writable, _of_somebody])
def test_a_work_folder_of_somebody_else_is_refused(as_root: Path, change: Callable[[Path], None]) -> None:
    work = as_root / "work"
    assert work_folder(as_root, None) == work
    work.mkdir()
    _writable_by_group(work)  # people share checkouts
    assert work_folder(as_root, None) == work
    change(work)
    with pytest.raises(DiskError) as caught:
        work_folder(as_root, None)
    assert "--work DIR" in caught.value.next_step


def test_what_the_umask_lets_others_do_below_a_closed_store(as_root: Path) -> None:
    """As with a umask of 002 and a group of many."""
    store = TorchStore.at(as_root / "store", as_root)
    store.make()
    (store.root / "uv").mkdir()
    (store.root / "uv").chmod(0o777)
    TorchStore.at(store.root, as_root)
    for mode in (0o710, 0o701):
        store.root.chmod(mode)
        with pytest.raises(DiskError, match="every user may write") as caught:
            TorchStore.at(store.root, as_root)
        assert f"`chmod go-w {store.root}/uv`, or use a folder" in caught.value.next_step
    store.root.chmod(0o700)
    _of_somebody(store.root / "uv")
    with pytest.raises(DiskError, match="uv belongs to the user"):
        TorchStore.at(store.root, as_root)


def test_the_home_folder_of_another_user(as_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sudo leaves it, and a job in a container of a CI system."""
    _of_somebody(as_root)
    monkeypatch.setenv("HOME", str(as_root))
    for name in (STORE_VARIABLE, seals.STATE_VARIABLE, "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    own = pwd.getpwuid(os.geteuid()).pw_dir
    for ask in (lambda: TorchStore.at(default_folder(), as_root), lambda: seals.seal(b"")):
        with pytest.raises(DiskError, match="belongs to the user") as caught:
            ask()
        assert caught.value.next_step.startswith(f"set HOME to this user's own folder, {own}; or ")
