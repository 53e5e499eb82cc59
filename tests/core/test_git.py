"""git runs in repositories that somebody else wrote, and nothing that they say is executed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from torch_build_farm.core import git
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.process import Runner

OPTIONS = ("--tags", "--long", "--abbrev=40", "--match=*[0-9]*")


def run(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def repository(root: Path, *, tag: str = "v1.2") -> Path:
    root.mkdir(parents=True)
    run(root, "init", "-q", "-b", "main")
    (root / "setup.py").write_text("one")
    run(root, "add", "-A")
    run(root, "commit", "-qm", "one")
    if tag:
        run(root, "tag", tag)
    return root


def arm(gitdir: Path, marker: Path, *, worktree: Path | None = None) -> None:
    """Have a repository execute `touch` wherever git can be made to: configuration, hooks, filters."""
    script = marker.with_name("script")
    script.write_text(f"#!/bin/sh\necho \"$0 $*\" >> '{marker}'\ncat\n")
    script.chmod(0o755)
    included = marker.with_name("included")
    included.write_text(f"[core]\n\tfsmonitor = {script}\n")
    with (gitdir / "config").open("a") as config:
        config.write(f"""
[include]
	path = {included}
[core]
	fsmonitor = {script}
	hooksPath = {script.parent}
	sshCommand = {script}
	pager = {script}
	editor = {script}
	askPass = {script}
	gitProxy = {script}
	attributesFile = {marker.with_name("attributes")}
	alternateRefsCommand = {script}
[filter "evil"]
	smudge = {script}
	clean = {script}
	process = {script}
	required = true
[diff]
	external = {script}
[diff "evil"]
	command = {script}
	textconv = {script}
[pager]
	log = {script}
	describe = {script}
	status = {script}
[alias]
	describe = !{script}
	log = !{script}
	status = !{script}
[gpg]
	program = {script}
[log]
	showSignature = true
[credential]
	helper = !{script}
[uploadpack]
	packObjectsHook = {script}
	hideRefs = refs/heads
[protocol "ext"]
	allow = always
[extensions]
	partialClone = origin
[remote "origin"]
	promisor = true
	url = ext::{script}
[trace2]
	eventTarget = {marker}
