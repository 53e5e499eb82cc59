"""A wheel laid out as torch's, of a few kilobytes: what an SDK takes, and a little that it does not."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.elves import library
from torch_build_farm.releases.sdk.exported_names import LibraryExports
from torch_build_farm.wheels.elf.symbol import Kind

LIBRARIES = {
    "libc10.so": LibraryExports((), {"_ZN3c103fooENSt7__cxx1112basic_stringE": Kind(2, 1, 0), "c": Kind(1, 1, 4)}),
    "libtorch_python.so": LibraryExports(("libc10.so", "libc.so.6"), {"p": Kind(2, 1, 0)}),
}


def filename(release: str, tag: str) -> str:
    return f"torch-{release}-{tag}-{tag}-manylinux_2_28_x86_64.whl"


def members(release: str) -> dict[str, bytes]:
    """What the SDK takes as it is."""
    info = f"torch-{release}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {release}\nRequires-Python: >=3.10\n"
    return {
        "torch/include/ATen/ATen.h": b"#pragma once\n",
        "torch/share/cmake/Torch/TorchConfig.cmake": b"# Torch\n",
        "torch/version.py": f"__version__ = '{release}+cu999'\ncuda = '99.9'\n".encode(),
        "torch/torch_version.py": b"from torch.version import __version__\n",
        "torch/_vendor/__init__.py": b"",
        "torch/_vendor/packaging/__init__.py": b"",
        f"{info}/METADATA": metadata.encode(),
        f"{info}/licenses/LICENSE": b"a licence\n",
    }


def record(files: Mapping[str, bytes]) -> bytes:
    """RECORD without its own row."""
    rows = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join([*rows, ""]).encode()


def write(folder: Path, release: str, tag: str, *, changed: str = "") -> Path:
    """The wheel; the member `changed` is not what RECORD says."""
    info, files = f"torch-{release}.dist-info", members(release)
    for name, one in LIBRARIES.items():
        files[f"torch/lib/{name}"] = library((), sorted(one.names), [*one.needed], soname=name)
    files["torch/__init__.py"] = b"from torch.version import __version__\n"
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}-{tag}-linux_x86_64\n".encode()
    path = folder / filename(release, tag)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in files.items():
            archive.writestr(member, content + (b"// other\n" if member == changed else b""))
        archive.writestr(f"{info}/RECORD", record(files) + f"{info}/RECORD,,\n".encode())
    return path
