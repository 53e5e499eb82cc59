"""What every build is told through its environment, whichever engine runs it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.project.settings import Settings
from torch_build_farm.releases.sdk import cache


@dataclass(frozen=True)
class Places:
    """Where things are, as the build sees them.

    `environment` is the build environment, None where the front end picks a folder of its own; `tree` is the writable
    copy of the source tree; `build` is CMake's build folder. `mapped` are more folders that must leave no trace in a
    wheel, each with what stands for it. `sdk` is the folder of torch's SDK, None where all of torch is built with, and
    `asked` the file in which it notes what it was asked for in vain. `ccache` is the folder of ccache's results, None
    where there is no ccache.
    """

    environment: PurePath | None
    tree: PurePath
    build: PurePath
    mapped: Mapping[str, str]
    sdk: PurePath | None = None
    asked: PurePath | None = None
    ccache: PurePath | None = None


def site_packages(environment: PurePath, python: CPython) -> PurePath:
    """Where an environment of that CPython keeps its packages."""
    return environment / "lib" / f"python{python}" / "site-packages"


def _ccache(folder: PurePath) -> dict[str, str]:
    """Ccache before every compiler that CMake starts.

    A result counts for what the preprocessor makes of a source, with every header of torch's in it, and for nothing
    less: the mode that goes by the names of headers is off, since two minors' headers have the same names. So a source
    without torch is compiled once for all minors where its path is the same, one with torch once for each torch.
    """
    launchers = dict.fromkeys(("CMAKE_C_COMPILER_LAUNCHER", "CMAKE_CXX_COMPILER_LAUNCHER"), "ccache")
    return {**launchers, "CCACHE_DIR": str(folder), "CCACHE_NODIRECT": "1", "CCACHE_MAXSIZE": "2G"}


def variables(settings: Settings, request: BuildRequest, places: Places) -> dict[str, str]:
    """The variables of the build of `request`: the farm's own, and over them the project's."""
    variant = request.job.variant
    defines = {
        "CMAKE_PROJECT_TOP_LEVEL_INCLUDES": str(places.tree / PRELUDE),
        "CMAKE_CXX_STANDARD": str(variant.cxx_standard),
        **settings.cmake_defines,
    }
    own = {
        "SKBUILD_BUILD_DIR": str(places.build),
        "SOURCE_DATE_EPOCH": str(request.epoch),
        # A setup.py that calls CMake by itself reads these. GNU make before 4.4 would stop at the jobserver's FIFO.
        "CMAKE_TOOLCHAIN_FILE": str(places.tree / TOOLCHAIN),
        "CMAKE_GENERATOR": "Ninja",
        # What the back end asks for while building may not bring another torch than the tree was rendered for.
        "UV_CONSTRAINT": str(places.tree / CONSTRAINTS),
    }
    if places.sdk:
        own["UV_CONSTRAINT"] += f" {places.sdk / cache.CONSTRAINTS}"
        own[cache.VARIABLE] = quote(str(places.sdk))  # as a part of a URL
        own["TORCH_BUILD_FARM_ASKED"] = str(places.asked)
    if places.ccache:
        own |= _ccache(places.ccache)
    if request.makeflags:
        own["MAKEFLAGS"] = request.makeflags
    # torch's macros put header paths (__FILE__) into every extension; mapped, they name no folder of the builder.
    # Of two that match, gcc and clang take the later.
    mapped = dict(places.mapped)
    if places.environment:
        packages = site_packages(places.environment, request.job.python)
        mapped |= {str(places.environment): "environment", str(packages): "site-packages"}
        own["CMAKE_PREFIX_PATH"] = str(packages / "torch")
        if settings.cuda_arch_list and variant.cuda_toolkit:
            own["CUDA_HOME"] = str(packages / "nvidia" / f"cu{variant.cuda_major}")
    if request.version_from_scm:
        own["SETUPTOOLS_SCM_PRETEND_VERSION"] = request.job.version
    if settings.cuda_arch_list:
        own["TORCH_CUDA_ARCH_LIST"] = ";".join(settings.cuda_arch_list)
        if "CXX" in settings.environment:  # nvcc would take the first gcc of PATH
            own["CUDAHOSTCXX"] = settings.environment["CXX"]
    flags = " ".join(f"-ffile-prefix-map={folder}={name}" for folder, name in mapped.items())
    cmake = shlex.join(f"-D{name}={value}" for name, value in defines.items())
    joined = {"CFLAGS": flags, "CXXFLAGS": flags, "CMAKE_ARGS": cmake}
    if settings.cuda_arch_list:
        # nvcc itself reads this, whoever calls it: CMake, or a setup.py by torch.utils.cpp_extension
        joined["NVCC_APPEND_FLAGS"] = " ".join(f"-Xcompiler={flag}" for flag in flags.split())
    given = settings.environment
    return {**own, **given, **{name: f"{given.get(name, '')} {more}".strip() for name, more in joined.items()}}


FARM_FOLDER = ".torch-build-farm"


PRELUDE = f"{FARM_FOLDER}/prelude.cmake"


CONSTRAINTS = f"{FARM_FOLDER}/constraints.txt"


TOOLCHAIN = f"{FARM_FOLDER}/toolchain.cmake"
