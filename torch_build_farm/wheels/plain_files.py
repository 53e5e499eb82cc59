"""Files outside the packages that are the same for every variant: scripts, data and headers.

Each variant would own them, so the plain wheel does (the setting `plain-files`). A variant's wheel keeps them in its
.dist-info folder, where `meta` finds them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence

from torch_build_farm.core.errors import RelocationError
from torch_build_farm.core.wheel_archive import dist_info
from torch_build_farm.project.external_libraries import matches_any
from torch_build_farm.wheels.elf.headers import MAGIC
from torch_build_farm.wheels.record import installed_path

# In a variant's .dist-info folder.
FOLDER = "plain_files"
# Installers write the interpreter that they install for in place of this line (PEP 427). A build back end may have
# written its own.
_FIRST_LINE = re.compile(rb"#![^\r\n]*\bpython[0-9.]*(?=[\s])[^\r\n]*")


def scheme_path(member: str) -> str:
    """A member's path below the folder that it is installed into, with the folder's name in wheels (PEP 427) before it.

    Such as scripts/tool, data/share/demo/table.txt, headers/demo.h; purelib/... for site-packages.
    """
    in_data = re.fullmatch(r"[^/]+\.data/((?:scripts|headers|data)/.+)", member)
    return in_data[1] if in_data else f"purelib/{installed_path(member)}"


def is_plain(member: str, patterns: Sequence[str]) -> bool:
    """Whether the plain wheel gets a member outside the packages; `patterns` are the setting `plain-files`."""
    return matches_any(scheme_path(member), patterns)


def content_for_all(member: str, content: bytes) -> bytes:
    """The content of a file as the plain wheel has it, which no build interpreter's path tells apart.

    Raises RelocationError for compiled code: the plain wheel is for every platform and every torch.
    """
    if content.startswith(MAGIC):
        raise RelocationError(
            f"{member} is compiled, and the plain wheel is one for all variants",
            where="plain-files",
            next_step="install it inside a package, and start it by an entry point ([project.scripts])",
        )
    return _FIRST_LINE.sub(b"#!python", content, count=1) if _FIRST_LINE.match(content) else content


def read(archive: zipfile.ZipFile) -> Mapping[str, bytes]:
    """The plain wheel's files in a relocated variant, by `scheme_path`, in alphabetical order."""
    folder = f"{dist_info(archive)}/{FOLDER}/"
    members = sorted(name for name in archive.namelist() if name.startswith(folder) and not name.endswith("/"))
    return {member.removeprefix(folder): archive.read(member) for member in members}


def first_difference(files: Mapping[str, bytes], others: Mapping[str, bytes]) -> str:
    """How the plain files of two variants differ first, such as "data/a.txt in line 3"; empty where they agree."""
    for path in sorted({*files, *others}):
        if path not in files or path not in others:
            return f"{path}, which only one of them has"
        if files[path] != others[path]:
            pairs = zip(files[path].split(b"\n"), others[path].split(b"\n"), strict=False)
            same = next((number for number, (line, other) in enumerate(pairs) if line != other), None)
            return f"{path} in line {same + 1}" if same is not None else f"{path}, which is longer in one of them"
    return ""
