"""Archives of others: what they unpack to, and what is refused."""

import errno
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from torch_build_farm.core import archives
from torch_build_farm.core.archives import EARLIEST, Limits, unpack, zip_entries
from torch_build_farm.core.errors import DiskError, SourceError
from torch_build_farm.core.tar_members import CountedStream, UnsafeArchiveError

DATE = 1_600_000_000
NOW = 1_700_000_000


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.mtime = kind, target, mode, DATE
    return member


def tar(path: Path, *members: tarfile.TarInfo, mode: str = "w:gz", **options: int) -> Path:
    """A tar archive whose files all have their name as content."""
    with tarfile.open(path, mode, **options) as archive:  # type: ignore[call-overload]
        for member in members:
            content = member.name.encode() if member.isreg() else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, *entries: zipfile.ZipInfo, content: bytes = b"x", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for info in entries:
            archive.writestr(info, b"" if info.is_dir() else content, method)
    return path


def tree_of(folder: Path) -> dict[str, tuple[int, float, bytes | str]]:
    """Mode, date and content of everything in a folder; of a link its target alone."""
    tree: dict[str, tuple[int, float, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        if path.is_symlink():
            tree[name] = (0, 0, str(path.readlink()))
        elif path.is_dir():
            # A folder without a member of its own has today's date.
            tree[name] = (stat.S_IMODE(status.st_mode), status.st_mtime if status.st_mtime < NOW else 0, "")
        else:
            tree[name] = (stat.S_IMODE(status.st_mode), status.st_mtime, path.read_bytes())
    return tree


LONG = f"demo-1.0/{'folder/' * 20}{'n' * 120}.py"


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_unpacks_as_tarfile_does(tmp_path: Path, compression: str, layout: int) -> None:
    members = [
        entry("./demo-1.0/", tarfile.DIRTYPE),
        entry("./demo-1.0/setup.py"),
        entry("demo-1.0/run.sh", mode=0o775),
        entry("demo-1.0/secret", mode=0o400),
        entry("demo-1.0/odd", mode=0o6471),
        entry("demo-1.0/source", tarfile.DIRTYPE),
        entry("demo-1.0/source", tarfile.DIRTYPE),
        entry("demo-1.0/source/a.cpp"),
        entry("demo-1.0/include", tarfile.SYMTYPE, "./source"),
        entry("demo-1.0/source/up.py", tarfile.SYMTYPE, "../setup.py"),
        entry("demo-1.0/nowhere", tarfile.SYMTYPE, "not/here"),
    ]
    if layout != tarfile.USTAR_FORMAT:
        members += [entry(LONG), entry("demo-1.0/long", tarfile.SYMTYPE, f"source/{'t' * 130}"), entry("demo-1.0/ü.py")]
        members[1].mtime = DATE + 0.25
    archive = tar(tmp_path / "demo.tar", *members, mode=f"w:{compression}", format=layout)
    unpack(archive, tmp_path / "tree")
    with tarfile.open(archive) as original:
        original.extractall(tmp_path / "expected", filter="data")
    assert tree_of(tmp_path / "tree") == tree_of(tmp_path / "expected")
    assert (tmp_path / "tree" / "demo-1.0" / "setup.py").stat().st_mtime == int(DATE) + (
        0.25 if layout == tarfile.PAX_FORMAT else 0
    )


def test_a_global_header_and_several_streams(tmp_path: Path) -> None:
    """`git archive` begins with the commit as a comment; pigz and xz write several streams into one file."""
    with tarfile.open(
        tmp_path / "demo.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a" * 40}
    ) as archive:
        archive.addfile(entry("demo-1.0/setup.py"))
    content = (tmp_path / "demo.tar").read_bytes()
    for compress in (gzip.compress, lzma.compress):
        (tmp_path / "demo").write_bytes(compress(content[:700]) + compress(b"") + compress(content[700:]))
        unpack(tmp_path / "demo", tmp_path / compress.__module__)
        assert list(tree_of(tmp_path / compress.__module__)) == ["demo-1.0", "demo-1.0/setup.py"]


def test_a_hard_link_becomes_a_copy(tmp_path: Path) -> None:
    members = [entry("demo/a.py", mode=0o755), entry("demo/b.py", tarfile.LNKTYPE, "demo/a.py")]
    unpack(tar(tmp_path / "demo.tar.gz", *members), tmp_path / "tree")
    first, second = tmp_path / "tree" / "demo" / "a.py", tmp_path / "tree" / "demo" / "b.py"
    assert first.read_bytes() == second.read_bytes() == b"demo/a.py"
    assert (second.stat().st_mtime, stat.S_IMODE(second.stat().st_mode)) == (DATE, 0o755)
    assert first.stat().st_ino != second.stat().st_ino


def test_a_zip_keeps_dates_and_what_can_be_run(tmp_path: Path) -> None:
    entries = []
    for name, mode in (("run.sh", 0o100755), ("read.me", 0o100644), ("folder/", 0o40755)):
        info = zipfile.ZipInfo(f"demo-1.0/{name}", (2020, 9, 13, 12, 26, 40))
        info.external_attr = mode << 16
        entries.append(info)
    unpack(zipped(tmp_path / "demo.zip", *entries), tmp_path / "tree")
    tree = {name: (bool(mode & 0o100), date) for name, (mode, date, _) in tree_of(tmp_path / "tree").items()}
    del tree["demo-1.0"]
    assert tree == {
        "demo-1.0/run.sh": (True, DATE),
        "demo-1.0/read.me": (False, DATE),
        "demo-1.0/folder": (True, DATE),
    }


def refused(archive: Path, folder: Path, reason: str, limits: Limits = archives.LIMITS) -> None:
    """The archive is refused for this reason, and leaves nothing."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SourceError, match=f"cannot be unpacked: .*{reason}") as caught:
        unpack(archive, folder / "tree", limits)
    assert "\n" not in caught.value.what
    assert sorted(path.name for path in folder.iterdir()) == before


LEADS_OUT = {
    "a path": ([entry("demo/../../out.py")], "leads out"),
    "a path that comes back": ([entry("demo/../demo/in.py")], "leads out"),
    "an absolute path": ([entry("/demo/in.py")], "absolute"),
    "a link": ([entry("demo/out.py", tarfile.SYMTYPE, "../../secret")], "leads out"),
    "an absolute link": ([entry("demo/out.py", tarfile.SYMTYPE, "/etc/passwd")], "absolute"),
    "a link to the root": ([entry("out", tarfile.SYMTYPE, "..")], "leads out"),
    "an empty link": ([entry("demo/out", tarfile.SYMTYPE, "")], "is empty"),
    "a file through a link": ([entry("l", tarfile.SYMTYPE, "demo"), entry("l/a.py")], "symbolic link and a folder"),
    "a file over a link": ([entry("l", tarfile.SYMTYPE, "setup.py"), entry("l")], "twice"),
    "a link over a file": ([entry("l"), entry("l", tarfile.SYMTYPE, "demo")], "twice"),
    "a link over a folder": ([entry("l/a.py"), entry("l", tarfile.SYMTYPE, "demo")], "twice"),
    "a folder over a file": ([entry("l"), entry("l", tarfile.DIRTYPE)], "file and a folder"),
    "a file twice": ([entry("a.py"), entry("./a.py")], "twice"),
    "a hard link to a link": (
        [entry("l", tarfile.SYMTYPE, "demo/setup.py"), entry("h", tarfile.LNKTYPE, "l")],
        "not a file before it",
    ),
    "a hard link out": ([entry("h", tarfile.LNKTYPE, "../secret")], "leads out"),
    "an absolute hard link": ([entry("h", tarfile.LNKTYPE, "/etc/passwd")], "absolute"),
    "a hard link to what comes later": ([entry("h", tarfile.LNKTYPE, "z"), entry("z")], "not a file before it"),
    "a device": ([entry("demo/null", tarfile.CHRTYPE)], "neither a file"),
    "a pipe": ([entry("demo/pipe", tarfile.FIFOTYPE)], "neither a file"),
    "a sparse file": ([entry("demo/sparse", tarfile.GNUTYPE_SPARSE)], "neither a file"),
    "a control character": ([entry("demo/a\nb.py")], "control character"),
    "a name that is not UTF-8": ([entry("demo/a\udcff.py")], "not UTF-8"),
    "a long name": ([entry(f"demo/{'x' * 256}")], "too long"),
    "a deep name": ([entry(f"demo/{'x/' * 120}x")], "too many folders"),
    "the folder itself": ([entry("./")], "there twice"),
}


@pytest.mark.parametrize("way", LEADS_OUT)
@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_that_leads_out(tmp_path: Path, way: str, layout: int) -> None:
    members, reason = LEADS_OUT[way]
    (tmp_path / "secret").write_text("secret")
    for member in members:
        # Written by hand: tarfile takes the slash off, and a name that ends in one is a folder's.
        member.size = 0
    archive = tmp_path / "demo.tar"
    content = b"".join(member.tobuf(layout, "utf-8", "surrogateescape") for member in members)  # type: ignore[arg-type]
    good = tar(tmp_path / "good.tar", entry("demo/setup.py"), mode="w").read_bytes()[:1024]
    archive.write_bytes(good + content + bytes(1024))
    refused(archive, tmp_path, reason)


def test_links_that_lead_up_behind_a_name(tmp_path: Path) -> None:
    """`deep/l/../..` stays inside by its text, but leads out where `deep/l` is a link to the top."""
    members = [
        entry("a/b/c/setup.py"),
        entry("a/b/c/top", tarfile.SYMTYPE, "../../.."),
        entry("a/b/c/out", tarfile.SYMTYPE, "top/../x"),
        entry("a/b/c/further", tarfile.SYMTYPE, "top/a/../../x"),
    ]
    unpack(tar(tmp_path / "demo.tar.gz", *members), tmp_path / "tree")
    for path in (tmp_path / "tree" / "a" / "b" / "c").iterdir():
        assert path.resolve().is_relative_to(tmp_path / "tree"), path
    (tmp_path / "tree").rename(tmp_path / "kept")
    refused(
        tar(tmp_path / "more.tar.gz", *members, entry("a/b/c/up", tarfile.SYMTYPE, "top/../../../../../x")),
        tmp_path,
        "leads out",
    )


def escaping_chain(outside: str) -> list[tarfile.TarInfo]:
    """Links longer together than PATH_MAX (CVE-2025-4517): `realpath` takes what is left of them for plain names."""
    members, path, long = [], "", "d" * 247
    for step in "abcdefghijklmnop":
        members.append(entry(f"{path}{long}", tarfile.DIRTYPE))
        members.append(entry(f"{path}{step}", tarfile.SYMTYPE, long))
        path += f"{long}/"
    chain = "/".join("abcdefghijklmnop")
    members.append(entry(f"{chain}/{'l' * 254}", tarfile.SYMTYPE, "/".join([".."] * 16)))
    members.append(entry("escape", tarfile.SYMTYPE, f"{chain}/{'l' * 254}/../{outside}"))
    members.append(entry("escape/overwritten"))
    return members


def test_a_chain_of_links_longer_than_a_path_may_be(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "overwritten").write_text("mine")
    archive = tar(tmp_path / "demo.tar.gz", *escaping_chain("outside"), format=tarfile.PAX_FORMAT)
    refused(archive, tmp_path, "")
    assert (tmp_path / "outside" / "overwritten").read_text() == "mine"


def named(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename, info.external_attr = name, mode << 16
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        ("demo/../../out.py", 0o100644, "leads out"),
        ("/demo/out.py", 0o100644, "absolute"),
        ("demo\\..\\out.py", 0o100644, "backslash"),
        ("demo/a\0b.py", 0o100644, "control character"),
        ("demo/link", 0o120777, "neither a file nor a folder"),
        ("demo/device", 0o020666, "neither a file nor a folder"),
        ("demo/setup.py", 0o100644, "twice"),
        ("demo/setup.py/x", 0o100644, "file and a folder"),
    ],
)
def test_a_zip_archive_that_leads_out(tmp_path: Path, name: str, mode: int, reason: str) -> None:
    refused(zipped(tmp_path / "demo.zip", named("demo/setup.py"), named(name, mode)), tmp_path, reason)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_archive_packed_in_a_rare_way(tmp_path: Path, method: int) -> None:
    refused(zipped(tmp_path / "demo.zip", named("demo/setup.py"), method=method), tmp_path, "DEFLATE")


@pytest.mark.parametrize("name", [".", "./", "./a.py", "demo/.", "demo/./a.py", "demo//a.py", "demo//", "a.py//"])
def test_a_name_of_another_spelling_in_a_wheel(tmp_path: Path, name: str) -> None:
    """Two spellings of one path are two files to whoever checks them, and one to whoever installs them."""
    path = zipped(tmp_path / "demo.whl", named("demo/a.py"), named(name))
    with zipfile.ZipFile(path) as archive, pytest.raises(UnsafeArchiveError, match="has an empty part"):
        zip_entries(archive, path.stat().st_size)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["demo/a.py", "demo/a.py/"])
def test_a_name_twice_in_a_wheel(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "demo.whl", named("demo/a.py"), named(name))
    with zipfile.ZipFile(path) as archive, pytest.raises(UnsafeArchiveError, match="twice"):
        zip_entries(archive, path.stat().st_size)


def test_an_entry_that_is_longer_than_the_archive(tmp_path: Path) -> None:
    """The directory says so, and zipfile would ask for that much memory."""
    path = zipped(tmp_path / "demo.whl", named("demo/a.py"))
    content = bytearray(path.read_bytes())
    entry_of_directory = content.index(b"PK\1\2")
    content[entry_of_directory + 20 : entry_of_directory + 24] = (0xFFFF0000).to_bytes(4, "little")
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive, pytest.raises(UnsafeArchiveError, match="is longer than the archive"):
        zip_entries(archive, path.stat().st_size)


SMALL = Limits(free_members=10, free_size=1 << 20, links=3)


def bomb(path: Path, kind: str) -> Path:
    """An archive of some kB that would unpack to much more."""
    zeros = bytes(4 << 20)
    if kind == "zip":
        return zipped(path, named("demo/zeros"), content=zeros)
    if kind == "links":
        links = [entry(f"demo/{number}", tarfile.SYMTYPE, "x") for number in range(5)]
        return tar(path, *links)
    if kind == "hard links":
        first = entry("demo/a" * 30)
        return tar(path, first, *[entry(f"demo/{number}", tarfile.LNKTYPE, first.name) for number in range(20)])
    if kind == "folders":
        return tar(path, *[entry(f"{number}/{'x/' * 90}x", tarfile.DIRTYPE) for number in range(3)])
    if kind == "names":
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, len(zeros)
        path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + zeros))
        return path
    with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("demo/zeros")
        info.size = len(zeros)
        archive.addfile(info, io.BytesIO(zeros))
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *((kind, "more than an archive of its size") for kind in ("gz", "bz2", "xz", "zip")),
        ("links", "more than 3 links"),
        ("hard links", "more members than"),
        ("folders", "more members than"),
        ("names", "extended header has"),
    ],
)
def test_bombs(tmp_path: Path, kind: str, reason: str) -> None:
    refused(bomb(tmp_path / "demo", kind), tmp_path, reason, SMALL)


def test_what_is_not_unpacked_counts_too() -> None:
    """Headers and padding, which never become a file."""
    stream = CountedStream(io.BytesIO(bytes(1000)), 600)
    assert stream.read(512) == bytes(512)
    with pytest.raises(UnsafeArchiveError, match="more than an archive of its size"):
        stream.read(512)


def test_copies_of_hard_links_count(tmp_path: Path) -> None:
    big = entry("demo/big")
    big.size = 600_000
    with tarfile.open(tmp_path / "demo.tar.gz", "w:gz") as archive:
        archive.addfile(big, io.BytesIO(bytes(big.size)))
        archive.addfile(entry("demo/copy", tarfile.LNKTYPE, "demo/big"))
    refused(tmp_path / "demo.tar.gz", tmp_path, "more than an archive of its size", SMALL)


def test_a_header_of_digits_takes_no_time(tmp_path: Path) -> None:
    """tarfile of CPython 3.11.7 takes minutes for this one (CVE-2024-6232)."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 << 20
    content = header.tobuf(tarfile.USTAR_FORMAT) + b"1" * header.size + bytes(1024)
    (tmp_path / "demo.tar.gz").write_bytes(gzip.compress(content))
    refused(tmp_path / "demo.tar.gz", tmp_path, "extended header")


def test_an_xz_archive_that_asks_for_much_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    (tmp_path / "demo.tar.xz").write_bytes(lzma.compress(bytes(2048), filters=filters))
    refused(tmp_path / "demo.tar.xz", tmp_path, "[Mm]emory")


PAX = tarfile.PAX_FORMAT


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"path": "/etc/passwd"}, "absolute"),
        ({"path": "demo/../../x"}, "leads out"),
        ({"GNU.sparse.major": "1"}, "sparse"),
        ({"mtime": "nan"}, "date that is none"),
        ({"mtime": "9" * 400}, "date that is none"),
        ({"size": "-1"}, "size that is none"),
        ({"size": "9" * 14}, "too early"),
    ],
)
def test_extended_headers(tmp_path: Path, headers: dict[str, str], reason: str) -> None:
    member = entry("demo/a.py")
    member.pax_headers = headers
    (tmp_path / "demo.tar").write_bytes(member.tobuf(PAX, "utf-8", "strict") + bytes(1024))  # type: ignore[arg-type]
    refused(tmp_path / "demo.tar", tmp_path, reason)


