"""Writes a project file for a source tree: what the tree states without being run, with marks where it is silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name

from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.core.requirements import check_name
from torch_build_farm.core.text import printable
from torch_build_farm.project import (
    build_script,
    cibuildwheel_table,
    cmake_hints,
    import_names,
    linked_packages,
    metadata,
    native_code,
    setup_hints,
    source_files,
)
from torch_build_farm.project.cibuildwheel_table import Translation
from torch_build_farm.project.cmake_hints import CMakeHints
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.import_names import ImportNames
from torch_build_farm.project.native_code import NativeCode
from torch_build_farm.project.settings import TABLE, Settings
from torch_build_farm.project.setup_hints import SetupHints
from torch_build_farm.project.setup_script import setup_arguments
from torch_build_farm.project.subdirectories import is_project, project_folder, projects_below
from torch_build_farm.project.tables import adapter
from torch_build_farm.project.variant import Variant

MARK = "CHECK:"
_FOR_ALL_CPUS = "else the source compiles for the CPU of the machine at hand (-march=native), and the wheel is refused"


@dataclass(frozen=True)
class SourceFacts:
    """What a source tree states; empty where it states nothing."""

    name: str
    version: str
    no_version: str  # why there is no version
    backend: str
    imports: ImportNames
    torch: str  # the requirement on torch
    cuda_sources: tuple[str, ...]
    setup: SetupHints
    cmake: CMakeHints
    native: NativeCode
    linked: Mapping[str, str]  # packages whose libraries the build links against, with who brings them
    openmp: bool
    cibuildwheel: Translation
    setup_alone: bool  # there is a setup.py, and no pyproject.toml
    subdirectory: str  # the folder of the Python project; empty for the top
    other_projects: tuple[str, ...]  # folders that hold a Python project too


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
    requirements = [*stated.requires, *map(str, build_system.get("requires", ()))]
    try:
        cuda_sources = [str(path.relative_to(origin.root)) for path in origin.root.rglob("*.cu")]
    except RecursionError:
        raise SourceError("folders of the source lie too deep in one another", where=str(origin.root)) from None
    script = build_script.name(document)
    setup = source_files.text(root, script)
    cmake_text = cmake_hints.text(root) if _runs_cmake(setup, build_system) else ""
    cmake = cmake_hints.find(cmake_text)
    if "CMAKE_INSTALL_PREFIX" in setup:
        # setup.py puts what CMake installs into the package.
        cmake = replace(cmake, outside=())
    return SourceFacts(
        name=_valid_name(stated.name),
        version=version,
        no_version=no_version,
        backend=str(build_system.get("build-backend", "setuptools")),
        imports=import_names.find(root, document, setup_arguments(root), stated.name),
        torch=_torch(requirements),
        cuda_sources=tuple(sorted(cuda_sources)),
        setup=setup_hints.find(root, document),
        cmake=cmake,
        native=native_code.find(script, setup, cmake_text),
        linked=linked_packages.find(setup, cmake_text, cmake.required, stated.requires),
        openmp=linked_packages.uses_openmp(setup, cmake_text),
        cibuildwheel=cibuildwheel_table.translate(document),
        setup_alone=not (origin.subdirectory or (root / "pyproject.toml").is_file()),
        subdirectory=origin.subdirectory,
        other_projects=projects[1:],
    )


def _runs_cmake(setup: str, build_system: Mapping[str, Any]) -> bool:
    """Whether CMake builds the Python project: many have CMake files for users of C++ alone."""
    words = f"{build_system.get('build-backend', '')} {build_system.get('requires', '')}"
    return "scikit" in words or ("mesonpy" not in words and "cmake" in f"{words} {setup}".lower())


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


def project_file(facts: SourceFacts, origin: Mapping[str, str], variants: Sequence[Variant]) -> str:
    """The table [tool.torch-build-farm]; `origin` holds those of its keys that state where the source is."""
    # The file is complete if the source states everything, and loads in any case: what is not known gets a guess as its
    # value, with a mark beside it. A version is not guessed.
    name = canonicalize_name(facts.name) or "name-it"
    requirement = f"requires {facts.torch!r}" if facts.torch else "names no torch"
    lines = [
        _comment(
            f"By `init` from {facts.name or 'a source'} {facts.version}: {facts.backend}, {requirement}. "
            f"{MARK} marks what it could not determine."
        ),
        f"[tool.{TABLE}]",
        _line("name", name, "" if facts.name else "the source does not state its name"),
    ]
    for key, value in origin.items():
        lines.append(_line(key, value))
    if facts.subdirectory:
        others = ", ".join(facts.other_projects)
        lines.append(_line("subdirectory", facts.subdirectory, f"or is it {others}?" if others else ""))
    if not facts.version:
        # A comment: a version that nobody chose would be built, and published.
        lines.append(_comment(f'version = "1.2.3"  # {MARK} {facts.no_version}; nothing is built until this is set'))
    lines.append(_packages_line(facts, name))
    lines.append(_torch_line(facts, variants))
    lines += _settings_lines(facts)
    lines += [_comment(hint) for hint in _hints(facts)]
    lines.append('# smoke-script = "smoke.py" beside this file: compute something, compare it with what you know.')
    return "\n".join(lines) + "\n"


def _packages_line(facts: SourceFacts, name: str) -> str:
    imports = facts.imports
    mark = ""
    if imports.beside:
        folder = imports.beside[0].partition(".")[0]
        mark = f'should the wheel install {folder}? exclude = ["/{folder}/"] leaves it out'
    elif imports.modules:
        mark = f"is {', '.join(imports.modules)} built? {facts.setup.script} may leave it out"
    elif not (imports.listed or len(imports.names) == 1):
        mark = "which packages does the wheel install?"
    elif imports.without_sources:
        mark = f"is {', '.join(imports.without_sources)} a module too? setup.py gives it no sources"
    return _line("packages", imports.names or (name.replace("-", "_"),), mark)


def _settings_lines(facts: SourceFacts) -> list[str]:
    """Keys that only some projects need: by [tool.cibuildwheel], by setup.py and by CMake's files."""
    settings = dict(facts.cibuildwheel.settings)
    lines = _environment_lines(facts, settings.pop("environment", {}))
    if facts.native.cmake_defines:
        lines.append(f"cmake-defines = {_inline(facts.native.cmake_defines)}  # {MARK} {_FOR_ALL_CPUS}")
    lines += _external_libraries_lines(facts)
    imported = [name for name in facts.setup.undeclared if name not in settings.get("build-requires", ())]
    if imported:
        requires = [*settings.pop("build-requires", ()), *imported]
        lines.append(
            f"build-requires = {_inline(requires)}  # {MARK} {facts.setup.script} imports {', '.join(imported)}"
        )
    for key, value in settings.items():
        lines.append(f"{key} = {_inline(value)}  # {MARK} by [tool.cibuildwheel]")
    return lines


