"""Where a project's source comes from: a path, a git repository and revision, or an sdist on the package index.

A fetched source stays in the store under a name that identifies it (the sdist's SHA-256, the commit), so it is fetched
only once. It is unpacked, never built or installed: a package manager's wheel cache could hand out a wheel that was
built against another torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.archives import EARLIEST, unpack
from torch_build_farm.core.errors import PackageIndexError, SourceError, nearest
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.urls import public
from torch_build_farm.project.settings import Project

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

# What `git rev-parse --local-env-vars` lists: git sets these to tell a hook, and everything that the hook starts, which
# repository it runs in.
_OF_ONE_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS",
    "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}  # fmt: skip
_A_DAY = 86400  # seconds


@dataclass(frozen=True)
class Origin:
    """A source tree on disk, and where it comes from.

    `epoch` is the source's own date, in Unix seconds. A path has no date that all its copies share, so its epoch is
    1980: a checkout gives its files new dates, and a commit's date would give different wheels of the same files.
    `sealed` means that the tree is complete as it is, and that no tool has left anything in it.
    """

    root: Path
    identity: str = "path"
    epoch: int = EARLIEST
    sealed: bool = False


@dataclass(frozen=True)
class Fetcher:
    """Fetches sources into `folder`; `say` shows people what it fetches."""

    folder: Path
    runner: Runner
    say: Callable[[str], None]

    def obtain(self, project: Project) -> Origin:
        """The project's source tree. Raises SourceError or PackageIndexError if it cannot be fetched."""
        settings = project.settings
        if settings.sdist:
            return self.sdist(Requirement(settings.sdist), settings.sdist_sha256)
        if settings.git:
            repository = settings.git
            # A path is relative to the project's file, while git runs in a folder of the store.
            local = project.root / repository
            if local.exists():
                repository = str(local.resolve())
            return self.git(repository, settings.revision)
        return Origin((project.root / settings.source).resolve())

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder for an incomplete source. Removes those that killed farms left more than a day ago."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("fetch-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _A_DAY:
                    shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self.folder) as folder:
            yield Path(folder)

    # ---- sdists

    def sdist(self, requirement: Requirement, sha256: str) -> Origin:
        """The unpacked sdist of `requirement` (name==version) with this SHA-256.

        Raises PackageIndexError or SourceError if it cannot be fetched or unpacked.
        """
        home = self.folder / f"sdist-{sha256}"
        if not home.is_dir():
            with self.scratch() as scratch:
                self.say(f"fetching the sdist of {requirement}")
                archive = self.download(requirement, scratch, sha256)
                unpack(archive, scratch / "tree")
                self._keep(scratch / "tree", home)
        return Origin(only_folder(home), f"sdist {requirement} sha256:{sha256}", newest(home), sealed=True)

    def download(self, requirement: Requirement, folder: Path, sha256: str = "") -> Path:
        """Download the newest sdist that `requirement` admits; with `sha256`, the one with that hash.

        Raises PackageIndexError where the index has no such sdist, SourceError where its content has another SHA-256.
        """
        index = PackageIndex.configured()
        packages = index.files(requirement.name)
        if not packages:
            raise PackageIndexError(
                f"the package index has no {requirement.name}", next_step="correct sdist in [tool.torch-build-farm]"
            )
        sdists: list[DistributionPackage] = []
        versions: list[str] = []
        for file in packages:
            if file.package_type == "sdist" and _valid(file.version):
                sdists.append(file)
                versions.append(file.version)

        # All versions at once: a specifier admits pre-releases only where there is nothing else (PEP 440).
        admitted = set(requirement.specifier.filter(versions))
        candidates = [file for file in sdists if file.version in admitted]
        if not candidates:
            raise _no_sdist(requirement, versions)
        chosen = max(candidates, key=lambda file: _preference(file, sha256))
        path = folder / chosen.filename
        index.download(chosen, path)
        self.runner.check()  # an interrupt does not stop the download itself

        # Not the index's digest but the project's own: what was reviewed is what is built, whatever the index serves.
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 and actual != sha256:
            raise SourceError(
                f"{path.name} is not the file that sdist-sha256 names: the index has {actual}",
                where="[tool.torch-build-farm] sdist-sha256",
                next_step="find out why it changed before you pin the new one",
            )
        return path

    # ---- git

    def git(self, repository: str, revision: str) -> Origin:
        """A checkout of `revision` (commit, tag or branch), submodules and history included.

        Raises SourceError where git fails or does not know the revision.
        """
        commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else self._resolve(repository, revision)
        home = self.folder / f"git-{hashlib.sha256(repository.encode()).hexdigest()[:12]}-{commit}"
        if not home.is_dir():
            with self.scratch() as scratch:
                self.say(f"fetching {public(repository)} at {commit[:12]}")
                tree = scratch / "tree"
                # With its whole history, since versions may be counted from the last tag (setuptools-scm). Nothing is
                # checked out before the commit that is meant: submodules differ from commit to commit.
                self._git(repository, "clone", "--quiet", "--no-checkout", "--", repository, tree)
                self._git(repository, "-C", tree, "checkout", "--quiet", "--detach", commit)
                self._git(repository, "-C", tree, "submodule", "--quiet", "update", "--init", "--recursive")
                self._keep(tree, home)
        epoch = self._git(repository, "-C", home, "log", "-1", "--format=%ct")[-1]
        return Origin(home, f"git {public(repository)}@{commit}", max(int(epoch), EARLIEST))

    def _resolve(self, repository: str, revision: str) -> str:
        """The commit that a tag or branch of a repository means now. Raises SourceError if it has neither."""
        lines = self._git(repository, "ls-remote", "--", repository, revision, f"{revision}^{{}}")
        commits = {}
        for line in lines:
            commit, _, name = line.partition("\t")
            commits[name] = commit
        # An annotated tag has an object of its own; NAME^{} is the commit that it stands for.
        for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"):
            if name in commits:
                return commits[name]
        raise SourceError(
            f"{public(repository)} has no tag or branch {revision}",
            where="[tool.torch-build-farm] revision",
            next_step="name a tag, a branch or a commit of 40 hexadecimal digits",
        )

    def _git(self, repository: str, *words: str | Path) -> tuple[str, ...]:
        """Run git; returns the last lines that it printed. Raises SourceError with git's own reason if it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # git is the user's own: credentials, proxies and certificates are configured in many places. But it may neither
        # mean the repository of a hook that calls the farm, nor give files the line ends that its user likes. Where it
        # needs a password it fails at once (GIT_TERMINAL_PROMPT): nobody would see it ask.
        env = dict(os.environ)
        for name in _OF_ONE_REPOSITORY:
            env.pop(name, None)
        env.update({"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"})
        shell = Shell(self.runner, env, self.folder, self.folder / "git.log", lambda _: None)
        done = shell.run("git", "-c", "core.autocrlf=false", "-c", "log.showSignature=false", *words)
        if not done.ok:
            reason = done.tail[0] if done.tail else ""
            for line in done.tail:
                if line.startswith(("fatal:", "error:")):
                    reason = line
                    break
            raise SourceError(
                f"git cannot fetch the source: {reason.replace(repository, public(repository))}",
                where=public(repository),
                next_step="correct git and revision in [tool.torch-build-farm]; try the same with `git clone`",
            )
        return done.tail or ("",)

    def _keep(self, tree: Path, home: Path) -> None:
        """Move a complete tree to its place. Another farm may have put the same tree there first."""
        try:
            tree.rename(home)
        except OSError:
            if not home.is_dir():
                raise


def _preference(file: DistributionPackage, sha256: str) -> tuple[bool, bool, Version, bool]:
    """Sort key that prefers the sdist with this SHA-256, then one that is not yanked, the newest, and .tar.gz."""
    return (
        file.digests.get("sha256") == sha256,
        not file.is_yanked,
        Version(file.version or "0"),
        file.filename.endswith(".tar.gz"),
    )


def _valid(version: str | None) -> TypeGuard[str]:
    """Whether `version` follows PEP 440. Old files on an index may not, and no requirement admits those."""
    try:
        Version(version or "")
    except InvalidVersion:
        return False
    return True


def _no_sdist(requirement: Requirement, versions: list[str]) -> PackageIndexError:
    """The error for a requirement that no sdist on the index meets; `versions` are those that have one."""
    if versions:
        specifiers = list(requirement.specifier)
        what = nearest(specifiers[0].version if specifiers else "", versions)
    else:
        what = "it has wheels only"
    return PackageIndexError(
        f"the package index has no sdist of {requirement}; {what}",
        next_step="correct sdist in [tool.torch-build-farm], or use git and revision",
    )


def only_folder(home: Path) -> Path:
    """The one folder that an sdist unpacks to (PEP 625), or `home` itself for an archive that has no such folder."""
    entries = list(home.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else home


def newest(folder: Path) -> int:
    """The date (Unix seconds) of the newest file in an unpacked archive, taken as the date of the archive."""
    date = EARLIEST
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            date = max(date, int(path.stat().st_mtime))
    return date
