"""The one place that runs git, which runs what its configuration names: hooks, filters, monitors, helpers, commands.

What a repository says is data here, and never configuration. git reads no repository that somebody else may have
written: a folder of the farm's own takes its place, with a configuration of the farm's own, whose references are copied
and whose objects lie where they are (`_view`). Of such a repository git reads objects, the index and the files, none of
which can name a command without a configuration that gives it a meaning. So no list of dangerous keys has to be kept.

Over the network git is the user's own, since credentials, proxies and certificates are configured in many places. It
then writes a bare repository that is new, without templates and hooks, and reads nothing from a source tree.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.process import Completed, Runner, capture
from torch_build_farm.core.urls import public

# What `git rev-parse --local-env-vars` lists: git sets these to tell a hook, and everything that the hook starts, which
# repository it runs in.
_OF_ONE_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS",
    "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
}  # fmt: skip
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1, or SHA-256
_REFERENCE = re.compile(r"refs/(?:heads|tags)/[^\x00-\x20\x7f~^:?*\[\\]{1,1000}")
_PACKED = re.compile(rf"({_COMMIT.pattern}) ({_REFERENCE.pattern})")
# The repository's own settings that say what its files look like on this disk. None can name a command or a file.
_LOOKS = r"^core\.(filemode|autocrlf|eol|symlinks|ignorecase)$"
_LOOKS_VALUES = {"true", "false", "input", "lf", "crlf", "native"}
_SMALL = 4096  # bytes of a file with one reference
_LARGE = 64 << 20  # bytes of a file with all references
_SUBMODULES_DEEP = 8
_SECONDS = 30.0  # for a question about a repository on this disk
_REMOTE = "file:https:ssh"
_SUBMODULE = "https:ssh"  # as with git itself, a submodule is never a folder of this machine


# ---- repositories that somebody else may have written


@dataclass(frozen=True)
class Description:
    """A commit as `git describe` sees it: `text` such as v1.2-3-gCOMMIT, empty where no tag matches.

    `commits` counts all up to this one where no tag matches, else it is 0. `date` is the committer's, in ISO 8601.
    `dirty` means that files which git knows differ from the commit's.
    """

    text: str
    commit: str
    branch: str
    date: str
    commits: int
    dirty: bool
    shallow: bool


@dataclass(frozen=True)
class _Data:
    """What is read of a repository: the commit that is checked out, its branch, and every branch and tag."""

    folder: Path  # HEAD and the index
    common: Path  # references, objects, configuration: another one in an additional work tree (git-worktree)
    commit: str
    branch: str
    references: tuple[tuple[str, str], ...]  # name, object
    shallow: str


def describe(tree: Path, options: Sequence[str], *, dirty: bool) -> Description | None:
    """What `git describe OPTIONS` says of the commit checked out in `tree`, whose top has the repository.

    None where the folder has no repository, or one without commits. With `dirty`, the files are compared with the
    commit, as far as git knows them. `options` must be ones that only choose tags.
    """
    return _described(_data(_git_folder(tree)), options, tree if dirty else None)


def describe_bare(bare: Path, commit: str, options: Sequence[str]) -> Description | None:
    """What `git describe OPTIONS` says of a commit in a bare repository. None where it has no such commit."""
    data = _data(bare)
    return _described(replace(data, commit=commit, branch="") if data else None, options, None)


def _described(data: _Data | None, options: Sequence[str], tree: Path | None) -> Description | None:
    if data is None or not data.commit:
        return None
    with _view(data) as view:
        described = _ask(view, "describe", *options)
        text = described.last_line if described.ok else ""
        counted = None if text else _ask(view, "rev-list", "--count", "HEAD")
        dated = _ask(view, "log", "-1", "--format=%cI", "HEAD")
        if not dated.ok:  # objects are missing, or are not objects
            return None
    return Description(
        text=text,
        commit=data.commit,
        branch=data.branch,
        date=dated.last_line,
        commits=int(counted.last_line) if counted and counted.last_line.isdigit() else 0,
        dirty=tree is not None and _dirty(tree, _SUBMODULES_DEEP),
        shallow=bool(data.shallow),
    )


def _dirty(tree: Path, deep: int) -> bool:
    """Whether files that git knows, those of submodules included, differ from the commit that is checked out."""
    data = _data(_git_folder(tree))
    if data is None or not data.commit or not foreign_files.is_regular(data.folder / "index"):
        return False
    with _view(data, tree) as view:
        # git would start another git in each submodule, and that one would obey the submodule's configuration.
        changed = _ask(
            view, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty", "--no-renames"
        )
        if not changed.ok or changed.tail:
            return True
        nested = deep and foreign_files.is_regular(tree / ".gitmodules")
        listed = _ask(view, "ls-files", "--stage").tail if nested else ()
    for line in listed:
        entry, _, name = line.partition("\t")
        # A name with other characters is in quotes, and not that of a folder; such a submodule's changes are not seen.
        submodule = tree / name
        if entry.startswith("160000 ") and not submodule.is_symlink() and _dirty(submodule, deep - 1):
            return True
    return False


def _git_folder(tree: Path) -> Path:
    """Where a work tree's repository is: .git, or the folder that it names as a file (git-worktree, submodules)."""
    pointer = _text(tree / ".git", _SMALL)
    if pointer.startswith("gitdir: "):
        return tree / pointer.removeprefix("gitdir: ").strip()
    return tree / ".git"


