"""The one place that asks git of a repository. git runs what a configuration names: hooks, filters, commands.

What a repository says is data here, and never configuration. git reads no repository that somebody else may have
written: a folder of the farm's own takes its place, with a configuration of the farm's own, whose references are copied
and whose objects lie where they are (`view_of`). Of the other repository git reads objects, the index and the files.
None of these can name a command without a configuration that gives it a meaning, so no list of dangerous keys has to be
kept. core/git_client.py fetches repositories.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from torch_build_farm.core import foreign_files
from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.process import NO_ANSWER, Completed, capture

COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1, or SHA-256
_REFERENCE = re.compile(r"refs/(?:heads|tags)/[^\x00-\x20\x7f~^:?*\[\\]{1,1000}")
_PACKED = re.compile(rf"({COMMIT.pattern}) ({_REFERENCE.pattern})")
# The repository's own settings that say what its files look like on this disk. None can name a command or a file.
_LOOKS = r"^core\.(filemode|autocrlf|eol|symlinks|ignorecase)$"
_LOOKS_VALUES = {"true", "false", "input", "lf", "crlf", "native"}
_SMALL = 4096  # bytes of a file with one reference
_LARGE = 64 << 20  # bytes of a file with all references
_SUBMODULE = "160000 "  # the mode of a submodule's commit, as git lists it
_SUBMODULES_DEEP = 8
_REFERENCES_DEEP = 20
_ALIASES_DEEP = 5  # symbolic references that lead to one another, as git follows them
_SECONDS = 60.0  # for a question about a repository on this disk


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
class Data:
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
    commit, as far as git knows them. `options` must be ones that only choose tags. Raises SourceError where git does
    not answer or cannot compare, and for a repository that the farm cannot read.
    """
    return _described(data_of(git_folder(tree)), options, tree if dirty else None)


def describe_bare(bare: Path, commit: str, options: Sequence[str]) -> Description | None:
    """What `git describe OPTIONS` says of a commit in a bare repository. None where it has no such commit."""
    data = data_of(bare)
    return _described(replace(data, commit=commit, branch="") if data else None, options, None)


def _described(data: Data | None, options: Sequence[str], tree: Path | None) -> Description | None:
    if data is None or not data.commit:
        return None
    with view_of(data) as view:
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
    data = data_of(git_folder(tree))
    if data is None or not data.commit or not foreign_files.is_regular(data.folder / "index"):
        return False
    with view_of(data, tree) as view:
        # git would start another git in each submodule, and that one would obey the submodule's configuration.
        changed = _ask(
            view, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty", "--no-renames"
        )
        if not changed.ok:
            raise SourceError(
                f"git cannot compare the files with the commit: {changed.last_line}",
                where=str(tree),
                next_step="correct what it names, or set version in [tool.torch-build-farm]",
            )
        if changed.tail:
            return True
        nested = deep and foreign_files.is_regular(tree / ".gitmodules")
        listed = entries(_ask(view, "ls-files", "--stage", "-z")) if nested else []
    for entry in listed:
        facts, _, name = entry.partition("\t")
        submodule = tree / name
        if facts.startswith(_SUBMODULE) and not submodule.is_symlink() and _dirty(submodule, deep - 1):
            return True
    return False


def tracked(tree: Path) -> tuple[str, ...]:
    """The files that the repository at the top of `tree` knows, those of submodules included, by their paths.

    Without those that `git archive` leaves out (gitattributes, "export-ignore"). Empty where there is no repository.
    Raises SourceError where git does not answer, and for a repository that the farm cannot read.
    """
    return tuple(_tracked(tree, _SUBMODULES_DEEP))


def _tracked(tree: Path, deep: int) -> Iterator[str]:
    data = data_of(git_folder(tree))
    if data is None or not foreign_files.is_regular(data.folder / "index"):
        return
    with view_of(data, tree) as view:
        facts_and_names = [entry.partition("\t") for entry in entries(_ask(view, "ls-files", "--stage", "-z"))]
        exported = _exported(view, tree, [name for _, _, name in facts_and_names])
    for facts, _, name in facts_and_names:
        if name not in exported:
            continue
        if not facts.startswith(_SUBMODULE):
            yield name
        elif deep and not (tree / name).is_symlink():
            for below in _tracked(tree / name, deep - 1):
                yield f"{name}/{below}"


def ignored(top: Path, folder: Path) -> frozenset[str] | None:
    """What the repository at `top` ignores and does not know, by paths in `folder`, with a slash at the end of folders.

    Of a folder that is ignored as a whole there is that name alone. None where there is no repository, or where it
    ignores `folder` itself. Raises SourceError where git does not answer, and for a repository that the farm cannot
    read.
    """
    data = data_of(git_folder(top))
    if data is None:
        return None
    with view_of(data, top) as view:
        words = ["--others", "--ignored", "--exclude-standard", "--directory", "-z"]
        listed = _ask(view, "-C", str(folder), "ls-files", *words)
    if not listed.ok:
        raise SourceError(f"git does not say what it ignores: {listed.last_line}", where=str(folder))
    names = frozenset(entries(listed))
    return None if "./" in names or "" in names else names


def exported(tree: Path) -> tuple[str, ...]:
    """The files of a commit's tree, which is no repository, without those that `git archive` leaves out."""
    names = [path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_symlink() or path.is_file()]
    none = tree / ".git"
    with view_of(Data(none, none, "", "", (), ""), tree) as view:
        kept = _exported(view, tree, names)
    return tuple(sorted(kept))


