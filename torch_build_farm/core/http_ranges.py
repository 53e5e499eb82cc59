"""A remote file, read by HTTP range requests (RFC 9110, section 14).

remotezip, pip's lazy wheels and fsspec read ranges too. This code stays because it does what none of them does: it
sends If-Range, compares every Content-Range with the request, notices a file that changes between two requests, and
resumes a connection that breaks in the middle of an answer.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.urls import public, without_passwords

if TYPE_CHECKING:
    from requests import Response, Session

_RETRIED = frozenset({429, 500, 502, 503, 504})  # statuses of servers that may answer a little later
_PIECE = 1 << 16  # bytes of an answer that are passed on at once


@dataclass(frozen=True)
class Limits:
    """How long to wait for a server, and how much of a file to read at once."""

    connect_seconds: float = 10
    """Seconds to connect."""

    read_seconds: float = 30
    """Seconds between two pieces of an answer."""

    pauses: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Seconds to wait before each further attempt; their number is the number of further attempts."""

    directory: int = 3 << 19
    """Bytes of a wheel's end to begin with. 1.5 MiB holds the central directory of every torch wheel so far (1.1 to
    1.4 MB); a longer one takes a second request."""

    gap: int = 1 << 16
    """Bytes between two members that are cheaper to read over than to skip with a request of their own (0.1 s at
    50 MB/s)."""

    most: int = 64 << 20
    """Bytes of one range that are held in memory."""

    inflated: int = 256 << 20
    """Bytes that members have together, inflated, which are read at once. All of torch's headers have 70 MB."""

    longest_directory: int = 16 << 20
    """Bytes of a wheel's central directory. Each member's entry takes ten times its bytes in memory."""

    answer_seconds: float = 60
    """Seconds from a request to the end of its answer. One that is long may take longer, as long as it comes in with
    at least `slowest` bytes a second."""

    slowest: int = 20_000
    """Bytes a second."""

    page: int = 20 << 20
    """Bytes of a project's page, inflated; torch's has some 1 MB."""

    page_seconds: float = 300
    """Seconds that a page or a METADATA may take in all."""

    metadata: int = 4 << 20
    """Bytes of a METADATA, inflated; torch's has 30 kB."""

    file: int = 8 << 30
    """Bytes of a file, and of a member of a wheel, inflated."""

    file_seconds: float = 7200
    """Seconds that a file, or a part of one, may take in all."""


DEFAULT_LIMITS = Limits()


