"""A server on loopback that sends any bytes at all as its answer, as slowly as it likes."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator

Answer = Callable[[str], Iterable[bytes]]
"""Gives the pieces of the answer to a request for a path."""


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The URL of the server. A connection has one answer, which ends when the client hangs up, or here."""
    over = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError, ValueError):
                path = self.rfile.readline().split()[1].decode()
                while self.rfile.readline().strip():
                    pass
                for piece in answer(path):
                    if over.is_set():
                        return
                    self.wfile.write(piece)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            over.set()
            server.shutdown()


def slowly(pieces: Iterable[bytes], seconds: float) -> Iterator[bytes]:
    """The pieces with a pause after each."""
    pause = threading.Event()
    for piece in pieces:
        yield piece
        pause.wait(seconds)
