from dataclasses import replace
from pathlib import Path

from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.records import Record


def record(work: Path, *outputs: Path) -> Record:
    return Record("build", "job", "d" * 64, tuple(records.artifact(path, work) for path in outputs), 1.5, "2026-01-01")


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"x")
    one = record(tmp_path, tmp_path / "a.whl")
    path = records.path_of(tmp_path, "build")
    records.write(one, path)
    assert records.read(path) == one
    assert [p.name for p in path.parent.iterdir()] == ["build.json"]


def test_half_written_foreign_or_absent_records_count_as_none(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert records.read(path) is None
    records.write(record(tmp_path), path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert records.read(path) is None
    records.write(replace(record(tmp_path), schema=99), path)
    assert records.read(path) is None


def test_intact_sees_every_change(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    file = folder / "sub" / "a.sh"
    file.write_text("one")
    (folder / "link").symlink_to("sub")
    one = records.artifact(folder, tmp_path)
    assert records.intact(one, tmp_path)
    file.chmod(0o755)
    assert not records.intact(one, tmp_path)
    file.chmod(0o644)
    file.write_text("two")
    assert not records.intact(one, tmp_path)
    file.write_text("one")
    assert records.intact(one, tmp_path)
    (folder / "more").touch()
    assert not records.intact(one, tmp_path)
    file.unlink()
    assert not records.intact(records.Artifact("gone.whl", "0", 0), tmp_path)


def test_digest_does_not_depend_on_order() -> None:
    assert records.digest({"a": 1, "b": (2, 3)}) == records.digest({"b": [2, 3], "a": 1})
    assert records.digest({"a": 1}) != records.digest({"a": "1"})
