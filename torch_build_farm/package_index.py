"""The package index that uv is configured for, asked without uv: its environment variables, then its settings file."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from torch_build_farm.errors import PackageIndexError

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage, PyPISimple

_SECONDS = 30  # for one answer


def public(url: str) -> str:
    """A URL without the name and password that it may hold: messages and records are for others too."""
    user = urlsplit(url).netloc.rpartition("@")[0]
    return url.replace(f"{user}@", "") if user else url


def uv_settings() -> Path | None:
    """The user's or machine's uv.toml (uv's manual, "Configuration files"), which may name another package index."""
    named = os.environ.get("UV_CONFIG_FILE")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path(named)] if named else [home / "uv" / "uv.toml", Path("/etc/uv/uv.toml")]
    return next((path.resolve() for path in places if path.is_file()), None)


def _configured() -> str:
    """The index's URL by uv's own order; empty for the default one."""
    named = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or ""
    settings = uv_settings()
    if not named and settings and not os.environ.get("UV_NO_CONFIG"):
        try:
            table = tomllib.loads(settings.read_text("utf-8"))
        except (OSError, ValueError):
            return ""  # uv itself says better what is wrong with it
        defaults = [str(index["url"]) for index in table.get("index", ()) if index.get("default")]
        named = next(iter(defaults), "") or str(table.get("index-url") or table.get("pip", {}).get("index-url") or "")
    return re.sub(r"^[\w.-]+=", "", named)  # uv takes name=URL too


@dataclass(frozen=True)
class PackageIndex:
    """An index (PEP 503, PEP 691); an empty `url` is the default one."""

    url: str = ""

    @classmethod
    def configured(cls) -> Self:
        return cls(_configured())

    @contextmanager
    def _client(self, what: str) -> Iterator[PyPISimple]:
        from pypi_simple import (  # noqa: PLC0415 (slow to import)
            DigestMismatchError,
            PyPISimple,
            UnsupportedContentTypeError,
            UnsupportedRepoVersionError,
        )
        from requests import RequestException  # noqa: PLC0415

        known = (RequestException, DigestMismatchError, UnsupportedContentTypeError, UnsupportedRepoVersionError)
        try:
            with PyPISimple(self.url) if self.url else PyPISimple() as client:
                if bundle := os.environ.get("SSL_CERT_FILE"):  # uv's and OpenSSL's, which requests does not know
                    client.s.verify = bundle
                yield client
        except known as error:
            said = str(error).replace(self.url, public(self.url)) if self.url else str(error)
            raise PackageIndexError(
                f"{what} cannot be fetched: {said}",
                where=public(self.url) or "the index that uv is configured for",
                next_step="check the network, proxy and certificates, then run again",
            ) from None

    def files(self, name: str) -> list[DistributionPackage]:
        """Every file that the index has of a project; none for a project that it has not."""
        from pypi_simple import NoSuchProjectError  # noqa: PLC0415

        with self._client(f"the list of {name}") as client:
            try:
                return client.get_project_page(name, timeout=_SECONDS).packages
            except NoSuchProjectError:
                return []

    def download(self, file: DistributionPackage, path: Path) -> None:
        """Download a file and compare it with the digest that the index states."""
        with self._client(f"{file.filename}") as client:
            client.download_package(file, path, verify=bool(file.digests), timeout=_SECONDS)
