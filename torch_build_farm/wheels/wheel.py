"""What is in a wheel: its name, its METADATA, its files, and the dynamic sections of its ELF libraries."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from torch_build_farm.core.archives import zip_entries
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.requirements import MOST_METADATA, parse_metadata, read_requirement, read_specifiers
from torch_build_farm.core.wheel_archive import dist_info, write_wheel
from torch_build_farm.wheels.elf.headers import MAGIC, Tag, identify
from torch_build_farm.wheels.elf.image import read_image
from torch_build_farm.wheels.pybind11_ids import internals_ids
from torch_build_farm.wheels.record import MOST_BYTES, read_record, record_path

if TYPE_CHECKING:
    from installer.records import RecordEntry


@dataclass(frozen=True)
class Library:
    """An ELF library in a wheel. `run_paths` are the entries of its RPATH and RUNPATH, unchanged.

    `rpath`: they come from an RPATH, which the loader searches before LD_LIBRARY_PATH, and for indirect needs too.
    `pybind11` are the ids under which it shares types with other modules of pybind11.
    """

    path: str
    soname: str
    needed: tuple[str, ...]
    run_paths: tuple[str, ...]
    rpath: bool = False
    pybind11: frozenset[str] = frozenset()


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
    def pybind11(self) -> dict[str, list[str]]:
        """The ids under which its libraries share types with other modules of pybind11, each with the libraries."""
        members: dict[str, list[str]] = {}
        for library in self.libraries:
            for internals_id in sorted(library.pybind11):
                members.setdefault(internals_id, []).append(library.path)
        return dict(sorted(members.items()))

    @property
    def platform(self) -> str:
        """The platform tags of the file name, unchanged."""
        return self.path.stem.rsplit("-", 1)[1]

    @property
    def requires_python(self) -> SpecifierSet:
        return read_specifiers(self.metadata["Requires-Python"] or "")

    def requirements(self, name: str) -> list[Requirement]:
        """The requirements on distribution `name`, without those of extras."""
        matching = []
        for text in self.metadata.get_all("Requires-Dist", []):
            requirement = read_requirement(text)
            # A marker that asks for an extra is false for an empty one.
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and canonicalize_name(requirement.name) == name:
                matching.append(requirement)
        return matching


def read_library(path: str, content: bytes) -> Library | None:
    """Read an ELF library of any machine; None for any other file. Raises ElfError for a damaged one.

    Of a 32-bit or big-endian file, which no Python for x86-64 loads, only the path is known.
    """
    if not content.startswith(MAGIC):
        return None
    if not identify(content[:20]).is_64_bit_little_endian:
        return Library(path, "", (), ())
    image = read_image(content)

    def texts(tag: Tag) -> list[str]:
        # As file names are decoded, so that patchelf gets the same bytes.
        return [image.string(position).decode(errors="surrogateescape") for position in image.values(tag)]

    run_paths = []
    for text in [*texts(Tag.RPATH), *texts(Tag.RUNPATH)]:
        run_paths += text.split(":")
    sonames = texts(Tag.SONAME)
    return Library(
        path,
        soname=sonames[-1] if sonames else "",
        needed=tuple(texts(Tag.NEEDED)),
        run_paths=tuple(run_paths),
        rpath=Tag.RPATH in image.tags,
        pybind11=internals_ids(content),
    )


# StopIteration is of a wheel without a .dist-info folder; the last ones are zipfile's, for damage within a member.
_DAMAGE = (
    zipfile.BadZipFile, KeyError, OSError, ValueError, StopIteration, RuntimeError, NotImplementedError, EOFError,
    zlib.error, struct.error,
)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel at `path` as an archive, whose directory was judged (`archives.zip_entries`).

    Whatever damage makes reading it fail within the block becomes a RepairError.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with zipfile.ZipFile(path) as archive:
            zip_entries(archive, path.stat().st_size)
            yield archive
    except _DAMAGE as error:
        raise RepairError(f"not a wheel, or a damaged one: {error}", where=str(path)) from error


def _files(archive: zipfile.ZipFile) -> list[str]:
    """The members without folders, which some build back ends list too."""
    return [info.filename for info in archive.infolist() if not info.is_dir()]


def _short_file(archive: zipfile.ZipFile, member: str, limit: int) -> bytes:
    """The content of a member of at most `limit` bytes. Raises ValueError for a longer one, before it is inflated."""
    size = archive.getinfo(member).file_size
    if size > limit:
        raise ValueError(f"{member} has {size} bytes, more than a wheel can need")
    return archive.read(member)


def _metadata(archive: zipfile.ZipFile) -> Message:
    content = _short_file(archive, f"{dist_info(archive)}/METADATA", MOST_METADATA)
    return parse_metadata(content.decode("utf-8"))


def read_wheel(path: Path) -> Wheel:
    """Read the wheel at `path`. Raises RepairError for a file that is not a wheel."""
    with opened(path) as archive:
        name, version, _, tags = parse_wheel_filename(path.name)
        members = _files(archive)
        libraries = []
        for member in members:
            # Most members are not libraries, so only their first bytes are inflated.
            with archive.open(member) as stream:
                magic = stream.read(4)
            if magic != MAGIC:
                continue
            library = read_library(member, archive.read(member))
            if library:
                libraries.append(library)
        wheel = Wheel(
            path,
            name,
            str(version),
            tuple(sorted(map(str, tags))),
            _metadata(archive),
            tuple(members),
            tuple(libraries),
        )
        # Read here once, so that what nobody can read is an error of the wheel's and not of whoever asks later.
        wheel.requirements("torch"), wheel.requires_python
        return wheel


def reissued(path: Path, number: int, out: Path) -> Path:
    """A copy of a wheel with build number `number` (PEP 427), which installers prefer to the wheel without.

    Raises RepairError for a file that is not a wheel.
    """
    name, version, *_, python, abi, platform = path.name.split("-")
    copy = out / "-".join([name, version, str(number), python, abi, platform])
    with opened(path) as archive:
        members = []
        for info in archive.infolist():
            content = archive.read(info)
            # The build number in WHEEL must be the file name's (PEP 427).
            if re.fullmatch(r"[^/]+\.dist-info/WHEEL", info.filename):
                lines = content.decode("utf-8").split("\n")
                other_lines = [line for line in lines if line and not line.startswith("Build:")]
                content = "\n".join([*other_lines, f"Build: {number}", ""]).encode()
            members.append((info, content))
    write_wheel(copy, members)
    return copy


def members_naming(path: Path, folders: Iterable[str]) -> dict[str, str]:
    """Members of a wheel whose content names one of the `folders`, each with the first folder that it names.

    METADATA does not count, nor does a longer path that ends in such a folder, as in
    https://example.org/group/project/src/.
    """
    patterns = {}
    for folder in folders:
        # What is before the folder must not continue a longer path or host name.
        patterns[folder] = re.compile(rb"(?<![\w.-])" + re.escape(folder.encode()))
    named_folders = {}
    with opened(path) as archive:
        for member in archive.namelist():
            # A project may name such a folder in its description.
            if member.endswith(".dist-info/METADATA"):
                continue
            content = archive.read(member)
            for folder, pattern in patterns.items():
                if pattern.search(content):
                    named_folders[member] = folder
                    break
    return named_folders


def record_problems(path: Path) -> list[str]:
    """Where a wheel and its RECORD disagree (PEP 427), one sentence each; empty for a good wheel.

    Raises RepairError where either cannot be read.
    """
    with opened(path) as archive:
        members = _files(archive)
        record = record_path(members)
        entries = read_record(_short_file(archive, record, MOST_BYTES))
        problems = []
        for member in members:
            if member not in entries:
                problems.append(f"RECORD does not list {member}")
        for member in entries:
            if member not in members:
                problems.append(f"RECORD lists {member}, which is not there")
        for member in members:
            # RECORD has no hash of itself or of its signatures (PEP 427).
            if member in entries and member not in (record, f"{record}.jws", f"{record}.p7s"):
                problems += _entry_problems(archive, member, entries[member])
        return problems


def _entry_problems(archive: zipfile.ZipFile, member: str, entry: RecordEntry) -> list[str]:
    """Where RECORD's entry of a file and the file disagree. The file is read piece by piece: a library may be large."""
    from installer.records import RecordEntry  # noqa: PLC0415 (slow to import)

    # PEP 427 asks for SHA-256 or better, and every build back end writes SHA-256.
    if entry.hash_ is None or entry.hash_.name != "sha256":
        return [f"RECORD has no SHA-256 for {member}"]
    with archive.open(member) as content:
        # Without the size, so that the two have messages of their own.
        if not RecordEntry(member, entry.hash_, None).validate_stream(cast("BinaryIO", content)):
            return [f"RECORD has another hash for {member}"]
    if entry.size is not None and entry.size != archive.getinfo(member).file_size:
        return [f"RECORD has another size for {member}"]
    return []