def _data(folder: Path) -> _Data | None:
    """The repository in `folder`; None where there is none."""
    head = _text(folder / "HEAD", _SMALL).strip()
    common_text = _text(folder / "commondir", _SMALL).strip()
    common = folder / common_text if common_text else folder
    if not head or not (common / "objects").is_dir():
        return None

    references: dict[str, str] = {}
    for line in _text(common / "packed-refs", _LARGE).split("\n"):
        packed = _PACKED.fullmatch(line)
        if packed:
            references[packed[2]] = packed[1]
    for kind in ("heads", "tags"):
        for place, _, files in os.walk(common / "refs" / kind):
            for file in files:
                path = Path(place) / file
                value = _text(path, _SMALL).strip()
                name = path.relative_to(common).as_posix()
                if _COMMIT.fullmatch(value) and _REFERENCE.fullmatch(name):
                    references[name] = value
    branch = ""
    commit = head
    if head.startswith("ref: "):
        name = head.removeprefix("ref: ")
        commit = references.get(name, "")
        branch = name.removeprefix("refs/heads/")
    shallow = [line for line in _text(common / "shallow", _LARGE).split("\n") if _COMMIT.fullmatch(line)]
    return _Data(
        folder,
        common,
        commit if _COMMIT.fullmatch(commit) else "",
        branch,
        tuple(references.items()),
        "".join(f"{line}\n" for line in shallow),
    )


@dataclass(frozen=True)
class _View:
    """A repository of the farm's own; `variables` make git use it, with no configuration but its own."""

    folder: Path
    variables: dict[str, str]


