"""Sdists as tar and zip: members and links that lead out, names that clash, headers that lie, bombs, damage."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from pathlib import Path

from tests.hostile.damage import damage
from torch_build_farm.core.archives import unpack
from torch_build_farm.project import tree
from torch_build_farm.project.fetch import Origin, newest, only_folder

_PYPROJECT = b"[build-system]\nrequires = ['setuptools']\n[project]\nname = 'demo'\nversion = '1.0'\n"
_PARTS = ["demo-1.0", "demo-1.0", "demo-1.0", "src", "a.py", "setup.py", "..", ".", "", "link", "LINK", "a\nb", "\u202e",
          "a\\b", "x" * 254, "x" * 256, "\0", "ü", "u\u0308", "\x1b[2J", ".git", "config", "PKG-INFO", "outside"]  # fmt: skip
_KINDS = [tarfile.REGTYPE] * 5 + [
    tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
    tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, b"V", b"?",
]  # fmt: skip
_HEADERS = {
    "path": ["/etc/passwd", "../../outside/x", "a" * 4000, "", "demo-1.0/ü"],
    "linkpath": ["/etc/passwd", "../" * 40, "demo-1.0"],
    "size": ["-1", "0", "99999999999999", "nan", "1e9", "9" * 5000],
    "mtime": ["nan", "inf", "-1", "1e308", "9" * 400, "1.5"],
    "GNU.sparse.major": ["1"],
    "GNU.sparse.map": ["0,1,99999999999,1"],
    "hdrcharset": ["BINARY"],
    "comment": ["x" * 3000, "9" * 3000],
}


def _name(chance: random.Random) -> str:
    name = "/".join(chance.choice(_PARTS) for _ in range(chance.choice((1, 2, 2, 3, 3, 4, 200))))
    return ("/" if chance.random() < 0.05 else "") + name


def _tar(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    layout = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=layout) as archive:
        for name, content in (("demo-1.0/pyproject.toml", _PYPROJECT), ("demo-1.0/demo/__init__.py", b"")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for _ in range(chance.randint(0, 12)):
            member = tarfile.TarInfo(_name(chance))
            member.type = chance.choice(_KINDS)
            member.linkname = chance.choice((_name(chance), "../" * chance.randint(1, 5), "/", ".", "link"))
            member.mode = chance.choice((0o644, 0o755, 0o6777, 0, 0o177777))
            member.mtime = chance.choice((0, 1_600_000_000, -1, 1 << 40, 1 << 62))
            if layout == tarfile.PAX_FORMAT and chance.random() < 0.2:
                key = chance.choice(list(_HEADERS))
                member.pax_headers = {key: chance.choice(_HEADERS[key])}
            content = b"x" * chance.choice((0, 1, 511, 512, 5000)) if member.isreg() else b""
            member.size = len(content)
            try:
                archive.addfile(member, io.BytesIO(content))
            except (ValueError, OverflowError):
                continue  # a name or a number that this layout cannot hold
    return stream.getvalue()


def _zip(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("demo-1.0/pyproject.toml", _PYPROJECT)
        for _ in range(chance.randint(0, 12)):
            entry = zipfile.ZipInfo("x", chance.choice(((1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58))))
            name = _name(chance).replace("\udcff", "")
            if name in archive.NameToInfo:
                continue  # zipfile warns; a name that occurs twice comes from the damage
            entry.filename = name
            entry.external_attr = chance.choice((0o100644, 0o100755, 0o120777, 0o40755, 0o20666, 0)) << 16
            methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            entry.compress_type = chance.choices(methods, (4, 10, 1, 1))[0]
            archive.writestr(entry, chance.choice((b"", b"x", b"../../outside", b"x" * 5000)))
    return stream.getvalue()


@functools.cache
def _bombs() -> tuple[bytes, ...]:
    """Archives of some kB that would unpack to much, or have very many members."""
    zeros = bytes(36 << 20)
    header = tarfile.TarInfo("demo-1.0/zeros")
    header.size = len(zeros)
    file = header.tobuf(tarfile.GNU_FORMAT) + zeros
    header.name, header.type = "././@LongLink", tarfile.GNUTYPE_LONGNAME
    long_name = header.tobuf(tarfile.GNU_FORMAT) + zeros
    header.type, header.size = tarfile.XHDTYPE, 1 << 20
    digits = header.tobuf(tarfile.GNU_FORMAT) + b"1" * header.size
    header.size = 1 << 13
    many_digits = (header.tobuf(tarfile.GNU_FORMAT) + b"1" * header.size) * 2000
    empty = b"".join(tarfile.TarInfo(f"demo-1.0/{number}").tobuf() for number in range(60_000))
    links = bytearray()
    for number in range(30_000):
        link = tarfile.TarInfo(f"demo-1.0/{number}")
        link.type, link.linkname = tarfile.SYMTYPE, str(number + 1)
        links += link.tobuf()
    deep = b"".join(tarfile.TarInfo(f"{number}{'/x' * 98}").tobuf() for number in range(3000))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("demo-1.0/zeros", zeros)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(5_000):
            archive.writestr(zipfile.ZipInfo(str(number)), b"")
    tars = (file, long_name, digits, many_digits, empty, bytes(links), deep)
    packed = [gzip.compress(content, 1) for content in tars]
    return (*packed, bz2.compress(file, 1), lzma.compress(file, preset=0), zipped.getvalue(), many.getvalue())


def examples(seed: int) -> bytes:
    """An archive."""
    chance = random.Random(seed)
    if chance.random() < 0.03:
        bomb = chance.choice(_bombs())
        return damage(bomb, chance) if chance.random() < 0.3 else bomb
    content = (_tar if chance.random() < 0.7 else _zip)(chance)
    if chance.random() < 0.5:
        content = damage(content, chance)
    if content[:2] != b"PK":
        content = chance.choice((gzip.compress, bz2.compress, lzma.compress, bytes))(content)
        if chance.random() < 0.1:
            content = damage(content, chance)
    return content


def check(data: bytes, folder: Path) -> None:
    """Unpack it as an sdist, look at what came out, and read it as a source tree."""
    (folder / "demo.tar.gz").write_bytes(data)
    home = folder / "tree"
    try:
        unpack(folder / "demo.tar.gz", home)
    finally:
        assert home.exists() == home.is_dir()
        for path in home.rglob("*"):
            mode = path.lstat().st_mode
            assert path.resolve().is_relative_to(home), f"{path} leads out"
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), f"{path} is no file"
            assert stat.S_ISLNK(mode) or not mode & 0o6002, f"{path} has mode {mode:o}"
    newest(home)
    tree.read(Origin(only_folder(home), sealed=True), version="1.0")
