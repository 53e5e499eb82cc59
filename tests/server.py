"""A package index that takes uploads: pypiserver on loopback, with a password, and without its fallback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from hashlib import sha256
from pathlib import Path

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
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{self.url}simple/", timeout=5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("pypiserver does not answer")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def files(self) -> dict[str, str]:
        return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(self.folder.glob("*.whl"))}
