"""A wheel's RECORD, which lists its files with their hashes, and where its files are installed (PEP 427)."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from installer.records import RecordEntry

# torch's has 12,000 rows in 1.5 MB.
MOST_BYTES = 32 << 20
_MOST_ROWS = 200_000
_RECORD = re.compile(r"[^/]+\.dist-info/RECORD")
_DATA = re.compile(r"^[^/]+\.data/(purelib|platlib)/")


def installed_path(member: str) -> str:
    """Where a member is installed, relative to site-packages; scripts, headers and data keep their path."""
    return _DATA.sub("", member)


def record_path(members: Iterable[str]) -> str:
    """The path of a wheel's RECORD. Raises ValueError unless it has exactly one."""
    paths = [member for member in members if _RECORD.fullmatch(member)]
    if len(paths) != 1:
        raise ValueError(f"it has {len(paths)} RECORD files, where a wheel has one")
    return paths[0]


def read_record(content: bytes) -> dict[str, RecordEntry]:
    """RECORD's entries by the members' paths; an entry without a hash has `hash_` None.

    Raises ValueError for a row without three fields, an unknown hash algorithm or a size that is not a number, for two
    rows of one path that differ, and for more rows than a wheel can need.
    """
    if content.count(b"\n") > _MOST_ROWS or len(content) > MOST_BYTES:
        raise ValueError("RECORD lists more files than a wheel can have")
    from installer.records import (  # noqa: PLC0415 (slow to import)
        InvalidRecordEntry,
        RecordEntry,
        parse_record_file,
    )

    # Decoded piece by piece: as one text a long RECORD takes nine times its bytes.
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8", newline="")
    entries: dict[str, RecordEntry] = {}
    try:
        for path, digest, size in parse_record_file(line for line in lines if line.strip()):
            entry = RecordEntry.from_elements(path, digest, size)
            # Of two, one reader would take the first, and another the last.
            if entries.setdefault(path, entry) != entry:
                raise ValueError(f"RECORD lists {path!r} twice")
    except (InvalidRecordEntry, csv.Error) as error:
        raise ValueError(f"RECORD cannot be read: {error}") from None
    return entries


def sha256_by_member(content: bytes) -> dict[str, bytes]:
    """The SHA-256 of the members that RECORD lists with one. Raises ValueError as `read_record` does."""
    digests = {}
    for path, entry in read_record(content).items():
        if entry.hash_ and entry.hash_.name == "sha256":
            # Base64 without its padding (PEP 427).
            digests[path] = base64.urlsafe_b64decode(entry.hash_.value + "=" * (-len(entry.hash_.value) % 4))
    return digests
