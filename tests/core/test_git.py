"""git runs in repositories that somebody else wrote, and nothing that they say is executed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from torch_build_farm.core import git
from torch_build_farm.core.errors import SourceError

OPTIONS = ("--tags", "--long", "--abbrev=40", "--match=*[0-9]*")


def run(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def repository(root: Path, *, tag: str = "v1.2", objects: str = "sha1") -> Path:
    root.mkdir(parents=True)
    run(root, "init", "-q", "-b", "main", f"--object-format={objects}")
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


@pytest.mark.parametrize("name", ["inner", "b\u00fccher 1"])
def test_a_change_is_seen_and_one_of_a_submodule_too(tmp_path: Path, name: str) -> None:
    inner = repository(tmp_path / "inner")
    tree = repository(tmp_path / "tree")
    run(tree, "submodule", "--quiet", "add", str(inner), name)
    run(tree, "commit", "-qm", "two")

    def dirty() -> bool:
        described = git.describe(tree, OPTIONS, dirty=True)
        assert described is not None
        return described.dirty

    assert not dirty()
    arm(tree / ".git" / "modules" / name, tmp_path / "ran")
    (tree / name / "setup.py").write_text("two")
    assert dirty()
    (tree / name / "setup.py").write_text("one")
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


def test_a_commit_of_a_bare_repository_that_its_branch_has_left_behind(tmp_path: Path) -> None:
    """Such as the one that a project pins: what is described is that commit, not the branch."""
    root = repository(tmp_path / "work")
    pinned = run(root, "rev-parse", "HEAD").strip()
    run(root, "commit", "-q", "--allow-empty", "-m", "two")
    run(root, "tag", "v2.0")
    bare = tmp_path / "bare"
    run(tmp_path, "clone", "-q", "--bare", str(root), str(bare))
    description = git.describe_bare(bare, pinned, OPTIONS)
    assert description is not None
    assert (description.text, description.commit, description.branch) == (f"v1.2-0-g{pinned}", pinned, "")
    assert git.describe_bare(bare, "0" * 40, OPTIONS) is None


def test_a_bare_repository_inside_a_tree_is_not_its_repository(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    bare = tmp_path / "bare"
    run(tmp_path, "clone", "-q", "--bare", str(tree), str(bare))
    arm(bare, tmp_path / "ran")
    assert git.describe(bare, OPTIONS, dirty=True) is None
    assert not (tmp_path / "ran").exists()


def described(tree: Path) -> git.Description:
    answer = git.describe(tree, OPTIONS, dirty=True)
    assert answer is not None
    return answer


def test_an_index_that_is_none(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    (tree / ".git" / "index").write_bytes(b"DIRC" + b"\xff" * 100)
    with pytest.raises(SourceError, match="git cannot compare the files with the commit"):
        described(tree)


def test_an_index_in_two_parts_and_a_shallow_repository(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    (tree / "more").touch()
    run(tree, "add", "-A")
    run(tree, "commit", "-qm", "two")
    run(tree, "tag", "v1.3")
    run(tmp_path, "clone", "-q", "--depth=1", f"file://{tree}", "shallow")
    run(tmp_path / "shallow", "update-index", "--split-index")
    answer = described(tmp_path / "shallow")
    assert (answer.text.partition("-g")[0], answer.dirty, answer.shallow) == ("v1.3-0", False, True)


def test_how_files_look_on_this_disk_is_for_the_repository_alone_to_say(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    (tree / "setup.py").chmod(0o755)
    assert described(tree).dirty
    (tmp_path / "included").write_text("[core]\n\tfilemode = false\n")
    with (tree / ".git" / "config").open("a") as config:
        config.write(f"[include]\n\tpath = {tmp_path}/included\n")
    assert described(tree).dirty
    run(tree, "config", "core.filemode", "false")
    assert not described(tree).dirty


def test_a_folder_with_a_line_break_in_its_name(tmp_path: Path) -> None:
    tree = repository(tmp_path / "a\nb")
    with pytest.raises(SourceError, match="line break"):
        described(tree)


def test_references_in_folders_without_end(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    here = os.open(tree / ".git" / "refs" / "tags", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert described(tree).text.startswith("v1.2-0-g")
    finally:
        subprocess.run(["rm", "-rf", str(tree / ".git" / "refs" / "tags" / "d")], check=True)


def test_a_repository_of_sha_256(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree", objects="sha256")
    commit = run(tree, "rev-parse", "HEAD").strip()
    assert (described(tree).text, described(tree).dirty) == (f"v1.2-0-g{commit[:40]}", False)


def test_a_branch_that_goes_by_another_name(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    run(tree, "symbolic-ref", "refs/heads/trunk", "refs/heads/main")
    run(tree, "symbolic-ref", "refs/heads/master", "refs/heads/trunk")
    run(tree, "symbolic-ref", "HEAD", "refs/heads/master")
    assert (described(tree).text.partition("-g")[0], described(tree).branch) == ("v1.2-0", "main")
    run(tree, "symbolic-ref", "refs/heads/trunk", "refs/heads/master")  # in a circle
    assert git.describe(tree, OPTIONS, dirty=True) is None


def test_references_in_a_reftable(tmp_path: Path) -> None:
    tree = repository(tmp_path / "tree")
    (tree / ".git" / "reftable").mkdir()  # that of a git of today, without references that this one reads
    with pytest.raises(SourceError, match="reftable"):
        described(tree)


@pytest.mark.parametrize("script", ["", "#!/bin/sh\ntest $1 != describe || sleep 9\n"])
def test_no_answer_is_not_that_of_a_commit_without_tags(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = repository(tmp_path / "tree")
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "git").write_text(f'{script}exec {shutil.which("git")} "$@"\n')
        (tmp_path / "bin" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin" if script else str(tmp_path / "bin"))
    monkeypatch.setattr(git, "_SECONDS", 0.3)
    with pytest.raises(SourceError, match=r"git does not answer: (it takes more than|.*No such file)"):
        described(tree)
