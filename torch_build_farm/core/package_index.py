"""The package index that uv is configured for, asked without uv: its environment variables, then its settings file."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from torch_build_farm.core import toml
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.home import home
from torch_build_farm.core.http_ranges import DEFAULT_LIMITS, Limits
from torch_build_farm.core.urls import public, without_index_name, without_passwords

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, PyPISimple
    from requests import Response

    from torch_build_farm.core.remote_wheel import RemoteWheel

NOT_FOUND = 404
_SMALL = 1 << 16  # bytes of a wheel's end that hold the directory of one with a few hundred members


def uv_settings() -> Path | None:
    """The user's or machine's uv.toml (uv's manual, "Configuration files"), which may name another package index."""
    named = os.environ.get("UV_CONFIG_FILE")
    configured = os.environ.get("XDG_CONFIG_HOME")
    users = Path(configured) if configured else (home() or Path("/nonexistent")) / ".config"
    places = [Path(named)] if named else [users / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    for path in places:
        if path.is_file():
            return path.resolve()
    return None


def _configured() -> tuple[list[str], str]:
    """The URLs of package indexes in uv's order (its manual, "Package indexes"): those before the default, the default.

    The default's URL is empty where uv's own default applies.
    """
    first = os.environ.get("UV_INDEX", "").split()
    named = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or ""
    settings = uv_settings()
    if settings and not os.environ.get("UV_NO_CONFIG"):
        try:
            table = toml.load(settings)
        except (OSError, ValueError):
            table = {}  # uv's own message is better than one from here could be
        defaults = []
        indexes, pip = table.get("index"), table.get("pip")
        for index in indexes if isinstance(indexes, list) else ():
            if not isinstance(index, dict) or "url" not in index:
                continue  # which uv refuses
            if index.get("default"):
                defaults.append(str(index["url"]))
            # An explicit index serves only the packages that a project names it for ([tool.uv.sources]).
            elif not index.get("explicit"):
                first.append(str(index["url"]))
        # The newer key before the older ones; a variable of the environment before all of them.
        default = defaults[0] if defaults else ""
        default = default or table.get("index-url") or (pip.get("index-url") if isinstance(pip, dict) else "") or ""
        named = named or str(default)
    return [without_index_name(url) for url in first], without_index_name(named)


@dataclass
class Traffic:
    """How many bytes the answers had on the wire, as far as servers state it (Content-Length)."""

    fetched: int = 0

    def count(self, answer: Response, *_: object, **__: object) -> None:
        """Add an answer's bytes; a hook of requests."""
        length = answer.headers.get("Content-Length", "")
        if re.fullmatch("[0-9]{1,15}", length):
            self.fetched += int(length)


@dataclass(frozen=True)
class ProjectFiles:
    """The wheels and sdists that an index lists of a project, and the URL of the page with them, redirects followed."""

    files: list[DistributionPackage]
    url: str


@dataclass(frozen=True)
class PackageIndex:
    """An index (PEP 503, PEP 691); an empty `url` is the default one. `traffic` counts the bytes of all its answers.

    `first` are the URLs of indexes that are asked before this one. As with uv, the first index that has a project
    serves all of its files.
    `limits` hold for wheels that are read in parts.
    """

    url: str = ""
    first: tuple[str, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    limits: Limits = DEFAULT_LIMITS

    @classmethod
    def configured(cls, before: str = "") -> Self:
        """The index that uv is configured for, with those that it asks before it; `before` is asked before all."""
        first, url = _configured()
        return cls(url, (*([before] if before else []), *first))

    @contextmanager
    def _client(self, what: str, most: int, *, longest: float, link: str = "") -> Iterator[PyPISimple]:
        """A client of this index whose answers have up to `most` bytes and take up to `longest` seconds.

        `link` is the URL of a file, for a client that fetches it: another index than this one may list it (`first`).
        Errors raised within the block, which fetches `what`, become a PackageIndexError.
        """
        from pypi_simple import (  # noqa: PLC0415 (slow to import)
            PYPI_SIMPLE_ENDPOINT,
            DigestMismatchError,
            NoDigestsError,
            PyPISimple,
            UnsupportedRepoVersionError,
        )
        from requests import RequestException  # noqa: PLC0415
        from urllib3.exceptions import HTTPError  # noqa: PLC0415

        from torch_build_farm.core import index_pages  # noqa: PLC0415
        from torch_build_farm.core.answers import Bounds, session  # noqa: PLC0415

        # requests lets errors of urllib3 and of urllib pass, such as for a redirect to https://[ (a ValueError).
        known = (RequestException, HTTPError, DigestMismatchError, NoDigestsError, UnsupportedRepoVersionError)
        url = self.url or PYPI_SIMPLE_ENDPOINT
        bounds = Bounds(most, self.limits.answer_seconds, self.limits.slowest, longest)
        try:
            with PyPISimple(url, session=session(bounds, secure=index_pages.has_tls(link or url))) as client:
                # uv and OpenSSL know this variable; requests does not.
                bundle = os.environ.get("SSL_CERT_FILE")
                if bundle:
                    client.s.verify = bundle
                client.s.hooks["response"].append(self.traffic.count)
                yield client
        except known as error:
            raise self._error(
                # Links of a page have the password of its URL.
                f"{what} cannot be fetched: {without_passwords(str(error))}",
                "check the network, proxy and certificates, then run again",
            ) from None

    def _error(self, what: str, next_step: str) -> PackageIndexError:
        return PackageIndexError(
            what, where=public(self.url) or "the index that uv is configured for", next_step=next_step
        )

    def files(self, name: str) -> list[DistributionPackage]:
        """Every wheel and sdist that the index has of a project; none for a project that it does not have.

        Raises PackageIndexError where the index does not answer, or answers with something else.
        """
        return self.project(name).files

    def project(self, name: str) -> ProjectFiles:
        """The same, with the page that lists them: an index may pass on what another one has."""
        from torch_build_farm.core import index_pages  # noqa: PLC0415

        # The first index that has the project answers for it alone. By that uv prevents dependency confusion, where a
        # stranger's project has the same name on a later index (its manual, "Searching across multiple indexes").
        for url in self.first:
            project = PackageIndex(url, traffic=self.traffic, limits=self.limits).project(name)
            if project.files:
                return project
        limits = self.limits
        with self._client(f"the list of {name}", limits.page, longest=limits.page_seconds) as client:
            accept = {"Accept": client.accept}
            answer = client.s.get(client.get_project_url(name), headers=accept, timeout=limits.read_seconds)
            if answer.status_code == NOT_FOUND:
                return ProjectFiles([], answer.url)
            answer.raise_for_status()
            try:
                kind = answer.headers.get("Content-Type", "")
                return ProjectFiles(index_pages.files(answer.content, kind, answer.url, name), answer.url)
            except (ValueError, RecursionError) as error:  # pydantic's too, which are long
                reason = str(error) if isinstance(error, index_pages.PageError) else type(error).__name__
                raise self._error(
                    f"the list of {name} cannot be read: {reason}",
                    "check that this is a package index (PEP 503, PEP 691), and not a proxy's own page",
                ) from None

    def download(self, file: DistributionPackage, path: Path) -> None:
        """Download a file and compare it with the size and digest that the index states. Raises PackageIndexError."""
        limits = self.limits
        most = limits.file if file.size is None else min(file.size, limits.file)
        with self._client(f"{file.filename}", most, longest=limits.file_seconds, link=file.url) as client:
            client.download_package(file, path, verify=bool(file.digests), timeout=limits.read_seconds)

    @contextmanager
    def open_wheel(self, file: DistributionPackage, *, small: bool = False) -> Iterator[RemoteWheel]:
        """A wheel of the index that is read in parts, not downloaded; `small`: it has few members.

        Raises PackageIndexError, later too.
        """
        from torch_build_farm.core.remote_wheel import RemoteWheel  # noqa: PLC0415 (seldom wanted)

        limits = replace(self.limits, directory=_SMALL) if small else self.limits
        with (
            self._client(f"{file.filename}", limits.file, longest=limits.file_seconds, link=file.url) as client,
            RemoteWheel(client.s, file.url, file.filename, limits) as wheel,
        ):
            yield wheel

    @contextmanager
    def open_downloaded(self, file: DistributionPackage, folder: Path) -> Iterator[RemoteWheel]:
        """A wheel that is downloaded whole and compared with the SHA-256 that the index states, and then read.

        It lies in `folder` as long as the block lasts. Raises PackageIndexError where it is another file, or the index
        states no SHA-256.
        """
        from torch_build_farm.core.http_ranges import FileRanges, Ranges  # noqa: PLC0415 (seldom wanted)
        from torch_build_farm.core.remote_wheel import RemoteWheel  # noqa: PLC0415

        folder.mkdir(parents=True, exist_ok=True)
        limits = self.limits
        with (
            self._client(file.filename, limits.file, longest=limits.file / limits.slowest, link=file.url) as client,
            tempfile.TemporaryFile(dir=folder) as copy,
        ):
            remote = Ranges(client.s, file.url, file.filename, limits)
            remote.tail(1)  # which learns the size
            if remote.size > limits.file:
                raise remote.error(f"it has {remote.size} bytes")
            digest = hashlib.sha256()
            for piece in remote.pieces(0, remote.size):
                digest.update(piece)
                copy.write(piece)
            copy.flush()
            if digest.hexdigest() != (file.digests or {}).get("sha256"):
                raise remote.error("it is not the file whose SHA-256 the index states")
            yield RemoteWheel.of(FileRanges(copy, remote), limits)

    def metadata(self, file: DistributionPackage) -> str:
        """A wheel's METADATA: as a file of its own if the index has one (PEP 658), else read out of the wheel.

        Raises PackageIndexError.
        """
        from pypi_simple import NoMetadataError  # noqa: PLC0415

        limits = self.limits
        if file.has_metadata:
            what = f"METADATA of {file.filename}"
            with self._client(what, limits.metadata, longest=limits.page_seconds, link=file.url) as client:
                try:
                    verify = bool(file.metadata_digests)  # an index may state "true" in place of a digest
                    content = client.get_package_metadata_bytes(file, verify=verify, timeout=limits.read_seconds)
                    return content.decode("utf-8", "replace")
                except NoMetadataError:
                    pass  # promised, and not there: 2.14.1 of torch had none
        with self.open_wheel(file, small=True) as wheel:
            paths = [path for path in wheel.members if re.fullmatch(r"[^/]+\.dist-info/METADATA", path)]
            if len(paths) != 1 or wheel.members[paths[0]].file_size > limits.metadata:
                raise wheel.error(f"it has no METADATA, or more than one, or one of more than {limits.metadata} bytes")
            return wheel.read(paths[0]).decode("utf-8", "replace")
