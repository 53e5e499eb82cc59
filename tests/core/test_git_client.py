"""Repositories are fetched: by which protocols, with whose configuration, and who sees a password."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.test_git import arm, repository, run
from torch_build_farm.core import git_client, process
from torch_build_farm.core.archives import Limits
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.git_client import Client, Submodule
from torch_build_farm.core.process import Runner


@pytest.fixture
def client(tmp_path: Path) -> Client:
    (tmp_path / "scratch").mkdir()
    return Client(Runner(), tmp_path / "scratch", tmp_path / "git.log")


@pytest.mark.parametrize("bare", [False, True])
def test_a_local_repository_is_cloned_and_nothing_of_it_runs(tmp_path: Path, client: Client, bare: bool) -> None:
    origin = repository(tmp_path / "origin")
    (origin / ".gitattributes").write_text("* filter=evil diff=evil\n")
    run(origin, "add", "-A")
    run(origin, "commit", "-qm", "two")
    commit = run(origin, "rev-parse", "HEAD").strip()
    source = origin
    if bare:
        source = tmp_path / "bare.git"
        run(tmp_path, "clone", "-q", "--bare", str(origin), str(source))
    arm(source if bare else source / ".git", tmp_path / "ran")
    for where in (str(source), f"file://{source}"):
        assert client.commit_of(where, "main") == commit
        copy, tree = tmp_path / f"copy{len(where)}", tmp_path / f"tree{len(where)}"
        client.clone(where, commit, copy)
        client.check_out(where, copy, commit, tree)
        assert sorted(path.name for path in tree.iterdir()) == [".gitattributes", "setup.py"]
        assert client.submodules(where, copy, commit) == []
    assert not (tmp_path / "ran").exists()


def test_a_users_filters_do_not_change_what_is_checked_out(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = repository(tmp_path / "origin")
    (origin / ".gitattributes").write_text("* filter=evil\n")
    run(origin, "add", "-A")
    run(origin, "commit", "-qm", "two")
    commit = run(origin, "rev-parse", "HEAD").strip()
    config = tmp_path / "gitconfig"
    config.write_text('[filter "evil"]\n\tsmudge = echo changed\n[core]\n\tautocrlf = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    client.clone(str(origin), commit, tmp_path / "copy")
    client.check_out(str(origin), tmp_path / "copy", commit, tmp_path / "tree")
    assert (tmp_path / "tree" / "setup.py").read_bytes() == b"one"


@pytest.mark.parametrize("url", ["ext::sh -c true", "http://127.0.0.1:9/x.git", "git://127.0.0.1:9/x.git"])
def test_other_protocols_are_off(tmp_path: Path, client: Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text('[protocol]\n\tallow = always\n[protocol "ext"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with pytest.raises(SourceError, match="not allowed") as caught:
        client.commit_of(url, "main")
    assert caught.value.next_step.startswith("name it by https or ssh")


def test_a_submodule_is_no_folder_of_this_machine(tmp_path: Path, client: Client) -> None:
    secret = repository(tmp_path / "secret")
    for url in (str(secret), f"file://{secret}"):
        with pytest.raises(SourceError, match="not allowed"):
            client.clone(url, run(secret, "rev-parse", "HEAD").strip(), tmp_path / "copy", submodule=True)


def test_submodules_come_from_where_gitmodules_says(tmp_path: Path, client: Client) -> None:
    inner = repository(tmp_path / "inner")
    origin = repository(tmp_path / "origin")
    for name in ("a", "b", "left-out"):
        run(origin, "submodule", "--quiet", "add", str(inner), name)
    run(origin, "config", "-f", ".gitmodules", "submodule.a.url", "../../other/inner.git")
    run(origin, "config", "-f", ".gitmodules", "submodule.left-out.update", "none")
    run(origin, "commit", "-qam", "two")
    commit = run(origin, "rev-parse", "HEAD").strip()
    pinned = run(inner, "rev-parse", "HEAD").strip()
    client.clone(str(origin), commit, tmp_path / "copy")
    found = client.submodules("https://git.example.org/group/origin.git", tmp_path / "copy", commit)
    assert found == [
        Submodule("a", "https://git.example.org/other/inner.git", pinned),
        Submodule("b", str(inner), pinned),
    ]
    run(origin, "config", "-f", ".gitmodules", "--remove-section", "submodule.b")
    run(origin, "commit", "-qam", "three")
    commit = run(origin, "rev-parse", "HEAD").strip()
    client.clone(str(origin), commit, tmp_path / "copy2")
    with pytest.raises(SourceError, match="the submodule b has no URL"):
        client.submodules("https://git.example.org/group/origin.git", tmp_path / "copy2", commit)


def test_the_repository_around_the_farms_folder_is_not_asked(tmp_path: Path) -> None:
    # A store inside a checkout, whose configuration would hold for a git that is started there.
    tree = repository(tmp_path / "tree")
    arm(tree / ".git", tmp_path / "ran")
    scratch = tree / "store" / "scratch"
    scratch.mkdir(parents=True)
    client = Client(Runner(), scratch, tmp_path / "git.log")
    with pytest.raises(SourceError):
        client.commit_of("ssh://git@127.0.0.1:9/x.git", "main")
    assert not (tmp_path / "ran").exists()


def test_credentials_are_in_no_argument_and_in_no_log(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A git that writes down how it was started, and what its credential helpers answer.
    seen = tmp_path / "seen"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    real = shutil.which("git")
    fake.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$*\" >> {seen}\n"
        f"printf 'protocol=https\\nhost=git.example.org\\n\\n' | {real} credential fill >> {seen}.answer\n"
        f"printf 'protocol=https\\nhost=other.example.org\\n\\n' | {real} credential fill >> {seen}.other 2>&1\n"
        "echo fatal: no such host; exit 128\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SourceError) as caught:
        client.commit_of("https://me:se%40cret@git.example.org/x.git", "v1")
    assert seen.read_text() == "ls-remote -- https://git.example.org/x.git v1 v1^{}\n"
    answer = Path(f"{seen}.answer").read_text()
    assert "username=me\npassword=se@cret\n" in answer
    assert "cret" not in Path(f"{seen}.other").read_text()
    assert "cret" not in str(caught.value) + client.log.read_text()
    assert client.log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://git.example.org/x.git", "https://git.example.org/x.git"),
        ("ssh://git@git.example.org/x.git", "ssh://git@git.example.org/x.git"),
        ("ssh://git:secret@git.example.org/x.git", "ssh://git@git.example.org/x.git"),
        ("https://token@git.example.org/x.git", "https://git.example.org/x.git"),
        ("git@git.example.org:x.git", "git@git.example.org:x.git"),
    ],
)
def test_what_git_is_told_of_a_url(url: str, public: str) -> None:
    told, variables = git_client._without_credentials(url)
    assert told == public
    assert ("token" in variables.get("FARM_GIT_USER", "")) == ("token" in url)


@pytest.mark.parametrize("url", ["https://me:a%0ab@git.example.org/x.git", "https://git.example.org/\nx", "a\0b"])
def test_a_url_with_a_line_break(url: str, client: Client) -> None:
    with pytest.raises(SourceError, match=r"control character|line break"):
        client.commit_of(url, "main")


def test_a_commit_of_more_files_than_any_disk_holds(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LARGEST_OUTPUT", 1 << 16)  # else reading takes seconds
    # Each tree names the one below it ten times: 10^9 files in twelve objects.
    origin = repository(tmp_path / "origin")
    blob = run(origin, "hash-object", "-w", "setup.py").strip()
    listing = f"100644 blob {blob}"
    for _ in range(9):
        entries = "".join(f"{listing}\tf{number}\n" for number in range(10))
        tree = subprocess.run(
            ["git", "mktree"], cwd=origin, input=entries, check=True, capture_output=True, text=True
        ).stdout.strip()
        listing = f"040000 tree {tree}"
    commit = run(origin, "commit-tree", "-m", "bomb", tree).strip()
    run(origin, "tag", "v9", commit)
    client.clone(str(origin), commit, tmp_path / "copy")
    with pytest.raises(SourceError, match="has more files"):
        client.submodules(str(origin), tmp_path / "copy", commit)


def test_a_commit_of_folders_too_deep(tmp_path: Path, client: Client) -> None:
    origin = repository(tmp_path / "origin")
    listing = f"100644 blob {run(origin, 'hash-object', '-w', 'setup.py').strip()}\tf\n"
    for _ in range(120):
        made = subprocess.run(["git", "mktree"], cwd=origin, input=listing, check=True, capture_output=True, text=True)
        listing = f"040000 tree {made.stdout.strip()}\td\n"
    commit = run(origin, "commit-tree", "-m", "deep", made.stdout.strip()).strip()
    run(origin, "tag", "v9", commit)
    client.clone(str(origin), commit, tmp_path / "copy")
    with pytest.raises(SourceError, match="deeper ones"):
        client.submodules(str(origin), tmp_path / "copy", commit)


@pytest.mark.parametrize("limits", [Limits(size=1), Limits(members=1)])
def test_a_commit_of_more_than_the_farm_unpacks(
    tmp_path: Path, client: Client, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = repository(tmp_path / "origin")
    (origin / "more").write_text("more")
    run(origin, "add", "-A")
    run(origin, "commit", "-qm", "two")
    commit = run(origin, "rev-parse", "HEAD").strip()
    client.clone(str(origin), commit, tmp_path / "copy")
    assert client.files(str(origin), tmp_path / "copy", commit) == {}
    monkeypatch.setattr(git_client, "LIMITS", limits)
    with pytest.raises(SourceError, match="has more files"):
        client.files(str(origin), tmp_path / "copy", commit)


def test_a_commit_on_no_branch(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(ssh))
    monkeypatch.setenv("GIT_SSH_VARIANT", "simple")
    origin = repository(tmp_path / "origin")
    run(origin, "config", "uploadpack.allowAnySHA1InWant", "true")
    commit = run(origin, "commit-tree", "-m", "pull request", "HEAD^{tree}").strip()
    client.clone(f"ssh://host{origin}", commit, tmp_path / "copy")
    assert client.files("", tmp_path / "copy", commit) == {}


def test_a_folder_that_is_no_repository(tmp_path: Path, client: Client) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="no git repository that the farm can read"):
        client.commit_of(str(tmp_path / "folder"), "main")


def test_a_log_that_others_may_read_is_closed(tmp_path: Path, client: Client) -> None:
    client.log.write_text("")
    client.log.chmod(0o644)
    client.commit_of(str(repository(tmp_path / "origin")), "main")
    assert client.log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://me:mine@h.example", "username=me\npassword=mine\n"),
        ("https://me@h.example", "username=me\npassword=users\n"),
        ("https://token:@h.example", "username=token\npassword=\n"),
        ("https://:token@h.example", "username=\npassword=token\n"),
    ],
)
def test_the_users_own_helpers(tmp_path: Path, url: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text('[credential]\n\thelper = "!echo username=me; echo password=users; :"\n')
    _, variables = git_client._without_credentials(f"{url}/x.git")
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", **variables}
    asked = "protocol=https\nhost=h.example\n\n"
    words = ["git", "credential", "fill"]
    done = subprocess.run(words, input=asked, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.endswith(answer)


@pytest.mark.parametrize(
    ("parent", "url", "resolved"),  # as git's own test of relative URLs has them (t0060)
    [
        ("git@host:group/repo.git", "../other.git", "git@host:group/other.git"),
        ("git@host:group/repo.git", "../../other.git", "git@host:other.git"),
        ("git@host:repo.git", "../other.git", "git@host:other.git"),
        ("ssh://host:22/repo", "../other", "ssh://host:22/other"),
        ("https://host/group/repo.git/", "./other.git", "https://host/group/repo.git/other.git"),
    ],
)
def test_a_submodules_url_relative_to_its_repository(parent: str, url: str, resolved: str) -> None:
    assert git_client._resolved(parent, url) == resolved


@pytest.mark.parametrize("path", ["third party/a lib", "bücher", 'quo"ted', "a=b.url c"])
def test_a_submodule_of_an_unusual_name(tmp_path: Path, client: Client, path: str) -> None:
    inner, origin = repository(tmp_path / "inner"), repository(tmp_path / "origin")
    run(origin, "submodule", "--quiet", "add", str(inner), path)
    run(origin, "commit", "-qm", "two")
    commit = run(origin, "rev-parse", "HEAD").strip()
    client.clone(str(origin), commit, tmp_path / "copy")
    pinned = run(inner, "rev-parse", "HEAD").strip()
    assert client.submodules(str(origin), tmp_path / "copy", commit) == [Submodule(path, str(inner), pinned)]
