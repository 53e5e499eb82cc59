"""The environment variables of a build, the same for every engine. Pure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from torch_build_farm.core.machine import Machine
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.engines.prefixes import search_paths
from torch_build_farm.project.settings import Settings
from torch_build_farm.project.variant import StableVariant, Variant
from torch_build_farm.releases import sdk

FARM_FOLDER = ".torch-build-farm"  # the farm's own files in a rendered tree, below the project's folder
PRELUDE = f"{FARM_FOLDER}/prelude.cmake"
CONSTRAINTS = f"{FARM_FOLDER}/constraints.txt"
TOOLCHAIN = f"{FARM_FOLDER}/toolchain.cmake"
DRIVER_STUBS = f"{FARM_FOLDER}/driver"  # for projects with CUDA sources: libcuda.so to link against
NVCC_WITH_TOKENS = f"{FARM_FOLDER}/nvcc-with-tokens.sh"
_NVCC_KNOWS_JOBSERVER = 13  # the first CUDA major of which every nvcc has --jobserver (measured: 13.0, and not 12.4)
# Each replaces what git would say: for setuptools-scm and hatch-vcs, for pdm-backend, for poetry-dynamic-versioning.
_VERSION_VARIABLES = ("SETUPTOOLS_SCM_PRETEND_VERSION", "PDM_BUILD_SCM_VERSION", "POETRY_DYNAMIC_VERSIONING_BYPASS")


@dataclass(frozen=True)
class Places:
    """Where things are, as the build sees them.

    `environment` is the build environment, None where the front end picks a folder of its own; `tree` is the writable
    copy of the source tree; `build` is CMake's build folder. `mapped` are more folders that must leave no trace in a
    wheel, each with the text that replaces it. `sdk` is the folder of torch's SDK, None for a build with all of torch;
    in the file `sdk_misses` the SDK notes each name that a build requests and it lacks. `ccache` is the folder of
    ccache's results, None where there is no ccache. In `prefixes` lie dependencies of the build. `sysroot` is the
    system of the job's platform where that is another machine than the one that builds.
    """

    environment: PurePath | None
    tree: PurePath
    build: PurePath
    mapped: Mapping[str, str]
    sdk: PurePath | None = None
    sdk_misses: PurePath | None = None
    ccache: PurePath | None = None
    prefixes: Sequence[PurePath] = ()
    sysroot: PurePath | None = None


def build_variables(settings: Settings, request: BuildRequest, places: Places) -> dict[str, str]:
    """The variables of the build of `request`: the farm's, overridden by the project's.

    Flags and search paths are joined in place of overridden: the project's first, then the farm's.
    """
    variables = {**_farm_variables(settings, request, places), **settings.environment}
    index = request.job.variant.index
    if index:
        others = variables.get("UV_INDEX", os.environ.get("UV_INDEX", ""))
        variables["UV_INDEX"] = " ".join([index, *others.split()])
    for name, folders in _search_paths(request, places).items():
        own = [settings.environment[name]] if settings.environment.get(name) else []
        if own or folders:
            variables[name] = os.pathsep.join([*own, *folders])
    for name, flags in _flags(settings, request, places).items():
        variables[name] = f"{settings.environment.get(name, '')} {flags}".strip()
    return variables


def _farm_variables(settings: Settings, request: BuildRequest, places: Places) -> dict[str, str]:
    """The farm's variables, except flags."""
    variant = request.job.variant
    project = places.tree / settings.subdirectory
    variables = {
        # Projects test for these before they compile for the machine at hand alone (-march=native).
        "CIBUILDWHEEL": "1",
        "CI": "true",
        # Else scikit-build-core builds in a temporary folder: its name is random, and ninja's log goes with it.
        "SKBUILD_BUILD_DIR": str(places.build),
        "SOURCE_DATE_EPOCH": str(request.epoch),
        # A build that asks git must not get an answer of the repository that a work folder may lie in.
        "GIT_CEILING_DIRECTORIES": str(places.tree.parent),
        # A setup.py that calls CMake by itself reads these. GNU make before 4.4 would stop at the jobserver's FIFO.
        "CMAKE_TOOLCHAIN_FILE": str(project / TOOLCHAIN),
        "CMAKE_GENERATOR": "Ninja",
        # Requirements that a back end adds while it builds must not bring another torch than the tree was rendered for.
        "UV_CONSTRAINT": str(project / CONSTRAINTS),
    }
    if places.sdk:
        variables["UV_CONSTRAINT"] += f" {places.sdk / sdk.CONSTRAINTS}"
        variables[sdk.VARIABLE] = quote(str(places.sdk))  # as a part of a URL
        variables["TORCH_BUILD_FARM_ASKED"] = str(places.sdk_misses)
    if places.ccache:
        variables |= _ccache(places.ccache)
    if places.sysroot:
        variables |= _cross_variables(request.job.platform, places.sysroot)
        if places.prefixes:  # pkg-config would look for what lies in them below it, too
            del variables["PKG_CONFIG_SYSROOT_DIR"]
    if request.makeflags:
        variables["MAKEFLAGS"] = request.makeflags
    if places.environment:
        packages = site_packages(places.environment, request.job.python)
        if settings.cuda_arch_list and variant.cuda_toolkit:
            variables["CUDA_HOME"] = str(packages / "nvidia" / f"cu{variant.cuda_major}")

    # The rendered tree has no .git to count commits from.
    if request.version_from_scm:
        variables |= dict.fromkeys(_VERSION_VARIABLES, request.job.version)
    if settings.cuda_arch_list:
        variables |= _cuda_variables(settings, request, project)
    return variables


