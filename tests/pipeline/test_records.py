import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from torch_build_farm.core.errors import DiskError
from torch_build_farm.core.seals import STATE_VARIABLE
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.facts import AuditFacts, BuildFacts, Facts, RenderFacts, RepairFacts, SmokeFacts
from torch_build_farm.pipeline.records import Record

JOB = "demo-torch29-cp311"
BUILT = BuildFacts("local", "", "torch's SDK 2.9.0", 812.0, 17.5, (("ninja", "1.13.2"), ("torch", "2.9.0+sdk")))
EVERY_KIND = [
    None,
    RenderFacts("1.0", "git https://example.org/demo.git@0123abc", "c" * 64, 315532800),
    BUILT,
    BuildFacts("docker", "image", "all of torch 2.9.0", None, None, ()),
    RepairFacts("manylinux_2_28_x86_64", cpu_level="x86-64-v3", device_code=("compute_90", "sm_90")),
    AuditFacts("2.9", {"2.9.0": "OK", "2.10.0": "BROKEN"}, ("GLIBC_2.17", "GLIBCXX_3.4.21")),
    SmokeFacts("2.9.1+cu128", "12.8", ("cpu", "H100"), ("demo", "demo.more"), "passed", "torch 2.10"),
    SmokeFacts("2.9.1", "None", ("cpu",), ("demo",)),
]


def path_in(work: Path, stage: str = "build", job: str = JOB) -> Path:
    return records.path_of(work / "jobs" / job, stage)


def record(work: Path, *outputs: Path) -> Record:
    artifacts = tuple(records.artifact(path, work) for path in outputs)
    return Record("build", JOB, "d" * 64, artifacts, 1.5, "2026-01-01", details=BUILT)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"x")
    one = record(tmp_path, tmp_path / "a.whl")
    path = path_in(tmp_path)
    records.write(one, path)
    assert records.read(path) == one
    assert [p.name for p in path.parent.iterdir()] == ["build.json"]


