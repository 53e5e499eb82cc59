"""Where a project's source comes from: a path, a git repository and revision, or an sdist on the package index.

A fetched source stays in the store under a name that identifies it (the sdist's SHA-256, the commit), so it is fetched
only once. It is unpacked, never built or installed: a package manager's wheel cache could hand out a wheel that was
built against another torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from torch_build_farm.core.archives import EARLIEST, unpack
from torch_build_farm.core.errors import PackageIndexError, SourceError, VersionError, nearest
from torch_build_farm.core.git import COMMIT, Description, describe_bare
from torch_build_farm.core.git_client import Client
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.paths import file_in, inside
from torch_build_farm.core.process import Runner
from torch_build_farm.core.urls import public
from torch_build_farm.project import dynamic_version, metadata, scm_version
from torch_build_farm.project.kept_sources import Kept, KeptSources
from torch_build_farm.project.scm_version import Question
from torch_build_farm.project.settings import Project

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

_A_DAY = 86400  # seconds
_SUBMODULES_DEEP = 8


@dataclass(frozen=True)
class Origin:
    """A source tree on disk, and where it comes from.

    `epoch` is the source's own date, in Unix seconds. A path has no date that all its copies share, so its epoch is
    1980: a checkout gives its files new dates, and a commit's date would give different wheels of the same files.
    `sealed` means that the tree is complete as it is, and that no tool has left anything in it.
    `kept` is what was recorded of a source in the store. `subdirectory` is the folder of the Python project in the
    tree, empty for its top.
    """

    root: Path
    identity: str = "path"
    epoch: int = EARLIEST
    sealed: bool = False
    kept: Kept | None = None
    subdirectory: str = ""

    @property
    def project(self) -> Path:
        """The folder of the Python project."""
        return self.root / self.subdirectory

    def answer(self, question: Question) -> Description | None:
        """What git says of the tree's commit; None where it says nothing, as of an sdist."""
        if self.identity == "path":
            return scm_version.in_work_tree(self.project, question)
        if self.kept is None or question.options != self.kept.options:
            return None
        # The tree's top is the only repository there: submodules come without theirs.
        repository = posixpath.normpath(posixpath.join(self.subdirectory, question.repository))
        below = question.parents and not repository.startswith(("..", "/"))
        return self.kept.description if repository == "." or below else None


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
            origin = self.sdist(Requirement(settings.sdist), settings.sdist_sha256)
            return replace(origin, subdirectory=settings.subdirectory)
        if settings.git:
            repository = settings.git
            # A path is relative to the project's file, while git runs in a folder of the store.
            local = project.root / repository
            if local.exists():
                repository = str(local.resolve())
            return self.git(repository, settings.revision, settings.subdirectory)
        return Origin((project.root / settings.source).resolve(), subdirectory=settings.subdirectory)

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
        name = f"sdist-{sha256}"
        kept = self._kept(name)
        if kept is None:
            with self.scratch() as scratch:
                self.say(f"fetching the sdist of {requirement}")
                archive = self.download(requirement, scratch, sha256)
                unpack(archive, scratch / "tree")
                kept = self.sources.keep(name, Kept(scratch / "tree", newest(scratch / "tree")))
        return Origin(only_folder(kept.tree), f"sdist {requirement} sha256:{sha256}", kept.epoch, True, kept)

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
        path = file_in(folder, chosen.filename)
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

    def git(self, repository: str, revision: str, subdirectory: str = "") -> Origin:
        """The files of `revision` (commit, tag or branch), submodules included, without their history.

        The Python project in `subdirectory` says what git is asked of the commit.

        Raises SourceError where git fails or does not know the revision.
        """
        with self.scratch() as scratch:
            client = Client(self.runner, scratch, self.folder / "git.log")
            pinned = COMMIT.fullmatch(revision)
            commit = revision if pinned else client.commit_of(repository, revision)
            if not commit:
                raise SourceError(
                    f"{public(repository)} has no tag or branch {revision}",
                    where="[tool.torch-build-farm] revision",
                    next_step="name a tag, a branch or a commit of 40 hexadecimal digits",
                )
            # By pip's syntax for such a place. Projects of one repository may ask git for different tags.
            place = f"{repository}#subdirectory={subdirectory}" if subdirectory else repository
            name = f"commit-{hashlib.sha256(place.encode()).hexdigest()[:12]}-{commit}"
            kept = self._kept(name)
            # Another farm may have asked git for other tags.
            if kept is None or kept.options != _options(kept.tree / subdirectory):
                self.say(f"fetching {public(repository)} at {commit[:12]}")
                kept = self.sources.keep(name, self._fetched(client, repository, commit, subdirectory, scratch))
        return Origin(kept.tree, f"git {public(repository)}@{commit}", kept.epoch, kept=kept, subdirectory=subdirectory)

    def _fetched(self, client: Client, repository: str, commit: str, subdirectory: str, scratch: Path) -> Kept:
        """The tree of a commit in `scratch`, and what git says of it while its repository is at hand."""
        bare, tree = scratch / "repository", scratch / "tree"
        # With its whole history, since versions may be counted from the last tag (setuptools-scm).
        client.clone(repository, commit, bare)
        self._check_out(client, repository, bare, commit, tree, deep=0)
        options = _options(tree / subdirectory)
        description = describe_bare(bare, commit, options) if options else None
        return Kept(tree, max(client.date(repository, bare, commit), EARLIEST), options, description)

    def _check_out(self, client: Client, repository: str, bare: Path, commit: str, tree: Path, *, deep: int) -> None:
        """Write the files of a commit to `tree`, and those of its submodules, and theirs, into it."""
        submodules = client.submodules(repository, bare, commit)
        if submodules and deep == _SUBMODULES_DEEP:
            raise SourceError("submodules lie too deep in one another", where=public(repository))
        client.check_out(repository, bare, commit, tree)
        pointers = client.pointers(bare, tree)
        if pointers:
            named = ", ".join(pointers[:3])
            self.say(f"{len(pointers)} of its files are pointers of Git LFS, which the farm does not follow: {named}")
        for submodule in submodules:
            other = bare.with_name(f"{bare.name}-{deep}")
            client.clone(submodule.url, submodule.commit, other, submodule=True)
            place = inside(tree, submodule.path)
            self._check_out(client, submodule.url, other, submodule.commit, place, deep=deep + 1)
            shutil.rmtree(other)

    # ---- the store

    @property
    def sources(self) -> KeptSources:
        """The sources that lie in the store."""
        return KeptSources(self.folder)

    def _kept(self, name: str) -> Kept | None:
        """A source that was fetched before, if it is what it was then."""
        kept = self.sources.find(name)
        if kept is None and self.sources.has(name):
            self.say(f"the source {name} in the store is not as this farm recorded it; it is fetched again")
        return kept


def _options(project: Path) -> tuple[str, ...]:
    """The options of `git describe` that the version of a project is counted by; none where it is not counted so."""
    try:
        table = dynamic_version.scm_table(metadata.document(project))
        return scm_version.question(table).options if table is not None else ()
    except (SourceError, VersionError):  # told to people when the version is wanted
        return ()


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
