"""A web server on loopback with one file that is read by ranges, and the faults that such servers have."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedIOBase


@dataclass
class Served:
    """`faults` says by the number of a request (from 0) what is wrong with its answer; nothing, by default."""

    content: bytes
    etag: str = '"one"'
    url: str = ""
    asked: list[str] = field(default_factory=list)
    fault: Callable[[int], str] = lambda _: ""


def _flood(stream: BufferedIOBase, over: threading.Event | None) -> None:
    while over and not over.is_set():
        stream.write(bytes(1 << 16))


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Served]:
    served = Served(content)
    lock = threading.Lock()
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            with lock:
                fault = served.fault(len(served.asked))
                served.asked.append(wanted)
            size = len(served.content)
            first, last = re.fullmatch(r"bytes=(\d*)-(\d+)", wanted).groups()  # type: ignore[union-attr]
            start, end = (int(first), min(int(last) + 1, size)) if first else (max(0, size - int(last)), size)
            changed = self.headers.get("If-Range") not in (None, served.etag)
            body, status = served.content[start:end], 206
            if fault in ("503", "404", "416"):
                status, body = int(fault), b"no"
            elif fault == "whole" or changed:
                status, body = 200, served.content
            elif fault == "slow":
                over.wait()
                self.close_connection = True
                return
            elif fault == "other":
                start += 1
            self.send_response(status)
            if status == 206 and fault != "silent":
                total = size + 1 if fault == "grown" else size
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
            if fault == "encoded":
                self.send_header("Content-Encoding", "gzip")
            if served.etag:
                self.send_header("ETag", served.etag)
            sent = body[: len(body) // 2] if fault in ("cut", "short") else body
            lengths = {"short": len(sent), "endless": 1 << 40}
            self.send_header("Content-Length", str(lengths.get(fault, len(body))))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(sent)
                _flood(self.wfile, over if fault == "endless" else None)
            self.close_connection = fault in ("cut", "endless") or status == 200

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}/torch-1.0-cp312-cp312-linux_x86_64.whl"
    try:
        yield served
    finally:
        over.set()
        server.shutdown()
        server.server_close()
