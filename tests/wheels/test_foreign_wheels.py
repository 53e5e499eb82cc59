"""Wheels of strangers: members that lead out, METADATA and RECORD that say something else than the archive."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.family import project
from torch_build_farm.audit import read_wheel as audited
from torch_build_farm.core.errors import AuditError, RelocationError, RepairError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.releases.sdk import fallback
from torch_build_farm.wheels import compare, one_name, relocate
from torch_build_farm.wheels.record import MOST_BYTES, read_record
from torch_build_farm.wheels.wheel import members_naming, read_wheel, record_problems, reissued

NAME = "demo_torch29-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
INFO = "demo_torch29-1.0.dist-info"
METADATA = "Metadata-Version: 2.1\nName: demo-torch29\nVersion: 1.0\nRequires-Dist: torch==2.9.*\n"
RECORD = f"{INFO}/RECORD"


def row(name: str, content: bytes, kind: str = "sha256", size: str = "") -> str:
    digest = base64.urlsafe_b64encode(hashlib.new(kind, content).digest()).rstrip(b"=").decode()
    return f"{name},{kind}={digest},{size or len(content)}"


def written(
    folder: Path, files: Mapping[str, bytes], *, rows: Mapping[str, str] | None = None, mode: int = 0o100644
) -> Path:
    """A wheel; `rows` are RECORD's for some members, "" for none. `mode` is that of all members."""
    folder.mkdir(exist_ok=True)
    members = {f"{INFO}/METADATA": METADATA.encode(), "demo/__init__.py": b"", **files}
    lines = {name: row(name, content) for name, content in members.items()} | {RECORD: f"{RECORD},,"} | dict(rows or {})
    members.setdefault(RECORD, "".join(f"{line}\n" for line in lines.values() if line).encode())
    with zipfile.ZipFile(folder / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.external_attr, entry.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return folder / NAME


def relocated(wheel: Path) -> Path:
    out, scratch = wheel.parent / "out", wheel.parent / "scratch"
    out.mkdir(exist_ok=True)
    scratch.mkdir(exist_ok=True)
    shell = Shell(Runner(), {}, scratch, scratch / "log", lambda _: None)
    return relocate.relocate(wheel, out, scratch, settings=project().settings, tag="torch29", shell=shell)


READERS: dict[str, Callable[[Path], object]] = {
    "read": read_wheel,
    "record": record_problems,
    "folders": lambda wheel: members_naming(wheel, ["/builder"]),
    "reissue": lambda wheel: reissued(wheel, 1, wheel.parent / "out"),
    "relocate": relocated,
    "model": lambda wheel: one_name.read_model(wheel, ["demo"]),
    "compare": lambda wheel: compare.differences(wheel, written(wheel.parent / "other", {})),
    "sdk": lambda wheel: fallback.member_with_sdk_version(wheel, "2.9.0"),
    "audit": audited.read,
}


def refused(wheel: Path, reason: str, readers: Mapping[str, Callable[[Path], object]] = READERS) -> None:
    """Everything that reads the wheel refuses it for this reason, and writes nothing."""
    (wheel.parent / "out").mkdir(exist_ok=True)
    for name, read in readers.items():
        with pytest.raises((RepairError, AuditError)) as caught:
            read(wheel)
        assert re.search(reason, caught.value.what), (name, caught.value.what)
        assert not list((wheel.parent / "out").iterdir()), name


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("demo/../../out.py", "leads out"),
        ("/demo/out.py", "absolute"),
        ("demo\\..\\out.py", "backslash"),
        ("demo/a\0.py", "control character"),
        ("demo/a\n.py", "control character"),
        ("demo/\x1b[2J.py", "control character"),
        (f"demo/{'x' * 256}", "too long"),
        ("demo-1.0.data/purelib/../../out.py", "leads out"),
        (f"{INFO}/../out.py", "leads out"),
    ],
)
def test_members_that_lead_out(tmp_path: Path, member: str, reason: str) -> None:
    refused(written(tmp_path / "w", {member: b""}), reason)


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010644])
def test_members_that_are_no_files(tmp_path: Path, mode: int) -> None:
    refused(written(tmp_path / "w", {}, mode=mode), "neither a file nor a folder")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("member", ["demo/__init__.py", "demo/__init__.py/", RECORD, f"{INFO}/METADATA"])
def test_two_members_of_one_name(tmp_path: Path, member: str) -> None:
    wheel = written(tmp_path / "w", {})
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(member, b"other")
    refused(wheel, "twice")


def test_more_than_a_wheel_of_its_size_can_need(tmp_path: Path) -> None:
    refused(written(tmp_path / "w", {"demo/zeros": bytes(40 << 20)}), "more than an archive of its size can need")


def test_a_wheel_with_two_distributions(tmp_path: Path) -> None:
    readers = {name: READERS[name] for name in ("read", "relocate", "model", "audit")}
    refused(written(tmp_path / "w", {"other-1.0.dist-info/METADATA": b""}), "2 METADATA files", readers)


def test_a_wheel_with_two_records(tmp_path: Path) -> None:
    wheel = written(tmp_path / "w", {"other-1.0.dist-info/RECORD": b""})
    refused(wheel, "2 RECORD files, where a wheel has one", {"record": READERS["record"]})


