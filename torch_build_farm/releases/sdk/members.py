"""What an SDK takes out of torch's wheel unchanged: headers, CMake files, and the modules with its version.

Read by range requests, some 11 MB; every member is compared with the SHA-256 in the wheel's own RECORD (PEP 427).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch_build_farm.wheels.record import read_record, record_path

if TYPE_CHECKING:
    from torch_build_farm.core.remote_wheel import RemoteWheel

# torch/torch_version.py, which compares versions, imports torch._vendor.packaging.
_MEMBERS = re.compile(
    r"torch/(include|share)/.+|torch/version\.py|torch/torch_version\.py|torch/_vendor/(__init__|packaging/.+)\.py"
    r"|torch-[^/]+\.dist-info/(METADATA|licenses/LICENSE|licenses/NOTICE|LICENSE|NOTICE)"
)


def read(wheel: RemoteWheel) -> Mapping[str, bytes]:
    """The members by path.

    Raises PackageIndexError where the wheel cannot be read, or a member does not have the SHA-256 that RECORD lists.
    """
    try:
        entries = read_record(wheel.read(record_path(wheel.members)))
    except ValueError as error:
        raise wheel.error(str(error)) from None
    contents = wheel.read_many(path for path in wheel.members if _MEMBERS.fullmatch(path))
    for path, content in contents.items():
        entry = entries.get(path)
        digest = entry.hash_ if entry else None
        if digest is None or digest.name != "sha256" or not digest.validate(content):
            raise wheel.error(f"{path} is not what its RECORD lists")
    return contents