class Ranges:
    """The file behind a URL. Threads may share it; `session` has the credentials and certificates.

    `fetched` counts the bytes of all answers' bodies, `requests` the requests, failed attempts included. Every failure
    is a PackageIndexError. Bytes are never those of another range or another file: each answer has to name the range
    that was requested, and the validators of the first answer.
    """

    def __init__(self, session: Session, url: str, name: str = "", limits: Limits = DEFAULT_LIMITS) -> None:
        self._session, self._url, self._limits = session, url, limits
        self._public_url = public(url)
        self.name = name or self._public_url.rpartition("/")[2]
        self._lock = threading.Lock()
        self._validators: dict[str, str | None] | None = None
        self.fetched, self.requests, self.size = 0, 0, 0

    def error(self, reason: str) -> PackageIndexError:
        """The error that `reason` makes of this file."""
        return PackageIndexError(
            f"{self.name} cannot be read in parts: {without_passwords(reason)}",
            where=self._public_url,
            next_step="check the index, its proxy and the network, then run again",
        )

    def tail(self, size: int) -> bytes:
        """The last `size` bytes, or all of a smaller file. This request comes first: it learns the file's `size`."""
        return b"".join(self.pieces(-size, 0))

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, both within the file."""
        return b"".join(self.pieces(start, end)) if end > start else b""

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The same as `get`, piece by piece, so that a range of any size takes little memory.

        After a broken connection the next request begins where the answer broke off. A negative `start` counts from
        the file's end.
        """
        from requests import RequestException  # noqa: PLC0415 (slow to import)

        from torch_build_farm.core.answers import UnboundedAnswerError  # noqa: PLC0415

        attempts, reason = 0, "it ends too early"
        while True:
            try:
                with self._answer(start, end) as answer:
                    if answer.status_code in _RETRIED:
                        reason = f"the server answers {answer.status_code} {answer.reason}"
                    else:
                        # From here on `start` is what the caller lacks, so a further attempt fetches nothing twice.
                        start, end = self._checked_range(answer, start, end)
                        for piece in answer.iter_content(_PIECE):
                            self._count(len(piece))
                            start += len(piece)
                            # At once: what a server sends may have no end.
                            if start > end:
                                raise self.error("the server sends more than the requested range")
                            yield piece
                        if start == end:
                            return
            except UnboundedAnswerError as error:
                raise self.error(str(error)) from None
            except RequestException as error:
                reason = str(error)
            # The connection may break after the last byte.
            if start == end and start > 0:
                return
            if attempts == len(self._limits.pauses):
                raise self.error(reason)
            time.sleep(self._limits.pauses[attempts])
            attempts += 1

    def _count(self, size: int, requests: int = 0) -> None:
        with self._lock:
            self.fetched += size
            self.requests += requests

    def _answer(self, start: int, end: int) -> Response:
        span = f"bytes={start}" if start < 0 else f"bytes={start}-{end - 1}"
        headers = {"Range": span, "Accept-Encoding": "identity"}
        tag = (self._validators or {}).get("ETag")
        if tag and not tag.startswith("W/"):  # RFC 9110, 13.1.5: strong ones only
            headers["If-Range"] = tag
        self._count(0, 1)
        timeouts = (self._limits.connect_seconds, self._limits.read_seconds)
        return self._session.get(self._url, headers=headers, stream=True, timeout=timeouts)

    def _checked_range(self, answer: Response, start: int, end: int) -> tuple[int, int]:
        """The range in the answer. Raises PackageIndexError unless it is the requested one, of an unchanged file."""
        first_validators = self._validators
        if answer.status_code == 200:
            raise self.error(
                "it changed meanwhile" if first_validators else "the server does not answer range requests"
            )
        if answer.status_code == 416 and first_validators:
            raise self.error("it changed meanwhile")
        if answer.status_code != 206:
            raise self.error(f"the server answers {answer.status_code} {answer.reason}")
        # Some proxies compress in spite of Accept-Encoding; then the bytes are not the file's.
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise self.error("the server encodes what it sends")
        content_range = re.fullmatch(
            r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", answer.headers.get("Content-Range", "")
        )
        if not content_range:
            raise self.error("the server does not state which range it sends")
        first_byte, last_byte, size = map(int, content_range.groups())
        validators = {name: answer.headers.get(name) for name in ("ETag", "Last-Modified")}
        # A negative start counts from the end, so only the answer shows where it is.
        expected = (max(0, size + start), size) if start < 0 else (start, end)
        if first_validators is None:
            self._validators, self.size = validators, size
        elif size != self.size or validators != first_validators:
            raise self.error("it changed meanwhile")
        if (first_byte, last_byte + 1) != expected:
            raise self.error("the server sends a range other than the requested one")
        return expected


class FileRanges:
    """A remote file that was downloaded whole, read as `Ranges` reads the file itself. Threads may share it.

    `fetched` and `requests` are those of the download.
    """

    def __init__(self, file: IO[bytes], remote: Ranges) -> None:
        self._file, self._remote = file, remote
        self.name, self.size, self.fetched, self.requests = remote.name, remote.size, remote.fetched, remote.requests

    def error(self, reason: str) -> PackageIndexError:
        """The error that `reason` makes of this file."""
        return self._remote.error(reason)

    def tail(self, size: int) -> bytes:
        """The last `size` bytes, or all of a smaller file."""
        return self.get(max(0, self.size - size), self.size)

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`."""
        return b"".join(self.pieces(start, end))

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The same, piece by piece."""
        while start < end:
            piece = os.pread(self._file.fileno(), min(_PIECE, end - start), start)
            if not piece:
                raise self.error("it ends too early")
            start += len(piece)
            yield piece
