"""Wheels as archives: METADATA's fields, and writing a wheel with its RECORD.

Build environments of variants run a copy of this file (data/variant_backend.py). It therefore keeps to CPython 3.9 and
the standard library, and imports nothing of the farm.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path


def split_metadata(text: str) -> tuple[list[str], str, str]:
    """METADATA's fields, its line end, and the rest: all from the end of the last field on."""
    # The first line decides: the description may have other line ends than the fields.
    newline = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    head, gap, body = text.partition(newline * 2)
    if not gap and head.endswith(newline):  # no description
        head, gap = head[: -len(newline)], newline
    fields = re.split(rf"{newline}(?![ \t])", head)  # a field continues in indented lines
    return fields, newline, gap + body


def add_field(fields: list[str], field: str) -> None:
    """Insert `field` before the first requirement, extra or `Dynamic`; at the end where there is none of them."""
    for position, present in enumerate(fields):
        if present.startswith(("Requires-Dist:", "Provides-Extra:", "Dynamic:")):
            fields.insert(position, field)
            return
    fields.append(field)


def dist_info(archive: zipfile.ZipFile) -> str:
    """Name of a wheel's .dist-info folder. Raises ValueError unless it has exactly one with METADATA."""
    names = {name.split("/")[0] for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)}
    if len(names) != 1:
        raise ValueError(f"it has {len(names)} METADATA files, where a wheel has one")
    return names.pop()


def write_wheel(path: Path, members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    """Write a wheel of `members`, in their order, with a RECORD at the end (PEP 427), whole or not at all.

    The RECORD among the members gives the new one its date and permissions. Signatures of it (RECORD.jws, RECORD.p7s)
    are left out. Raises ValueError unless the members have exactly one RECORD, and no path twice.
    """
    names = [info.filename for info, _ in members]
    if len(set(names)) != len(names):
        raise ValueError("two members have the same path")
    (record,) = [info for info, _ in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", info.filename)]
    rows: list[tuple[str, str, int | str]] = []
    unfinished = path.with_suffix(".new")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            if info.filename == record.filename or info.filename.startswith(f"{record.filename}."):
                continue
            if not info.is_dir():
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((info.filename, f"sha256={digest}", len(content)))
            archive.writestr(info, content)
        rows.append((record.filename, "", ""))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        archive.writestr(record, text.getvalue())
    unfinished.replace(path)
