"""Sources that are fetched: sdists from an index that serves files from disk, git repositories beside it."""

import io
import json
import os
import shutil
import signal
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.core.test_git import arm, repository
from tests.index import Index
from tests.project.test_tree import git
from torch_build_farm.core.archives import EARLIEST
from torch_build_farm.core.errors import Interrupted, PackageIndexError, SourceError, VersionError
from torch_build_farm.core.process import Runner
from torch_build_farm.project import kept_sources, tree
from torch_build_farm.project.fetch import Fetcher, Origin

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


def test_an_interrupt_during_a_download(index: Index, fetcher: Fetcher) -> None:
    digest = index.add("demo-1.0.tar.gz", sdist("demo-1.0/setup.py"))

    def interrupt(path: str) -> None:
        if path.endswith(".tar.gz"):
            fetcher.runner.cancel(signal.SIGINT)

    index.before = interrupt
    with pytest.raises(Interrupted):
        fetcher.sdist(Requirement("demo==1.0"), digest)
    assert not list(fetcher.folder.rglob("setup.py"))


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
        fetcher.git("https://me:secret@127.0.0.1:9/x.git", "v1")
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


# ---- sources in the store


def origin_of(tmp_path: Path, table: str = "") -> Path:
    """A repository with a project whose version is counted from its tags."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "pyproject.toml").write_text(
        f'[project]\nname = "demo"\ndynamic = ["version"]\n[tool.setuptools_scm]\n{table}'
    )
    (origin / "a.cpp").write_text("int a;")
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "one")
    git(origin, "tag", "v1.5")
    return origin


def edit(tree: Path) -> None:
    (tree / "a.cpp").write_text("int b;")


def add(tree: Path) -> None:
    (tree / "conftest.py").touch()


def add_repository(tree: Path) -> None:
    git(tree, "init", "-q")


def remove(tree: Path) -> None:
    (tree / "a.cpp").unlink()


def allow_running(tree: Path) -> None:
    (tree / "a.cpp").chmod(0o755)


def link(tree: Path) -> None:
    (tree / "b.cpp").write_bytes((tree / "a.cpp").read_bytes())
    (tree / "a.cpp").unlink()
    (tree / "a.cpp").symlink_to("b.cpp")


def replace_by_pipe(tree: Path) -> None:
    (tree / "a.cpp").unlink()
    os.mkfifo(tree / "a.cpp")


def link_the_tree(tree: Path) -> None:
    shutil.copytree(tree, tree.parent / "elsewhere")
    shutil.rmtree(tree)
    tree.symlink_to("elsewhere")


def remove_record(tree: Path) -> None:
    for record in (tree.parent / "records").iterdir():
        record.unlink()


def forge_record(tree: Path) -> None:
    edit(tree)
    for path in (tree.parent / "records").iterdir():
        record = json.loads(path.read_text())
        content = json.loads(record["content"]) | {"digest": kept_sources.digest(tree)}
        path.write_text(json.dumps({"content": json.dumps(content), "seal": record["seal"]}))


def damage_record(tree: Path) -> None:
    for path in (tree.parent / "records").iterdir():
        path.write_text("[" * 5000)


def nest(tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(30):  # to paths that are longer than the system takes
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


DAMAGES = [nest, edit, add, add_repository, remove, allow_running, link, replace_by_pipe, link_the_tree, remove_record, forge_record, damage_record]  # fmt: skip


@pytest.mark.parametrize(
    ("way", "damage"),
    [*[("sdist", damage) for damage in DAMAGES], ("git", edit), ("git", add_repository), ("git", link_the_tree)],
)
def test_a_source_that_was_changed_in_the_store_is_fetched_again(
    tmp_path: Path, index: Index, fetcher: Fetcher, way: str, damage: Callable[[Path], None]
) -> None:
    said: list[str] = []
    fetcher = replace(fetcher, say=said.append)
    if way == "git":
        repository = origin_of(tmp_path)

        def fetch() -> Origin:
            return fetcher.git(str(repository), "main")
    else:
        digest = index.add("demo-1.0.tar.gz", sdist("pyproject.toml", "a.cpp", "sub/a"))

        def fetch() -> Origin:
            return fetcher.sdist(Requirement("demo==1.0"), digest)

    first = fetch()
    content = (first.root / "a.cpp").read_bytes()
    fetched = len(said)
    assert fetch() == first
    assert len(said) == fetched
    damage(first.root)
    again = fetch()
    assert said[fetched].endswith("is not as this farm recorded it; it is fetched again")
    assert again == first
    assert (first.root / "a.cpp").read_bytes() == content
    assert not (first.root / "a.cpp").is_symlink()
    assert not {"conftest.py", ".git", "b.cpp"} & {path.name for path in first.root.iterdir()}
    assert fetch() == first
    assert len(said) == fetched + 2


def test_links_count_by_where_they_lead(tmp_path: Path) -> None:
    """Also to nothing, to a folder, and to themselves: none of them is followed."""
    (tmp_path / "folder").mkdir()
    digests = set()
    for target in ("nothing", "folder", "link", "/dev/zero", "nothing/more"):
        (tmp_path / "link").symlink_to(target)
        digests.add(kept_sources.digest(tmp_path))
        (tmp_path / "link").unlink()
    assert len(digests) == 5


def test_a_changed_source_that_cannot_be_fetched_is_not_built(tmp_path: Path, fetcher: Fetcher) -> None:
    repository = origin_of(tmp_path)
    first = fetcher.git(str(repository), "main")
    commit = first.identity.rpartition("@")[2]
    edit(first.root)
    repository.rename(tmp_path / "away")
    with pytest.raises(SourceError, match="git cannot fetch the source"):
        fetcher.git(str(repository), commit)


def test_a_record_of_another_source_does_not_count(tmp_path: Path, index: Index, fetcher: Fetcher) -> None:
    one = index.add("demo-1.0.tar.gz", sdist("setup.py"))
    two = index.add("demo-1.1.tar.gz", sdist("other.py"))
    first = fetcher.sdist(Requirement("demo==1.0"), one)
    fetcher.sdist(Requirement("demo==1.1"), two)
    sources = fetcher.folder
    shutil.rmtree(sources / f"sdist-{one}")
    shutil.copytree(sources / f"sdist-{two}", sources / f"sdist-{one}")
    shutil.copy(sources / "records" / f"sdist-{two}.json", sources / "records" / f"sdist-{one}.json")
    assert fetcher.sdist(Requirement("demo==1.0"), one) == first
    assert (first.root / "setup.py").exists() or first.root.name == "setup.py"


def test_git_answers_for_a_fetched_tree_when_it_comes(tmp_path: Path, fetcher: Fetcher) -> None:
    repository = origin_of(tmp_path)
    first = fetcher.git(str(repository), "main")
    assert not (first.root / ".git").exists()
    repository.rename(tmp_path / "away")
    commit = first.identity.rpartition("@")[2]
    for _ in range(2):
        assert tree.read(fetcher.git(str(repository), commit)).version == "1.5"


def test_a_repository_that_somebody_plants_in_the_store_is_not_asked(tmp_path: Path, fetcher: Fetcher) -> None:
    repository = origin_of(tmp_path)
    first = fetcher.git(str(repository), "main")
    shutil.copytree(repository / ".git", first.root / ".git")
    arm(first.root / ".git", tmp_path / "ran", worktree=first.root)
    for origin in (first, fetcher.git(str(repository), "main")):
        assert tree.read(origin).version == "1.5"
    assert not (tmp_path / "ran").exists()


def test_a_repository_inside_an_sdist_is_not_asked(tmp_path: Path, index: Index, fetcher: Fetcher) -> None:
    repository = origin_of(tmp_path)
    arm(repository / ".git", tmp_path / "ran", worktree=repository)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(repository, "demo-1.0")
    digest = index.add("demo-1.0.tar.gz", stream.getvalue())
    origin = fetcher.sdist(Requirement("demo==1.0"), digest)
    with pytest.raises(VersionError, match="no repository here"):
        tree.read(origin)
    # Nor is the one that the store lies in.
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-qm", "one", "--allow-empty")
    with (origin.root / "pyproject.toml").open("a") as file:
        file.write("search_parent_directories = true\n")
    with pytest.raises(VersionError, match="no repository here"):
        tree.read(origin)
    assert not (tmp_path / "ran").exists()


def test_settings_that_are_code_do_not_keep_a_source_from_being_fetched(tmp_path: Path, fetcher: Fetcher) -> None:
    repository = origin_of(tmp_path, f'git_describe_command = "touch {tmp_path}/ran"\n')
    origin = fetcher.git(str(repository), "main")
    with pytest.raises(VersionError, match="git_describe_command"):
        tree.read(origin)
    assert tree.read(origin, (), "1.7").version == "1.7"
    assert not (tmp_path / "ran").exists()


def ssh_to_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let git's ssh open this machine's own folders, without a server."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")


def test_submodules_in_submodules(tmp_path: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit has the one before it as a submodule, which is a long way down for a repository of one file."""
    ssh_to_this_machine(tmp_path, monkeypatch)
    repository = origin_of(tmp_path)
    (repository / ".gitmodules").write_text('[submodule "s"]\npath = s\nurl = ../origin\n')
    git(repository, "add", ".gitmodules")
    for number in range(1, 10):
        commit = (repository / ".git" / "refs" / "heads" / "main").read_text().strip()
        git(repository, "update-index", "--add", "--cacheinfo", f"160000,{commit},s")
        git(repository, "commit", "-qm", "one deeper")
        git(repository, "tag", f"deep{number}")
    origin = fetcher.git(f"ssh://host{repository}", "deep8")
    assert (origin.root / "/".join("s" * 8) / "a.cpp").is_file()
    with pytest.raises(SourceError, match="submodules lie too deep in one another"):
        fetcher.git(f"ssh://host{repository}", "deep9")


