"""Answers of package indexes that are too long, too slow, from elsewhere, or not what the index states."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pypi_simple import DistributionPackage
from requests import RequestException
from requests.exceptions import SSLError
from urllib3 import HTTPConnectionPool, PoolManager
from urllib3.connection import HTTPConnection

from tests.raw_server import answering, slowly
from torch_build_farm.core.answers import Bounds, UnboundedAnswerError, session
from torch_build_farm.core.errors import PackageIndexError
from torch_build_farm.core.http_ranges import Limits
from torch_build_farm.core.package_index import PackageIndex

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
PAGE = b'<a href="demo-1.0-py3-none-any.whl">demo-1.0-py3-none-any.whl</a>'
LIMITS = Limits(page=1 << 16, metadata=1 << 14, file=1 << 16, answer_seconds=0.4, pauses=(), slowest=1 << 20)


def listed(pieces: Iterable[bytes], limits: Limits = LIMITS) -> list[str]:
    """The files that an index lists whose answer has these pieces."""
    with answering(lambda _: pieces) as url:
        return [file.filename for file in PackageIndex(url, limits=limits).files("demo")]


def with_length(body: bytes, *headers: bytes) -> bytes:
    return b"".join([OK, *(header + b"\r\n" for header in headers), b"Content-Length: %d\r\n\r\n" % len(body), body])


def twice(content: bytes) -> bytes:
    return gzip.compress(gzip.compress(content))


def test_a_page_is_read() -> None:
    assert listed([with_length(PAGE)]) == ["demo-1.0-py3-none-any.whl"]
    assert listed([with_length(gzip.compress(PAGE), b"Content-Encoding: gzip")]) == ["demo-1.0-py3-none-any.whl"]
    assert listed([OK + b"\r\n" + PAGE]) == ["demo-1.0-py3-none-any.whl"], "an answer without a length"
    assert listed([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]) == []


def test_a_page_that_is_none() -> None:
    with pytest.raises(PackageIndexError, match=r"the list of demo cannot be read: .* does not end"):
        listed([with_length(b"<a " + b'"' * 40_000)])


BOMB = bytes(64 << 20)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([with_length(gzip.compress(BOMB, 1), b"Content-Encoding: gzip")], "more than 65536 bytes"),
        ([with_length(zlib.compress(BOMB, 1), b"Content-Encoding: deflate")], "more than 65536 bytes"),
        ([with_length(twice(BOMB), b"Content-Encoding: gzip, gzip")], "compressed more than once"),
        ([with_length(bytes(1 << 17))], "more than 65536 bytes"),
        ([OK, b"\r\n", *repeat(bytes(1 << 14), 1000)], "more than 65536 bytes"),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n", *repeat(b"1000\r\n" + bytes(0x1000) + b"\r\n", 9999)], "more than"),
        ([OK, b"Transfer-Encoding: chunked\r\n\r\n", *repeat(b"0" * 4096, 1000)], "cannot be fetched"),
        ([OK, *repeat(b"X: " + b"x" * 9999 + b"\r\n", 10_000)], "cannot be fetched"),
        ([OK, b"X: ", *repeat(b"x" * 9999, 10_000)], "cannot be fetched"),
        (repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "more than|longer than"),
        ([b"HTTP/1.1 500 No\r\n\r\n", *repeat(bytes(1 << 14), 1000)], "more than 65536 bytes"),
        ([b"HTTP/1.1 302 No\r\nLocation: /elsewhere\r\nConnection: close\r\n\r\n", *repeat(bytes(1 << 14), 1000)], "more than 65536 bytes"),
        ([b"HTTP/1.1 302 No\r\nLocation: /more\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], "Exceeded 5 redirects"),
        ([b"HTTP/1.1 302 No\r\nLocation: file:///etc/passwd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], "No connection adapters"),
        ([b"HTTP/1.1 302 No\r\nLocation: https://[\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"], "cannot be"),
    ],
    ids=[
        "gzip", "deflate", "gzip in gzip", "longer than a page", "without an end", "chunks without an end",
        "a chunk's size without an end", "headers without an end", "a header without an end", "continue for ever",
        "an error without an end", "a redirect without an end", "redirects without an end", "a file", "no url",
    ],
)  # fmt: skip
def test_an_answer_that_is_too_long(pieces: Iterable[bytes], reason: str) -> None:
    with pytest.raises(PackageIndexError, match=reason):
        listed(pieces)


@pytest.mark.parametrize(
    "start",
    [b"", OK, OK + b"\r\n", OK + b"Content-Length: 9999\r\n\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"],
    ids=["status", "headers", "body", "body of a known length", "chunks"],
)
def test_a_byte_now_and_then_ends_in_time(start: bytes) -> None:
    """Each byte comes long before the limit of a single read."""
    drip = b"HTTP/1.1" if not start else b"1"
    with pytest.raises(PackageIndexError, match="takes longer than 0 s"):
        listed(slowly([start, *[drip[:1]] * 2000], 0.02))


def test_silence_ends_in_time() -> None:
    """The limit of a single read is 30 seconds."""
    for start in ([], [OK, b"\r\n<"]):
        with pytest.raises(PackageIndexError, match="takes longer than 0 s"):
            listed(slowly([*start, b""], 5))


def test_silence_within_the_limit_of_an_answer_is_that_of_a_read() -> None:
    limits = replace(LIMITS, page_seconds=60, answer_seconds=60, read_seconds=0.1)
    with pytest.raises(PackageIndexError, match="Read timed out"):
        listed(slowly([OK, b""], 60), limits)


def test_without_a_limit_of_a_read_that_of_the_answer_holds() -> None:
    bounds = Bounds(most=1000, seconds=0.2, slowest=1000, longest=1)
    with (
        answering(lambda _: slowly([OK, b""], 60)) as url,
        session(bounds, secure=False) as client,
        pytest.raises(RequestException, match="takes longer than 0 s"),
    ):
        client.get(url)


def test_what_came_in_fast_gives_the_rest_more_time() -> None:
    """The limit of a read is the index's again after each, and not what was left of a shorter one."""
    whole = with_length(bytes(1 << 16))
    limits = replace(LIMITS, slowest=1000, page_seconds=60, answer_seconds=1)
    assert listed(slowly([whole[:-1], whole[-1:]], 1.5), limits) == []


