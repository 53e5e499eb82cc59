"""What counts of an index is what this project published or built; a name alone counts for nothing."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Answer
from tests.family import make_wheel
from tests.index import Index
from tests.raw_server import answering
from tests.release import Release, with_members
from torch_build_farm.core import seals
from torch_build_farm.core.files import sha256
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.pipeline import run
from torch_build_farm.project import tree
from torch_build_farm.project.fetch import Origin
from torch_build_farm.publish import published_list
from torch_build_farm.publish.names import IndexNames
from torch_build_farm.publish.published_list import PublishedFile, PublishedList

Call = Callable[..., Answer]


def publish(call: Call, index: Index) -> Answer:
    """`publish --yes`, to an index that takes no uploads: an attempt would end in another error."""
    return call("publish", index.url, "--index-url", index.url, "--yes", "--no-check")


def stranger(tmp_path: Path, name: str, version: str = "1.0") -> Path:
    return make_wheel(tmp_path / "stranger", name, version, {f"{name}.py": "print('a stranger')\n"})


def refused(answer: Answer, *said: str) -> None:
    assert answer.code == 24, answer.out + answer.err
    for text in said:
        assert text in answer.err, answer.err
    assert "uploaded" not in answer.out


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(path).decode()


def test_a_strangers_variant_of_a_minor_that_is_not_built(
    release: Release, call: Call, index: Index, tmp_path: Path
) -> None:
    """It gets no rung, no extra with a pin, and a line that says so."""
    release.proven(release.variant("2.8"))
    index.add_wheel(stranger(tmp_path, "demo_torch215"))
    answer = call("publish", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    assert "demo-torch215 on the index is not this project's" in answer.document["warnings"][0]
    files = {Path(file["path"]).name for file in answer.document["files"]}
    assert files == {
        "demo_torch28-1.0-py3-none-any.whl", "demo_select-1.0.0.0.0.208-py3-none-any.whl", "demo_auto-1.0-py3-none-any.whl",
        "demo-1.0-py3-none-any.whl",
    }  # fmt: skip
    assert "demo-torch215==" not in metadata(release.dist / "demo-1.0-py3-none-any.whl")


def test_meta_ignores_a_strangers_variant(release: Release, call: Call, index: Index, tmp_path: Path) -> None:
    release.variant("2.8")
    index.add_wheel(stranger(tmp_path, "demo_torch215"))
    answer = call("meta", UV_DEFAULT_INDEX=index.url)
    assert answer.code == 0, answer.err
    assert "demo-torch215 on the index is not this project's" in answer.out
    assert "2.15" not in (release.folder / "work" / "COMPATIBILITY.md").read_text()
    # Also on an index that uv asks before the default one.
    again = call("meta", UV_INDEX=index.url)
    assert "demo-torch215 on the index is not this project's" in again.out


@pytest.mark.parametrize("command", ["publish", "meta"])
def test_a_strangers_file_beside_those_of_a_minor_that_is_not_built(
    release: Release, call: Call, index: Index, tmp_path: Path, command: str
) -> None:
    """It is newer: the minor's rung and extra would lead to it."""
    retired = release.variant("2.8", "0.9")
    index.add_wheel(retired)
    release.list(index, retired)
    retired.unlink()
    release.proven(release.variant("2.9"))
    foreign = stranger(tmp_path, "demo_torch28")
    index.add_wheel(foreign)
    answer = publish(call, index) if command == "publish" else call("meta", UV_DEFAULT_INDEX=index.url)
    refused(answer, "demo-torch28 has files on the index that this project has not published", foreign.name)


@pytest.mark.parametrize("kind", ["wheel", "yanked", "sdist", "other name", "without digests", "mixed"])
def test_a_strangers_files_under_a_name_to_be_published(
    release: Release, call: Call, index: Index, tmp_path: Path, kind: str
) -> None:
    wheel = release.proven(release.variant("2.8"))
    foreign = stranger(tmp_path, "demo_torch28", "0.9")
    name = foreign.name
    if kind == "sdist":
        name = "demo_torch28-0.9.tar.gz"
    elif kind == "other name":
        name = "demo_torch29-0.9-py3-none-any.whl"
    index.digests = kind != "without digests"
    index.add(name, foreign.read_bytes(), "demo-torch28")
    if kind == "yanked":
        index.yank(name)
    if kind == "mixed":
        index.add_wheel(wheel)
    refused(publish(call, index), "demo-torch28 has files on the index that this project has not published", name)


