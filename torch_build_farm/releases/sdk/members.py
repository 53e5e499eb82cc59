"""What an SDK takes out of torch's wheel unchanged: headers, CMake files, and the modules with its version.

Read by range requests, some 11 MB; every member is compared with the wheel's RECORD (torch_wheel.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_build_farm.core.remote_wheel import RemoteWheel

# torch/torch_version.py, which compares versions, imports torch._vendor.packaging.
_MEMBERS = re.compile(
    r"torch/(include|share)/.+|torch/version\.py|torch/torch_version\.py|torch/_vendor/(__init__|packaging/.+)\.py"
    r"|torch-[^/]+\.dist-info/(METADATA|licenses/LICENSE|licenses/NOTICE|LICENSE|NOTICE)"
)


def read(wheel: RemoteWheel) -> Mapping[str, bytes]:
    """The members of torch's wheel by path. Raises PackageIndexError where one cannot be read."""
    return wheel.read_many(path for path in wheel.members if _MEMBERS.fullmatch(path))
