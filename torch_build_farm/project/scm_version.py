"""A version counted from git tags as setuptools-scm does it, without anything of the project's that is code.

[tool.setuptools_scm] can name commands, functions, classes and expressions. Its keys that are data are read here, and
any other is an error that asks for `version`. git's answer comes from core/git.py, and setuptools-scm's own functions
make the version of it.
"""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion

from torch_build_farm.core import foreign_files, git, regex
from torch_build_farm.core.errors import VersionError
from torch_build_farm.core.git import Description

# What setuptools-scm itself has, by its manual ("Version schemes"). Any other name is that of a function elsewhere.
_VERSION_SCHEMES = {
    "calver-by-date", "guess-next-dev", "no-guess-dev", "only-version", "post-release", "python-simplified-semver",
    "release-branch-semver", "semver-pep440", "semver-pep440-release-branch",
}  # fmt: skip
_LOCAL_SCHEMES = {
    "dirty-tag", "fail-on-uncommitted-changes", "no-local-version", "no-local-version-strict", "node-and-date",
    "node-and-timestamp",
}  # fmt: skip
# They write files, or stand in for missing tags, which are an error here: wheels of two commits would get the same
# version.
_NOT_USED = {
    "write_to", "write_to_template", "write_to_source", "version_file", "version_file_template", "fallback_version",
    "fallback_root", "parentdir_prefix_version", "dist_name", "normalize",
    "relative_to",  # setuptools-scm itself ignores it in a pyproject.toml
}  # fmt: skip
_USED = {"root", "search_parent_directories", "version_scheme", "local_scheme", "tag_regex", "tag", "scm",
         "git_describe_command"}  # fmt: skip
_PRE_PARSE = {"warn_on_shallow", "fail_on_shallow", "fetch_on_shallow", "fail_on_missing_submodules"}
# Options of `git describe` that choose tags and the form of the answer (git-describe).
_DESCRIBE_FLAGS = {"--tags", "--long", "--first-parent", "--exact-match", "--always"}
_DESCRIBE_VALUES = {"--match": ".+", "--exclude": ".+", "--abbrev": r"\d{1,2}", "--candidates": r"\d{1,4}"}
_DESCRIBED = re.compile(r"(?P<tag>.+)-(?P<distance>\d{1,9})-g(?P<node>[0-9a-f]{4,64})")
_LONGEST_TAG = 200  # characters
_ARCHIVAL = ".git_archival.txt"


@dataclass(frozen=True)
class Question:
    """What is asked of git: the options of `git describe`, and whether changed files count.

    `repository` is the top of the repository, relative to the project; `parents`: it may be a folder above as well.
    """

    options: tuple[str, ...]
    dirty: bool
    repository: str
    parents: bool


Answers = Callable[[Question], Description | None]


def nothing(_: Question) -> None:
    """The answer for a tree whose version control is none of the farm's business, such as that of an archive."""


def in_work_tree(tree: Path, question: Question) -> Description | None:
    """The answer for a tree that somebody works in."""
    top = (tree / question.repository).resolve()
    for folder in (top, *top.parents) if question.parents else (top,):
        if (folder / ".git").exists():
            return git.describe(folder, question.options, dirty=question.dirty)
    return None


def question(table: Mapping[str, Any]) -> Question:
    """What [tool.setuptools_scm] asks of git. Raises VersionError for a key that is code, or of the wrong type."""
    for key in sorted(set(table) - _USED - _NOT_USED):
        raise _unknown(key, table[key])
    _schemes(table, "version_scheme", _VERSION_SCHEMES)
    _schemes(table, "local_scheme", _LOCAL_SCHEMES)
    tag, scm = _tag(table), _scm(table)
    _regex(table)
    options, dirty = _options(table, tag, scm)
    repository, parents = table.get("root", "."), table.get("search_parent_directories", False)
    if not isinstance(repository, str) or "\0" in repository:
        raise _unknown("root", repository)
    return Question(options, dirty, repository, bool(parents))


