"""Fetches repositories with git, the user's own: credentials, proxies and certificates are configured in many places.

git writes a bare repository that is new, without templates and hooks, and checks files out of it without any
configuration. What it is told of others is data: URLs without passwords, and a folder of this machine through a
repository of the farm's own (core/git.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch_build_farm.core import foreign_files
from torch_build_farm.core.archives import LIMITS
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.git import COMMIT, data_of, entries, git_folder, isolated, view_of
from torch_build_farm.core.process import Completed, Runner, capture
from torch_build_farm.core.urls import public

# What `git rev-parse --local-env-vars` lists: git sets these to tell a hook, and everything that the hook starts, which
# repository it runs in.
_OF_ONE_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS",
    "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}  # fmt: skip
_DEEPEST = 100  # folders within one another: Python removes trees by recursion
_POINTER = b"version https://git-lfs"  # what a pointer begins with (Git LFS Specification, "The Pointer")
_REMOTE = "file:https:ssh"
_SUBMODULE = "https:ssh"  # as with git itself, a submodule is never a folder of this machine


@dataclass(frozen=True)
class Submodule:
    """A submodule of a commit: where it belongs in the tree, where it comes from, and which commit of it."""

    path: str
    url: str
    commit: str


@dataclass(frozen=True)
class Client:
    """Runs git for one source; `log` gets what it prints, `folder` is one that nobody else writes.

    Every method raises SourceError with git's own reason where git fails.
    """

    runner: Runner
    folder: Path
    log: Path

    def commit_of(self, repository: str, revision: str) -> str:
        """The commit that a tag or branch of a repository means now; empty if it has neither."""
        with self._reachable(repository) as place:
            lines = self._run(place, "ls-remote", "--", place.url, revision, f"{revision}^{{}}")
        commits = {}
        for line in lines:
            commit, _, name = line.partition("\t")
            commits[name] = commit
        # An annotated tag has an object of its own; NAME^{} is the commit that it stands for.
        for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"):
            if COMMIT.fullmatch(commits.get(name, "")):
                return commits[name]
        return ""

    def clone(self, repository: str, commit: str, folder: Path, *, submodule: bool = False) -> None:
        """Make the bare repository `folder`, with the whole history of `repository` and with `commit`."""
        with self._reachable(repository, submodule=submodule) as place:
            # Not by links to the other's objects (--no-local), without its hooks (--template=), and nothing checked
            # out: what a commit holds is only data as long as no configuration gives it a meaning.
            self._run(place, "clone", "--quiet", "--bare", "--no-local", "--template=", "--", place.url, folder)
            words = [f"--git-dir={folder}", "cat-file", "-e", f"{commit}^{{commit}}"]
            if not self._ask(*words).ok:  # on no branch and no tag, such as a pull request's
                self._run(place, f"--git-dir={folder}", "fetch", "--quiet", "--no-tags", "--", place.url, commit)

    def files(self, repository: str, bare: Path, commit: str) -> dict[str, str]:
        """The submodules of a commit, path -> commit, once its files are seen to be no more than the farm unpacks.

        A repository of some kilobytes can check out to more files than any disk holds.
        """
        listed = self._ask(f"--git-dir={bare}", "ls-tree", "-z", "-r", "-l", "--full-tree", commit)
        files = entries(listed)
        size, too_deep, submodules = 0, False, {}
        for entry in files:
            facts, _, path = entry.partition("\t")
            mode, _, pinned, length = facts.split()
            size += int(length) if length.isdigit() else 0
            too_deep |= path.count("/") > _DEEPEST
            if mode == "160000":
                submodules[path] = pinned
        if not listed.ok or too_deep or size > LIMITS.size or len(files) > LIMITS.members:
            raise SourceError(
                f"git cannot fetch the source: the commit {commit[:12]} has more files, or larger or deeper ones, than "
                "the farm unpacks",
                where=f"{public(repository)} {'' if listed.ok else listed.last_line}".rstrip(),
            )
        return submodules

    def check_out(self, repository: str, bare: Path, commit: str, tree: Path) -> None:
        """Write the files of `commit` to the folder `tree`, which is made; the tree is no repository.

        Files are as the commit has them: no filter of a user's configuration changes them, such as that of Git LFS.
        """
        tree.mkdir(parents=True, exist_ok=True)
        words = [f"--git-dir={bare}", f"--work-tree={tree}", "checkout", "--quiet", commit]
        self._run(self._here(repository), "-c", "core.hooksPath=/dev/null", *words)

    def pointers(self, bare: Path, tree: Path) -> list[str]:
        """The files of a tree that `check_out` wrote which only name a file of Git LFS, by their paths."""
        words = ["-C", str(tree), f"--git-dir={bare}", f"--work-tree={tree}", "ls-files", "-z", ":(attr:filter=lfs)"]
        pointers = []
        for name in entries(self._ask(*words)):
            with contextlib.suppress(OSError), foreign_files.opened(tree / name) as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    pointers.append(name)
        return pointers

    def date(self, repository: str, bare: Path, commit: str) -> int:
        """The committer's date of a commit, in Unix seconds."""
        words = [f"--git-dir={bare}", "log", "-1", "--format=%ct", commit]
        line = self._run(self._here(repository), *words)[-1]
        return int(line) if line.isdigit() else 0

    def submodules(self, repository: str, bare: Path, commit: str) -> list[Submodule]:
        """The submodules of a commit, by its .gitmodules."""
        where = f"--git-dir={bare}"
        commits = self.files(repository, bare, commit)
        if not commits:
            return []
        settings: dict[str, dict[str, str]] = {}
        keys = r"^submodule\..*\.(path|url|update)$"
        for entry in entries(self._ask(where, "config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp", keys)):
            key, _, value = entry.partition("\n")
            name, _, field = key.rpartition(".")
            settings.setdefault(name, {})[field] = value
        by_path = {fields.get("path", ""): fields for fields in settings.values()}

        submodules = []
        for path, pinned in commits.items():
            fields = by_path.get(path, {})
            if fields.get("update") == "none":  # git leaves it out as well
                continue
            if not fields.get("url"):
                raise SourceError(f"the submodule {path} has no URL in .gitmodules", where=public(repository))
            submodules.append(Submodule(path, _resolved(repository, fields["url"]), pinned))
        return submodules

    @contextlib.contextmanager
    def _reachable(self, repository: str, *, submodule: bool = False) -> Iterator[_Place]:
        """How git is told of a repository: a URL without a password, and an environment in which git finds it."""
        if not repository.isprintable():
            raise SourceError("a repository's URL has a control character", where=repr(repository)[:200])
        env = _network(_SUBMODULE if submodule else _REMOTE, self.folder)
        local = _local(repository)
        if local and not submodule:
            data = data_of(git_folder(local)) or data_of(local)  # of a work tree, or bare
            if data is None:
                raise SourceError(
                    "git cannot fetch the source: the folder is no git repository that the farm can read",
                    where=str(local),
                    next_step="correct git in [tool.torch-build-farm]",
                )
            # The other side of a clone would obey the configuration of the repository that it serves.
            with view_of(data) as view:
                yield _Place(public(repository), str(view.folder), env)
            return
        url, variables = _without_credentials(repository)
        yield _Place(public(repository), url, env | variables)

    def _here(self, repository: str) -> _Place:
        """For a question about a repository that was fetched: git has no configuration then."""
        return _Place(public(repository), "", isolated(self.folder))

    def _ask(self, *words: str) -> Completed:
        return capture(["git", *words], env=isolated(self.folder), cwd=self.folder)

    def _run(self, place: _Place, *words: str | Path) -> tuple[str, ...]:
        """Run git; returns the last lines that it printed. Raises SourceError with git's own reason if it fails."""
        # What git says may hold what only its user may see.
        os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        self.log.chmod(0o600)
        done = self.runner.run(["git", *words], env=place.variables, cwd=self.folder, log=self.log)
        if not done.ok:
            reason = done.tail[0] if done.tail else ""
            for line in done.tail:
                if line.startswith(("fatal:", "error:")):
                    reason = line
                    break
            next_step = "correct git and revision in [tool.torch-build-farm]; try the same with `git clone`"
            if reason.endswith("not allowed"):
                next_step = (
                    "name it by https or ssh; only the repository itself, and no submodule, may be a folder here"
                )
            raise SourceError(
                f"git cannot fetch the source: {reason.replace(place.url, place.shown) if place.url else reason}",
                where=place.shown,
                next_step=next_step,
            )
        return done.tail or ("",)