def _cross_variables(platform: Machine, sysroot: PurePath) -> dict[str, str]:
    """The variables of a build for another machine; TOOLCHAIN tells CMake the same."""
    return {
        "CC": platform.cross_c_compiler,
        "CXX": platform.cross_compiler,
        "AR": f"{platform.cross_c_compiler.removesuffix('gcc')}ar",
        "TORCH_BUILD_FARM_SYSROOT": str(sysroot),
        # In place of the folders of this machine (pkg-config(1)).
        "PKG_CONFIG_LIBDIR": f"{sysroot}/usr/lib/{platform.name}-linux-gnu/pkgconfig:{sysroot}/usr/share/pkgconfig",
        "PKG_CONFIG_SYSROOT_DIR": str(sysroot),
    }


def _cuda_variables(settings: Settings, request: BuildRequest, project: PurePath) -> dict[str, str]:
    """The variables of a build with CUDA sources; `project` is the Python project's folder in the tree."""
    variables = {
        # Read by CMake's find_library, and so by its CUDA::cuda_driver.
        "CMAKE_LIBRARY_PATH": str(project / DRIVER_STUBS),
        "TORCH_CUDA_ARCH_LIST": ";".join(settings.cuda_arch_list),
    }
    if "CXX" in settings.environment:  # else nvcc takes the first gcc on PATH
        variables["CUDAHOSTCXX"] = settings.environment["CXX"]
    if request.makeflags and not _nvcc_knows_jobserver(request.job.variant):
        launcher = str(project / NVCC_WITH_TOKENS)
        variables["CMAKE_CUDA_COMPILER_LAUNCHER"] = launcher
        variables["PYTORCH_NVCC"] = shlex.quote(launcher)  # torch.utils.cpp_extension puts it into ninja's commands
    return variables


def _nvcc_knows_jobserver(variant: Variant) -> bool:
    return int(variant.cuda_major) >= _NVCC_KNOWS_JOBSERVER


def _search_paths(request: BuildRequest, places: Places) -> dict[str, list[str]]:
    """Where CMake and others look: in the prefixes, then in torch."""
    paths = search_paths(places.prefixes)
    if places.environment and request.job.variant.needs_torch:
        paths["CMAKE_PREFIX_PATH"].append(str(site_packages(places.environment, request.job.python) / "torch"))
    return paths


def _ccache(folder: PurePath) -> dict[str, str]:
    """Ccache before every compiler that CMake starts.

    Results are looked up by the preprocessed source, with every header of torch's in it, and by nothing less: the mode
    that goes by the names of headers is off, since two minors' headers have the same names. So a source without torch
    is compiled once for all minors where its path is the same, one with torch once for each torch.

    The time at which a header's inode changed (ctime) says nothing: it changes with every hard link that another
    environment makes or loses, and ccache would take the header for one that somebody writes at that moment.
    """
    launchers = dict.fromkeys(("CMAKE_C_COMPILER_LAUNCHER", "CMAKE_CXX_COMPILER_LAUNCHER"), "ccache")
    return {
        **launchers,
        "CCACHE_DIR": str(folder),
        "CCACHE_NODIRECT": "1",
        "CCACHE_MAXSIZE": "2G",
        "CCACHE_SLOPPINESS": "include_file_ctime",
    }


