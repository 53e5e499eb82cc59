"""What two builds of one wheel differ in, and where a wheel's records are."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from torch_build_farm import records, verify
from torch_build_farm.errors import UsageError
from torch_build_farm.records import Record

DATE = (1980, 1, 1, 0, 0, 0)


def wheel(folder: Path, members: dict[str, bytes], date: tuple[int, int, int, int, int, int] = DATE, mode: int = 0o644) -> Path:  # fmt: skip
    folder.mkdir()
    path = folder / "demo-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def test_every_kind_of_difference(tmp_path: Path) -> None:
    members = {"a.py": b"one", "b.py": b"two"}
    first = wheel(tmp_path / "1", members)
    assert verify.differences(first, wheel(tmp_path / "2", members)) == []
    other = wheel(tmp_path / "3", {"a.py": b"onX", "c.py": b""})
    assert verify.differences(first, other) == [
        "b.py is gone",
        "c.py is new",
        "a.py: 3 bytes, the first that differs at 2",
    ]
    dated = verify.differences(first, wheel(tmp_path / "4", members, date=(1990, 1, 1, 0, 0, 0), mode=0o600))
    assert "a.py: date_time was (1980, 1, 1, 0, 0, 0), is (1990, 1, 1, 0, 0, 0)" in dated
    assert any(line.startswith("b.py: external_attr") for line in dated)
    assert verify.differences(first, wheel(tmp_path / "5", dict(reversed(members.items())))) == [
        "the members are in another order"
    ]


def test_sections_of_a_library_are_named(tmp_path: Path) -> None:
    own = Path("/proc/self/exe").read_bytes()
    name = b"libc.so.6\0"
    assert name in own
    first = wheel(tmp_path / "1", {"x.so": own})
    (line,) = verify.differences(first, wheel(tmp_path / "2", {"x.so": own.replace(name, b"libd.so.6\0")}))
    assert line.endswith("sections .dynstr")


def test_the_record_is_found_by_the_wheels_content(tmp_path: Path) -> None:
    made = wheel(tmp_path / "dist", {"a.py": b"one"})
    with pytest.raises(UsageError, match="no record tells"):
        verify.find(made, tmp_path)
    for stage in ("render", "build", "repair"):
        output = records.artifact(made, tmp_path)
        record = Record(stage, "demo-torch29-cp311", "", (output,), 1, "", details={"epoch": "315532800"})
        records.write(record, records.path_of(tmp_path / "jobs" / "demo-torch29-cp311", stage))
    elsewhere = tmp_path / "renamed.whl"
    os.link(made, elsewhere)
    found = verify.find(elsewhere, tmp_path)
    assert (found.job, found.epoch) == ("demo-torch29-cp311", 315532800)


def test_what_a_build_began_with() -> None:
    then = Record("build", "demo", "a", (), 1, "", tools={"compiler": "g++ 12", "gone": "1"})
    tools = verify.changed_inputs(then, replace(then, digest="b", tools={"compiler": "g++ 13", "new": "2"}))
    assert tools == [
        "toolchain: compiler was g++ 12, is g++ 13",
        "toolchain: gone was 1, is none",
        "toolchain: new was none, is 2",
    ]
    assert verify.changed_inputs(then, then) == []
    (settings,) = verify.changed_inputs(then, replace(then, digest="b"))
    assert settings.startswith("settings: ")