@pytest.mark.parametrize("names", [["demo-torch28", "demo-torch29"], ["demo-select", "demo-auto", "demo"]])
def test_all_names_with_files_from_before_are_said_at_once(
    release: Release, call: Call, index: Index, tmp_path: Path, names: list[str]
) -> None:
    """Whoever publishes with the farm for the first time adopts them in one call."""
    for minor in ("2.8", "2.9"):
        release.proven(release.variant(minor))
    for name in names:
        index.add_wheel(stranger(tmp_path, name.replace("-", "_"), "0.1"))
    said = f"{', '.join(names)} have files on the index that this project has not published"
    refused(publish(call, index), said, f"torch-build-farm adopt {index.url} {' '.join(names)} --yes")


def test_one_file_of_an_index_without_digests(release: Release, index: Index, tmp_path: Path) -> None:
    """To see whether an upload has arrived takes one download, not one of each file that is there."""
    index.digests = False
    wheels = [release.variant("2.8", version) for version in ("0.8", "0.9", "1.0")]
    for wheel in wheels:
        index.add_wheel(wheel)
    built = {wheel.name: sha256(wheel) for wheel in wheels}
    names = IndexNames(PackageIndex(index.url), PublishedList(), tmp_path, built)
    file = names.file("Demo_torch28", wheels[2].name)
    assert file is not None
    assert (file.is_own, file.sha256, index.asked) == (True, built[wheels[2].name], 2)
    assert names.file("demo-torch28", "demo_torch28-1.1-py3-none-any.whl") is None
    assert len(names.files("demo-torch28")) == 3


@pytest.mark.parametrize("name", ["demo", "demo-auto", "demo-select"])
def test_a_strangers_files_under_a_name_behind_the_one(
    release: Release, call: Call, index: Index, tmp_path: Path, name: str
) -> None:
    release.proven(release.variant("2.8"))
    index.add_wheel(stranger(tmp_path, name.replace("-", "_"), "0.1"))
    refused(publish(call, index), f"{name} has files on the index that this project has not published")


def test_a_file_of_the_same_metadata_and_other_code(release: Release, call: Call, index: Index) -> None:
    """A plain wheel that a stranger uploaded was taken for 'published earlier'."""
    release.proven(release.variant("2.8"))
    call("meta", "--offline")
    for plain in ("demo-1.0-py3-none-any.whl", "demo_auto-1.0-py3-none-any.whl", "demo_select-1.0.0.0.0.208-py3-none-any.whl"):  # fmt: skip
        wheel = with_members(release.dist / plain, {"demo/__init__.py": "print('a stranger')\n"})
        index.add_wheel(wheel)
        refused(publish(call, index), "this project has not published", plain)
        (index.folder / plain.split("-")[0].replace("_", "-") / plain).unlink()
        index.yank(plain)  # writes its page anew


def test_a_digest_in_the_list_must_be_that_of_the_index(release: Release, call: Call, index: Index) -> None:
    """The index exchanged a file of an earlier version."""
    release.proven(release.variant("2.8"))
    earlier = release.variant("2.8", "0.9")
    release.list(index, earlier)
    index.add_wheel(with_members(earlier, {"demo/__init__.py": "print('a stranger')\n"}))
    earlier.unlink()
    refused(publish(call, index), "demo_torch28-0.9")


@pytest.mark.parametrize("digests", [True, False])
def test_what_the_list_has_counts(release: Release, call: Call, index: Index, digests: bool) -> None:
    """A minor that is not built any more keeps its rung and extra."""
    index.digests = digests
    retired = release.variant("2.8", "0.9")
    index.add_wheel(retired)
    release.list(index, retired)
    retired.unlink()
    release.proven(release.variant("2.9"))
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err
    assert "demo_select-1.0.0.0.0.208" in answer.out
    assert "demo-torch28==0.9" in metadata(release.dist / "demo-1.0-py3-none-any.whl")


def test_an_unproven_wheel_in_work_dist_counts_for_nothing(release: Release, call: Call, index: Index) -> None:
    """An older version, which is not published now, would get a rung and an extra."""
    release.variant("2.8", "0.9")
    release.proven(release.variant("2.9"))
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err
    assert "demo_select-1.0.0.0.0.208" not in answer.out
    assert "demo-torch28==" not in metadata(release.dist / "demo-1.0-py3-none-any.whl")