def _flags(settings: Settings, request: BuildRequest, places: Places) -> dict[str, str]:
    """The farm's flags for compilers, CMake and nvcc, which join the project's."""
    # torch's macros put header paths (__FILE__) into every extension; mapped, they name no folder of the builder.
    # Of two that match, gcc and clang take the later.
    mapped = dict(places.mapped)
    if places.environment:
        packages = site_packages(places.environment, request.job.python)
        mapped |= {str(places.environment): "environment", str(packages): "site-packages"}
    mapped |= {str(prefix): "prefix" for prefix in places.prefixes}
    if places.sysroot:
        mapped[str(places.sysroot)] = ""
    prefix_maps = " ".join([f"-ffile-prefix-map={folder}={name}" for folder, name in mapped.items()])
    # CMake includes the prelude at the project's first project(), before any find_package(Torch).
    defines = {"CMAKE_PROJECT_TOP_LEVEL_INCLUDES": str(places.tree / settings.subdirectory / PRELUDE)}
    # CMAKE_ARGS would win over scikit-build-core's own way to say it.
    if "cmake.define.CMAKE_CXX_STANDARD" not in settings.config_settings:
        defines["CMAKE_CXX_STANDARD"] = str(request.job.variant.cxx_standard)
    if places.sysroot:
        # FindPython asks no interpreter otherwise. The toolchain file comes too late to set a policy.
        defines["CMAKE_POLICY_DEFAULT_CMP0190"] = "NEW"
    defines |= settings.cmake_defines
    # scikit-build-core takes CMAKE_ARGS apart as a shell does.
    cmake_arguments = [f"-D{name}={value}" for name, value in defines.items()]
    stable_only = _stable_only(request.job.variant)
    # Debian's pyconfig.h includes that of the machine by its name. Last, so that the compiler's own C library wins.
    of_sysroot = [f"-idirafter {places.sysroot}/usr/include"] if places.sysroot else []
    compiler_flags = " ".join([prefix_maps, *stable_only, *of_sysroot])
    flags = {"CFLAGS": compiler_flags, "CXXFLAGS": compiler_flags, "CMAKE_ARGS": shlex.join(cmake_arguments)}
    if settings.cuda_arch_list:
        # nvcc itself reads this, whoever calls it: CMake, or a setup.py by torch.utils.cpp_extension. It does not know
        # the flags of the host compiler, and hands on what -Xcompiler holds.
        passed_on = [f"-Xcompiler={word}" for word in prefix_maps.split()]
        nvcc_flags = [*passed_on, *stable_only]
        if request.makeflags and _nvcc_knows_jobserver(request.job.variant):
            # A thread for each architecture, of which those run that the jobserver has tokens for.
            nvcc_flags += ["--jobserver", "--threads=0"]
        if settings.compress_device_code:
            nvcc_flags += ["-Xfatbin=-compress-all"]
        flags["NVCC_APPEND_FLAGS"] = " ".join(nvcc_flags)
        # So that -lcuda finds the driver's library where no driver is, whoever calls the linker.
        flags["LDFLAGS"] = f"-L{places.tree / settings.subdirectory / DRIVER_STUBS}"
    return flags


def _stable_only(variant: Variant) -> list[str]:
    """Macros that keep a build to torch's stable ABI as its oldest release has it; [] for other variants.

    As torch/csrc/stable/version.h says: with TORCH_STABLE_ONLY every other header of torch is an error (from torch 2.10
    on), and with TORCH_TARGET_VERSION, whose two highest bytes are major and minor, functions of later releases are not
    declared.
    """
    if not isinstance(variant, StableVariant):
        return []
    version = f"0x{variant.torch.major:02x}{variant.torch.minor:02x}000000000000"
    return ["-DTORCH_STABLE_ONLY", f"-DTORCH_TARGET_VERSION={version}"]


def site_packages(environment: PurePath, python: CPython) -> PurePath:
    """Where an environment of that CPython keeps its packages."""
    return environment / "lib" / f"python{python}" / "site-packages"