@contextlib.contextmanager
def _view(data: _Data, tree: Path | None = None) -> Iterator[_View]:
    """A repository of the farm's own with the references and the objects of another; with `tree`, its files too."""
    with tempfile.TemporaryDirectory(prefix="torch-build-farm-git-") as scratch:
        folder = Path(scratch)
        for name in ("objects/info", "refs"):
            (folder / name).mkdir(parents=True)
        # The path of the objects ends with its line, and one that begins with " is in quotes (gitrepository-layout).
        objects = str((data.common / "objects").resolve())
        if "\n" in objects:
            raise SourceError("a repository lies in a folder with a line break in its name", where=repr(objects))
        (folder / "objects" / "info" / "alternates").write_text(f"{objects}\n", "utf-8", "surrogateescape")
        lines = [f"{commit} {name}\n" for name, commit in sorted(data.references)]
        (folder / "packed-refs").write_text("".join(lines), "utf-8", "surrogateescape")
        known = data.branch and ("refs/heads/" + data.branch) in dict(data.references)
        head = f"ref: refs/heads/{data.branch}" if known else data.commit
        (folder / "HEAD").write_text(f"{head or 'ref: refs/heads/main'}\n", "utf-8", "surrogateescape")
        if data.shallow:
            (folder / "shallow").write_text(data.shallow)
        sha256 = any(len(commit) == 64 for commit in (data.commit, *dict(data.references).values()))
        version = "[core]\nrepositoryformatversion = 1\nbare = false\n"
        if sha256:
            version += "[extensions]\nobjectformat = sha256\n"
        (folder / "config").write_text(version + _looks(data.common / "config"))
        variables = _isolated(folder)
        variables["GIT_DIR"] = scratch
        if tree is not None:
            variables |= {"GIT_WORK_TREE": str(tree), "GIT_INDEX_FILE": str(data.folder / "index")}
            for shared in data.folder.glob("sharedindex.*"):  # of a split index, git looks for it here
                (folder / shared.name).symlink_to(shared.resolve())
        yield _View(folder, variables)


def _isolated(home: Path) -> dict[str, str]:
    """The environment of a git with no configuration: not a user's, not a machine's, no protocol, no pager, no lock."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),  # with HOME, for a git older than GIT_CONFIG_GLOBAL
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PAGER": "cat",
        "LC_ALL": "C.UTF-8",
    }


def _looks(config: Path) -> str:
    """The lines of a repository's configuration that say what its files look like on this disk."""
    if not foreign_files.is_regular(config):
        return ""
    with tempfile.TemporaryDirectory(prefix="torch-build-farm-git-") as home:
        # --no-includes: no other file of this machine is read.
        read = capture(
            ["git", "config", "--file", config, "--no-includes", "--get-regexp", _LOOKS],
            env=_isolated(Path(home)) | {"GIT_DIR": home},
            cwd=Path(home),
            timeout_s=_SECONDS,
        )
    lines = []
    for line in read.tail if read.ok else ():
        key, _, value = line.partition(" ")
        if value in _LOOKS_VALUES:
            lines.append(f"{key.removeprefix('core.')} = {value}\n")
    return "".join(lines)


def _ask(view: _View, *words: str) -> Completed:
    """Ask git about a repository on this disk. The question fails where the answer takes half a minute."""
    return capture(["git", *words], env=view.variables, cwd=view.folder, timeout_s=_SECONDS)


def _text(path: Path, limit: int) -> str:
    """The text of a regular file of at most `limit` bytes; empty for anything else."""
    try:
        return foreign_files.content(path, limit).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


# ---- repositories that are fetched


@dataclass(frozen=True)
class Submodule:
    """A submodule of a commit: where it belongs in the tree, where it comes from, and which commit of it."""

    path: str
    url: str
    commit: str


