"""Whose are the names on a package index: a file there is this project's if it is in its list, or was built here.

Both by SHA-256. Anybody may take a name that is free, and a file of the right name and version may hold other code, so
neither is a proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from torch_build_farm.core.errors import PublishError
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.urls import public
from torch_build_farm.publish.published_list import PublishedList

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

_SHOWN = 3  # files in a message


@dataclass(frozen=True)
class IndexFile:
    """A file of a distribution on an index; `sha256` is empty where it was not needed and is not stated.

    `page` is the URL of the page that lists it, redirects followed.
    """

    name: str
    file: DistributionPackage
    sha256: str
    is_own: bool
    page: str

    @property
    def file_name(self) -> str:
        return self.file.filename


@dataclass(frozen=True)
class IndexNames:
    """Whose the files on an index are. `built` has the SHA-256 of what was built here and proven, by file name."""

    index: PackageIndex
    published: PublishedList
    scratch: Path
    built: Mapping[str, str]

    def files(self, name: str) -> list[IndexFile]:
        """The files that the index has of a distribution now, yanked ones too.

        Raises PackageIndexError if the index cannot be read.
        """
        name = canonicalize_name(name)
        project = self.index.project(name)
        return [self._judged(name, file, project.url) for file in project.files]

    def file(self, name: str, file_name: str) -> IndexFile | None:
        """One file of a distribution, as the index has it now; None if it does not. Raises PackageIndexError.

        The distribution's other files are not looked at: each may be a download, of an index that states no SHA-256.
        """
        name = canonicalize_name(name)
        project = self.index.project(name)
        for file in project.files:
            if file.filename == file_name:
                return self._judged(name, file, project.url)
        return None

    def _judged(self, name: str, file: DistributionPackage, page: str) -> IndexFile:
        # What nobody here knows by its name need not be downloaded to know that it is not ours.
        may_be_own = file.filename in self.built or self.published.knows(name, file.filename)
        digest = digest_of(file, self.index, self.scratch) if may_be_own else stated_digest(file)
        # A page may list a file of another distribution, which was built here: it is no proof for this name. The list
        # has the name beside the file, whose own name may be of a form that nobody writes any more.
        is_built = self.built.get(file.filename) == digest and distribution_of(file.filename) == name
        is_own = bool(digest) and (is_built or self.published.has(name, file.filename, digest))
        return IndexFile(name, file, digest, is_own, page)

    def require_own(self, files: Iterable[IndexFile], target: str) -> None:
        """Raise PublishError where a file of a distribution that is to be published is not this project's.

        The message names every such distribution.
        """
        foreign = [file for file in files if not file.is_own]
        if foreign:
            raise self._taken(foreign, target)

    def _taken(self, foreign: list[IndexFile], target: str) -> PublishError:
        names = list(dict.fromkeys(file.name for file in foreign))
        files = [f"{file.file_name} (sha256 {file.sha256 or 'not stated'})" for file in foreign[:_SHOWN]]
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        verb = "has" if len(names) == 1 else "have"
        what = f"{', '.join(names)} {verb} files on the index that this project has not published"
        for file in foreign:
            if file.file_name in self.built:
                what = (
                    f"the index has another {file.file_name} than was built here, of sha256 "
                    f"{self.built[file.file_name]}, and this project has not published it"
                )
        where, next_step = public(self.index.url) or target, ""
        host = passed_on_from(self.index, foreign[0].page)
        if host:
            where += f", which passes on what {host} has"
            next_step = "have the index answer for its own files alone (pypi-server: --disable-fallback); or "
        return PublishError(
            f"{what}, as far as published.json knows: {', '.join(files)}{more}",
            where=where,
            next_step=f"{next_step}they may be of an earlier publication whose published.json was not merged (merge "
            "it), of yours from before that list (look at them, then once: "
            f"torch-build-farm adopt {target} {' '.join(names)} --yes), or of a stranger who took the name (take "
            "another: name, auto-name or select-name in [tool.torch-build-farm])",
        )


def passed_on_from(index: PackageIndex, page: str) -> str:
    """The host whose page an index answered with, by a redirect; empty where it answered itself."""
    host = urlsplit(page).netloc.rpartition("@")[2]
    return host if index.url and host != urlsplit(index.url).netloc.rpartition("@")[2] else ""


def distribution_of(file: str) -> str:
    """The normalized name of the distribution that a file belongs to, by its name; empty for one without."""
    try:
        return parse_wheel_filename(file)[0] if file.endswith(".whl") else parse_sdist_filename(file)[0]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return ""


def stated_digest(file: DistributionPackage) -> str:
    """The SHA-256 that the index states of a file; empty if it states none (PEP 503 leaves that to it)."""
    return str(file.digests.get("sha256", "")).lower()


def digest_of(file: DistributionPackage, index: PackageIndex, scratch: Path) -> str:
    """The SHA-256 of a file on the index, which is downloaded to `scratch` if the index does not state it.

    Raises PackageIndexError if that fails, or if the file is not what another digest of the index says.
    """
    stated = stated_digest(file)
    if stated:
        return stated
    path = scratch / "published.download"  # the index's own name for it could lead elsewhere
    try:
        index.download(file, path)
        return sha256(path)
    finally:
        path.unlink(missing_ok=True)
