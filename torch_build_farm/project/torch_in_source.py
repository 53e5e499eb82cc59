"""What a source shows of torch before anything is built: its C++ interface, the stable headers alone, or nothing.

Read from the text of includes and build files, so it is a first guess: the audit of the first wheel knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from itertools import islice
from pathlib import Path, PurePosixPath

from torch_build_farm.core.errors import SourceError
from torch_build_farm.core.versions import Minor
from torch_build_farm.project import source_files

_COMPILED = {".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hh", ".hpp", ".hxx", ".inl", ".pyx", ".pxd"}
_SOURCES = {".c", ".cc", ".cpp", ".cxx"}  # of those, what ccache knows
_BUILD_FILES = {"CMakeLists.txt", "meson.build", "setup.py"}
_MOST_FILES = 2000
_MOST_INCLUDES = 1000  # of a file
_MOST_TEXT = 64 << 20  # characters of a tree's files; torch's own sources in C++ have less
_LARGEST = 1 << 20  # bytes of a file that is read; generated sources are longer

_INCLUDE = re.compile(
    r"""
    ^[ \t]* (?: \#[ \t]*include[ \t]*[<"] | cdef[ \t]+extern[ \t]+from[ \t]+["'] )
    ( (?:torch|ATen|c10|caffe2) / [^>"'\n]{1,200} )
    """,
    re.MULTILINE | re.VERBOSE,
)
_ANY_INCLUDE = re.compile(r"""^[ \t]*\#[ \t]*include[ \t]*[<"]([^>"\n]{1,200})""", re.MULTILINE)
# Headers that promise a stable ABI (torch/csrc/stable/README.md), or call no function of torch.
_STABLE = re.compile(r"torch/(csrc/stable|headeronly|csrc/inductor/aoti_torch/c)/")
_BUILT_WITH_TORCH = re.compile(
    r"find_package\s*\(\s*Torch\b|cpp_extension|CppExtension|CUDAExtension|dependency\(\s*['\"]torch\b|\btorch_python\b",
    re.IGNORECASE,
)


# The release whose functions a source is content with: 0x020a... is torch 2.10 (torch/csrc/stable/README.md).
_TARGET = re.compile(r"TORCH_TARGET_VERSION\W{1,5}0x(?P<major>[0-9a-fA-F]{2})(?P<minor>[0-9a-fA-F]{2})")


class TorchInSource(Enum):
    """Whose headers of torch a source includes."""

    CXX = auto()
    STABLE = auto()
    NOTHING = auto()


def torch_in_source(root: Path, names: Iterable[str]) -> TorchInSource | None:
    """What the files of a tree show; None where they show nothing either way.

    That is a tree without sources that are compiled, whose code comes from elsewhere, and one that is too large to be
    read as a whole.
    """
    includes: set[str] = set()
    built_with_torch = compiled = False
    read = 0
    for name in names:
        path = PurePosixPath(name)
        is_build_file = path.name in _BUILD_FILES or path.suffix == ".cmake"
        if path.suffix not in _COMPILED and not is_build_file:
            continue
        read += 1
        if read > _MOST_FILES:
            return None
        try:
            text = source_files.text(root, name, _LARGEST)
        except SourceError:  # too large, or none of the tree's own
            return None
        if is_build_file:
            built_with_torch = built_with_torch or bool(_BUILT_WITH_TORCH.search(text))
        else:
            compiled = True
            includes.update(_INCLUDE.findall(text))
    if includes:
        return TorchInSource.STABLE if all(map(_STABLE.match, includes)) else TorchInSource.CXX
    if built_with_torch:
        return TorchInSource.CXX
    return TorchInSource.NOTHING if compiled else None


def may_be_compiled(names: Iterable[str]) -> bool:
    """Whether any of these files is a source that is compiled, or states how such sources are."""
    paths = map(PurePosixPath, names)
    return any(path.suffix in _COMPILED or path.name in _BUILD_FILES - {"setup.py"} for path in paths)


def target(build: str) -> Minor | None:
    """The torch minor whose stable ABI a source asks for in the files that build it, given their text."""
    match = _TARGET.search(build)
    return Minor(int(match["major"], 16), int(match["minor"], 16)) if match else None


def sources_without_torch(root: Path, names: Iterable[str]) -> int:
    """How many sources in C and C++ include no header of torch, by themselves or by another file of the tree.

    Of a large tree the first 2,000 files and 64 MB are looked at, and of a file its first 1,000 includes. Files go by
    their names without folders, since a compiler's command says which folder a header is looked for in.
    """
    compiled = list(islice((name for name in names if PurePosixPath(name).suffix in _COMPILED), _MOST_FILES))
    own = {PurePosixPath(name).name for name in compiled}
    read: set[str] = set()
    with_torch: set[str] = set()
    includers: dict[str, set[str]] = {}  # of each file of the tree
    characters = 0
    for name in compiled:
        try:
            text = source_files.text(root, name, _LARGEST)
        except SourceError:
            continue
        characters += len(text)
        if characters > _MOST_TEXT:
            break
        file_name = PurePosixPath(name).name
        read.add(file_name)
        if _INCLUDE.search(text):
            with_torch.add(file_name)
        for include in islice(_ANY_INCLUDE.finditer(text), _MOST_INCLUDES):
            header = PurePosixPath(include[1]).name
            if header in own:
                includers.setdefault(header, set()).add(file_name)

    # What includes a file that includes torch includes torch.
    to_visit = list(with_torch)
    while to_visit:
        more = includers.get(to_visit.pop(), set()) - with_torch
        with_torch |= more
        to_visit += more
    return sum(PurePosixPath(name).suffix in _SOURCES for name in read - with_torch)