def test_a_proven_wheel_counts_that_was_another_on_another_index(release: Release, call: Call, index: Index) -> None:
    """A rehearsal of an older version is on the list; what this index has of it is proven by its records."""
    older = release.proven(release.variant("2.8", "0.9"))
    index.add_wheel(older)
    rehearsed = PublishedFile("demo-torch28", older.name, "testpypi", "d" * 64)
    published_list.write(PublishedList().with_files([rehearsed]), release.project.root)
    release.proven(release.variant("2.8"))
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err


def test_an_unproven_wheel_proves_nothing_about_the_index(release: Release, call: Call, index: Index) -> None:
    """A stranger's file is in work/dist too: somebody fetched it to look at it."""
    index.add_wheel(release.variant("2.8", "0.9"))
    release.proven(release.variant("2.9"))
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err
    assert "demo-torch28 on the index is not this project's" in answer.out
    assert "demo-torch28==" not in metadata(release.dist / "demo-1.0-py3-none-any.whl")


def test_a_page_that_lists_a_file_of_another_name(release: Release, call: Call, index: Index) -> None:
    """The file is this project's, and proves nothing about the name that the page is for."""
    wheel = release.proven(release.variant("2.8"))
    index.add(wheel.name, wheel.read_bytes(), "demo-torch29")
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code == 0, answer.err
    assert "demo-torch29 on the index is not this project's" in answer.out
    assert "demo_select-1.0.0.0.0.209" not in answer.out


@pytest.mark.parametrize("forgery", ["no records", "another farm's seal", "no seal", "another wheel's records"])
def test_records_that_are_no_proof(
    release: Release, call: Call, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgery: str
) -> None:
    wheel = release.variant("2.8")
    if forgery == "another farm's seal":
        with monkeypatch.context() as other_user:
            other_user.setenv(seals.STATE_VARIABLE, str(tmp_path / "other"))
            release.proven(wheel)
    elif forgery == "no seal":
        release.proven(wheel)
        for path in (release.folder / "work").glob("jobs/*/records/*.json"):
            document = json.loads(path.read_text())
            del document["seal"]
            path.write_text(json.dumps(document))
    elif forgery == "another wheel's records":
        release.proven(wheel)
        with_members(wheel, {"demo/__init__.py": "print('another')\n"})
    refused(publish(call, index), "not everything is proven", wheel.name)
    assert " upload " not in publish_log(release)


def publish_log(release: Release) -> str:
    path = release.folder / "work" / "logs" / "publish.log"
    return path.read_text() if path.exists() else ""


def test_a_name_is_adopted_once_and_by_hand(release: Release, call: Call, index: Index, tmp_path: Path) -> None:
    release.proven(release.variant("2.8"))
    old = stranger(tmp_path, "demo", "0.1")
    index.add_wheel(old)
    shown = call("adopt", index.url, "demo", "--index-url", index.url, CI="true")
    assert shown.code == 0, shown.err
    digest = hashlib.sha256(old.read_bytes()).hexdigest()
    assert f"demo: {old.name}  sha256 {digest}" in shown.out
    assert "nothing was recorded" in shown.out
    assert not (release.project.root / "published.json").exists(), "in CI too it takes --yes"

    adopted = call("adopt", index.url, "demo", "--index-url", index.url, "--yes", "--json")
    assert adopted.code == 0, adopted.err
    (entry,) = published_list.read(release.project.root).files
    assert entry == PublishedFile("demo", old.name, index.url, digest, adopted=True)
    plan = call("publish", index.url, "--index-url", index.url)
    assert plan.code == 0, plan.err
    assert "1 older versions of demo are not yanked" in plan.out
    # A file that comes later is a stranger's again.
    index.add_wheel(stranger(tmp_path, "demo", "0.2"))
    refused(publish(call, index), "demo-0.2")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("demo", "demo-0.1.tar.bz2"), ("demo", "demo-0.1.linux-x86_64.tar.gz"), ("demo", "demo-0.1-final.zip"),
        ("demo-torch29", "demo_torch29-2004d-py3-none-any.whl"), ("demo-torch29", "demo_torch29-0.1.tgz"),
    ],
)  # fmt: skip
def test_files_of_names_that_nobody_writes_any_more_are_adopted(
    release: Release, call: Call, index: Index, name: str, file: str
) -> None:
    """Their names do not tell the distribution, or no version: they were refused after they had been adopted."""
    release.proven(release.variant("2.8"))
    index.add(file, b"from before", name)
    adopted = call("adopt", index.url, name, "--index-url", index.url, "--yes")
    assert adopted.code == 0, adopted.err
    plan = call("publish", index.url, "--index-url", index.url)
    assert plan.code == 0, plan.err
    assert "demo_select-1.0.0.0.0.209" not in plan.out


