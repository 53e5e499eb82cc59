"""What two builds of one wheel differ in, and where a wheel's records are."""

import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import remove_tree
from torch_build_farm.pipeline import rebuild, records
from torch_build_farm.pipeline.facts import BuildFacts, Facts, RenderFacts
from torch_build_farm.pipeline.records import Record, WheelRecords
from torch_build_farm.project.settings import load
from torch_build_farm.wheels.compare import differences

JOB = "demo-torch29-cp311"
RENDERED = RenderFacts("1.0", "path", "c", 315532800)
BUILT = BuildFacts("local", "", "", None, None, (("setuptools", "80.1"), ("torch", "2.9.0+sdk")))
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
    assert differences(first, wheel(tmp_path / "2", members)) == []
    other = wheel(tmp_path / "3", {"a.py": b"onX", "c.py": b""})
    assert differences(first, other) == [
        "b.py is gone",
        "c.py is new",
        "a.py: 3 bytes, the first that differs at 2",
    ]
    dated = differences(first, wheel(tmp_path / "4", members, date=(1990, 1, 1, 0, 0, 0), mode=0o600))
    assert "a.py: date_time was (1980, 1, 1, 0, 0, 0), is (1990, 1, 1, 0, 0, 0)" in dated
    assert any(line.startswith("b.py: external_attr") for line in dated)
    assert differences(first, wheel(tmp_path / "5", dict(reversed(members.items())))) == [
        "the members are in another order"
    ]


def test_sections_of_a_library_are_named(tmp_path: Path) -> None:
    own = Path("/proc/self/exe").read_bytes()
    name = b"libc.so.6\0"
    assert name in own
    first = wheel(tmp_path / "1", {"x.so": own})
    (line,) = differences(first, wheel(tmp_path / "2", {"x.so": own.replace(name, b"libd.so.6\0")}))
    assert line.endswith("sections .dynstr")


def test_the_record_is_found_by_the_wheels_content(tmp_path: Path) -> None:
    made = wheel(tmp_path / "dist", {"a.py": b"one"})
    with pytest.raises(UsageError, match="no record shows"):
        records.find(made, tmp_path)
    facts: dict[str, Facts | None] = {"render": RENDERED, "build": BUILT, "relocate": None}
    for stage, details in facts.items():
        record = Record(stage, JOB, "", (records.artifact(made, tmp_path),), 1, "", details=details)
        records.write(record, records.path_of(tmp_path / "jobs" / JOB, stage))
    elsewhere = tmp_path / "renamed.whl"
    os.link(made, elsewhere)
    found = records.find(elsewhere, tmp_path)
    assert (found.job, found.rendered.epoch) == (JOB, 315532800)
    assert records.torch_built_against(elsewhere, tmp_path) == "2.9.0"
    elsewhere.unlink()
    with pytest.raises(UsageError, match="the wheel does not exist"):
        records.find(elsewhere, tmp_path)
    elsewhere.write_bytes(b"another")
    assert records.torch_built_against(elsewhere, tmp_path) == ""


def test_what_a_build_began_with() -> None:
    inputs = {"tree": "1", "toolchain": "2", "cmake-defines": "3", "gone": "4"}
    then = Record("build", "demo", "a", (), 1, "", {"compiler": "g++ 12", "gone": "1"}, BUILT, inputs)
    assert rebuild.changed_inputs(then, then) == []
    now = Record(
        "build", "demo", "b", (), 1, "", {"compiler": "g++ 13", "new": "2"},
        replace(BUILT, environment=(("setuptools", "80.2"), ("torch", "2.9.0+sdk"))),
        {"tree": "9", "toolchain": "9", "cmake-defines": "9"},
    )  # fmt: skip
    assert rebuild.changed_inputs(then, now) == [
        "toolchain: compiler was g++ 12, is g++ 13",
        "toolchain: gone was 1, is none",
        "toolchain: new was none, is 2",
        "build environment: setuptools was 80.1, is 80.2",
        "cmake-defines: changed",
        "gone: changed",
    ]


def test_how_it_is_built_again(tmp_path: Path) -> None:
    """At the recorded commit and in the recorded environment, whatever branch and index have now."""
    project = load(CHECKOUT, CHECKOUT)
    render = Record("render", "demo", "", (), 1, "", details=RENDERED)
    build = Record("build", "demo", "", (), 1, "", details=BUILT)
    assert rebuild.at_commit(project, WheelRecords(render, build)) == project
    git = replace(RENDERED, source="git https://example.org/demo.git@0123abc")
    recorded = WheelRecords(replace(render, details=git), build)
    found = rebuild.in_environment(rebuild.at_commit(project, recorded), recorded).settings
    assert (found.revision, found.build_constraints) == ("0123abc", ("setuptools==80.1", "torch==2.9.0"))