def test_what_is_refused_is_hung_up_on() -> None:
    """Else a server sends on as long as the session lives."""
    hung_up = threading.Event()

    def endless(start: bytes, _: str) -> Iterable[bytes]:
        try:
            yield start
            yield from repeat(gzip.compress(BOMB, 1))
        finally:
            hung_up.set()

    bounds = Bounds(most=1 << 20, seconds=60, slowest=1000, longest=60)
    for encoding in (b"gzip", b"gzip, gzip"):
        hung_up.clear()
        start = b"%sContent-Encoding: %s\r\n\r\n" % (OK, encoding)
        with answering(partial(endless, start)) as url, session(bounds, secure=False) as client:
            with pytest.raises(UnboundedAnswerError) as kept:  # with its traceback, and the answer in it
                client.get(url, stream=True).content  # noqa: B018 (reads it)
            assert hung_up.wait(20), kept.value


def test_what_comes_in_fast_enough_may_take_longer() -> None:
    body = [bytes([32]) * 1000] * 60
    pieces = slowly([OK, b"\r\n", *body], 0.02)
    assert listed(pieces, replace(LIMITS, slowest=5000)) == []
    with pytest.raises(PackageIndexError, match="takes longer"):
        listed(slowly([OK, b"\r\n", *body], 0.02), replace(LIMITS, slowest=5000, page_seconds=0.3))


def test_tls_is_not_left() -> None:
    bounds = Bounds(most=1000, seconds=5, slowest=1000, longest=5)
    with answering(lambda _: [with_length(b"x")]) as url:
        assert session(bounds, secure=False).get(url).content == b"x"
        with pytest.raises(UnboundedAnswerError, match="leads from https"):
            session(bounds, secure=True).get(url)
        with pytest.raises(SSLError):  # which asked for TLS, of a server that has none
            session(bounds, secure=True).get(url.replace("http:", "HTTPS:"))