def _environment_lines(facts: SourceFacts, by_cibuildwheel: Mapping[str, str]) -> list[str]:
    """The line of `environment`, with each reason for a variable in its mark; none where there is no variable."""
    environment = dict(by_cibuildwheel)
    reasons = ["by [tool.cibuildwheel]"] if by_cibuildwheel else []
    if facts.setup.forces_build:
        environment |= facts.setup.forces_build
        reasons.append(f"compiles, where {facts.setup.script} may take a wheel that somebody else built")
    # With this, setup.py of torch-scatter and its kin leaves the CUDA sources out.
    if facts.cuda_sources and "FORCE_ONLY_CPU" in facts.setup.variables:
        environment["FORCE_ONLY_CPU"] = "1"
        reasons.append("builds what needs no CUDA")
    if facts.native.environment:
        environment |= facts.native.environment
        reasons.append(_FOR_ALL_CPUS)
    return [f"environment = {_inline(environment)}  # {MARK} {'; '.join(reasons)}"] if environment else []


def _external_libraries_lines(facts: SourceFacts) -> list[str]:
    """The line of `external-libraries`, with each reason in its mark; none where there is no such library."""
    libraries = {f"lib{package}.so*": distribution for package, distribution in facts.linked.items()}
    reasons = []
    if facts.linked:
        reasons.append(f"the build seems to link against {', '.join(facts.linked)}; what are the libraries called?")
    if facts.openmp:
        # One of the wheel's own would be a second OpenMP runtime in the process.
        libraries["libgomp.so.1"] = "torch"
        reasons.append("OpenMP by torch's own library")
    return [f"external-libraries = {_inline(libraries)}  # {MARK} {' '.join(reasons)}"] if libraries else []


def _inline(value: Any) -> str:
    """A value of TOML in one line."""
    if isinstance(value, Mapping):
        items = ", ".join(f"{tomlkit.key([str(name)]).as_string()} = {_inline(item)}" for name, item in value.items())
        return f"{{ {items} }}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_inline, value))}]"
    return str(tomlkit.item(value).as_string())


