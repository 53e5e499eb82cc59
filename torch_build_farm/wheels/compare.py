"""How two wheels differ."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch_build_farm.core.files import sha256
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.sections import sections
from torch_build_farm.wheels.wheel import opened


def differences(old: Path, new: Path) -> list[str]:
    """How two wheels differ, one sentence per difference; empty for identical files.

    Raises RepairError for a file that is not a wheel.
    """
    if sha256(old) == sha256(new):
        return []
    sentences = []
    if old.name != new.name:
        sentences.append(f"the file was named {old.name}, is named {new.name}")
    with opened(old) as old_archive, opened(new) as new_archive:
        old_members = set(old_archive.namelist())
        new_members = set(new_archive.namelist())
        for member in sorted(old_members - new_members):
            sentences.append(f"{member} is gone")
        for member in sorted(new_members - old_members):
            sentences.append(f"{member} is new")
        for member in sorted(old_members & new_members):
            before, after = old_archive.read(member), new_archive.read(member)
            if before != after:
                sentences.append(f"{member}: {_content_difference(before, after)}")
        # Only where the contents are the same do dates and the order of members explain the difference.
        if not sentences:
            sentences = _archive_differences(old_archive, new_archive)
    return sentences or ["the archives hold the same members, packed in another way"]


def _content_difference(before: bytes, after: bytes) -> str:
    position = min(len(before), len(after))
    for index, (old_byte, new_byte) in enumerate(zip(before, after, strict=False)):
        if old_byte != new_byte:
            position = index
            break
    sizes = f"{len(before)} bytes"
    if len(before) != len(after):
        sizes += f" became {len(after)}"
    # A position in a library says little: its sections show whether code, data or only a build ID differs.
    sections = _different_sections(before, after)
    suffix = f"; sections {', '.join(sections)}" if sections else ""
    return f"{sizes}, the first that differs at {position}{suffix}"


def _different_sections(before: bytes, after: bytes) -> list[str]:
    """Names of the ELF sections that differ; empty for other files."""
    try:
        old_sections, new_sections = sections(before), sections(after)
    except ElfError:
        return []
    names = []
    # In the order of the old file, new sections last. Section 0 has no name and no content.
    for name in {**old_sections, **new_sections}:
        if name and old_sections.get(name) != new_sections.get(name):
            names.append(name)
    return names


def _archive_differences(old: zipfile.ZipFile, new: zipfile.ZipFile) -> list[str]:
    """How two archives differ whose members have the same content."""
    sentences = []
    if old.namelist() != new.namelist():
        sentences.append("the members are in another order")
    for before in old.infolist():
        after = new.getinfo(before.filename)
        for field in ("date_time", "external_attr", "compress_type", "create_system"):
            old_value, new_value = getattr(before, field), getattr(after, field)
            if old_value != new_value:
                sentences.append(f"{before.filename}: {field} was {old_value}, is {new_value}")
    return sentences
