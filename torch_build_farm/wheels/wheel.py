"""What is in a wheel: its name, its METADATA, its files, and what its ELF libraries say of themselves."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import cast

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.wheel_archive import dist_info, write_wheel


def installed_path(member: str) -> str:
    """Where a member of a wheel lies once it is installed, relative to site-packages (PEP 427)."""
    return re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", member)


@dataclass(frozen=True)
class Library:
    """An ELF library in a wheel. `run_paths` are the entries of its RPATH and RUNPATH, as they stand there.

    `rpath`: they are an RPATH's, which the loader searches before LD_LIBRARY_PATH and for what is needed in turn.
    """

    path: str
    soname: str
    needed: tuple[str, ...]
    run_paths: tuple[str, ...]
    rpath: bool = False


@dataclass(frozen=True)
class Wheel:
    """A wheel on disk, read once."""

    path: Path
    name: str
    version: str
    tags: tuple[str, ...]
    metadata: Message
    members: tuple[str, ...]
    libraries: tuple[Library, ...]

    @property
    def platform(self) -> str:
        """The platform tags as they stand in the file name."""
        return self.path.stem.rsplit("-", 1)[1]

    @property
    def requires_python(self) -> SpecifierSet:
        return SpecifierSet(self.metadata["Requires-Python"] or "")

    def requirements(self, name: str) -> list[Requirement]:
        """The requirements on distribution `name`, extras' ones left out."""
        found = [Requirement(text) for text in self.metadata.get_all("Requires-Dist", [])]
        return [
            requirement
            for requirement in found
            if canonicalize_name(requirement.name) == name
            and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        ]


def library(path: str, content: bytes) -> Library | None:
    """Read an ELF library; None for anything that is none."""
    if not content.startswith(b"\x7fELF"):
        return None
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415 (slow to import; a run with nothing to do needs none)
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    soname, needed, run_paths, rpath = "", [], [], False
    # The segment is what the loader reads; section headers may be stripped.
    for segment in ELFFile(io.BytesIO(content)).iter_segments("PT_DYNAMIC"):
        for tag in cast(DynamicSegment, segment).iter_tags():
            match tag.entry.d_tag:
                case "DT_NEEDED":
                    needed.append(str(tag.needed))  # type: ignore[attr-defined]
                case "DT_SONAME":
                    soname = str(tag.soname)  # type: ignore[attr-defined]
                case "DT_RPATH":
                    run_paths += str(tag.rpath).split(":")  # type: ignore[attr-defined]
                    rpath = True
                case "DT_RUNPATH":
                    run_paths += str(tag.runpath).split(":")  # type: ignore[attr-defined]
    return Library(path, soname, tuple(needed), tuple(run_paths), rpath)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    from elftools.common.exceptions import ELFError  # noqa: PLC0415

    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError, ELFError, OSError, ValueError) as error:
        raise RepairError(f"not a wheel that can be read: {error}", where=str(path)) from error


def _metadata(archive: zipfile.ZipFile) -> Message:
    text = archive.read(f"{dist_info(archive)}/METADATA").decode("utf-8")
    return HeaderParser().parsestr(text)


def metadata(path: Path) -> Message:
    """METADATA of the wheel at `path`, nothing else read. Raises RepairError where it is none."""
    with _opened(path) as archive:
        return _metadata(archive)


def read(path: Path) -> Wheel:
    """Read the wheel at `path`. Raises RepairError where it is none."""
    with _opened(path) as archive:
        name, version, _, tags = parse_wheel_filename(path.name)
        members = tuple(info.filename for info in archive.infolist() if not info.is_dir())
        libraries = []
        for member in members:
            with archive.open(member) as stream:
                magic = stream.read(4)
            found = library(member, archive.read(member)) if magic == b"\x7fELF" else None
            if found:
                libraries.append(found)
        return Wheel(
            path,
            name,
            str(version),
            tuple(sorted(map(str, tags))),
            _metadata(archive),
            members,
            tuple(libraries),
        )


def reissued(path: Path, number: int, out: Path) -> Path:
    """A copy of a wheel with build number `number` (PEP 427), which installers prefer to the wheel without."""
    name, version, *_, python, abi, platform = path.name.split("-")
    made = out / "-".join([name, version, str(number), python, abi, platform])
    with zipfile.ZipFile(path) as old:
        members = []
        for info in old.infolist():
            content = old.read(info)
            if re.fullmatch(r"[^/]+\.dist-info/WHEEL", info.filename):
                kept = [line for line in content.decode("utf-8").split("\n") if line and line[:6] != "Build:"]
                content = "\n".join([*kept, f"Build: {number}", ""]).encode()
            members.append((info, content))
    write_wheel(made, members)
    return made


def naming(path: Path, folders: Iterable[str]) -> dict[str, str]:
    """Members of a wheel whose content names one of the `folders`, each with the first that it names.

    METADATA is left out, since a project's description is its own; and so is what only ends in such a folder, as in
    https://example.org/group/project/src/.
    """
    sought = [(folder, re.compile(rb"(?<![\w.-])" + re.escape(folder.encode()))) for folder in folders]
    found = {}
    with _opened(path) as archive:
        for name in archive.namelist():
            content = b"" if name.endswith(".dist-info/METADATA") else archive.read(name)
            if named := next((folder for folder, pattern in sought if pattern.search(content)), ""):
                found[name] = named
    return found


def record_problems(path: Path) -> list[str]:
    """What in a wheel is not as its RECORD says: members missing there, or with another SHA-256 (PEP 427)."""
    with _opened(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        (record,) = [n for n in names if PurePosixPath(n).match("*.dist-info/RECORD") and n.count("/") == 1]
        rows = csv.reader(io.StringIO(archive.read(record).decode("utf-8"), newline=""))
        expected = {row[0]: row[1] for row in rows if row}
        problems = [f"RECORD does not list {name}" for name in names if name not in expected]
        problems += [f"RECORD lists {name}, which is not there" for name in expected if name not in names]
        for name in names:
            algorithm, _, value = expected.get(name, "").partition("=")
            if value:
                content = hashlib.new(algorithm, archive.read(name)).digest()
                if base64.urlsafe_b64encode(content).rstrip(b"=").decode() != value:
                    problems.append(f"RECORD has another hash for {name}")
        return problems