@dataclass(frozen=True)
class _Place:
    """Where a repository is fetched from, as people see it and as git is told, and git's environment for it."""

    shown: str
    url: str
    variables: dict[str, str]


def _local(repository: str) -> Path | None:
    """The folder of this machine that a path or a file: URL means; None for anything else."""
    path = unquote(repository.removeprefix("file://")) if repository.startswith("file://") else repository
    return Path(path).absolute() if not repository.startswith("-") and Path(path).is_dir() else None


def _network(protocols: str, folder: Path) -> dict[str, str]:
    """The environment of a git that fetches, started in `folder`: the user's own, in which it may not ask.

    It uses these protocols only, and obeys no repository that `folder` may lie in.
    """
    env = dict(os.environ)
    # git may not mean the repository of a hook that calls the farm.
    for name in list(env):
        if name in _OF_ONE_REPOSITORY or name.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")):
            del env[name]
    # Where it needs a password it fails at once: nobody would see it ask.
    return env | {
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_CEILING_DIRECTORIES": str(folder.parent.resolve()),
        "GIT_DEFAULT_REF_FORMAT": "files",  # core/git.py reads no other, and a user's default may be one
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }


# Answers git's question for a password (gitcredentials) with what the environment holds, which only this user can read.
_HELPER = """!f() { test "$1" = get || exit 0
printf 'username=%s\\n' "$FARM_GIT_USER"
test -z "${FARM_GIT_PASSWORD+there}" || printf 'password=%s\\n' "$FARM_GIT_PASSWORD"; }; f"""


