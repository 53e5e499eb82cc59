"""A wheel against its record: which run made it, and in what a wheel that was built again differs."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from torch_build_farm import records
from torch_build_farm.errors import UsageError
from torch_build_farm.records import Record
from torch_build_farm.source import sha256


@dataclass(frozen=True)
class Recorded:
    """The records of the job that made a wheel."""

    render: Record
    build: Record
    repair: Record

    @property
    def job(self) -> str:
        return self.repair.job

    @property
    def epoch(self) -> int:
        """SOURCE_DATE_EPOCH of the build, Unix seconds."""
        return int(self.render.details["epoch"])


def find(wheel: Path, work: Path) -> Recorded:
    """The records of the job that made `wheel`, found in `work` by its SHA-256.

    Raises UsageError where there are none.
    """
    if not wheel.is_file():
        raise UsageError("there is no such wheel", where=str(wheel), next_step="work/dist holds finished wheels")
    digest = sha256(wheel)
    for path in sorted(work.glob("jobs/*/records/repair.json")):
        found = [records.read(path.with_name(f"{stage}.json")) for stage in ("render", "build", "repair")]
        render, build, repair = found
        known = render and "epoch" in render.details  # else of an older farm
        if render and build and repair and known and digest in [output.sha256 for output in repair.outputs]:
            return Recorded(render, build, repair)
    raise UsageError(
        f"no record tells how this wheel was made (sha256 {digest})",
        where=str(work / "jobs"),
        next_step="name the work folder of the run that made it with --work DIR",
    )


def changed_inputs(then: Record, now: Record) -> list[str]:
    """What of a build's inputs, its source apart, is not what it was, a sentence each."""
    tools = [
        f"toolchain: {name} was {then.tools.get(name) or 'none'}, is {now.tools.get(name) or 'none'}"
        for name in sorted({*then.tools, *now.tools})
        if then.tools.get(name) != now.tools.get(name)
    ]
    if not tools and then.digest != now.digest:
        return ["settings: the variant, or environment, cmake-defines, before-build and their like, were others"]
    return tools


def changed_files(then: Path, now: Path) -> list[str]:
    """Files of a rendered tree that are not what they were, as far as the older tree is still there."""
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
