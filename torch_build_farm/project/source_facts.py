"""What a source tree states of the project in it, read without running any of it: what `init` makes a file of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.core.requirements import check_name
from torch_build_farm.core.toml import table_in
from torch_build_farm.core.versions import Minor
from torch_build_farm.project import (
    build_script,
    cibuildwheel_table,
    cmake_hints,
    import_names,
    language_standard,
    linked_packages,
    metadata,
    native_code,
    setup_hints,
    setup_script,
    source_files,
    torch_in_source,
)
from torch_build_farm.project.cibuildwheel_table import Translation
from torch_build_farm.project.cmake_hints import CMakeHints
from torch_build_farm.project.dynamic_version import back_end
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.import_names import ImportNames
from torch_build_farm.project.language_standard import LanguageStandard
from torch_build_farm.project.native_code import NativeCode
from torch_build_farm.project.setup_hints import SetupHints
from torch_build_farm.project.subdirectories import is_project, project_folder, projects_below
from torch_build_farm.project.torch_in_source import TorchInSource


@dataclass(frozen=True)
class SourceFacts:
    """What a source tree states; empty where it states nothing."""

    name: str
    version: str
    no_version: str  # why there is no version
    backend: str
    imports: ImportNames
    torch: str  # the requirement on torch
    torch_cxx: TorchInSource | None  # which headers of torch it includes
    stable_target: Minor | None  # the torch minor whose stable ABI it is built for
    compiles: bool  # whether anything of it may be compiled
    cuda_sources: tuple[str, ...]
    standard: LanguageStandard
    setup: SetupHints
    cmake: CMakeHints
    native: NativeCode
    linked: Mapping[str, str]  # packages whose libraries the build links against, with who brings them
    openmp: bool
    cibuildwheel: Translation
    setup_alone: bool  # there is a setup.py, and no pyproject.toml
    subdirectory: str  # the folder of the Python project; empty for the top
    other_projects: tuple[str, ...]  # folders that hold a Python project too
    other_pyprojects: tuple[str, ...]  # files beside pyproject.toml that may take its place


def look(origin: Origin) -> SourceFacts:
    """The facts of a source tree. Raises SourceError where there is no Python project.

    Where there is none at the top, the facts are those of the likeliest one below.
    """
    projects = () if is_project(origin.root) else projects_below(origin.root)
    if projects:
        origin = replace(origin, subdirectory=projects[0])
    root = project_folder(origin.root, origin.subdirectory)
    document = metadata.document(root)
    no_version = ""
    try:
        stated = metadata.read(root, document, answers=origin.answer)
        version = stated.version
    except (VersionError, SourceError) as error:  # the latter of git, else it comes again
        # Everything else is still worth knowing.
        stated = metadata.read(root, document, "0")
        version, no_version = "", error.what
    build_system = document.get("build-system", {})
    requirements = [*stated.requires, *_written_down(root), *map(str, build_system.get("requires", ()))]
    files = _own_files(origin.root)
    script = build_script.name(document)
    setup = source_files.text(root, script)
    runs_cmake = _runs_cmake(setup, build_system)
    cmake_text = cmake_hints.text(root) if runs_cmake else ""
    cmake = cmake_hints.find(cmake_text)
    if "CMAKE_INSTALL_PREFIX" in setup:
        # setup.py puts what CMake installs into the package.
        cmake = replace(cmake, outside=())
    return SourceFacts(
        name=_valid_name(stated.name),
        version=version,
        no_version=no_version,
        backend=str(build_system.get("build-backend", "setuptools")),
        imports=import_names.find(root, document, setup_script.setup_arguments(root), stated.name),
        torch=_torch(requirements),
        torch_cxx=torch_in_source.torch_in_source(origin.root, files),
        stable_target=torch_in_source.target(setup + cmake_text),
        compiles=runs_cmake or _compiles(root, document, setup, files),
        cuda_sources=tuple(name for name in files if name.endswith(".cu")),
        standard=language_standard.find(root, script, cmake_text),
        setup=setup_hints.find(root, document, stated.build_requires, cmake_text),
        cmake=cmake.without(stated.name),
        native=native_code.find(script, setup, cmake_text),
        linked=linked_packages.find(setup, cmake_text, cmake.required, stated.requires),
        openmp=linked_packages.uses_openmp(setup, cmake_text),
        cibuildwheel=cibuildwheel_table.translate(document),
        setup_alone=not (origin.subdirectory or (root / "pyproject.toml").is_file()),
        subdirectory=origin.subdirectory,
        other_projects=projects[1:],
        other_pyprojects=tuple(sorted(path.name for path in root.glob("pyproject?*.toml") if path.is_file())),
    )


def _runs_cmake(setup: str, build_system: Mapping[str, Any]) -> bool:
    """Whether CMake builds the Python project: many have CMake files for users of C++ alone."""
    words = f"{build_system.get('build-backend', '')} {build_system.get('requires', '')}"
    return "scikit" in words or ("mesonpy" not in words and "cmake" in f"{words} {setup}".lower())


def _compiles(root: Path, document: Mapping[str, Any], setup: str, files: Iterable[str]) -> bool:
    """Whether a project that CMake does not build may compile anything: some packages have sources as data."""
    if back_end(document) == "setuptools":
        stated = "ext-modules" in table_in(document, "tool", "setuptools")
        return stated or setup_script.extension_names(root).any or "_modules" in setup  # ext_modules, cffi_modules
    return torch_in_source.may_be_compiled(files)


def _torch(requirements: Iterable[str]) -> str:
    """The first requirement on torch; empty if there is none."""
    for text in requirements:
        try:
            if canonicalize_name(Requirement(text).name) == "torch":
                return text
        except InvalidRequirement:
            continue
    return ""


def _valid_name(name: str) -> str:
    """A distribution's name, which becomes that of a folder; empty for one that is not valid."""
    try:
        check_name(name)
    except InvalidName:
        return ""
    return name


def _own_files(tree: Path) -> list[str]:
    """The files of a tree, in order, without those in folders of other people's code and tests."""
    left_out = source_files.NOT_ITS_OWN - {"examples"}  # which extensions of setup.py may be compiled from
    files = []
    try:
        for path in tree.rglob("*"):
            relative = path.relative_to(tree)
            if left_out.isdisjoint(relative.parts) and path.is_file() and not path.is_symlink():
                files.append(relative.as_posix())
    except RecursionError:
        raise SourceError("folders of the source lie too deep in one another", where=str(tree)) from None
    return sorted(files)


def _written_down(root: Path) -> list[str]:
    """The requirements that setuptools wrote down when it made an unpacked sdist; old ones have them nowhere else."""
    if not (root / "PKG-INFO").is_file():
        return []
    requirements: list[str] = []
    for path in [*root.glob("*.egg-info/requires.txt"), *root.glob("*/*.egg-info/requires.txt")]:
        always = source_files.text(root, path.relative_to(root).as_posix()).partition("[")[0]
        requirements += always.split("\n")
    return requirements
