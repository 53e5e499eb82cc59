"""Unified diffs, applied with `git apply`: it knows renames, modes and hunks that have moved, and needs no repository.

Paths that are absolute, lead up, name a repository's own files or lie beyond a link are refused by git itself. Nothing
in the tree is configuration to it: git is given an empty repository of the farm's own, so that a .git which lies in the
tree, or above it, counts for nothing (core/git.py).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.git import entries, isolated
from torch_build_farm.core.process import NO_ANSWER, Completed, capture

LARGEST = 16 << 20  # bytes of a patch
_SECONDS = 120.0
# A binary part says how large it unpacks, and may say anything.
_BINARY = re.compile(rb"^GIT binary patch", re.MULTILINE)
_HUNK = re.compile(r"error: patch failed: (?P<place>.+:\d+)")
_NEXT_STEP = "make the patch from this source, with `git diff` or `diff -ru a b`: paths begin with a/ and b/"


def content(patch: Path) -> bytes:
    """The bytes of a patch. Raises SourceError for what is no file, too large, or binary."""
    try:
        read = foreign_files.content(patch, LARGEST)
    except OSError as error:
        raise SourceError(
            f"a patch cannot be read: {error.strerror}",
            where=str(patch),
            next_step="correct patches in [tool.torch-build-farm]",
        ) from None
    if _BINARY.search(read):
        raise SourceError("the patch changes a binary file", where=str(patch), next_step="patch text files alone")
    return read


def files(patch: Path, tree: Path) -> list[str]:
    """The files that a patch changes or makes, by their paths in `tree`. Raises SourceError."""
    return [entry.rpartition("\t")[2] for entry in entries(_git_apply(patch, tree, "--numstat", "-z"))]


def apply(patch: Path, tree: Path) -> None:
    """Apply a patch to the files of `tree`, to all of them or to none.

    Raises SourceError where it is no unified diff, does not apply, or leads out of the tree.
    """
    _git_apply(patch, tree)


def _git_apply(patch: Path, tree: Path, *options: str) -> Completed:
    """Call `git apply` in `tree`."""
    with tempfile.TemporaryDirectory(prefix="torch-build-farm-git-") as scratch:
        repository = Path(scratch) / "repository"
        for name in ("objects", "refs"):
            (repository / name).mkdir(parents=True)
        (repository / "HEAD").write_text("ref: refs/heads/main\n")
        copy = Path(scratch) / "patch"
        copy.write_bytes(content(patch))
        variables = {**isolated(repository), "GIT_DIR": str(repository), "GIT_WORK_TREE": str(tree)}
        # -p1 is git's default: the first part of each path, a/ or b/, is not one of the tree.
        done = capture(["git", "apply", *options, copy], env=variables, cwd=tree, timeout_s=_SECONDS)
    if done.ok:
        return done
    if done.returncode == NO_ANSWER:
        raise SourceError(
            f"{patch.name} cannot be applied, which needs git: {done.last_line}",
            where=str(patch),
            next_step="see that git is installed",
        )
    raise SourceError(f"{patch.name} does not apply: {_reason(done)}", where=str(patch), next_step=_NEXT_STEP)


def _reason(done: Completed) -> str:
    """Why git refuses a patch: the first hunk that finds no place, else git's first error."""
    for line in done.tail:
        match = _HUNK.fullmatch(line)
        if match:
            return f"the source differs from what the hunk at {match['place']} expects"
    for line in done.tail:
        if line.startswith(("error: ", "fatal: ")):
            return line.partition(": ")[2]
    return done.last_line
