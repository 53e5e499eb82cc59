"""Folders that only their user may change: who owns them, who else may write, and the same of every folder above.

Whoever can write a folder above another can put a folder of his own in its place. The rule is that of OpenSSH's
StrictModes (sshd_config(5), and Debian's patch for groups that have one member): each component of the path, links
included, belongs to this user or root, and nobody else may write it, except where a sticky bit keeps others from
renaming it (/tmp).
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import shlex
import stat
from collections import deque
from pathlib import Path

from torch_build_farm.core.errors import DiskError, out_of_reach

_ALL_USERS = 2**32 - 1
_LINKS = 40  # in a path, as the kernel follows them (path_resolution(7))


def private_folder(path: Path, next_step: str) -> Path:
    """Make the folder `path` unless it is there, for this user alone (0700), and return its real path.

    A folder that is there keeps its mode: others may be meant to read it. Raises DiskError, with `next_step`, where
    somebody else owns or may write it or a folder above it.
    """
    check_path(path, next_step)
    try:
        make_folder(path)
    except OSError as error:
        raise out_of_reach(error) from None
    # Once more: it may be new, and what was made in a folder that others write may not be this user's.
    return check_path(path, next_step)


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it unless they are there, for this user alone (0700). Raises OSError."""
    # `Path.mkdir` makes those above as the umask says, which may let others write them.
    missing = [folder for folder in path.absolute().parents if not folder.exists()]
    for folder in (*reversed(missing), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def check_path(path: Path, next_step: str) -> Path:
    """The real path of `path`, of which the last components may be missing.

    Raises DiskError, with `next_step`, where somebody else owns or may write a component of it or of a link on the way.
    """
    current = Path("/")
    components = deque(path.absolute().parts[1:])
    links = 0
    while components:
        name = components.popleft()
        if name == "..":
            current = current.parent
            continue
        current = current / name
        try:
            status = current.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return Path(os.path.normpath(current.joinpath(*components)))  # nothing below it can be a link
        except OSError as error:
            raise out_of_reach(error) from None
        check_status(current, status, next_step, last=not components)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _LINKS:
                raise DiskError("a path with too many links", where=str(path), next_step=next_step)
            target = current.readlink()
            current = Path("/") if target.is_absolute() else current.parent
            components.extendleft(reversed([part for part in target.parts if part != "/"]))
    return current


def check_folder(path: Path, next_step: str) -> None:
    """Raise DiskError, with `next_step`, where somebody else owns the folder `path`, or where every user may write it.

    A group may: people share checkouts, and what is built in them. A folder that is not there is no fault.
    """
    try:
        status = path.stat()
    except OSError:
        return  # whoever uses it finds out why
    if status.st_uid != os.geteuid():
        raise DiskError(f"{path} belongs to {_user_name(status.st_uid)}", where=_me(), next_step=next_step)
    if status.st_mode & stat.S_IWOTH:
        next_step = f"`chmod o-w {shlex.quote(str(path))}`, or {next_step}"
        raise DiskError(f"every user may write {path}", where=_mode(status), next_step=next_step)


def check_status(path: Path, status: os.stat_result, next_step: str, *, last: bool = True) -> None:
    """Raise DiskError, with `next_step`, where somebody else than this user or root owns or may write `path`.

    `last` is false for a folder above the one that matters: there root may be the owner, and a sticky bit is enough.
    """
    check_owner(path, status, next_step, last=last)
    if stat.S_ISLNK(status.st_mode):
        return  # a link has no mode; the folder that holds it was checked
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and not last:
        return
    if status.st_uid == os.geteuid():
        next_step = f"`chmod go-w {shlex.quote(str(path))}`, or {next_step}"
    if status.st_mode & stat.S_IWOTH:
        raise DiskError(f"every user may write {path}", where=_mode(status), next_step=next_step)
    if status.st_mode & stat.S_IWGRP and not _has_one_member(status):
        raise DiskError(
            f"the group {_group_name(status.st_gid)} may write {path}", where=_mode(status), next_step=next_step
        )


def check_owner(path: Path, status: os.stat_result, next_step: str, *, last: bool = True) -> None:
    """Raise DiskError, with `next_step`, where `path` belongs to somebody else; `last` as for `check_status`."""
    owners = {os.geteuid()}
    if not last or stat.S_ISLNK(status.st_mode):
        owners |= _system_owners()
    if status.st_uid not in owners:
        next_step = f"{_advice_on_home(path)}{next_step}"
        raise DiskError(f"{path} belongs to {_user_name(status.st_uid)}", where=_me(), next_step=next_step)


def _advice_on_home(path: Path) -> str:
    """The beginning of a next step where HOME is another user's folder, as sudo and CI systems' containers leave it."""
    with contextlib.suppress(KeyError):
        own = pwd.getpwuid(os.geteuid()).pw_dir
        if str(path) == os.environ.get("HOME") != own:
            return f"set HOME to this user's own folder, {own}; or "
    return ""


@functools.cache
def _system_owners() -> frozenset[int]:
    """Who owns the system's folders: root, in a user name space also the user that stands for all unknown ones."""
    owners = {0}
    with contextlib.suppress(OSError, ValueError):
        # Begin inside, begin outside, length (user_namespaces(7)); the first name space has all users.
        lengths = [int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines()]
        if sum(lengths) < _ALL_USERS:
            owners.add(int(Path("/proc/sys/kernel/overflowuid").read_text()))
    return frozenset(owners)


def _has_one_member(status: os.stat_result) -> bool:
    """Whether the group of a file is the private one of its owner: of his name, his own, and with no other member."""
    with contextlib.suppress(KeyError):
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
        return owner.pw_gid == group.gr_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}
    return False


def _user_name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return f"the user {pwd.getpwuid(uid).pw_name} ({uid})"
    return f"the user {uid}"


def _group_name(gid: int) -> str:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return str(gid)


def _me() -> str:
    return f"this is {_user_name(os.geteuid())}"


def _mode(status: os.stat_result) -> str:
    return f"mode {stat.S_IMODE(status.st_mode):04o}"