def _without_credentials(repository: str) -> tuple[str, dict[str, str]]:
    """The URL without name and password, and the variables that tell git both.

    An argument of a command is seen by every user of the machine, and stands in logs.
    """
    try:
        parts = urlsplit(repository)
    except ValueError:  # git says what is wrong with it
        return repository, {}
    user, _, host = parts.netloc.rpartition("@")
    if not user or parts.scheme not in ("http", "https", "ssh"):
        return repository, {}
    name, colon, password = user.partition(":")
    if parts.scheme == "ssh":  # whose name says which account is meant; git knows no passwords there
        return repository.replace(f"{user}@", f"{name}@", 1), {}
    key = f"credential.{parts.scheme}://{host}.helper"
    helpers = [_HELPER]
    variables = {"FARM_GIT_USER": unquote(name)}
    if colon:
        helpers.insert(0, "")  # forget the helpers before this one, which may know another account of that host
        variables["FARM_GIT_PASSWORD"] = unquote(password)
    if any(set(value) & set("\r\n\0") for value in variables.values()):
        raise SourceError("the name or password in the URL has a line break", where=public(repository))
    for number, helper in enumerate(helpers):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": helper}
    return public(repository), {**variables, "GIT_CONFIG_COUNT": str(len(helpers))}


def _resolved(parent: str, url: str) -> str:
    """A submodule's URL, which may be relative to that of the repository it belongs to (gitmodules)."""
    if not url.startswith(("./", "../")):
        return url
    base, separator = parent.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            separator = "/" if "/" in base else ":"  # HOST:REPOSITORY has no slash
            base = base.rpartition(separator)[0]
        url = url.partition("/")[2]
    return f"{base}{separator}{url}"
