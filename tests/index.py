"""A package index of the tests' own: PEP 503, with yanked files (PEP 592)."""

import hashlib
import http.server
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name


class Index:
    """A package index (PEP 503) that serves a folder, and counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.yanked = folder, 0, set[str]()
        self.digests = True  # whether its pages state the SHA-256 of files
        self.stated: dict[str, str] = {}  # what pages state in place of that, such as "md5=...", by file name
        self.before: Callable[[str], None] = lambda _: None  # is given the path of each page that is asked for
        index = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked += 1
                index.before(self.path)
                super().do_GET()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_error(400, "takes no uploads")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, name: str, content: bytes, project: str = "demo") -> str:
        (self.folder / project).mkdir(exist_ok=True)
        (self.folder / project / name).write_bytes(content)
        self._list(project)
        return hashlib.sha256(content).hexdigest()

    def add_wheel(self, path: Path) -> str:
        return self.add(path.name, path.read_bytes(), canonicalize_name(path.name.split("-")[0]))

    def yank(self, *names: str) -> None:
        self.yanked |= set(names)
        for name in names:
            self._list(canonicalize_name(name.split("-")[0]))

    def _list(self, project: str) -> None:
        folder = self.folder / project
        links = "".join(
            f'<a href="{path.name}{self._fragment(path)}"'
            f"{' data-yanked=tests' if path.name in self.yanked else ''}>{path.name}</a>"
            for path in sorted(folder.glob("*-*"))
        )
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")

    def _fragment(self, path: Path) -> str:
        if path.name in self.stated:
            return f"#{self.stated[path.name]}"
        return f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" if self.digests else ""

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