def test_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RepairError, match="No such file"):
        read_wheel(tmp_path / NAME)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ({"demo/__init__.py": ""}, "RECORD does not list demo/__init__.py"),
        ({"demo/__init__.py": "demo/__init__.py,,"}, "RECORD has no SHA-256 for demo/__init__.py"),
        ({"demo/__init__.py": row("demo/__init__.py", b"", "md5")}, "RECORD has no SHA-256 for demo/__init__.py"),
        ({"demo/__init__.py": row("demo/__init__.py", b"", "sha1")}, "RECORD has no SHA-256 for demo/__init__.py"),
        ({"demo/__init__.py": "demo/__init__.py,shake_128=AA,0"}, "RECORD has no SHA-256 for demo/__init__.py"),
        ({"demo/__init__.py": row("demo/__init__.py", b"x")}, "RECORD has another hash for demo/__init__.py"),
        ({"demo/__init__.py": row("demo/__init__.py", b"", size="7")}, "RECORD has another size for demo/__init__.py"),
        ({"x": "../../etc/passwd,,"}, "RECORD lists ../../etc/passwd, which is not there"),
        ({"x": "/etc/passwd,,"}, "RECORD lists /etc/passwd, which is not there"),
        ({"x": row("demo/gone.py", b"")}, "RECORD lists demo/gone.py, which is not there"),
    ],
)
def test_a_record_that_does_not_vouch(tmp_path: Path, rows: dict[str, str], problem: str) -> None:
    assert record_problems(written(tmp_path / "w", {}, rows=rows)) == [problem]


@pytest.mark.parametrize(
    "rows",
    [
        {"x": row("demo/__init__.py", b"other")},
        {"x": "demo/__init__.py"},
        {"x": "demo/__init__.py,nonsense=AA,0"},
        {"x": "demo/__init__.py,sha256=AA,many"},
        {"x": '"demo/__init__.py'},
        {"x": f'"{"y" * 200_000}",,'},
    ],
)
def test_a_record_that_cannot_be_read(tmp_path: Path, rows: dict[str, str]) -> None:
    with pytest.raises(RepairError, match="not a wheel, or a damaged one"):
        record_problems(written(tmp_path / "w", {}, rows=rows))


def test_a_record_that_is_longer_than_any(tmp_path: Path) -> None:
    """Refused before it is inflated: two hundred times its compressed size would fill the memory."""
    wheel = written(tmp_path / "w", {"demo/data": os.urandom(300_000)}, rows={"x": "\n" * MOST_BYTES})
    with pytest.raises(RepairError, match=r"RECORD has \d+ bytes, more than a wheel can need"):
        record_problems(wheel)


def test_lines_of_record_that_are_longer_than_any() -> None:
    with pytest.raises(ValueError, match="more files than a wheel can have"):
        read_record(b" " * (MOST_BYTES + 1))


def test_a_line_end_in_a_name_of_record_stays() -> None:
    """csv reads it so, where nothing before has translated line ends."""
    assert set(read_record(b'"demo/a\r\nb",,\n')) == {"demo/a\r\nb"}


def test_a_wheel_that_would_have_one_path_twice(tmp_path: Path) -> None:
    members = [(zipfile.ZipInfo(name), b"") for name in ("demo/a.py", "demo/a.py", RECORD)]
    with pytest.raises(ValueError, match="two members have the same path"):
        write_wheel(tmp_path / NAME, members)
    assert not list(tmp_path.iterdir())


def test_lines_of_a_new_record_end_as_the_specification_says(tmp_path: Path) -> None:
    write_wheel(tmp_path / NAME, [(zipfile.ZipInfo(name), b"") for name in ("demo/a.py", RECORD)])
    with zipfile.ZipFile(tmp_path / NAME) as archive:
        assert archive.read(RECORD) == f"{row('demo/a.py', b'')}\n{RECORD},,\n".encode()


def test_a_good_wheel_is_read_by_all(tmp_path: Path) -> None:
    wheel = written(tmp_path / "w", {"demo/a.py": b"x"})
    (wheel.parent / "out").mkdir()
    for read in READERS.values():
        read(wheel)
    assert record_problems(wheel) == []
    assert record_problems(relocated(wheel)) == []
    assert record_problems(reissued(wheel, 2, tmp_path)) == []


@pytest.mark.parametrize("member", ["demo/_variant.txt", "demo/_torch29/a.py"])
def test_members_in_the_place_of_the_farms_own(tmp_path: Path, member: str) -> None:
    files = {member: b"other", "demo/a.py": b""}
    wheel = written(tmp_path / "w", files)
    if member == "demo/_variant.txt":
        with pytest.raises(RelocationError, match=r"demo/_torch29/_variant\.txt is the farm's own file"):
            relocated(wheel)
    else:
        with zipfile.ZipFile(relocated(wheel)) as archive:
            assert "demo/_torch29/_torch29/a.py" in archive.namelist(), "a folder of its own, as any other"


@pytest.mark.parametrize("metadata", ["", "Version: 1\nVersion: 2\n", "Name: demo\nVersion: one\n"])
def test_metadata_without_one_version(tmp_path: Path, metadata: str) -> None:
    with pytest.raises(RepairError, match="not a wheel, or a damaged one"):
        relocated(written(tmp_path / "w", {f"{INFO}/METADATA": metadata.encode()}))
