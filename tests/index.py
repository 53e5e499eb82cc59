"""A package index of the tests' own."""

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path


class Index:
    """A package index (PEP 503) that serves a folder, and counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0
        index = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked += 1
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, name: str, content: bytes, project: str = "demo") -> str:
        folder = self.folder / project
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in sorted(folder.glob("*-*")))
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
        return hashlib.sha256(content).hexdigest()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