def test_a_file_of_another_index_is_adopted_of_this_one_too(
    release: Release, call: Call, index: Index, tmp_path: Path
) -> None:
    """`check` compares what an index gives with the lines of that index."""
    old = stranger(tmp_path, "demo", "0.1")
    index.add_wheel(old)
    entry = PublishedFile("demo", old.name, "testpypi", sha256(old), adopted=True)
    published_list.write(PublishedList().with_files([entry]), release.project.root)
    adopted = call("adopt", index.url, "demo", "--index-url", index.url, "--yes")
    assert adopted.code == 0, adopted.err
    assert published_list.read(release.project.root).files == {entry, replace(entry, index=index.url)}
    again = call("adopt", index.url, "demo", "--index-url", index.url, "--yes")
    assert "published.json has all of these files already" in again.out


@pytest.mark.parametrize(
    ("name", "said"), [("demo-torch2", "no distribution of this project"), ("demo", "has no file of")]
)
def test_what_cannot_be_adopted(release: Release, call: Call, index: Index, name: str, said: str) -> None:
    answer = call("adopt", index.url, name, "--index-url", index.url, "--yes")
    assert answer.code == 2
    assert said in answer.err


ENTRY = PublishedFile("demo", "demo-1.0-py3-none-any.whl", "pypi", "a" * 64)


def test_the_list_is_text_that_merges(tmp_path: Path) -> None:
    one = PublishedList().with_files([ENTRY, PublishedFile("demo-torch28", "demo_torch28-1.0.whl", "pypi", "b" * 64)])
    published_list.write(one, tmp_path)
    text = (tmp_path / "published.json").read_text()
    assert [line.count('"sha256"') for line in text.splitlines()] == [0, 0, 0, 1, 1, 0, 0], "one file a line"
    assert published_list.read(tmp_path) == one
    assert one.with_files([ENTRY]) == one
    (tmp_path / published_list.NAME).write_text(text.replace('"demo-torch28"', '"Demo_Torch28"'))
    assert published_list.read(tmp_path) == one, "names are normalized as the list is read"


def test_the_list_is_no_part_of_the_source(release: Release) -> None:
    """A release must not make the next run build everything anew."""
    project = release.project
    published_list.write(PublishedList().with_files([ENTRY]), project.root)
    origin = Origin(project.root)
    patterns = run._farm_files(project, origin, [release.folder / "work"])
    assert [file.path for file in tree.read(origin, tuple(patterns), "1.0").files] == ["pyproject.toml"]


def one_entry(**fields: object) -> str:
    """The text of a list with one line, which has these fields in place of the right ones, or beside them."""
    entry = {"name": "demo", "file": "demo-1.0.tar.gz", "index": "pypi", "sha256": "a" * 64, **fields}
    return json.dumps({"schema": 1, "files": [entry]})


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"schema": 2, "files": []}', "[" * 100_000, "<<<<<<< HEAD\n", '{"schema": 1, "files": [{}]}', "\xff",
        one_entry(file="../x"), one_entry(file=""), one_entry(file="x" * 256), one_entry(index=""), one_entry(sha256="md5"),
        one_entry(adpted=True), '{"schema": 1, "files": [], "file": []}',
    ],
)  # fmt: skip
def test_a_damaged_list(release: Release, call: Call, index: Index, text: str) -> None:
    release.proven(release.variant("2.8"))
    (release.project.root / "published.json").write_text(text, "latin-1")
    answer = publish(call, index)
    assert answer.code == 3, answer.err
    assert "published.json" in answer.err


def test_a_list_that_is_no_file(release: Release, call: Call, index: Index) -> None:
    """It waited for the pipe's writer."""
    release.proven(release.variant("2.8"))
    os.mkfifo(release.project.root / "published.json")
    answer = publish(call, index)
    assert answer.code == 3, answer.err
    assert "is not a regular file" in answer.err


def test_an_index_of_ones_own_that_was_made_anew(release: Release, call: Call, index: Index) -> None:
    """The line of the file that it had before gives way: with two of them nothing could be published any more."""
    wheel = release.proven(release.variant("2.8"))
    release.published(index, wheel)
    before = PublishedFile("demo-torch28", wheel.name, index.url, "d" * 64)
    other = replace(before, index="pypi")
    published_list.write(PublishedList().with_files([before, other]), release.project.root)
    answer = publish(call, index)
    assert answer.code == 0, answer.err
    listed = published_list.read(release.project.root)
    assert listed.of(index.url)[wheel.name] == sha256(wheel)
    assert listed.of("pypi") == {wheel.name: "d" * 64}, "the lines of another index stay"