def test_an_index_before_the_default_one_may_have_no_tls(tmp_path: Path) -> None:
    """As one on the own machine, beside the public one: what counts is where the file is."""
    with answering(lambda _: [with_length(b"x")]) as url:
        PackageIndex(first=(url,)).download(package(url, b"x"), tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == b"x"
        PackageIndex("https://index.example/simple/", first=(url,)).download(package(url, b"x"), tmp_path / "file")


def package(url: str, content: bytes, size: int | None = None) -> DistributionPackage:
    sha256 = hashlib.sha256(content).hexdigest()
    name = "demo-1.0-py3-none-any.whl"
    return DistributionPackage(
        name, f"{url}{name}", "demo", "1.0", "wheel", {"sha256": sha256}, None, None,
        has_metadata=True, metadata_digests={"sha256": sha256}, size=size,
    )  # fmt: skip


def test_a_download_is_what_the_index_states(tmp_path: Path) -> None:
    path = tmp_path / "demo.whl"
    with answering(lambda _: [with_length(b"content")]) as url:
        index = PackageIndex(url, limits=LIMITS)
        index.download(package(url, b"content"), path)
        assert path.read_bytes() == b"content"
        path.unlink()
        for file, reason in [
            (package(url, b"another"), "digest"),
            (package(url, b"content", size=6), "more than 6 bytes"),
        ]:
            with pytest.raises(PackageIndexError, match=reason):
                index.download(file, path)
            assert not path.exists(), "what was refused is not kept"


def test_metadata_is_what_the_index_states() -> None:
    text = b"Metadata-Version: 2.1\nName: demo\n"
    with answering(lambda _: [with_length(text)]) as url:
        index = PackageIndex(url, limits=LIMITS)
        assert index.metadata(package(url, text)) == text.decode()
        with pytest.raises(PackageIndexError, match="digest"):
            index.metadata(package(url, b"another"))
    with answering(lambda _: [with_length(bytes(1 << 15))]) as url, pytest.raises(PackageIndexError, match="more than"):
        PackageIndex(url, limits=LIMITS).metadata(package(url, bytes(1 << 15)))


def test_a_proxy_of_another_kind_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3 has pools of another kind for SOCKS, which pass through the proxy."""
    with answering(lambda _: slowly([with_length(b"x", b"Connection: close")], 0.01)) as url:
        proxy = urlsplit(url)

        class ThroughProxy(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return socket.create_connection((proxy.hostname, proxy.port))

        class Pool(HTTPConnectionPool):
            ConnectionCls = ThroughProxy

        class Manager(PoolManager):
            def __init__(self, *_: Any, **__: Any) -> None:
                super().__init__()
                self.pool_classes_by_scheme = {"http": Pool}

        monkeypatch.setattr("requests.adapters.SOCKSProxyManager", Manager)
        bounds = Bounds(most=1000, seconds=5, slowest=1000, longest=5)
        proxies = {"http": "socks5h://127.0.0.1:1"}
        with session(bounds, secure=False) as client:
            for _ in range(2):
                assert client.get("http://index.example/", proxies=proxies).content == b"x"
        slow = session(replace(bounds, seconds=0.0, longest=0.0), secure=False)
        with slow, pytest.raises(RequestException, match="takes longer"):
            slow.get("http://index.example/", proxies=proxies)


def test_a_range_of_thousands_of_digits(tmp_path: Path) -> None:
    """Python reads no number of more than 4,300."""
    part = b"HTTP/1.1 206 Partial\r\nContent-Length: 0\r\nContent-Range: bytes 0-1/%s\r\n\r\n" % (b"9" * 5000)
    with answering(lambda _: [part]) as url:
        opened = PackageIndex(url, limits=LIMITS).open_downloaded(package(url, b"x"), tmp_path)
        with pytest.raises(PackageIndexError, match="which range it sends"):
            opened.__enter__()