@dataclass(frozen=True)
class Client:
    """Runs git for one source; `log` gets what it prints, `folder` is one that nobody else writes.

    Every method raises SourceError with git's own reason where git fails.
    """

    runner: Runner
    folder: Path
    log: Path

    def commit_of(self, repository: str, revision: str) -> str:
        """The commit that a tag or branch of a repository means now; empty if it has neither."""
        with self._reachable(repository) as place:
            lines = self._run(place, "ls-remote", "--", place.url, revision, f"{revision}^{{}}")
        commits = {}
        for line in lines:
            commit, _, name = line.partition("\t")
            commits[name] = commit
        # An annotated tag has an object of its own; NAME^{} is the commit that it stands for.
        for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"):
            if _COMMIT.fullmatch(commits.get(name, "")):
                return commits[name]
        return ""

    def clone(self, repository: str, commit: str, folder: Path, *, submodule: bool = False) -> None:
        """Make the bare repository `folder`, with the whole history of `repository` and with `commit`."""
        with self._reachable(repository, submodule=submodule) as place:
            # Not by links to the other's objects (--no-local), without its hooks (--template=), and nothing checked
            # out: what a commit holds is only data as long as no configuration gives it a meaning.
            self._run(place, "clone", "--quiet", "--bare", "--no-local", "--template=", "--", place.url, folder)
            words = [f"--git-dir={folder}", "cat-file", "-e", f"{commit}^{{commit}}"]
            if not self._ask(*words).ok:  # on no branch and no tag, such as a pull request's
                self._run(place, f"--git-dir={folder}", "fetch", "--quiet", "--no-tags", "--", place.url, commit)

    def check_out(self, repository: str, bare: Path, commit: str, tree: Path) -> None:
        """Write the files of `commit` to the folder `tree`, which is made; the tree is no repository.

        Files are as the commit has them: no filter of a user's configuration changes them, such as that of Git LFS.
        """
        tree.mkdir(parents=True, exist_ok=True)
        words = [f"--git-dir={bare}", f"--work-tree={tree}", "checkout", "--quiet", "--detach", commit]
        self._run(self._here(repository), "-c", "core.hooksPath=/dev/null", *words)

    def date(self, repository: str, bare: Path, commit: str) -> int:
        """The committer's date of a commit, in Unix seconds."""
        words = [f"--git-dir={bare}", "log", "-1", "--format=%ct", commit]
        line = self._run(self._here(repository), *words)[-1]
        return int(line) if line.isdigit() else 0

    def submodules(self, repository: str, bare: Path, commit: str) -> list[Submodule]:
        """The submodules of a commit, by its .gitmodules."""
        where = f"--git-dir={bare}"
        commits = {}
        for line in self._ask(where, "ls-tree", "-r", commit).tail:
            entry, _, path = line.partition("\t")
            mode, _, rest = entry.partition(" ")
            if mode == "160000":
                commits[path] = rest.rpartition(" ")[2]
        if not commits:
            return []
        settings: dict[str, dict[str, str]] = {}
        keys = r"^submodule\..*\.(path|url|update)$"
        for line in self._ask(where, "config", "--blob", f"{commit}:.gitmodules", "--get-regexp", keys).tail:
            key, _, value = line.partition(" ")
            name, _, field = key.rpartition(".")
            settings.setdefault(name, {})[field] = value
        by_path = {fields.get("path", ""): fields for fields in settings.values()}

        submodules = []
        for path, pinned in commits.items():
            fields = by_path.get(path, {})
            if fields.get("update") == "none":  # git leaves it out as well
                continue
            if not fields.get("url"):
                raise SourceError(f"the submodule {path} has no URL in .gitmodules", where=public(repository))
            submodules.append(Submodule(path, _resolved(repository, fields["url"]), pinned))
        return submodules

    @contextlib.contextmanager
    def _reachable(self, repository: str, *, submodule: bool = False) -> Iterator[_Place]:
        """How git is told of a repository: a URL without a password, and an environment in which git finds it."""
        if not repository.isprintable():
            raise SourceError("a repository's URL has a control character", where=repr(repository)[:200])
        env = _network(_SUBMODULE if submodule else _REMOTE, self.folder)
        local = _local(repository)
        if local and not submodule:
            data = _data(_git_folder(local)) or _data(local)  # of a work tree, or bare
            if data is None:
                raise SourceError(
                    "git cannot fetch the source: the folder is no git repository that the farm can read",
                    where=str(local),
                    next_step="correct git in [tool.torch-build-farm]",
                )
            # The other side of a clone would obey the configuration of the repository that it serves.
            with _view(data) as view:
                yield _Place(public(repository), str(view.folder), env)
            return
        url, variables = _without_credentials(repository)
        yield _Place(public(repository), url, env | variables)

    def _here(self, repository: str) -> _Place:
        """For a question about a repository that was fetched: git has no configuration then."""
        return _Place(public(repository), "", _isolated(self.folder))

    def _ask(self, *words: str) -> Completed:
        return capture(["git", *words], env=_isolated(self.folder), cwd=self.folder)

    def _run(self, place: _Place, *words: str | Path) -> tuple[str, ...]:
        """Run git; returns the last lines that it printed. Raises SourceError with git's own reason if it fails."""
        # What git says may hold what only its user may see.
        os.close(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        self.log.chmod(0o600)
        done = self.runner.run(["git", *words], env=place.variables, cwd=self.folder, log=self.log)
        if not done.ok:
            reason = done.tail[0] if done.tail else ""
            for line in done.tail:
                if line.startswith(("fatal:", "error:")):
                    reason = line
                    break
            raise SourceError(
                f"git cannot fetch the source: {reason.replace(place.url, place.shown) if place.url else reason}",
                where=place.shown,
                next_step="correct git and revision in [tool.torch-build-farm]; try the same with `git clone`",
            )
        return done.tail or ("",)


@dataclass(frozen=True)
class _Place:
    """Where a repository is fetched from, as people see it and as git is told, and git's environment for it."""

    shown: str
    url: str
    variables: dict[str, str]


def _local(repository: str) -> Path | None:
    """The folder of this machine that a path or a file: URL means; None for anything else."""
    path = unquote(repository.removeprefix("file://")) if repository.startswith("file://") else repository
    return Path(path).absolute() if not repository.startswith("-") and Path(path).is_dir() else None


def _network(protocols: str, folder: Path) -> dict[str, str]:
    """The environment of a git that fetches, started in `folder`: the user's own, in which it may not ask.

    It uses these protocols only, and obeys no repository that `folder` may lie in.
    """
    env = dict(os.environ)
    # git may not mean the repository of a hook that calls the farm.
    for name in list(env):
        if name in _OF_ONE_REPOSITORY or name.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")):
            del env[name]
    # Where it needs a password it fails at once: nobody would see it ask.
    return env | {
        "GIT_ALLOW_PROTOCOL": protocols,
        "GIT_CEILING_DIRECTORIES": str(folder.parent.resolve()),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }


# Answers git's question for a password (gitcredentials) with what the environment holds, which only this user can read.
_HELPER = """!f() { test "$1" = get || exit 0
test -z "$FARM_GIT_USER" || printf 'username=%s\\n' "$FARM_GIT_USER"
test -z "$FARM_GIT_PASSWORD" || printf 'password=%s\\n' "$FARM_GIT_PASSWORD"; }; f"""


def _without_credentials(repository: str) -> tuple[str, dict[str, str]]:
    """The URL without name and password, and the variables that tell git both.

    An argument of a command is seen by every user of the machine, and stands in logs.
    """
    try:
        parts = urlsplit(repository)
    except ValueError:  # git says what is wrong with it
        return repository, {}
    user, _, host = parts.netloc.rpartition("@")
    if not user or parts.scheme not in ("http", "https", "ssh"):
        return repository, {}
    name, colon, password = user.partition(":")
    if parts.scheme == "ssh":  # whose name says which account is meant; git knows no passwords there
        return repository.replace(f"{user}@", f"{name}@", 1), {}
    key = f"credential.{parts.scheme}://{host}.helper"
    helpers = [_HELPER]
    if colon:
        helpers.insert(0, "")  # forget the helpers before this one, which may know another account of that host
    variables = {"FARM_GIT_USER": unquote(name), "FARM_GIT_PASSWORD": unquote(password)}
    if any(set(value) & set("\r\n\0") for value in variables.values()):
        raise SourceError("the name or password in the URL has a line break", where=public(repository))
    for number, helper in enumerate(helpers):
        variables |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": helper}
    return public(repository), {**variables, "GIT_CONFIG_COUNT": str(len(helpers))}


def _resolved(parent: str, url: str) -> str:
    """A submodule's URL, which may be relative to that of the repository it belongs to (gitmodules)."""
    if not url.startswith(("./", "../")):
        return url
    base = parent.rstrip("/")
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            head, slash, _ = base.rpartition("/")
            base = head if slash else base.rpartition(":")[0]
        url = url.partition("/")[2]
    return f"{base}/{url}"
