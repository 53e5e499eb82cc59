"""Runs foreign code where nothing of the caller's is in reach: for processes that hold credentials.

The command runs in name spaces of its own (user, process, mount, network, IPC, host name), in a root that has the
system's folders and those that are named, all read-only, a new /proc and an empty /tmp. It has no network and no
variable of the caller's. bubblewrap does that where it is installed; else util-linux's unshare with data/isolated.sh,
which every distribution has. As root always the latter: it goes on as a user without files, since root without any
capability may still write to /proc/sys (proc(5)).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch_build_farm.core.home import home
from torch_build_farm.core.process import Completed, Shell
from torch_build_farm.core.resources import DATA

_NOBODY = "65534"  # the number of the kernel's overflow user, who owns no files
# What programs load from, and no place for secrets. Links among them stay links (/bin -> usr/bin).
_SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/alternatives",
    "/sys/devices/system/cpu",
)  # fmt: skip
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
_MAX_LINKS = 40  # as in the kernel (path_resolution(7))
_UNSHARE = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--kill-child", "--propagation", "unchanged")


@dataclass(frozen=True)
class Isolation:
    """Runs commands of a virtual environment apart from everything else on this machine.

    - `folders`: what they see of it, read-only, beside the system's.
    - `root`: an empty folder, for the root that they see.
    - `shell`: has the log.
    """

    folders: tuple[Path, ...]
    root: Path
    shell: Shell

    @classmethod
    def of(cls, environment: Path, root: Path, shell: Shell) -> Self:
        """The isolation for a new virtual environment, into which nothing is installed yet.

        A wheel may replace the environment's interpreter and its pyvenv.cfg, and would choose the folders.
        """
        settings = (environment / "pyvenv.cfg").read_text("utf-8")
        home = re.search(r"^home *= *(.+)$", settings, re.MULTILINE)
        interpreter = environment / "bin" / "python"
        paths = [interpreter]
        if home:
            paths.append(Path(home[1].strip()))
        # The interpreter may be a link to another folder, such as ~/.local/bin/python3.12: its library lies beside the
        # file itself.
        folders = [environment, interpreter.resolve().parent.parent]  # PREFIX of PREFIX/bin
        for path in paths:
            folders += _links_to(path)
        return cls(tuple(folders), root, shell)

    def run(self, *command: str | Path) -> Completed:
        """Run a command. Raises Interrupted."""
        words = _with_unshare(self.root, self.folders) if _uses_unshare() else _with_bubblewrap(self.folders)
        shell = replace(self.shell, env=_ENVIRONMENT, cwd=Path("/"))
        return shell.run(sys.executable, "-I", "-S", DATA / "new_keyring.py", *words, *command)

    def run_beside(self, *command: str | Path) -> Completed:
        """Run a command with the same variables as `run`, and no other protection. Raises Interrupted."""
        return replace(self.shell, env={**_ENVIRONMENT, "HOME": str(self.root)}, cwd=self.root).run(*command)

    def why_not(self) -> str:
        """Why this machine cannot isolate commands; empty where it can. Raises Interrupted."""
        for folder in self.folders:
            # An interpreter that is installed right into a home folder, as by `./configure --prefix=$HOME`.
            users = home()
            if (users and users.is_relative_to(folder)) or self.root.is_relative_to(folder):
                return f"the interpreter lies in {folder}, with the files that are to be hidden"
        done = self.run("/bin/sh", "-c", "exit 0")
        return "" if done.ok else done.last_line or f"exit code {done.returncode}"


def _links_to(path: Path) -> list[Path]:
    """The links that are followed on the way to where `path` really lies."""
    links: list[Path] = []
    todo = list(path.absolute().parts[1:])
    place = Path("/")
    while todo and len(links) < _MAX_LINKS:
        place /= todo.pop(0)
        if place.is_symlink():
            links.append(place)
            target = Path(os.path.normpath(place.parent / place.readlink()))
            todo = [*target.parts[1:], *todo]
            place = Path("/")
    return links


def _uses_unshare() -> bool:
    return os.geteuid() == 0 or shutil.which("bwrap", path=_ENVIRONMENT["PATH"]) is None


def _with_unshare(root: Path, folders: Sequence[Path]) -> list[str]:
    """The words before a command that util-linux isolates; `root` is an empty folder."""
    is_root = os.geteuid() == 0
    user_name_space = [] if is_root else ["--map-root-user"]
    user = _NOBODY if is_root else ""
    script = ["/bin/sh", str(DATA / "isolated.sh"), str(root), user]
    return [*_UNSHARE, *user_name_space, "--", *script, *_all_folders(folders), "--"]


def _with_bubblewrap(folders: Sequence[Path]) -> list[str]:
    """The words before a command that bubblewrap isolates."""
    words = ["bwrap", "--unshare-all", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # first, since a folder may lie below /tmp
    for folder in _all_folders(folders):
        path = Path(folder)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), folder]
        else:
            words += ["--ro-bind", folder, folder]
    return [*words, "--chdir", "/tmp", "--remount-ro", "/", "--"]


def _all_folders(folders: Sequence[Path]) -> list[str]:
    """The system's folders that exist here, and those of `folders` that are not within one of them."""
    system = [Path(name) for name in _SYSTEM if os.path.lexists(name)]
    others: list[Path] = []
    for path in sorted(set(folders)):  # a folder comes before what is in it
        if not any(path.is_relative_to(folder) for folder in [*system, *others]):
            others.append(path)
    return [str(path) for path in [*system, *others]]
