"""A torch release that never was, and an index that has it beside everything that the real one has."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import lief

from torch_build_farm.core.package_index import PackageIndex

Change = Callable[[bytes], bytes]


def without_symbol(library: bytes, name: str) -> bytes:
    """The library without that exported symbol."""
    parsed = lief.ELF.parse(list(library))
    assert parsed
    parsed.remove_dynamic_symbol(name)
    return bytes(parsed.write_to_bytes())


def remade(wheel: Path, made: Path, version: str, changes: Mapping[str, Change]) -> None:
    """A copy of a wheel under another version, with changed members; the others are copied as they are compressed."""
    old = wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        infos = sorted(source.infolist(), key=lambda info: info.header_offset)
        ends = [*(info.header_offset for info in infos[1:]), source.start_dir]
        was, now = f"torch-{old}.dist-info", f"torch-{version}.dist-info"
        new = {path.replace(was, now): change(_at(version, old, path, source)) for path, change in changes.items()}
        new.setdefault(f"{now}/METADATA", _at(version, old, f"{was}/METADATA", source))
        new[f"{now}/RECORD"] = _recorded(source.read(f"{was}/RECORD").replace(was.encode(), now.encode()), new)
        for info, end in zip(infos, ends, strict=True):
            name = info.filename.replace(was, now)
            if name in new or name != info.filename:
                archive.writestr(name, new[name] if name in new else source.read(info))
                continue
            assert source.fp is not None
            assert archive.fp is not None
            source.fp.seek(info.header_offset)
            left, info.header_offset = end - info.header_offset, archive.start_dir
            archive.fp.seek(archive.start_dir)
            while left:
                piece = source.fp.read(min(left, 1 << 20))
                archive.fp.write(piece)
                left -= len(piece)
            archive.start_dir = archive.fp.tell()
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info


def _at(version: str, old: str, path: str, source: zipfile.ZipFile) -> bytes:
    """A member, of METADATA with the new version."""
    content = source.read(path)
    named = path.endswith(".dist-info/METADATA")
    return content.replace(f"\nVersion: {old}".encode(), f"\nVersion: {version}".encode(), 1) if named else content


def _recorded(record: bytes, new: Mapping[str, bytes]) -> bytes:
    """RECORD with the hashes of what is new."""
    for path, content in new.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        row = path.encode() + b",sha256=" + digest + b",%d" % len(content)
        record = re.sub(rb"(?m)^" + re.escape(path.encode()) + rb",.*$", row.replace(b"\\", b"\\\\"), record)
    return record


def pure(folder: Path, name: str, version: str, metadata: str) -> Path:
    """A wheel that is nothing but METADATA."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    front: Front

    def do_GET(self) -> None:
        front = self.front
        front.requests.append(self.path)
        parts = [part for part in urllib.parse.unquote(self.path).split("/") if part]
        if parts[:1] == ["files"] and parts[1] in front.files and parts[1] not in front.without:
            self.file(front.files[parts[1]])
        elif parts[:1] == ["simple"] and len(parts) == 2 and (page := front.page(parts[1])):
            self.answer(200, page, "text/html" if front.html else "application/vnd.pypi.simple.v1+json")
        else:
            self.answer(404, b"no", "text/plain")

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, path: Path) -> None:
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "") if self.front.ranges else "")
        first, last = match.groups() if match else ("0", "")
        start = int(first) if first else size - min(int(last), size)
        end = min(int(last) + 1, size) if first and last else size
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", self.front.tag_of())
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            with path.open("rb") as stream:
                stream.seek(start)
                if self.front.cut_after is not None and len(self.front.requests) > self.front.cut_after:
                    self.wfile.write(stream.read((end - start) // 2))
                    self.close_connection = True
                    return
                while start < end and (piece := stream.read(min(end - start, 1 << 20))):
                    self.wfile.write(piece)
                    start += len(piece)

    def log_message(self, *_: object) -> None:
        pass


class Front:
    """An index (PEP 503, PEP 691) with `files` of its own by their names, and the real one's.

    `real`: patterns of names that are passed on; everything else is unknown. Files are served by ranges too. `html`: it
    answers in HTML alone. `without`: files that are listed and not there. `hidden`: the real index's files left out.
    `ranges`: whether it answers range requests. `cut_after` so many requests, connections break in mid-answer. `tag_of`
    says which ETag a file has now. `address` is where it listens: containers reach the bridge's, not loopback.
    """

    def __init__(
        self, files: Mapping[str, Path], real: str = ".*", *, html: bool = False, hidden: str = "(?!)",
        address: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.files, self.real, self.html = dict(files), re.compile(real), html
        self.without, self.requests, self.hidden = set[str](), list[str](), re.compile(hidden)
        self.ranges, self.cut_after = True, cast(int | None, None)
        self.tag_of: Callable[[], str] = lambda: '"one"'
        self.index = PackageIndex.configured()
        handler = type("Handler", (_Handler,), {"front": self})
        self.server = http.server.ThreadingHTTPServer((address, 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://{address}:{self.server.server_port}/simple/"
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def page(self, project: str) -> bytes:
        entries: list[dict[str, Any]] = [
            {
                "filename": name,
                "url": f"{self.url.removesuffix('simple/')}files/{name}",
                "hashes": {"sha256": digest(path)},
            }
            for name, path in self.files.items()
            if name.split("-")[0].lower().replace("_", "-") == project
        ]
        if self.real.fullmatch(project):
            for one in self.index.files(project):
                if not self.hidden.match(one.filename):
                    hashes = {name: value for name, value in one.digests.items() if name == "sha256"}
                    entries.append({"filename": one.filename, "url": one.url, "hashes": hashes,
                                    "yanked": one.is_yanked, "requires-python": one.requires_python})  # fmt: skip
        if not entries:
            return b""
        if self.html:
            links = "".join(
                f'<a href="{one["url"]}#sha256={one["hashes"]["sha256"]}">{one["filename"]}</a>\n' for one in entries
            )
            return f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        for entry in entries:
            if not entry.get("requires-python"):
                entry.pop("requires-python", None)
        return json.dumps({"meta": {"api-version": "1.0"}, "name": project, "files": entries}).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


_DIGESTS: dict[tuple[Path, int, int], str] = {}


def digest(path: Path) -> str:
    """The file's SHA-256; of a file of the same name that another test made, another one."""
    state = path.stat()
    key = path, state.st_size, state.st_mtime_ns
    if key not in _DIGESTS:
        with path.open("rb") as stream:
            _DIGESTS[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _DIGESTS[key]
