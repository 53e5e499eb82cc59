"""Fetched sources in the store, compared at each use with what they were when they were fetched.

A source lies in a folder whose name identifies it (the sdist's SHA-256, the commit). What the folder held when it came
from the archive or from git stands in a record beside it: a digest over every name, kind, mode and content, sealed by
this user's farm (core/seals.py). A tree that was damaged or edited since is fetched again, and not built.

Own code: git could tell this of a commit alone, and only with a repository beside the tree that it would have to read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch_build_farm.core import seals
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.git import Description

_RECORDS = "records"


@dataclass(frozen=True)
class Kept:
    """A source in the store: its tree, its date in Unix seconds, and for a commit what git said of it.

    `options` are the options of `git describe` that `description` answers.
    """

    tree: Path
    epoch: int
    options: tuple[str, ...] = ()
    description: Description | None = None


@dataclass(frozen=True)
class KeptSources:
    """The sources that lie in `folder`."""

    folder: Path

    def find(self, name: str) -> Kept | None:
        """The source called `name`, if it lies here as it was fetched; None if it is missing, damaged or edited."""
        tree = self.folder / name
        content = self._record(name)
        # Without a record nothing is known of the tree, such as that of an older farm.
        if content is None or not tree.is_dir() or tree.is_symlink() or content["digest"] != _digest_or_none(tree):
            return None
        description = content["description"]
        return Kept(
            tree, content["epoch"], tuple(content["options"]), Description(**description) if description else None
        )

    def has(self, name: str) -> bool:
        """Whether something lies here under that name."""
        return os.path.lexists(self.folder / name)

    def keep(self, name: str, fetched: Kept) -> Kept:
        """Move a complete tree here and record it, in place of what had that name."""
        content = {
            "name": name,
            "digest": digest(fetched.tree),
            "epoch": fetched.epoch,
            "options": list(fetched.options),
            "description": asdict(fetched.description) if fetched.description else None,
        }
        text = json.dumps(content)
        replace_text(self._place(name), json.dumps({"content": text, "seal": seals.seal(text.encode())}))
        home = self.folder / name
        try:
            fetched.tree.rename(home)
        except OSError:
            # Another farm may have put the same tree there first, else what lies there is not what was fetched.
            kept = self.find(name)
            if kept:
                return kept
            damaged = fetched.tree.with_name("damaged")  # in the scratch folder, which goes
            home.rename(damaged)
            fetched.tree.rename(home)
            shutil.rmtree(damaged, ignore_errors=True)
        return Kept(home, fetched.epoch, fetched.options, fetched.description)

    def _place(self, name: str) -> Path:
        return self.folder / _RECORDS / f"{name}.json"

    def _record(self, name: str) -> dict[str, Any] | None:
        """What was recorded of the source called `name`; None where this user's farm did not write it."""
        try:
            record = json.loads(self._place(name).read_text("utf-8"))
            text = str(record["content"])
            if not seals.holds(text.encode(), str(record["seal"])):
                return None
            content: dict[str, Any] = json.loads(text)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return content if content["name"] == name else None


def digest(folder: Path) -> str:
    """SHA-256 over all that lies in a folder: names, kinds, whether files can be run, contents and targets of links.

    Neither links nor what is no file (devices, FIFOs, sockets) is opened.
    """
    total = hashlib.sha256()
    pending, start = [str(folder)], len(str(folder)) + 1
    while pending:
        here = pending.pop()
        with os.scandir(here) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            status = entry.stat(follow_symlinks=False)
            name = os.fsencode(entry.path[start:])
            if entry.is_symlink():
                kind, content = "link", os.fsencode(Path(entry.path).readlink())
            elif entry.is_dir():
                kind, content = "folder", b""
                pending.append(entry.path)
            elif stat.S_ISREG(status.st_mode):
                kind, content = ("program" if status.st_mode & stat.S_IXUSR else "file"), _content(entry.path)
            else:
                kind, content = "special", b""
            # A name can hold every byte but NUL, and neither kind nor digest has one.
            total.update(b"%s\0%s\0%s\n" % (name, kind.encode(), hashlib.sha256(content).digest()))
    return total.hexdigest()


def _digest_or_none(folder: Path) -> str | None:
    """The digest; None for a folder that cannot be read, such as one of paths longer than the system takes."""
    try:
        return digest(folder)
    except OSError:
        return None


def _content(path: str) -> bytes:
    """The SHA-256 of a file, which is not opened by a link in its place."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