def test_impossible_dates(tmp_path: Path) -> None:
    members = [entry("demo/old"), entry("demo/new"), entry("demo/folder", tarfile.DIRTYPE)]
    members[0].mtime, members[1].mtime, members[2].mtime = -(1 << 40), 1 << 60, 1 << 60
    unpack(tar(tmp_path / "demo.tar.gz", *members, format=tarfile.GNU_FORMAT), tmp_path / "tree")
    dates = {name: date for name, (_, date, _) in tree_of(tmp_path / "tree").items()}
    assert (dates["demo/old"], dates["demo/new"]) == (0, 4354819199)
    assert (tmp_path / "tree" / "demo" / "folder").stat().st_mtime == 4354819199
    info = named("demo/a.py")
    zipped(tmp_path / "demo.zip", info)
    content = (tmp_path / "demo.zip").read_bytes().replace(b"\x21\x00", b"\x00\x00")  # day 1, month 1 becomes none
    (tmp_path / "demo.zip").write_bytes(content)
    unpack(tmp_path / "demo.zip", tmp_path / "zip")
    assert (tmp_path / "zip" / "demo" / "a.py").stat().st_mtime == EARLIEST


def cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(1, len(content) - 1200)]


@pytest.mark.parametrize("damage", [cut, lambda content, _: b"", lambda content, _: bytes(10240)])
def test_damaged_archives(tmp_path: Path, damage: Callable[[bytes, random.Random], bytes]) -> None:
    content = tar(tmp_path / "demo.tar", entry("demo/a.py"), entry("demo/b.py"), mode="w").read_bytes()
    (tmp_path / "demo.tar").write_bytes(damage(content[:2560], random.Random(1)))
    refused(tmp_path / "demo.tar", tmp_path, "")


