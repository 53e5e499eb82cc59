"""What an SDK takes out of torch's wheel as it is: headers, CMake files, the modules that tell its version.

Read by range requests, some 11 MB; every member is compared with the SHA-256 in the wheel's own RECORD (PEP 427).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_build_farm.core.remote_wheel import RemoteWheel

_WANTED = re.compile(
    r"torch/(include|share)/.+|torch/version\.py|torch/torch_version\.py|torch/_vendor/(__init__|packaging/.+)\.py"
    r"|torch-[^/]+\.dist-info/(METADATA|licenses/LICENSE|licenses/NOTICE|LICENSE|NOTICE)"
)
_RECORD = re.compile(r"torch-[^/]+\.dist-info/RECORD")


def _digests(record: bytes) -> dict[str, str]:
    """SHA-256 by path, as RECORD has it: base64 without padding."""
    rows = csv.reader(record.decode("utf-8").splitlines())
    return {row[0]: row[1].removeprefix("sha256=") for row in rows if len(row) > 1 and row[1].startswith("sha256=")}


def read(wheel: RemoteWheel) -> Mapping[str, bytes]:
    """The members by path. Raises PackageIndexError where one is not what RECORD says, or the wheel cannot be read."""
    records = [path for path in wheel.members if _RECORD.fullmatch(path)]
    if len(records) != 1:
        raise wheel.error("it has no RECORD")
    digests = _digests(wheel.read(records[0]))
    found = wheel.read_many(path for path in wheel.members if _WANTED.fullmatch(path))
    for path, content in found.items():
        if base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode() != digests.get(path):
            raise wheel.error(f"{path} is not what its RECORD says")
    return found
