"""Sources that are fetched: sdists from an index that serves files from disk, git repositories beside it."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.index import Index
from tests.project.test_tree import git
from torch_build_farm.core.archives import EARLIEST
from torch_build_farm.core.errors import PackageIndexError, SourceError
from torch_build_farm.core.process import Runner
from torch_build_farm.project.fetch import Fetcher

DATE = 1_600_000_000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    (tmp_path / "index").mkdir()
    made = Index(tmp_path / "index")
    monkeypatch.setenv("UV_DEFAULT_INDEX", made.url)
    yield made
    made.close()


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "sources", Runner(), lambda _: None)


def sdist(*names: str, date: int = DATE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.mtime = date - number
            archive.addfile(member)
    return stream.getvalue()


def test_an_sdist_is_fetched_once_and_brings_its_date(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py", "demo-1.0/a/b.cpp"))
    index.add("demo-1.1.tar.gz", sdist("demo-1.1/setup.py"))
    index.add("demo-1.0-py3-none-any.whl", b"")
    first = fetcher.sdist(Requirement("demo==1.0"), digest)
    assert (first.root / "a" / "b.cpp").is_file()
    assert (first.epoch, first.sealed, first.identity) == (DATE, True, f"sdist demo==1.0 sha256:{digest}")
    asked = index.asked
    assert fetcher.sdist(Requirement("demo==1.0"), digest) == first
    assert index.asked == asked


def test_files_of_no_valid_version_are_passed_over(index: Index, fetcher: Fetcher, tmp_path: Path) -> None:
    index.add("demo-1.0dev-r17.tar.gz", sdist("demo-1.0dev-r17/setup.py"))
    index.add("demo-0.9.tar.gz", sdist("demo-0.9/setup.py"))
    index.add("demo-0.10.tar.gz", sdist("demo-0.10/setup.py"))
    assert fetcher.download(Requirement("demo"), tmp_path).name == "demo-0.10.tar.gz"


def test_a_zip_brings_its_date(index: Index, fetcher: Fetcher) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("demo-1.0/setup.py", (2020, 9, 13, 12, 26, 40)), "")
    digest = index.add("demo-1.0.zip", stream.getvalue())
    assert fetcher.sdist(Requirement("demo==1.0"), digest).epoch == DATE


def test_what_a_killed_farm_left_of_a_fetch_goes_after_a_day(fetcher: Fetcher) -> None:
    old, new = fetcher.folder / "fetch-old", fetcher.folder / "fetch-new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    with fetcher.scratch() as scratch:
        assert not old.exists()
    assert new.exists()
    assert not scratch.exists()


def test_a_zip_without_a_date(index: Index, fetcher: Fetcher) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("demo-1.0/setup.py"), "")
    dateless = stream.getvalue().replace(b"\x21\x00", b"\x00\x00")  # DOS date: day 1, month 1 -> none
    digest = index.add("demo-1.0.zip", dateless)
    assert fetcher.sdist(Requirement("demo==1.0"), digest).epoch == EARLIEST


def test_of_several_sdists_the_pinned_one(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py"))
    stream = io.BytesIO()
    zipfile.ZipFile(stream, "w").close()
    index.add("demo-1.0.zip", stream.getvalue())
    assert fetcher.sdist(Requirement("demo==1.0"), digest).root.name == "demo-1.0"


def test_an_archive_without_a_top_folder_is_the_tree_itself(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", sdist("setup.py", "src/demo/__init__.py"))
    assert (fetcher.sdist(Requirement("demo==1.0"), digest).root / "setup.py").is_file()


def test_dates_before_zip_are_raised(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py", date=0))
    assert fetcher.sdist(Requirement("demo==1.0"), digest).epoch == EARLIEST


def test_another_file_than_the_pinned_one_is_refused(index: Index, fetcher: Fetcher) -> None:
    index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py"))
    with pytest.raises(SourceError, match="not the file that sdist-sha256 names"):
        fetcher.sdist(Requirement("demo==1.0"), "0" * 64)
    assert not list((fetcher.folder).glob("sdist-*"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [("demo==1.0.1", "no sdist of demo==1.0.1; did you mean '1.0'"), ("nowhere==1.0", "has no nowhere"), ("only==1", "wheels only")],
)  # fmt: skip
def test_what_the_index_lacks(index: Index, fetcher: Fetcher, asked: str, said: str) -> None:
    index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py"))
    index.add("only-1-py3-none-any.whl", b"", "only")
    with pytest.raises(PackageIndexError, match=said):
        fetcher.sdist(Requirement(asked), "0" * 64)


def test_a_file_that_is_not_an_archive(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", b"not an archive")
    with pytest.raises(SourceError, match="cannot be unpacked"):
        fetcher.sdist(Requirement("demo==1.0"), digest)
    assert not list(fetcher.folder.iterdir())


def test_an_index_that_does_not_answer(index: Index, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple/")
    with pytest.raises(PackageIndexError, match="cannot be fetched"):
        fetcher.sdist(Requirement("demo==1.0"), "0" * 64)


def test_git_by_tag_branch_and_commit(tmp_path: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    (origin / "setup.py").write_text("one")
    git(origin, "add", "-A")
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{DATE} +0000")
    git(origin, "commit", "-qm", "one")
    git(origin, "tag", "-a", "-m", "first", "v1")
    (origin / "setup.py").write_text("two")
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{DATE + 100} +0000")
    git(origin, "commit", "-qam", "two")
    first, second = fetcher.git(str(origin), "v1"), fetcher.git(str(origin), "main")
    assert [(one.root / "setup.py").read_text() for one in (first, second)] == ["one", "two"]
    assert [one.epoch for one in (first, second)] == [DATE, DATE + 100]
    origin.rename(tmp_path / "away")  # a commit that was fetched is not asked for again
    commit = first.identity.rpartition("@")[2]
    assert fetcher.git(str(origin), commit) == first
    with pytest.raises(SourceError, match="git cannot fetch the source"):
        fetcher.git(str(origin), "main")


def test_a_password_in_a_url_is_nobodys_business(tmp_path: Path, fetcher: Fetcher) -> None:
    with pytest.raises(SourceError) as caught:
        fetcher.git("http://me:secret@127.0.0.1:9/x.git", "v1")
    assert "127.0.0.1:9/x.git" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_git_takes_no_option_for_a_repository(tmp_path: Path, fetcher: Fetcher) -> None:
    with pytest.raises(SourceError, match="git cannot fetch the source"):
        fetcher.git(f"--upload-pack=touch {tmp_path}/ran;", "v1")
    assert not (tmp_path / "ran").exists()


def test_the_repository_of_a_hook_that_calls_the_farm_is_left_alone(
    tmp_path: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("origin", "hooked"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "-q", "-b", "main")
        (tmp_path / name / "setup.py").write_text(name)
        git(tmp_path / name, "add", "-A")
        git(tmp_path / name, "commit", "-qm", "one")
    git(tmp_path / "origin", "tag", "v1")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooked" / ".git"))
    assert (fetcher.git(str(tmp_path / "origin"), "v1").root / "setup.py").read_text() == "origin"
    assert (tmp_path / "hooked" / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"


def test_git_without_such_a_revision(tmp_path: Path, fetcher: Fetcher) -> None:
    git(tmp_path, "init", "-q", "origin")
    with pytest.raises(SourceError, match="has no tag or branch v9"):
        fetcher.git(str(tmp_path / "origin"), "v9")