def test_a_variant_that_was_built_anew_after_it_was_published(release: Release, call: Call, index: Index) -> None:
    """Both wheels are this project's, and an index keeps the first."""
    wheel = release.proven(release.variant("2.8"))
    release.published(index, wheel)
    published = sha256(wheel)
    release.proven(with_members(wheel, {"demo/more.py": ""}))
    where = f"sha256 here {sha256(wheel)}, there {published}"
    refused(publish(call, index), f"the index has another {wheel.name}", where, "raise the version")


def during_the_plan(index: Index, action: Callable[[], object]) -> None:
    """Do something when the index is asked for the last name, when the list was read long ago."""

    def before(path: str) -> None:
        if path.strip("/") == "demo":
            action()

    index.before = before


def test_a_list_that_changes_while_files_are_uploaded(release: Release, call: Call, index: Index) -> None:
    """By another publication, `adopt` or a merge: its lines are not overwritten."""
    release.published(index, release.proven(release.variant("2.8")))
    root = release.project.root
    (root / "published.json").unlink()
    during_the_plan(index, lambda: published_list.write(PublishedList().with_files([ENTRY]), root))
    answer = publish(call, index)
    assert answer.code == 0, answer.err
    assert len(published_list.read(root).files) == 5
    assert len(published_list.read(release.folder / "work").files) == 4


def test_a_list_that_cannot_be_added_to(release: Release, call: Call, index: Index) -> None:
    """What was uploaded is said and kept all the same, and the files go on."""
    release.published(index, release.proven(release.variant("2.8")))
    path = release.project.root / "published.json"
    during_the_plan(index, lambda: path.write_text("<<<<<<< HEAD\n"))
    answer = publish(call, index)
    assert answer.code == 0, answer.err
    assert f"warning: {path} cannot be written (not a list of published files" in answer.out
    assert path.read_text() == "<<<<<<< HEAD\n"
    assert len(published_list.read(release.folder / "work").files) == 4


def test_two_contents_of_one_file(tmp_path: Path) -> None:
    other = PublishedFile(ENTRY.name, ENTRY.file, ENTRY.index, "c" * 64)
    (tmp_path / "published.json").write_text(PublishedList(frozenset([ENTRY, other])).text())
    with pytest.raises(Exception, match="has two SHA-256"):
        published_list.read(tmp_path)


def test_a_page_that_another_index_answers(release: Release, call: Call, index: Index, tmp_path: Path) -> None:
    """A server for rehearsals may lead to the public index for what it does not have."""
    release.proven(release.variant("2.8"))
    index.add_wheel(stranger(tmp_path, "demo_torch28", "0.1"))
    to = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: %s%s\r\n\r\n"
    with answering(lambda path: [to % (index.url.encode(), path[1:].encode())]) as url:
        answer = call("publish", url, "--index-url", url, "--yes", "--no-check")
        shown = call("adopt", url, "demo-torch28", "--index-url", url)
    host = urlsplit(index.url).netloc
    assert f"demo-torch28: these are files that {host} has, and {url} passes on" in shown.out
    refused(answer, f"where: {url}, which passes on what {host} has", "answer for its own files alone")
    assert "passes on" not in publish(call, index).err


def test_publish_warns_of_platforms_that_earlier_releases_served(
    release: Release, call: Call, index: Index, tmp_path: Path
) -> None:
    release.proven(release.variant("2.9", tag="cp312-cp312-manylinux_2_28_x86_64"))
    for version, tags in {
        "0.1": ["win_amd64", "macosx_11_0_arm64"],
        "0.2": ["win_amd64", "manylinux_2_28_x86_64"],
    }.items():
        for tag in tags:
            old = stranger(tmp_path, "demo", version)
            index.add_wheel(old.rename(old.with_name(f"demo-{version}-cp312-cp312-{tag}.whl")))
    adopted = call("adopt", index.url, "demo", "--index-url", index.url, "--yes")
    assert adopted.code == 0, adopted.err
    planned = call("publish", index.url, "--index-url", index.url, "--json")
    assert planned.code == 0, planned.err
    (warning,) = [line for line in planned.document["warnings"] if "platforms" in line]
    assert "(0.1 for macOS arm64, 0.2 for Windows AMD64)" in warning
