"""A wheel against its record: which run made it, and in what a wheel that was built again differs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from packaging.utils import InvalidName
from packaging.version import InvalidVersion

from torch_build_farm.core.archives import EARLIEST
from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import sha256, walk
from torch_build_farm.core.requirements import check_name, read_version
from torch_build_farm.core.versions import ENGINES
from torch_build_farm.pipeline.facts import BuildFacts, RenderFacts
from torch_build_farm.pipeline.records import Record, WheelRecords
from torch_build_farm.project.settings import Project

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 or SHA-256, in full
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,500}")
_LATEST = 4354819198  # 2107-12-31, the last date that a zip file can store (APPNOTE 4.4.6)


def require_plausible(recorded: WheelRecords) -> None:
    """Raise UsageError for records that name what no run of the farm writes.

    `verify` fetches, installs and runs what they name, and they may be a stranger's: an option of git's in place of a
    commit, or a line of its own for the resolver.
    """
    rendered, built = recorded.rendered, recorded.built
    problems = []
    if rendered.source.startswith("git ") and not _COMMIT.fullmatch(rendered.commit):
        problems.append(f"its commit is {rendered.commit!r}")
    if not EARLIEST <= rendered.epoch <= _LATEST:
        problems.append(f"its date is {rendered.epoch}")
    if built.engine not in ENGINES:
        problems.append(f"its engine is {built.engine!r}")
    if built.base_image and not _IMAGE.fullmatch(built.base_image):
        problems.append(f"its image is {built.base_image!r}")
    if len(recorded.render.outputs) != 1:
        problems.append("it has not one tree")
    for name, version in built.environment:
        try:
            check_name(name)
            read_version(version)
        except (InvalidName, InvalidVersion):
            problems.append(f"its environment has {name!r} {version!r}")
    if problems:
        raise UsageError(
            f"the record of {recorded.job} was not written by a farm: {problems[0]}",
            next_step="name the work folder of the run that made the wheel with --work DIR",
        )


def at_commit(project: Project, recorded: WheelRecords) -> Project:
    """The project with its git source, if it has one, at the recorded commit, wherever its branch is now."""
    commit = recorded.rendered.commit
    return replace(project, settings=replace(project.settings, revision=commit)) if commit else project


def in_environment(project: Project, recorded: WheelRecords) -> Project:
    """The project with its build environment held to the recorded one."""
    return replace(project, settings=replace(project.settings, build_constraints=recorded.built.constraints))


def changed_inputs(then: Record, now: Record) -> list[str]:
    """Which inputs of a build, apart from its source tree, differ between two records, a sentence each."""
    changed = _changes("toolchain", then.tools, now.tools)
    environment_then = dict(then.facts(BuildFacts).environment)
    environment_now = dict(now.facts(BuildFacts).environment)
    changed += _changes("build environment", environment_then, environment_now)

    # The tree has a sentence of its own, by `changed_tree`, and the toolchain has its line above.
    other_inputs = {*then.inputs, *now.inputs} - {"tree", "toolchain"}
    for name in sorted(other_inputs):
        if then.inputs.get(name) != now.inputs.get(name):
            changed.append(f"{name}: changed")
    return changed


def _changes(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which entries differ between two mappings, a sentence each; `what` names the mapping."""
    changes = []
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            changes.append(f"{what}: {name} was {then.get(name) or 'none'}, is {now.get(name) or 'none'}")
    return changes


def changed_tree(recorded: WheelRecords, now: Record, trees: tuple[Path, Path]) -> str:
    """How a rendered tree differs from the recorded one, in a sentence; empty for the same tree.

    `trees` are the two on disk, the recorded one first; of that there may be nothing left.
    """
    if now.outputs[0].sha256 == recorded.render.outputs[0].sha256:
        return ""
    # The first nine: where a tree shares nothing with the recorded one, all of them would fill pages.
    files = ", ".join(_changed_files(*trees)[:9]) or "unknown"
    if now.facts(RenderFacts).content != recorded.rendered.content:
        return f"the source is not what the wheel was built from; changed: {files}"
    return f"the project's metadata or settings, a variants file or a template is different now; changed: {files}"


def _changed_files(then: Path, now: Path) -> list[str]:
    before, after = _digests(then), _digests(now)
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


def _digests(tree: Path) -> dict[str, str]:
    """SHA-256 of each file in a tree by its path; an empty text for what is no file."""
    digests = {}
    for entry in walk(tree):
        digests[os.path.relpath(entry.path, tree)] = sha256(Path(entry.path)) if entry.is_file() else ""
    return digests
