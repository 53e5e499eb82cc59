"""The machine's C++ compiler, for tests that need libraries as compilers make them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compiled(folder: Path, source: str, *flags: str) -> bytes:
    """A shared library of the C++ `source`, optimized so far that loops become vector code."""
    (folder / "demo.cpp").write_text(source)
    library = folder / "demo.so"
    subprocess.run(["g++", "-O3", "-fPIC", "-shared", folder / "demo.cpp", "-o", library, *flags], check=True)
    return library.read_bytes()
