"""The one place that reads answers of package indexes: bounded in bytes and in time.

A server decides how long it takes, how much it sends and to how much that inflates; requests bounds none of the three.
It has a limit for the pause between two bytes alone. So the connections here read through a stream of their own, which
counts time and bytes on the wire, and each answer's body is counted again as it is inflated. All sessions come from
`session`, and a redirect is an answer too.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

from requests import PreparedRequest, RequestException, Response, Session
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidURL
from urllib3 import HTTPConnectionPool, PoolManager

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LINE = 1 << 16  # bytes of a line of HTTP itself, such as a chunk's size
_HEADERS = 1 << 20  # bytes on the wire besides the body: status, headers, sizes of chunks
_PIECE = 1 << 16  # bytes of a body that are read at once


@dataclass(frozen=True)
class Bounds:
    """What an answer may take: bytes of its body when inflated, and seconds from the request to its last byte.

    `slowest` is a number of bytes. The answer has one second more for so many bytes that arrived, up to `longest`
    seconds in total.
    """

    most: int
    seconds: float
    slowest: int
    longest: float


class UnboundedAnswerError(RequestException):
    """An answer is longer, slower or from elsewhere than it may be."""


class _SlowAnswerError(OSError):
    """The form that urllib3 lets through while a connection is read."""


class _BoundedStream(io.RawIOBase):
    """What a socket receives, up to the bounds of one answer."""

    def __init__(self, sock: socket.socket, stream: io.RawIOBase, bounds: Bounds) -> None:
        self._socket, self._stream, self._bounds = sock, stream, bounds
        self._start, self._received = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        bounds = self._bounds
        limit = min(bounds.seconds + self._received / bounds.slowest, bounds.longest)
        left = self._start + limit - time.monotonic()
        if left <= 0:
            raise _SlowAnswerError(f"the answer takes longer than {limit:.0f} s")
        # A server that sends a byte now and then never exceeds the limit of one read.
        pause = self._socket.gettimeout()
        self._socket.settimeout(left if pause is None else min(left, pause))
        try:
            size = self._stream.readinto(buffer)
        except TimeoutError:
            if pause is not None and left > pause:
                raise
            raise _SlowAnswerError(f"the answer takes longer than {limit:.0f} s") from None
        finally:
            self._socket.settimeout(pause)
        self._received += size or 0
        if self._received > bounds.most + _HEADERS:
            raise _SlowAnswerError(f"the answer has more than {bounds.most} bytes")
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


class _BoundedReader(io.BufferedReader):
    """No line is longer than a line of HTTP may be."""

    def readline(self, size: int | None = -1, /) -> bytes:
        within = size is not None and 0 <= size <= _LINE + 1
        return super().readline(size if within else _LINE + 1)


def _response_class(bounds: Bounds) -> type[HTTPResponse]:
    """What makes the responses of http.client."""

    class BoundedResponse(HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
            super().__init__(sock, *arguments, **named)
            stream: io.RawIOBase = self.fp.detach()
            self.fp = _BoundedReader(_BoundedStream(sock, stream, bounds))

    return BoundedResponse


def _bounded(manager: PoolManager, bounds: Bounds) -> PoolManager:
    """The manager, whose connections read with `bounds` from now on.

    They stay of the kind that they were: those to a SOCKS proxy are of another than urllib3's own.
    """
    response = _response_class(bounds)
    pools: dict[str, type[HTTPConnectionPool]] = {}
    pool: type[HTTPConnectionPool]
    for scheme, pool in manager.pool_classes_by_scheme.items():
        connection = type("BoundedConnection", (pool.ConnectionCls,), {"response_class": response})
        pools[scheme] = type("BoundedPool", (pool,), {"ConnectionCls": connection})
    manager.pool_classes_by_scheme = pools
    return manager


class _BoundedBody:
    """urllib3's response for requests, whose body ends with an error where it inflates to more than it may."""

    def __init__(self, raw: Any, most: int) -> None:
        self._raw, self._most = raw, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self, amt: int = _PIECE, decode_content: bool | None = None) -> Iterator[bytes]:
        size = 0
        for piece in self._raw.stream(min(amt, _PIECE), decode_content=decode_content):
            size += len(piece)
            if size > self._most:
                self._raw.close()
                raise UnboundedAnswerError(f"the answer has more than {self._most} bytes")
            yield piece


class _BoundedAdapter(HTTPAdapter):
    """The transport of a session; every answer passes here, redirects too."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        _bounded(self.poolmanager, self._bounds)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        if proxy in self.proxy_manager:
            return self.proxy_manager[proxy]
        return _bounded(super().proxy_manager_for(proxy, **named), self._bounds)

    def send(self, request: PreparedRequest, *arguments: Any, **named: Any) -> Response:
        answer = super().send(request, *arguments, **named)
        # Of several encodings the inner one may inflate a thousand times what the outer one does.
        if "," in answer.headers.get("Content-Encoding", ""):
            answer.close()
            raise UnboundedAnswerError("the answer is compressed more than once")
        answer.raw = _BoundedBody(answer.raw, self._bounds.most)
        return answer


class _BoundedSession(Session):
    """A session with these bounds. `secure`: it leaves TLS for no redirect and no link."""

    def __init__(self, bounds: Bounds, *, secure: bool, redirects: int) -> None:
        super().__init__()
        self._secure = secure
        self.max_redirects = redirects
        for scheme in ("http://", "https://"):
            self.mount(scheme, _BoundedAdapter(bounds))

    def send(self, request: PreparedRequest, **named: Any) -> Response:
        if self._secure and not (request.url or "").lower().startswith("https:"):
            raise UnboundedAnswerError("the server leads from https to a connection without TLS")
        try:
            return super().send(request, **named)
        except RequestException:
            raise
        except ValueError as error:  # of a redirect to what is no URL
            raise InvalidURL(str(error), request=request) from None


def session(bounds: Bounds, *, secure: bool, redirects: int = 5) -> Session:
    """A session of requests for package indexes. What exceeds `bounds` raises a RequestException.

    `secure`: the index has an https URL, so that no answer may lead to a connection without TLS. requests itself
    knows no scheme but http and https.
    """
    bounded = _BoundedSession(bounds, secure=secure, redirects=redirects)
    bounded.headers["Accept-Encoding"] = "gzip"
    return bounded
