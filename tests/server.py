"""A package index that takes uploads: pypiserver on loopback, with a password, and without its fallback."""

from __future__ import annotations

import contextlib
import http.server
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from tests.until import DEADLINE_S, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # passlib asks for crypt, which CPython 3.13 dropped
    from passlib.apache import HtpasswdFile

USER, PASSWORD = "maintainer", "a-secret-of-the-tests"


class Server:
    """`files` are what was uploaded. Start and stop as often as you like; the port stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        passwords = HtpasswdFile(str(folder.parent / f"{folder.name}.htpasswd"), new=True)
        passwords.set_password(USER, PASSWORD)
        passwords.save()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [
            sys.executable, "-m", "pypiserver", "run", "--port", str(self.port), "--interface", "127.0.0.1",
            "--disable-fallback", "--hash-algo", "sha256", "--authenticate", "update",
            "--passwords", passwords.path, str(folder),
        ]  # fmt: skip
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, lambda: "pypiserver does not answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "pypiserver ended"
        try:
            urllib.request.urlopen(f"{self.url}simple/", timeout=DEADLINE_S).close()
        except OSError:
            return False
        return True

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def unread(self) -> int:
        """How many bytes have arrived that the server has not read: those of requests to a frozen one."""
        established = "01"
        size = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            if int(local.rpartition(":")[2], 16) == self.port and state == established:
                size += int(queues.partition(":")[2], 16)
        return size

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def front(self, answers: list[tuple[int, str]]) -> Iterator[str]:
        """The URL of a front that answers the first uploads with these statuses, and passes on everything else."""
        server, left = self, list(answers)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.passed(None)

            do_HEAD = do_GET  # noqa: N815

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if left:
                    status, reason = left.pop(0)
                    self.send_response(status, reason)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    self.passed(body)

            def passed(self, body: bytes | None) -> None:
                names = ("Authorization", "Content-Type", "Accept")
                headers = {name: self.headers[name] for name in names if name in self.headers}
                place = f"{server.url}{self.path.lstrip('/')}"
                wanted = urllib.request.Request(place, body, headers, method=self.command)
                try:
                    with urllib.request.urlopen(wanted) as answer:
                        status, content, kind = answer.status, answer.read(), answer.headers["Content-Type"]
                except urllib.error.HTTPError as error:
                    status, content, kind = error.code, error.read(), "text/plain"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        front = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=front.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{front.server_port}/"
        finally:
            front.shutdown()
            front.server_close()

    def files(self) -> dict[str, str]:
        return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(self.folder.glob("*.whl"))}
