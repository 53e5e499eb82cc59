"""In what two wheels differ."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from torch_build_farm.core.files import sha256


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