def test_half_written_foreign_or_absent_records_count_as_none(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    assert records.read(path) is None
    records.write(record(tmp_path), path)
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert records.read(path) is None
    records.write(replace(record(tmp_path), schema=99), path)
    assert records.read(path) is None


def forged(path: Path, **changes: object) -> None:
    """Rewrite a record's file as somebody without the key would."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def test_every_byte_of_a_record_is_sealed(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    (tmp_path / "a.whl").write_bytes(b"x")
    records.write(record(tmp_path, tmp_path / "a.whl"), path)
    whole = path.read_bytes()
    written = records.read(path)
    for place, byte in enumerate(whole):
        if place % 3 == 0 or b'"seal"' in whole[place - 20 : place + 20]:
            path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
            harmless = (None,) if chr(byte).isalnum() else (None, written)  # such as another kind of white space
            assert records.read(path) in harmless, whole[max(0, place - 20) : place + 20]


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "e" * 64}, {"inputs": {"wheel": "e" * 64}}, {"tools": {"gcc": "14"}}, {"seconds": 2},
        {"finished": "2027-01-01"}, {"outputs": [{"path": "a", "sha256": "b", "size": 1}]}, {"job": "demo-torch28-cp311"}, {"stage": "smoke"},
        {"details": None}, {"more": 1}, {"seal": ""}, {"seal": None}, {"seal": "0" * 64}, {"seal": ["a"]},
    ],
)  # fmt: skip
def test_a_record_that_somebody_changed_is_no_proof(tmp_path: Path, change: dict[str, object]) -> None:
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    assert records.doubt(path) == ""
    forged(path, **change)
    assert records.read(path) is None
    assert "not sealed by this user's farm" in records.doubt(path)


def test_a_record_of_elsewhere_is_no_proof(tmp_path: Path) -> None:
    """Of another job, stage, project or work folder: copied as a file, or as a folder with everything in it."""
    path = path_in(tmp_path / "work")
    records.write(record(tmp_path), path)
    for copy in (
        path_in(tmp_path / "work", job="demo-torch28-cp311"),
        path_in(tmp_path / "work", stage="smoke"),
        path_in(tmp_path / "another project" / "work"),
    ):
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        assert records.read(copy) is None
        assert "not sealed" in records.doubt(copy)
    shutil.copytree(tmp_path / "work", tmp_path / "elsewhere")
    assert records.read(path_in(tmp_path / "elsewhere")) is None
    (tmp_path / "link").symlink_to("work")
    assert records.read(path_in(tmp_path / "link")) == records.read(path), "the same folder by another name"


def test_a_record_of_another_users_farm_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "another user's"))
    assert records.read(path) is None
    assert records.claim(path) == record(tmp_path), "but may be looked into"


def test_no_record_is_sealed_with_a_key_that_builds_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "work" / "state"))
    with pytest.raises(DiskError, match="in the work folder"):
        records.write(record(tmp_path), path_in(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_the_order_of_the_keys_in_a_file_says_nothing(tmp_path: Path) -> None:
    """A record that a tool has formatted, or that another release of the farm writes in another order, is a proof still."""
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert records.read(path) == record(tmp_path)


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """No record is written with one, and whoever wrote one has made no claim."""
    path = path_in(tmp_path)
    for number in (math.inf, math.nan):
        with pytest.raises(ValueError, match="not JSON compliant"):
            records.write(replace(record(tmp_path), seconds=number), path)
        assert not path.exists()
    records.write(record(tmp_path), path)
    whole = path.read_text()
    for text in ("1e999", "-1e999", "NaN", "Infinity"):
        path.write_text(whole.replace('"seconds": 1.5', f'"seconds": {text}'))
        assert path.read_text() != whole
        assert records.read(path) is records.claim(path) is None


def test_a_claim_is_of_its_own_place_too(tmp_path: Path) -> None:
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    document = json.loads(path.read_text())
    del document["seal"]
    path.write_text(json.dumps(document))
    assert records.claim(path) == record(tmp_path)
    forged(path, schema=2)
    assert records.claim(path) == replace(record(tmp_path), schema=2), "as the farm wrote them before it sealed them"
    for change in ({"job": "another"}, {"stage": "smoke"}, {"schema": 1}, {"outputs": 7}):
        path.write_text(json.dumps({**document, **change}))
        assert records.claim(path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"7", b'"schema"', b"null", b"{", b"[" * 1_900_000, b'{"a":' * 300_000, b"9" * 1_900_000,
        b'{"schema": 3, "seal": NaN}', b'{"schema": 3, "seconds": 1e999}', b'{"schema": 3, "seconds": -Infinity}',
        b" " * 3_000_000, b'{"schema": 3, "seal": "\\ud800"}',
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_at_once(tmp_path: Path, content: bytes) -> None:
    path = path_in(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert records.read(path) is records.claim(path) is None
    assert records.doubt(path) != ""


def test_a_place_that_holds_no_file_is_told_at_once(tmp_path: Path) -> None:
    """A named pipe would wait for its writer, a device would never end."""
    path = path_in(tmp_path)
    path.parent.mkdir(parents=True)
    assert records.doubt(path) == ""
    os.mkfifo(path)
    assert (records.read(path), records.doubt(path)) == (None, "damaged")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert (records.read(path), records.doubt(path)) == (None, "damaged")
    path.unlink()
    path.mkdir()
    assert (records.read(path), records.doubt(path)) == (None, "damaged")


def test_a_link_to_a_record_is_none(tmp_path: Path) -> None:
    """What it leads to may be changed without a trace in the folder of records."""
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    path.symlink_to(path.rename(tmp_path / "moved.json"))
    assert (records.read(path), records.claim(path), records.doubt(path)) == (None, None, "damaged")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "jobs/../../secret", "a\nb.whl", ""])
def test_a_record_speaks_of_files_in_its_work_folder_alone(tmp_path: Path, name: str) -> None:
    """Also one of another machine, which is a claim: whoever reads it joins these paths to the work folder."""
    work, path = tmp_path / "work", path_in(tmp_path / "work")
    (work / "jobs" / JOB).mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    records.write(replace(record(work), outputs=(records.Artifact(name, "0" * 64, 6),)), path)
    assert records.claim(path) is records.read(path) is None


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


@pytest.mark.parametrize("facts", EVERY_KIND)
def test_every_stages_facts_come_back_typed(tmp_path: Path, facts: Facts | None) -> None:
    path = path_in(tmp_path)
    records.write(replace(record(tmp_path), details=facts), path)
    again = records.read(path)
    assert again is not None
    assert again.details == facts


def test_the_facts_of_another_stage_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    assert record(tmp_path).facts(BuildFacts) is BUILT
    for one in (record(tmp_path), replace(record(tmp_path), details=None)):
        with pytest.raises(TypeError, match="the record of build has no RenderFacts"):
            one.facts(RenderFacts)


def test_a_record_of_an_older_farm_counts_as_none(tmp_path: Path) -> None:
    """Schema 1 had the facts as text."""
    path = path_in(tmp_path)
    records.write(record(tmp_path), path)
    document = json.loads(path.read_text())
    for details in (document["details"], {"engine": "local", "environment": "ninja==1.13.2"}, {}):
        path.write_text(json.dumps({**document, "schema": 1, "details": details}))
        assert records.read(path) is None
        assert "another release of the farm" in records.doubt(path)


def test_the_json_document_has_the_facts_as_text() -> None:
    assert [facts.text() for facts in EVERY_KIND if facts] == [
        {
            "version": "1.0",
            "source": "git https://example.org/demo.git@0123abc",
            "content": "c" * 64,
            "epoch": "315532800",
        },
        {
            "engine": "local",
            "base-image": "",
            "built-with": "torch's SDK 2.9.0",
            "peak-mb": "812",
            "compile": "17.50",
            "environment": "ninja==1.13.2 torch==2.9.0+sdk",
        },
        {"engine": "docker", "base-image": "image", "built-with": "all of torch 2.9.0", "environment": ""},
        {"tag": "manylinux_2_28_x86_64", "cpu-level": "x86-64-v3", "device-code": "compute_90 sm_90"},
        {"range": "2.9", "releases": "2.9.0=OK 2.10.0=BROKEN", "asks-for": "GLIBC_2.17; GLIBCXX_3.4.21"},
        {
            "torch": "2.9.1+cu128",
            "cuda": "12.8",
            "devices": "cpu, H100",
            "imports": "demo, demo.more",
            "script": "passed",
            "refuses": "torch 2.10",
        },
        {"torch": "2.9.1", "cuda": "None", "devices": "cpu", "imports": "demo"},
    ]


@pytest.mark.parametrize(
    "value", [{"a"}, frozenset(), b"bytes", object(), lambda: None, {1: "a"}, {"a": [{"b"}]}, Minor]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    """Its text may be another in the next process: the stage would run anew for ever."""
    with pytest.raises(TypeError, match="no canonical form"):
        records.digest({"input": value})


def test_a_digest_is_the_same_in_another_process() -> None:
    inputs = {"minor": Minor(2, 9), "python": CPython(3, 13, True), "path": Path("a/b"), "list": (1, 2.5, None, True)}
    assert records.digest(inputs) == "8abd62624bf4fa5ab123f378e9454905d6bbaf930ea18fd49041ba0e82ec5a5f"
    assert records.digest({"python": CPython(3, 13)}) != records.digest({"python": CPython(3, 13, True)})
    assert records.digest(Minor(2, 9)) != records.digest({"major": 2, "minor": 9})


def test_digest_does_not_depend_on_order() -> None:
    assert records.digest({"a": 1, "b": (2, 3)}) == records.digest({"b": [2, 3], "a": 1})
    assert records.digest({"a": 1}) != records.digest({"a": "1"})