def test_a_changed_tree(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The source changed, or only what is rendered from settings, variant and templates."""
    for name in ("then", "now"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(name)
    then, now = tmp_path / "then", tmp_path / "now"
    made = Record("render", "demo", "", (records.artifact(then, tmp_path),), 1, "", details=RENDERED)
    recorded = WheelRecords(made, made)
    assert rebuild.changed_tree(recorded, made, (then, then)) == ""
    again = replace(made, outputs=(records.artifact(now, tmp_path),))
    told = rebuild.changed_tree(recorded, again, (then, now))
    assert told.startswith("the project's metadata or settings, a variants file or a template")
    assert told.endswith("changed: pyproject.toml")
    other = replace(again, details=replace(RENDERED, content="d"))
    assert rebuild.changed_tree(recorded, other, (then, now)).startswith("the source is not what")
    # Somebody else's work folder may have more folders within one another than Python can walk by recursion.
    request.addfinalizer(lambda: remove_tree(then))  # which pytest cannot do either
    deep = then
    for _ in range(1200):
        deep /= "a"
        deep.mkdir()
    (deep / "x").touch()
    assert rebuild.changed_tree(recorded, other, (then, now)).endswith("/a/x, pyproject.toml")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
GIT = replace(RENDERED, source=f"git https://example.org/demo.git@{COMMIT}")


@pytest.mark.parametrize(
    ("rendered", "built", "words"),
    [
        (replace(GIT, source="git https://example.org/demo.git@--upload-pack=touch /tmp/x"), BUILT, "its commit"),
        (replace(GIT, source="git https://example.org/demo.git@main"), BUILT, "its commit"),
        (replace(GIT, source="git https://example.org/demo.git"), BUILT, "its commit"),
        (replace(GIT, epoch=-1), BUILT, "its date"),
        (replace(GIT, epoch=10**30), BUILT, "its date"),
        (GIT, replace(BUILT, engine="../local"), "its engine"),
        (GIT, replace(BUILT, base_image="--privileged"), "its image"),
        (GIT, replace(BUILT, base_image="image --volume /:/host"), "its image"),
        (GIT, replace(BUILT, environment=(("a\n--index-url https://example.org", "1"),)), "its environment"),
        (GIT, replace(BUILT, environment=(("a", "1\n-r /etc/passwd"),)), "its environment"),
        (GIT, replace(BUILT, environment=(("a", "1 --hash=sha256:0"),)), "its environment"),
    ],
)
def test_a_claim_that_names_what_no_farm_writes(rendered: RenderFacts, built: BuildFacts, words: str) -> None:
    """A stranger's record decides what git, the resolver and the engine are asked for."""

    def recorded(rendered: RenderFacts, built: BuildFacts) -> WheelRecords:
        tree = records.Artifact(f"jobs/{JOB}/source", "0", 0)
        return WheelRecords(
            Record("render", JOB, "", (tree,), 1, "", details=rendered),
            Record("build", JOB, "", (), 1, "", details=built),
        )

    rebuild.require_plausible(recorded(RENDERED, BUILT))
    rebuild.require_plausible(
        recorded(GIT, replace(BUILT, engine="docker", base_image="quay.io/pypa/image:2026@sha256:00"))
    )
    with pytest.raises(UsageError, match=f"not written by a farm: {words}"):
        rebuild.require_plausible(recorded(rendered, built))


def test_records_without_facts_of_their_stage_are_none(tmp_path: Path) -> None:
    """They may be anybody's: the farm's own always have them."""
    made = wheel(tmp_path / "dist", {"a.py": b"one"})
    for stage in ("render", "build", "relocate"):
        record = Record(stage, JOB, "", (records.artifact(made, tmp_path),), 1, "")
        records.write(record, records.path_of(tmp_path / "jobs" / JOB, stage))
    with pytest.raises(UsageError, match="no record shows"):
        records.find(made, tmp_path)


def test_a_proof_is_preferred_to_a_claim(tmp_path: Path) -> None:
    """Somebody else's records of the same wheel, in a folder that comes later, do not stand in for the farm's own."""
    made = wheel(tmp_path / "dist", {"a.py": b"one"})
    facts: dict[str, Facts | None] = {"render": RENDERED, "build": BUILT, "relocate": None}
    for job in (JOB, "zzz"):
        for stage, details in facts.items():
            record = Record(stage, job, "", (records.artifact(made, tmp_path),), 1, "", details=details)
            path = records.path_of(tmp_path / "jobs" / job, stage)
            records.write(record, path)
            if job == "zzz":
                path.write_text(path.read_text().replace('"seconds": 1', '"seconds": 2'))
    assert (records.find(made, tmp_path).job, records.find(made, tmp_path).proven) == (JOB, True)
    shutil.rmtree(tmp_path / "jobs" / JOB)
    assert (records.find(made, tmp_path).job, records.find(made, tmp_path).proven) == ("zzz", False)
