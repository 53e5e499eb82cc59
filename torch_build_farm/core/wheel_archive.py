"""Wheels as archives: METADATA's fields, and writing one with its RECORD."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from pathlib import Path


def split_metadata(text: str) -> tuple[list[str], str, str]:
    """METADATA's fields, what ends its lines, and the rest from the end of the last field on."""
    newline = (
        "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    )  # a description may have others than the fields
    head, gap, body = text.partition(newline * 2)
    if not gap and head.endswith(newline):  # no description
        head, gap = head[: -len(newline)], newline
    return re.split(rf"{newline}(?![ \t])", head), newline, gap + body  # a field goes on in indented lines


def add_field(fields: list[str], field: str) -> None:
    """Add a field before the requirements, the extras and the list of what is dynamic."""
    later = [n for n, one in enumerate(fields) if one.startswith(("Requires-Dist:", "Provides-Extra:", "Dynamic:"))]
    fields.insert(min(later, default=len(fields)), field)


def dist_info(archive: zipfile.ZipFile) -> str:
    """Name of a wheel's .dist-info folder."""
    return next(name.split("/")[0] for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))


def write_wheel(path: Path, members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    """Write a wheel of these members, in their order, with a RECORD at the end (PEP 427), whole or not at all.

    The RECORD among the members lends its date and permissions; signatures of it are left out.
    """
    (record,) = [info for info, _ in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", info.filename)]
    rows = []
    with zipfile.ZipFile(path.with_suffix(".new"), "w", zipfile.ZIP_DEFLATED) as made:
        for info, content in members:
            place = info.filename
            if place == record.filename or place.startswith(f"{record.filename}."):
                continue
            if not info.is_dir():
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((place, f"sha256={digest}", len(content)))
            made.writestr(info, content)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record.filename, "", "")])
        made.writestr(record, text.getvalue())
    path.with_suffix(".new").replace(path)