""")
    marker.with_name("attributes").write_text("* filter=evil diff=evil\n")
    (gitdir / "info").mkdir(exist_ok=True)
    (gitdir / "info" / "attributes").write_text("* filter=evil diff=evil\n")
    (gitdir / "hooks").mkdir(exist_ok=True)
    hooks = ("post-checkout", "post-index-change", "fsmonitor-watchman", "reference-transaction", "pre-auto-gc")
    for name in hooks:
        for folder in (gitdir / "hooks", script.parent):
            shutil.copy(script, folder / name)
    if worktree:
        (worktree / ".gitattributes").write_text("* filter=evil diff=evil\n")
        for path in worktree.iterdir():
            os.utime(path, (0, 0))  # another date than the index has: git reads the file


@pytest.fixture
def client(tmp_path: Path) -> git.Client:
    (tmp_path / "scratch").mkdir()
    return git.Client(Runner(), tmp_path / "scratch", tmp_path / "git.log")


def test_what_is_armed_goes_off_in_a_git_that_reads_it(tmp_path: Path) -> None:
    # The other tests would pass as well if the repositories that they arm were harmless.
    tree = repository(tmp_path / "tree")
    arm(tree / ".git", tmp_path / "ran", worktree=tree)
    subprocess.run(["git", "status"], cwd=tree, check=False, capture_output=True)
    assert (tmp_path / "ran").exists()


def test_a_work_tree_is_described_and_nothing_of_its_repository_runs(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    commit = run(tree, "rev-parse", "HEAD").strip()
    arm(tree / ".git", tmp_path / "ran", worktree=tree)
    described = git.describe(tree, OPTIONS, dirty=True)
    assert described is not None
    assert (described.text, described.commit, described.branch) == (f"v1.2-0-g{commit}", commit, "main")
    assert (described.commits, described.dirty, described.shallow) == (0, False, False)
    assert not (tmp_path / "ran").exists()


def test_a_change_is_seen_and_one_of_a_submodule_too(tmp_path: Path) -> None:
    inner = repository(tmp_path / "inner")
    tree = repository(tmp_path / "tree")
    run(tree, "submodule", "--quiet", "add", str(inner), "inner")
    run(tree, "commit", "-qm", "two")

    def dirty() -> bool:
        described = git.describe(tree, OPTIONS, dirty=True)
        assert described is not None
        return described.dirty

    assert not dirty()
    arm(tree / ".git" / "modules" / "inner", tmp_path / "ran")
    (tree / "inner" / "setup.py").write_text("two")
    assert dirty()
    (tree / "inner" / "setup.py").write_text("one")
    assert not dirty()
    (tree / "setup.py").write_text("two")
    assert dirty()
    assert not (tmp_path / "ran").exists()


def test_a_work_tree_beside_its_repository_and_packed_references(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    run(tree, "tag", "-a", "-m", "second", "v1.3")
    run(tree, "pack-refs", "--all")
    run(tree, "worktree", "add", "-q", "-b", "side", str(tmp_path / "beside"))
    (tmp_path / "beside" / "more").touch()
    run(tmp_path / "beside", "add", "-A")
    run(tmp_path / "beside", "commit", "-qm", "two")
    described = git.describe(tmp_path / "beside", OPTIONS, dirty=True)
    assert described is not None
    assert described.text.startswith("v1.3-1-g")
    assert described.branch == "side"


@pytest.mark.parametrize("name", ["HEAD", "packed-refs", "index", "config", "shallow", "refs/tags/v1.2", "commondir"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    tree = repository(tmp_path / "tree")
    path = tree / ".git" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    described = git.describe(tree, OPTIONS, dirty=True)  # without the protection, this never ends
    assert (described is None) == (name == "HEAD")


def test_no_repository_and_none_with_a_commit(tmp_path: Path) -> None:
    assert git.describe(tmp_path, OPTIONS, dirty=True) is None
    run(tmp_path, "init", "-q", "-b", "main")
    assert git.describe(tmp_path, OPTIONS, dirty=True) is None
    (tmp_path / ".git" / "HEAD").write_text("0" * 40 + "\n")
    assert git.describe(tmp_path, OPTIONS, dirty=True) is None


def test_commits_are_counted_where_no_tag_matches(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree", tag="")
    described = git.describe(tree, OPTIONS, dirty=True)
    assert described is not None
    assert (described.text, described.commits) == ("", 1)


def test_a_bare_repository_inside_a_tree_is_not_its_repository(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    bare = tmp_path / "bare"
    run(tmp_path, "clone", "-q", "--bare", str(tree), str(bare))
    arm(bare, tmp_path / "ran")
    assert git.describe(bare, OPTIONS, dirty=True) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("bare", [False, True])
def test_a_local_repository_is_cloned_and_nothing_of_it_runs(tmp_path: Path, client: git.Client, bare: bool) -> None:
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
    tmp_path: Path, client: git.Client, monkeypatch: pytest.MonkeyPatch
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
def test_other_protocols_are_off(tmp_path: Path, client: git.Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"
    config.write_text('[protocol]\n\tallow = always\n[protocol "ext"]\n\tallow = always\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    with pytest.raises(SourceError, match="not allowed"):
        client.commit_of(url, "main")


def test_a_submodule_is_no_folder_of_this_machine(tmp_path: Path, client: git.Client) -> None:
    secret = repository(tmp_path / "secret")
    for url in (str(secret), f"file://{secret}"):
        with pytest.raises(SourceError, match="not allowed"):
            client.clone(url, run(secret, "rev-parse", "HEAD").strip(), tmp_path / "copy", submodule=True)


def test_submodules_come_from_where_gitmodules_says(tmp_path: Path, client: git.Client) -> None:
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
        git.Submodule("a", "https://git.example.org/other/inner.git", pinned),
        git.Submodule("b", str(inner), pinned),
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
    client = git.Client(Runner(), scratch, tmp_path / "git.log")
    with pytest.raises(SourceError):
        client.commit_of("ssh://git@127.0.0.1:9/x.git", "main")
    assert not (tmp_path / "ran").exists()


def test_credentials_are_in_no_argument_and_in_no_log(
    tmp_path: Path, client: git.Client, monkeypatch: pytest.MonkeyPatch
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
    told, variables = git._without_credentials(url)
    assert told == public
    assert ("token" in variables.get("FARM_GIT_USER", "")) == ("token" in url)


@pytest.mark.parametrize("url", ["https://me:a%0ab@git.example.org/x.git", "https://git.example.org/\nx", "a\0b"])
def test_a_url_with_a_line_break(url: str, client: git.Client) -> None:
    with pytest.raises(SourceError, match=r"control character|line break"):
        client.commit_of(url, "main")
