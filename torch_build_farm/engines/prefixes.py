"""Dependencies of builds that are made once, and the folders in which builds find them.

A prefix is a folder that libraries were installed into, with include/, lib/ and the like. `prepare` fills one of the
farm's own, once for all jobs: by a layer of the image, or on this machine in the store. `prefixes` names others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from torch_build_farm.core.errors import ConfigError, UnsafeNameError
from torch_build_farm.core.paths import inside
from torch_build_farm.project.settings import Project, Settings

SCRIPT = "prepare.sh"
# Where a dependency of `prepare` finds the ones before it. $PREFIX is the folder that they are installed into.
_HEAD = """set -e
cd "$(dirname "$0")"
mkdir -p "$PREFIX"
export CI=true CIBUILDWHEEL=1 CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)"
"""
# What is grafted into wheels names no folder of the builder.
_MAPS = "-ffile-prefix-map=$PWD=. -ffile-prefix-map=$PREFIX=prefix"


@dataclass(frozen=True)
class Preparation:
    """The commands of `prepare` as a script, and the files that they may use, by their paths beside it."""

    script: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of everything that the commands depend on, the machine left out."""
        files = {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items()}
        return hashlib.sha256(json.dumps([self.script, files], sort_keys=True).encode()).hexdigest()


def preparation(project: Project) -> Preparation | None:
    """What a project prepares; None for one that prepares nothing. Raises ConfigError for a file that is not there."""
    settings = project.settings
    if not settings.prepare:
        return None
    lines = [_HEAD]
    for name, folders in search_paths([PurePath("$PREFIX")]).items():
        lines.append(f'export {name}="{os.pathsep.join(folders)}"\n')
    for name, value in settings.environment.items():
        lines.append(f"export {name}={shlex.quote(value)}\n")
    for name in ("CFLAGS", "CXXFLAGS"):
        lines.append(f'export {name}="${{{name}:-}} {_MAPS}"\n')
    for command in settings.prepare:
        lines.append(f"printf '%s\\n' {shlex.quote(f'$ {command}')}\n/bin/sh -c {shlex.quote(command)}\n")
    return Preparation("".join(lines), _files(project.root, settings.prepare_files))


def _files(root: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The content of files and of all files in folders, by their paths relative to `root`. Raises ConfigError."""
    contents = {}
    for name in names:
        try:
            path = inside(root, name)
        except UnsafeNameError as error:
            raise _no_file(name, error.what) from None
        members = sorted(path.rglob("*")) if path.is_dir() else [path]
        if not path.exists():
            raise _no_file(name, f"there is no {path}")
        for member in members:
            if member.is_file():
                contents[str(member.relative_to(root))] = member.read_bytes()
    return contents


def _no_file(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"prepare-files: {name} cannot be used: {why}",
        where="[tool.torch-build-farm]",
        next_step="name files and folders beside the project file",
    )


def search_paths(prefixes: Sequence[PurePath]) -> dict[str, list[str]]:
    """The variables by which CMake, pkg-config, compilers and the loader find what lies in prefixes."""
    paths: dict[str, list[str]] = {
        "CMAKE_PREFIX_PATH": [], "PKG_CONFIG_PATH": [], "CPATH": [], "LIBRARY_PATH": [], "LD_LIBRARY_PATH": []
    }  # fmt: skip
    for prefix in prefixes:
        libraries = [str(prefix / "lib"), str(prefix / "lib64")]
        paths["CMAKE_PREFIX_PATH"].append(str(prefix))
        paths["PKG_CONFIG_PATH"] += [str(prefix / folder / "pkgconfig") for folder in ("lib", "lib64", "share")]
        paths["CPATH"].append(str(prefix / "include"))
        paths["LIBRARY_PATH"] += libraries
        paths["LD_LIBRARY_PATH"] += libraries
    return paths


def library_path(prefixes: Sequence[PurePath]) -> str:
    """LD_LIBRARY_PATH for prefixes; empty where there are none."""
    return os.pathsep.join(map(str, library_folders(prefixes)))


def library_folders(prefixes: Sequence[PurePath]) -> list[PurePath]:
    """The folders of libraries in prefixes."""
    return [PurePath(folder) for folder in search_paths(prefixes)["LD_LIBRARY_PATH"]]


def given_prefixes(settings: Settings) -> list[PurePath]:
    """The folders that `prefixes` names."""
    return [PurePath(prefix) for prefix in settings.prefixes]