def test_an_encrypted_zip(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "demo.zip", named("demo/a.py"))
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, tmp_path, "'demo/a.py' is encrypted\n")


def test_the_folder_has_to_be_new(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "mine").write_text("mine")
    with pytest.raises(DiskError):
        unpack(tar(tmp_path / "demo.tar.gz", entry("demo/a.py")), tmp_path / "tree")
    assert (tmp_path / "tree" / "mine").read_text() == "mine"


class Failing(Limits):
    """Limits of which something else fails while the farm asks for them: an interrupt, a disk."""

    error: ClassVar[BaseException] = KeyboardInterrupt()

    def size_of(self, archive_size: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device", "demo/a.py"), DiskError),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "demo/a.py"), DiskError),
        (OSError(errno.EIO, "Input/output error", "demo/a.py"), SourceError),
    ],
)
def test_what_ends_it_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    archive = tar(tmp_path / "demo.tar.gz", entry("demo/a.py"))
    with pytest.raises(raised):
        unpack(archive, tmp_path / "tree", Failing())
    assert [path.name for path in tmp_path.iterdir()] == ["demo.tar.gz"]


def test_a_zip_with_more_entries_than_its_size_can_need(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "demo.zip", *(named(f"demo/{number}") for number in range(5)))
    few = Limits(free_members=4, bytes_per_member=1000)
    with zipfile.ZipFile(archive) as opened, pytest.raises(UnsafeArchiveError, match="has 5 members"):
        archives.zip_entries(opened, archive.stat().st_size, few)
    refused(archive, tmp_path, "more members than", few)