def _hints(facts: SourceFacts) -> Iterator[str]:
    """What the source says that no key of the file answers, a sentence each; marked where somebody has to decide."""
    if facts.cuda_sources:
        more = len(facts.cuda_sources) - 1
        yield (
            f"{MARK} {facts.cuda_sources[0]} {f'and {more} more need' if more else 'needs'} nvcc. "
            'cuda-arch-list = ["8.0", "9.0"] compiles them; without it the build has no CUDA toolkit.'
        )
        for name, value in facts.setup.forces_cuda.items():
            yield (
                f'{MARK} with cuda-arch-list, environment = {{ {name} = "{value}" }} compiles device code on a machine '
                "without a GPU too."
            )
    if facts.setup.variables:
        yield f"{facts.setup.script} reads {', '.join(facts.setup.variables)}; the table environment sets them."
    if facts.setup.options:
        yield (
            f"{MARK} setup.py looks for options on its command line. "
            f'config-settings = {{ "--build-option" = {_inline(facts.setup.options)} }} passes all of them.'
        )
    if facts.setup.downloads:
        yield f"{MARK} {facts.setup.script} downloads something. A build that it depends on has to do without."
    if facts.native.file and not (facts.native.environment or facts.native.cmake_defines):
        yield (
            f"{MARK} {facts.native.file} compiles with -march=native, for the CPU of the machine at hand. A wheel of "
            "such code is refused: a diff in patches takes it out, and cpu-baseline gives leave for newer CPUs."
        )
    for file, options in facts.native.newer.items():
        yield (
            f"{MARK} {file} compiles with {', '.join(options)}. A wheel whose code needs such a CPU and does not ask "
            f'for it is refused; cpu-baseline = "{native_code.level(options)}" gives leave.'
        )
    if facts.setup.outside:
        patterns = ", ".join(f'"{kind}/*"' for kind in facts.setup.outside)
        yield (
            f"{MARK} the wheel has files outside of its packages, which two variants cannot both own. Where they are "
            f"the same for every variant, plain-files = [{patterns}] puts them into the plain wheel."
        )
    yield from _cmake_hints(facts.cmake, facts.backend)
    for note in facts.cibuildwheel.notes:
        yield f"{MARK} [tool.cibuildwheel] {note}."


def _cmake_hints(cmake: CMakeHints, backend: str) -> Iterator[str]:
    if cmake.required:
        yield (
            f"{MARK} CMake requires {', '.join(cmake.required)}: system-packages or build-requires bring it, or "
            "environment says where it is."
        )
    if cmake.fetches:
        fetches = ", ".join(cmake.fetches)
        yield (
            f"{MARK} CMake fetches {fetches}: network = true lets it. Of what FetchContent fetches, cmake-defines = "
            '{ FETCHCONTENT_TRY_FIND_PACKAGE_MODE = "ALWAYS" } takes what prepare or system-packages installed, and '
            '{ FETCHCONTENT_FULLY_DISCONNECTED = "ON" } leaves out what the build can do without.'
        )
    if cmake.outside:
        step = "Let the build install into the package."
        if backend.startswith("scikit_build_core"):
            step = 'Install the package\'s components alone: install.components = ["python"] in [tool.scikit-build].'
        yield f"{MARK} CMake installs into {', '.join(cmake.outside)}, outside of the packages. {step}"


def _comment(text: str) -> str:
    """A comment, which ends with its line: names and files of the source may hold a line break, and then settings."""
    return f"# {printable(text)}"


def _torch_line(facts: SourceFacts, variants: Sequence[Variant]) -> str:
    """The minors to build for: those that the source's requirement admits, else all of them, marked."""
    admitted = [variant for variant in variants if _admits(facts.torch, variant)]
    minors = [str(variant.torch) for variant in admitted or variants]
    if not facts.torch:
        mark = "the source names no torch: which minors does it compile for?"
    elif not admitted:
        mark = "no known minor is admitted: which does it compile for?"
    else:
        mark = ""
    return _line("torch", minors, mark)


def _line(key: str, value: str | Sequence[str], mark: str = "") -> str:
    """A line of TOML below a comment with the key's meaning; with `mark`, one that asks to be checked."""
    description = adapter(Settings).json_schema()["properties"][key]["description"]
    sentence = " ".join(description.split()).partition(". ")[0].removesuffix(".")
    item = tomlkit.item(value if isinstance(value, str) else list(value)).as_string()
    line = f"{key} = {item}  # {MARK} {mark}" if mark else f"{key} = {item}"
    return f"{_comment(sentence)}.\n{line}"


def _admits(requirement: str, variant: Variant) -> bool:
    """Whether a requirement on torch admits a release of the minor; every minor where there is no requirement."""
    if not requirement:
        return True
    specifier = Requirement(requirement).specifier
    return any(specifier.contains(release) for release in variant.releases)
