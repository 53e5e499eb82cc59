"""Wheels of a torch that never was, with what facts are read from and nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch_build_farm.core.machine import Machine


def add_large(archive: zipfile.ZipFile, name: str, size: int) -> None:
    """A member of that size as the directory states it, which takes a hundredth of that."""
    archive.writestr(name, bytes(size // 100), zipfile.ZIP_STORED)
    archive.getinfo(name).file_size = size


def torch_wheel(folder: Path, version: str, machine: Machine, python: str, requires: str) -> Path:
    """A wheel with what facts are read from; `python` is version.py."""
    path = folder / f"torch-{version}-cp312-cp312-manylinux_2_28_{machine.name}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("torch/version.py", python)
        archive.writestr("torch/share/cmake/Torch/TorchConfig.cmake", "set_target_properties(torch CXX_STANDARD 20)")
        archive.writestr("torch/lib/libtorch_python.so", b"\x7fELF\0sm_80 sm_90 sm_110 compute_120\0")
        add_large(archive, "torch/lib/libtorch_cpu.so", 400_000_000)
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{requires}"
        archive.writestr(f"torch-{version}.dist-info/METADATA", metadata)
    return path


def of_size(folder: Path, filename: str, size: int) -> Path:
    path = folder / filename
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        add_large(archive, "content", size)
    return path
