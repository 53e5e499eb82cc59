"""A remote file, read by HTTP range requests (RFC 9110, section 14)."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.urls import public

if TYPE_CHECKING:
    from requests import Response, Session

_SECONDS = (10, 30)  # to connect, and between two pieces of an answer
_PAUSES = (0.3, 1.0, 3.0)  # seconds before each further try
_LATER = frozenset({429, 500, 502, 503, 504})  # statuses of servers that may answer a little later
_PIECE = 1 << 16


class Ranges:
    """The file behind a URL. Threads may share it; `session` has the credentials and certificates.

    `fetched` counts the bytes of all answers' bodies, `requests` the requests, tries that failed included. Whatever
    goes wrong is a PackageIndexError; a part of the file is never something else: an answer has to say that it is
    what was asked for, of the file that the first answer was of.
    """

    def __init__(self, session: Session, url: str, name: str = "") -> None:
        self._session, self._url = session, url
        self._where = public(url)
        self.name = name or self._where.rpartition("/")[2]
        self._lock = threading.Lock()
        self._validators: dict[str, str | None] | None = None
        self.fetched, self.requests, self.size = 0, 0, 0

    def error(self, reason: str) -> PackageIndexError:
        """The error that `reason` makes of this file."""
        return PackageIndexError(
            f"{self.name} cannot be read in parts: {reason}",
            where=self._where,
            next_step="check the index, its proxy and the network, then run again",
        )

    def tail(self, size: int) -> bytes:
        """The last `size` bytes, or all of a file that is smaller; the first thing to ask for. Learns `size`."""
        return b"".join(self._pieces(-size, 0))

    def get(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, both within the file."""
        return b"".join(self._pieces(start, end)) if end > start else b""

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The same bit by bit, so that a stretch of any size takes little memory."""
        return self._pieces(start, end)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        """A cut connection is taken up where it was cut."""
        from requests import RequestException  # noqa: PLC0415 (slow to import)

        tries, reason = 0, "it ends too early"
        while True:
            try:
                with self._answer(start, end) as answer:
                    if answer.status_code in _LATER:
                        reason = f"the server says {answer.status_code} {answer.reason}"
                    else:
                        start, end = self._checked(answer, start, end)
                        for piece in answer.iter_content(_PIECE):
                            self._count(len(piece))
                            start += len(piece)
                            yield piece
                        if start == end:
                            return
                        if start > end:
                            raise self.error("the server sends more than it was asked for")
            except RequestException as error:
                reason = str(error)
            if start == end and start > 0:
                return
            if tries == len(_PAUSES):
                raise self.error(reason)
            time.sleep(_PAUSES[tries])
            tries += 1

    def _count(self, size: int, requests: int = 0) -> None:
        with self._lock:
            self.fetched += size
            self.requests += requests

    def _answer(self, start: int, end: int) -> Response:
        wanted = {"Range": f"bytes={start}" if start < 0 else f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        tag = (self._validators or {}).get("ETag")
        if tag and not tag.startswith("W/"):  # RFC 9110, 13.1.5: strong ones only
            wanted["If-Range"] = tag
        self._count(0, 1)
        return self._session.get(self._url, headers=wanted, stream=True, timeout=_SECONDS)

    def _checked(self, answer: Response, start: int, end: int) -> tuple[int, int]:
        """The range that the answer holds. Raises PackageIndexError unless it is the one that was asked for."""
        known = self._validators
        if answer.status_code == 200:
            raise self.error("it changed meanwhile" if known else "the server does not answer range requests")
        if answer.status_code == 416 and known:
            raise self.error("it changed meanwhile")
        if answer.status_code != 206:
            raise self.error(f"the server says {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise self.error("the server encodes what it sends")
        said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if not said:
            raise self.error("the server does not say which range it sends")
        first, last, size = map(int, said.groups())
        now = {name: answer.headers.get(name) for name in ("ETag", "Last-Modified")}
        expected = (max(0, size + start), size) if start < 0 else (start, end)
        if known is None:
            self._validators, self.size = now, size
        elif size != self.size or now != known:
            raise self.error("it changed meanwhile")
        if (first, last + 1) != expected:
            raise self.error("the server sends another range than it was asked for")
        return expected
