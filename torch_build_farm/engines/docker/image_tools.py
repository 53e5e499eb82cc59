"""The farm's own uv, CMake and ninja, as files for an image of a platform."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cmake
import ninja

from torch_build_farm.core import tools
from torch_build_farm.core.machine import Machine, running
from torch_build_farm.core.process import Shell
from torch_build_farm.engines.diagnosis import diagnose


def files_for(platform: Machine, engine: Machine, shell: Shell) -> Mapping[str, bytes]:
    """The content of each file for images of `platform`, by its name in the folder of the tools; programs are in bin/.

    They are the farm's own where that, image and engine are for one platform. Else they come from the package index, in
    the same versions: CMake and ninja for the image, and for the `engine` a uv that is linked statically. That one runs
    in any image at full speed, and asks the image's interpreter what it installs for. Downloading and unpacking torch
    2.10 took 18 s with it, and 50 s with one under QEMU. Raises PackageIndexError, or what else installing raises.
    """
    if platform == engine == running():
        programs = [tools.uv(), Path(cmake.CMAKE_BIN_DIR, "cmake"), Path(ninja.BIN_DIR, "ninja")]
        return _files(programs, Path(str(cmake.CMAKE_DATA)))
    with tempfile.TemporaryDirectory(dir=shell.cwd) as name:
        folder = Path(name)
        # With the caller's index and proxies, and from wheels alone.
        shell = replace(shell, env=tools.environment(folder / "uv-cache", folder))
        _fetch(folder, f"{engine}-unknown-linux-musl", ["uv"], shell)
        _fetch(folder, f"{platform}-unknown-linux-gnu", ["cmake", "ninja"], shell)
        data = folder / "cmake" / "data"
        return _files([folder / "bin" / "uv", data / "bin" / "cmake", folder / "bin" / "ninja"], data)


def _fetch(folder: Path, target: str, names: Sequence[str], shell: Shell) -> None:
    """Unpack the farm's version of some tools for a target, as uv calls it, into `folder`; nothing of them runs."""
    required = [f"{name}=={tools.versions()[name]}" for name in names]
    done = shell.run(
        tools.uv(), "pip", "install", "--quiet", "--python", sys.executable, "--target", folder, "--no-deps",
        "--python-platform", target, *required,
    )  # fmt: skip
    if not done.ok:
        raise diagnose(f"the farm's {' and '.join(names)} for {target}", shell.log)


def _files(programs: list[Path], cmakes_data: Path) -> dict[str, bytes]:
    """Their content, with the files that CMake reads."""
    contents = {f"bin/{program.name}": program.read_bytes() for program in programs}
    share = next(cmakes_data.glob("share/cmake-*"))
    for path in sorted(share.rglob("*")):
        relative = path.relative_to(share)
        # Without the manual, which a build does not read.
        if path.is_file() and relative.parts[0] != "Help":
            contents[f"share/{share.name}/{relative}"] = path.read_bytes()
    return contents
