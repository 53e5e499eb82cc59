"""A wheel against its record: which run made it, and in what a wheel that was built again differs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch_build_farm.core.errors import UsageError
from torch_build_farm.core.files import sha256
from torch_build_farm.pipeline import records
from torch_build_farm.pipeline.records import Record
from torch_build_farm.project.settings import Project
from torch_build_farm.releases.sdk.wheel import LOCAL


@dataclass(frozen=True)
class Recorded:
    """The records of the job that made a wheel."""

    render: Record
    build: Record
    relocate: Record

    @property
    def job(self) -> str:
        return self.relocate.job

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH of the build, Unix seconds."""
        return int(self.render.details["epoch"])

    @property
    def commit(self) -> str:
        """The commit that a git source was at; empty for other sources."""
        kind, _, place = self.render.details["source"].partition(" ")
        return place.rpartition("@")[2] if kind == "git" else ""

    @property
    def environment(self) -> tuple[str, ...]:
        """The distributions of the build environment, name==version; torch's SDK counts as its torch."""
        pins = self.build.details["environment"].split()
        return tuple(pin.removesuffix(f"+{LOCAL}") if pin.startswith("torch==") else pin for pin in pins)


def find(wheel: Path, work: Path) -> Recorded:
    """The records of the job that made `wheel`, found in `work` by its SHA-256.

    Raises UsageError where there are none.
    """
    if not wheel.is_file():
        raise UsageError("there is no such wheel", where=str(wheel), next_step="work/dist holds finished wheels")
    digest = sha256(wheel)
    for path in sorted(work.glob("jobs/*/records/relocate.json")):
        found = [records.read(path.with_name(f"{stage}.json")) for stage in ("render", "build", "relocate")]
        render, build, relocate = found
        known = render and "content" in render.details  # else of an older farm
        if render and build and relocate and known and digest in [one.sha256 for one in relocate.outputs]:
            return Recorded(render, build, relocate)
    raise UsageError(
        f"no record tells how this wheel was made (sha256 {digest})",
        where=str(work / "jobs"),
        next_step="name the work folder of the run that made it with --work DIR",
    )


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


def differences(old: Path, new: Path) -> list[str]:
    """In what two wheels differ, a sentence each; none for identical files."""
    if sha256(old) == sha256(new):
        return []
    found = [f"the file was named {old.name}, is named {new.name}"] if old.name != new.name else []
    with zipfile.ZipFile(old) as first, zipfile.ZipFile(new) as second:
        names = [set(archive.namelist()) for archive in (first, second)]
        found += [f"{name} is gone" for name in sorted(names[0] - names[1])]
        found += [f"{name} is new" for name in sorted(names[1] - names[0])]
        for name in sorted(names[0] & names[1]):
            before, after = first.read(name), second.read(name)
            if before != after:
                found.append(f"{name}: {_how(before, after)}")
        if not found:
            found += _archives(first, second)
    return found or ["the archives hold the same members, packed in another way"]


def _how(before: bytes, after: bytes) -> str:
    place = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    text = f"{len(before)} bytes became {len(after)}" if len(before) != len(after) else f"{len(before)} bytes"
    sections = _sections(before, after)
    return f"{text}, the first that differs at {place}" + (f"; sections {', '.join(sections)}" if sections else "")


def _sections(before: bytes, after: bytes) -> list[str]:
    """Names of the ELF sections that differ; none for other files."""
    from elftools.common.exceptions import ELFError  # noqa: PLC0415 (slow to import)
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    try:
        old, new = (
            {section.name: section.data() for section in ELFFile(io.BytesIO(content)).iter_sections()}
            for content in (before, after)
        )
    except ELFError:
        return []
    return [name for name in {**old, **new} if name and old.get(name) != new.get(name)]


def _archives(first: zipfile.ZipFile, second: zipfile.ZipFile) -> list[str]:
    """What differs in two archives whose members have the same content."""
    found = [] if first.namelist() == second.namelist() else ["the members are in another order"]
    for before in first.infolist():
        after = second.getinfo(before.filename)
        for what in ("date_time", "external_attr", "compress_type", "create_system"):
            if getattr(before, what) != getattr(after, what):
                found.append(f"{before.filename}: {what} was {getattr(before, what)}, is {getattr(after, what)}")
    return found