def _exported(view: View, tree: Path, names: Sequence[str]) -> set[str]:
    """Those of the names that neither have the attribute export-ignore nor lie in a folder that has it."""
    folders = {f"{parent}/" for name in names for parent in PurePosixPath(name).parents if parent.name}
    asked = "".join(f"{path}\0" for path in sorted({*names, *folders}))
    fields = entries(_ask(view, "-C", str(tree), "check-attr", "-z", "--stdin", "export-ignore", stdin=asked))
    ignored = {path for path, value in zip(fields[::3], fields[2::3], strict=True) if value == "set"}
    exported = set()
    for name in names:
        if name not in ignored and not any(f"{parent}/" in ignored for parent in PurePosixPath(name).parents):
            exported.add(name)
    return exported


def git_folder(tree: Path) -> Path:
    """Where a work tree's repository is: .git, or the folder that it names as a file (git-worktree, submodules)."""
    pointer = _text(tree / ".git", _SMALL)
    if pointer.startswith("gitdir: "):
        return tree / pointer.removeprefix("gitdir: ").strip()
    return tree / ".git"


def data_of(folder: Path) -> Data | None:
    """The repository in `folder`; None where there is none. Raises SourceError for one that the farm cannot read."""
    head = _text(folder / "HEAD", _SMALL).strip()
    common_text = _text(folder / "commondir", _SMALL).strip()
    common = folder / common_text if common_text else folder
    if not head or not (common / "objects").is_dir():
        return None

    if (common / "reftable").is_dir():
        raise SourceError(
            "the repository keeps its references in a reftable, which the farm does not read",
            where=str(folder),
            next_step="`git refs migrate --ref-format=files`, or set version in [tool.torch-build-farm]",
        )

    references, aliases = _references(common)
    branch = ""
    commit = head
    if head.startswith("ref: "):
        name = head.removeprefix("ref: ")
        for _ in range(_ALIASES_DEEP):
            name = aliases.get(name, name)
        commit = references.get(name, "")
        branch = name.removeprefix("refs/heads/")
    shallow = [line for line in _text(common / "shallow", _LARGE).split("\n") if COMMIT.fullmatch(line)]
    return Data(
        folder,
        common,
        commit if COMMIT.fullmatch(commit) else "",
        branch,
        tuple(references.items()),
        "".join(f"{line}\n" for line in shallow),
    )


def _references(common: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Every branch and tag with its object, and each name that stands for another one (git-symbolic-ref)."""
    references: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for line in _text(common / "packed-refs", _LARGE).split("\n"):
        packed = _PACKED.fullmatch(line)
        if packed:
            references[packed[2]] = packed[1]
    for kind in ("heads", "tags"):
        for place, folders, files in os.walk(common / "refs" / kind):
            if len(Path(place).relative_to(common).parts) > _REFERENCES_DEEP:
                folders.clear()  # os.walk is recursive
            for file in files:
                path = Path(place) / file
                value = _text(path, _SMALL).strip()
                name = path.relative_to(common).as_posix()
                if COMMIT.fullmatch(value) and _REFERENCE.fullmatch(name):
                    references[name] = value
                elif value.startswith("ref: "):
                    aliases[name] = value.removeprefix("ref: ")
    return references, aliases


@dataclass(frozen=True)
class View:
    """A repository of the farm's own; `variables` make git use it, with no configuration but its own."""

    folder: Path
    variables: dict[str, str]


@contextlib.contextmanager
def view_of(data: Data, tree: Path | None = None) -> Iterator[View]:
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
        config = "[core]\nrepositoryformatversion = 1\nbare = false\n" + _looks(data.common / "config")
        if sha256:
            config += "[extensions]\nobjectformat = sha256\n"
        (folder / "config").write_text(config)
        variables = isolated(folder)
        variables["GIT_DIR"] = scratch
        if tree is not None:
            variables |= {"GIT_WORK_TREE": str(tree), "GIT_INDEX_FILE": str(data.folder / "index")}
            for shared in data.folder.glob("sharedindex.*"):  # of a split index, git looks for it here
                (folder / shared.name).symlink_to(shared.resolve())
        yield View(folder, variables)


def isolated(home: Path) -> dict[str, str]:
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
            env=isolated(Path(home)) | {"GIT_DIR": home},
            cwd=Path(home),
            timeout_s=_SECONDS,
        )
    lines = []
    for line in read.tail if read.ok else ():
        key, _, value = line.partition(" ")
        if value in _LOOKS_VALUES:
            lines.append(f"{key.removeprefix('core.')} = {value}\n")
    return "".join(lines)


def _ask(view: View, *words: str, stdin: str = "") -> Completed:
    """Ask git about a repository on this disk. Raises SourceError where there is no answer in time, or no git.

    That must not pass for "no tag matches": the version would be another one, and nobody would know.
    """
    done = capture(["git", *words], env=view.variables, cwd=view.folder, stdin=stdin, timeout_s=_SECONDS)
    if done.returncode == NO_ANSWER:
        raise SourceError(
            f"git does not answer: {done.last_line}",
            where=f"git {words[0]}",
            next_step="see that git is installed and its repository on a fast disk, or set version in "
            "[tool.torch-build-farm]",
        )
    return done


def entries(listed: Completed) -> list[str]:
    """What git lists with -z, where names stand as they are, blanks and all; none where git failed."""
    return "\n".join(listed.tail).split("\0")[:-1] if listed.ok else []


def _text(path: Path, limit: int) -> str:
    """The text of a regular file of at most `limit` bytes; empty for anything else."""
    try:
        return foreign_files.content(path, limit).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