def pax(*records: bytes) -> bytes:
    """An extended header of these records, as they are."""
    content = b"".join(records)
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (pax(b"no record"), "header is damaged"),
        (pax(b"0 path=x\n"), "header is damaged"),
        (pax(b"10 path=x\n0 path=y\n"), "header is damaged"),  # a record that ends before it starts, and so for ever
        (pax(b"5 path=x\n"), "header is damaged"),
        (pax(b"99 path=x\n"), "header is damaged"),
        (pax(b"10 path=xy"), "header is damaged"),
        (pax(b"10 path=x\n") * 9, "many extended headers"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse"),
    ],
)
def test_extended_headers_written_by_hand(tmp_path: Path, headers: bytes, reason: str) -> None:
    (tmp_path / "demo.tar").write_bytes(headers + entry("demo/a.py").tobuf() + bytes(1024))
    refused(tmp_path / "demo.tar", tmp_path, reason)


def test_a_negative_size(tmp_path: Path) -> None:
    member = entry("demo/a.py")
    member.size = -512
    (tmp_path / "demo.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    refused(tmp_path / "demo.tar", tmp_path, "a size is negative")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_a_compressed_archive_that_is_cut_off(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    member = entry("demo/noise")
    member.size = 5120
    content = compress(member.tobuf() + random.Random(1).randbytes(member.size) + bytes(1024))
    (tmp_path / "demo.tar").write_bytes(content[:4000])
    refused(tmp_path / "demo.tar", tmp_path, "")
    (tmp_path / "demo.tar").write_bytes(content)
    unpack(tmp_path / "demo.tar", tmp_path / "tree")