def version(root: Path, table: Mapping[str, Any], answers: Answers) -> str:
    """The version by the project's [tool.setuptools_scm]; never writes a version file.

    Raises VersionError where git has no answer, and where only code of the project's would tell.
    """
    pretended = os.environ.get("SETUPTOOLS_SCM_PRETEND_VERSION")
    if pretended:  # setuptools-scm's manual, "Environment variables"
        return pretended
    asked = question(table)
    described = answers(asked) or _archived(root)
    if described is None:
        raise _no_version(root, "there is no repository here with a commit")
    pre_parse = str(_scm(table).get("pre_parse", ""))
    # At a tag itself there is no history to count.
    if described.shallow and pre_parse in ("fail_on_shallow", "fetch_on_shallow") and not _is_tag(described):
        raise _no_version(root, "the repository is shallow")
    try:
        return _computed(table, described)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise _no_version(root, str(error).strip().splitlines()[0] if str(error).strip() else "") from None


def _computed(table: Mapping[str, Any], described: Description) -> str:
    """The version that setuptools-scm makes of what git says."""
    from setuptools_scm import Configuration  # noqa: PLC0415 (slow to import, rarely needed)
    from setuptools_scm.version import format_version, meta  # noqa: PLC0415

    tag_text, distance, node = described.text, 0, f"g{described.commit}"
    match = _DESCRIBED.fullmatch(described.text)
    if match:
        tag_text, distance, node = match["tag"], int(match["distance"]), f"g{match['node']}"
    if not tag_text:
        tag_text, distance = "0.0", described.commits  # as setuptools-scm counts where there is no tag
    if len(tag_text) > _LONGEST_TAG:
        raise ValueError("the tag is too long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about settings, for whoever maintains the project
        config = Configuration(
            root="/",  # no folder is looked at
            version_scheme=table.get("version_scheme", "guess-next-dev"),
            local_scheme=table.get("local_scheme", "node-and-date"),
        )
        return format_version(
            meta(
                _tag_version(table, tag_text) if described.text else tag_text,
                distance=distance,
                dirty=described.dirty,
                node=node,
                branch=described.branch or None,
                config=config,
                node_date=_day(described.date),
            )
        )


def _is_tag(described: Description) -> bool:
    match = _DESCRIBED.fullmatch(described.text)
    return bool(described.text) and (match is None or int(match["distance"]) == 0)


def _day(date: str) -> Any:
    try:
        return datetime.fromisoformat(date).astimezone(UTC).date()
    except (ValueError, OverflowError):
        return datetime.now(UTC).date()


def _tag_version(table: Mapping[str, Any], tag: str) -> Any:
    """The version in a tag: by the project's own expression, else the tag, which setuptools-scm reads by its own."""
    tag = tag.removeprefix(str(_tag(table).get("prefix", "")))
    expression = _regex(table)
    if not expression:
        return tag
    found = regex.find(expression, tag, "version", at_start=True)
    if found is None:
        raise ValueError(f"tag_regex does not match the tag {tag}")
    from setuptools_scm import Version as ScmVersion  # noqa: PLC0415

    value, suffix = found
    try:
        return ScmVersion(value + suffix)
    except InvalidVersion:
        return ScmVersion(value)


# ---- keys of the table


def only_code(table: str, key: str, value: object) -> VersionError:
    """The error for a key of a back end's table that is code, or leads to some."""
    return VersionError(
        f"only code of the source's would tell its version: {key} = {repr(value)[:200]}",
        where=f"[{table}] {key}",
        next_step="set version in [tool.torch-build-farm] to what the source computes",
    )


def _unknown(key: str, value: object) -> VersionError:
    return only_code("tool.setuptools_scm", key, value)


def _schemes(table: Mapping[str, Any], key: str, known: set[str]) -> None:
    value = table.get(key, [])
    for scheme in [value] if isinstance(value, str) else value if isinstance(value, list) else [None]:
        if scheme not in known:
            raise _unknown(key, value)


def _tag(table: Mapping[str, Any]) -> Mapping[str, Any]:
    tag = table.get("tag", {})
    if not isinstance(tag, dict) or set(tag) - {"prefix", "strict", "regex"}:
        raise _unknown("tag", tag)
    prefix = tag.get("prefix", "")
    if not isinstance(prefix, str) or "\0" in prefix or len(prefix) > _LONGEST_TAG:
        raise _unknown("tag.prefix", prefix)
    return tag


def _regex(table: Mapping[str, Any]) -> str:
    expression = table.get("tag_regex") or _tag(table).get("regex") or ""
    if not isinstance(expression, str):
        raise _unknown("tag_regex", expression)
    return expression


def _scm(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """[tool.setuptools_scm.scm.git]."""
    scm = table.get("scm", {})
    settings = scm.get("git", {}) if isinstance(scm, dict) and set(scm) <= {"git"} else None
    if not isinstance(settings, dict) or set(settings) - {"pre_parse", "describe_command"}:
        raise _unknown("scm", scm)
    if settings.get("pre_parse", "warn_on_shallow") not in _PRE_PARSE:
        raise _unknown("scm.git.pre_parse", settings["pre_parse"])
    return settings


def _options(table: Mapping[str, Any], tag: Mapping[str, Any], scm: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The options of `git describe`, --dirty apart: setuptools-scm's own, or the harmless ones of a command."""
    command = scm.get("describe_command") or table.get("git_describe_command")
    if not command:
        pattern = "*[0-9]*.*[0-9]*" if tag.get("strict") else "*[0-9]*"
        return ("--tags", "--long", "--abbrev=40", f"--match={tag.get('prefix', '')}{pattern}"), True
    refused = _unknown("git_describe_command", command)
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except (ValueError, TypeError):
        raise refused from None
    if not all(isinstance(word, str) and "\0" not in word for word in words) or words[:2] != ["git", "describe"]:
        raise refused
    options = []
    rest = iter(words[2:])
    for word in rest:
        name, equals, value = word.partition("=")
        if name in _DESCRIBE_VALUES:
            value = value if equals else next(rest, "")
            if not re.fullmatch(_DESCRIBE_VALUES[name], value) or len(value) > _LONGEST_TAG:
                raise refused
            options.append(f"{name}={value}")
        elif word in _DESCRIBE_FLAGS:
            options.append(word)
        elif word != "--dirty":
            raise refused
    return tuple(options), "--dirty" in words


# ---- what git archive wrote down


def _archived(root: Path) -> Description | None:
    """What .git_archival.txt says, which `git archive` fills in (setuptools-scm's manual, "Git archives")."""
    path = root / _ARCHIVAL
    try:
        if path.is_symlink():
            return None
        headers = HeaderParser().parsestr(foreign_files.content(path, 10_000).decode("utf-8", "replace"))
    except OSError:
        return None
    text = str(headers["describe-name"] or "")
    if not text or "%(describe" in text:  # empty, or not filled in by a git before 2.32
        text = _tag_of(str(headers["ref-names"] or ""))
    if not text:
        return None
    return Description(
        text=text,
        commit=str(headers["node"] or ""),
        branch="",
        date=str(headers["node-date"] or ""),
        commits=0,
        dirty=False,
        shallow=False,
    )


def _tag_of(references: str) -> str:
    """The first tag with a digit among a commit's references, such as `HEAD -> main, tag: v1.2`; empty without one."""
    for reference in references.split(","):
        kind, _, name = reference.strip().partition(": ")
        if kind == "tag" and re.search("[0-9]", name):
            return name
    return ""


def _no_version(root: Path, reason: str) -> VersionError:
    return VersionError(
        "git tags give no version",
        where=f"{root}: {reason}",
        next_step="tag a commit, such as `git tag v1.2.3`, or fetch the tags: `git fetch --tags --unshallow`",
    )