def test_submodules_are_part_of_the_tree(tmp_path: Path, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh_to_this_machine(tmp_path, monkeypatch)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "b.h").touch()
    git(inner, "init", "-q", "-b", "main")
    git(inner, "add", "-A")
    git(inner, "commit", "-qm", "one")
    repository = origin_of(tmp_path)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "lib/inner")
    git(repository, "config", "-f", ".gitmodules", "submodule.lib/inner.url", "../inner")
    git(repository, "commit", "-qam", "two")
    git(repository, "tag", "v1.6")
    origin = fetcher.git(f"ssh://host{repository}", "v1.6")
    source = tree.read(origin)
    assert {file.path for file in source.files} == {".gitmodules", "a.cpp", "lib/inner/b.h", "pyproject.toml"}
    assert source.version == "1.6"
    # A submodule's URL is the source's own words: no folder of this machine.
    git(repository, "config", "-f", ".gitmodules", "submodule.lib/inner.url", str(inner))
    git(repository, "commit", "-qam", "three")
    with pytest.raises(SourceError, match="not allowed"):
        fetcher.git(f"ssh://host{repository}", "main")


def test_the_log_of_git_is_its_users_alone(tmp_path: Path, fetcher: Fetcher) -> None:
    with pytest.raises(SourceError):
        fetcher.git("https://me:secret@127.0.0.1:9/x.git", "v1")
    log = fetcher.folder / "git.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "secret" not in log.read_text()


def test_a_commit_of_sha_256(tmp_path: Path, fetcher: Fetcher) -> None:
    origin = repository(tmp_path / "origin", objects="sha256")
    commit = fetcher.git(str(origin), "main").identity.rpartition("@")[2]
    assert len(commit) == 64
    assert (fetcher.git(str(origin), commit).root / "setup.py").is_file()


def test_files_of_git_lfs_are_told_of(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "data").mkdir(parents=True)
    (origin / "setup.py").write_text("")
    (origin / "data" / "a.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    (origin / "data" / "whole.bin").write_text("no pointer")
    (origin / "data" / ".gitattributes").write_text("*.bin filter=lfs\n")
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", "-A")
    git(origin, "commit", "-qm", "one")
    said: list[str] = []
    Fetcher(tmp_path / "sources", Runner(), said.append).git(str(origin), "main")
    assert said[1:] == ["1 of its files are pointers of Git LFS, which the farm does not follow: data/a.bin"]
