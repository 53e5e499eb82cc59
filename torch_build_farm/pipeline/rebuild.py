"""A wheel against its record: which run made it, and in what a wheel that was built again differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline.records import Record, Recorded
from torch_build_farm.project.settings import Project


def at_commit(project: Project, recorded: Recorded) -> Project:
    """The project with its git source, if it has one, at the recorded commit, wherever its branch is now."""
    commit = recorded.commit
    return replace(project, settings=replace(project.settings, revision=commit)) if commit else project


def in_environment(project: Project, recorded: Recorded) -> Project:
    """The project with its build environment held to the recorded one."""
    return replace(project, settings=replace(project.settings, build_constraints=recorded.environment))


def changed_inputs(then: Record, now: Record) -> list[str]:
    """What of a build's inputs, its source tree apart, is not what it was, a sentence each."""
    changed = [
        *_changes("toolchain", then.tools, now.tools),
        *_changes("build environment", _environment(then), _environment(now)),
    ]
    named = {*then.inputs, *now.inputs} - {"tree", "toolchain"}  # those have their own tale
    return changed + [
        f"{name}: not what it was" for name in sorted(named) if then.inputs.get(name) != now.inputs.get(name)
    ]


def _changes(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [
        f"{what}: {name} was {then.get(name) or 'none'}, is {now.get(name) or 'none'}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def _environment(build: Record) -> dict[str, str]:
    pairs = (line.partition("==") for line in build.details["environment"].split())
    return {name: version for name, _, version in pairs}


def changed_tree(recorded: Recorded, now: Record, trees: tuple[Path, Path]) -> str:
    """What a rendered tree has that the recorded one had not, in a sentence; empty for the same tree.

    `trees` are the two on disk; of the older one there may be nothing left.
    """
    if now.outputs[0].sha256 == recorded.render.outputs[0].sha256:
        return ""
    files = ", ".join(_changed_files(*trees)[:9]) or "unknown"
    if now.details["content"] != recorded.render.details["content"]:
        return f"the source is not what the wheel was built from; changed: {files}"
    return f"the project's metadata or settings, a variants file or a template is not what it was; changed: {files}"


def _changed_files(then: Path, now: Path) -> list[str]:
    trees = [
        {str(path.relative_to(tree)): path.is_file() and sha256(path) for path in tree.rglob("*")}
        for tree in (then, now)
    ]
    return sorted(name for name in {*trees[0], *trees[1]} if trees[0].get(name) != trees[1].get(name))
