"""Writes a project file for a source tree: what the tree states without being run, with marks where it is silent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomlkit
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from torch_build_farm.core.text import printable
from torch_build_farm.core.versions import Minor
from torch_build_farm.project import native_code
from torch_build_farm.project.cmake_hints import CMakeHints
from torch_build_farm.project.external_libraries import provider
from torch_build_farm.project.settings import TABLE, Settings
from torch_build_farm.project.source_facts import SourceFacts
from torch_build_farm.project.tables import adapter
from torch_build_farm.project.torch_in_source import TorchInSource
from torch_build_farm.project.variant import Variant

MARK = "CHECK:"
_BY_CIBUILDWHEEL = "by [tool.cibuildwheel]"
_FIRST_STABLE = Minor(2, 10)  # 2.9 has half of the stable ABI
_FOR_ALL_CPUS = "else the source compiles for the CPU of the machine at hand (-march=native), and the wheel is refused"


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
    chosen, mark = _variants(facts, variants)
    lines.append(_line("torch", [str(variant.torch) for variant in chosen], mark))
    oldest_stable = _oldest_stable(facts, [variant.torch for variant in chosen])
    if oldest_stable:
        mark = "of torch's C++ the source seems to use the stable ABI alone; from which minor on?"
        lines.append(_line("stable-abi", str(oldest_stable), mark))
    lines += _settings_lines(facts)
    # The wheel of the stable ABI is compiled against its oldest minor alone.
    compiled = [variant for variant in chosen if not oldest_stable or variant.torch <= oldest_stable]
    lines += [_comment(hint) for hint in (*_hints(facts), *_standard_hints(facts, compiled))]
    lines.append(
        _comment('smoke-script = "smoke.py" beside this file: compute something, compare it with what you know.')
    )
    return "\n".join(lines) + "\n"


def _packages_line(facts: SourceFacts, name: str) -> str:
    imports = facts.imports
    marks = []
    if imports.beside:
        folder = imports.beside[0].partition(".")[0]
        place = f"{imports.base}/{folder}".lstrip("/")
        marks.append(f"should the wheel install {folder}? exclude = {_inline([f'/{place}/'])} leaves it out")
    if imports.modules:
        marks.append(f"is {', '.join(imports.modules)} built? {facts.setup.script} may leave it out")
    if imports.without_sources:
        marks.append(f"is {', '.join(imports.without_sources)} a module too? setup.py gives it no sources")
    if not (marks or imports.listed or len(imports.names) == 1):
        marks.append("which packages does the wheel install?")
    return _line("packages", imports.names or (name.replace("-", "_"),), "; ".join(marks))


def _settings_lines(facts: SourceFacts) -> list[str]:
    """Keys that only some projects need: by [tool.cibuildwheel], by setup.py and by CMake's files."""
    settings = dict(facts.cibuildwheel.settings)
    lines = _environment_lines(facts, settings.pop("environment", {}))
    if facts.native.cmake_defines:
        lines.append(_setting("cmake-defines", facts.native.cmake_defines, _FOR_ALL_CPUS))
    lines += _external_libraries_lines(facts, settings.pop("external-libraries", {}))
    lines += _build_requires_lines(facts, settings.pop("build-requires", ()))
    for key, value in settings.items():
        lines.append(_setting(key, value, _BY_CIBUILDWHEEL))
    return lines


def _environment_lines(facts: SourceFacts, by_cibuildwheel: Mapping[str, str]) -> list[str]:
    """The line of `environment`, with each reason for a variable in its mark; none where there is no variable."""
    environment = dict(by_cibuildwheel)
    reasons = [_BY_CIBUILDWHEEL] if by_cibuildwheel else []
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
    return [_setting("environment", environment, "; ".join(reasons))] if environment else []


def _external_libraries_lines(facts: SourceFacts, by_cibuildwheel: Mapping[str, str]) -> list[str]:
    """The line of `external-libraries`, with each reason in its mark; none where there is no such library.

    The source names the distribution that brings a library, which --exclude of cibuildwheel's table does not.
    """
    libraries = {f"lib{package}.so*": distribution for package, distribution in facts.linked.items()}
    reasons = []
    if facts.linked:
        reasons.append(f"the build seems to link against {', '.join(facts.linked)}; what are the libraries called?")
    if facts.openmp:
        # One of the wheel's own would be a second OpenMP runtime in the process.
        libraries["libgomp.so.1"] = "torch"
        reasons.append("OpenMP by torch's own library")
    others = {name: distribution for name, distribution in by_cibuildwheel.items() if not provider(name, libraries)}
    if others:
        libraries |= others
        reasons.append(_BY_CIBUILDWHEEL)
    return [_setting("external-libraries", libraries, "; ".join(reasons))] if libraries else []


def _build_requires_lines(facts: SourceFacts, by_cibuildwheel: Sequence[str]) -> list[str]:
    """The line of `build-requires`, with each reason in its mark; none where nothing is required."""
    reasons = [_BY_CIBUILDWHEEL] if by_cibuildwheel else []
    required = {canonicalize_name(Requirement(text).name) for text in by_cibuildwheel}
    imported = [name for name in facts.setup.undeclared if canonicalize_name(name) not in required]
    if imported:
        reasons.append(f"{facts.setup.script} imports {', '.join(imported)}")
    requires = [*by_cibuildwheel, *imported]
    if facts.setup.lacks_setuptools and "setuptools" not in {*required, *imported}:
        reasons.append("torch.utils.cpp_extension imports setuptools")
        requires.append("setuptools")
    return [_setting("build-requires", requires, "; ".join(reasons))] if requires else []


def _setting(key: str, value: Any, mark: str = "") -> str:
    """A line of TOML that sets a key; with `mark`, one that asks to be checked."""
    line = f"{key} = {_inline(value)}"
    return f"{line}  {_comment(f'{MARK} {mark}')}" if mark else line


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
    yield from _cuda_hints(facts)
    if facts.setup.variables:
        yield f"{facts.setup.script} reads {', '.join(facts.setup.variables)}; the table environment sets them."
    if facts.setup.options:
        yield (
            f"{MARK} setup.py looks for options on its command line. "
            f'config-settings = {{ "--build-option" = {_inline(facts.setup.options)} }} passes all of them.'
        )
    if facts.setup.conditional:
        names = facts.setup.conditional
        yield (
            f"{MARK} {facts.setup.script} imports {', '.join(names)} in some cases: build-requires = {_inline(names)} "
            f"brings {'them' if len(names) > 1 else 'it'}."
        )
    if facts.setup.downloads:
        yield (
            f"{MARK} {facts.setup.script} downloads something, and a build has no network: network = true gives it "
            "one, where what it downloads is no wheel of somebody else's."
        )
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
    yield from _distribution_hints(facts)
    yield from _cmake_hints(facts.cmake, facts.backend)
    for note in facts.cibuildwheel.notes:
        yield f"{MARK} [tool.cibuildwheel] {note}."


def _distribution_hints(facts: SourceFacts) -> Iterator[str]:
    """What may belong to another distribution than a variant's."""
    if facts.other_pyprojects:
        yield (
            f"{MARK} {', '.join(facts.other_pyprojects)} may take the place of pyproject.toml: the key pyproject names "
            f"the one that is built, and [tool.{TABLE}.core] one of a distribution without torch that this one adds to."
        )
    if facts.setup.outside:
        patterns = ", ".join(f'"{kind}/*"' for kind in facts.setup.outside)
        yield (
            f"{MARK} the wheel has files outside of its packages, which two variants cannot both own. Where they are "
            f"the same for every variant, plain-files = [{patterns}] puts them into the plain wheel."
        )


def _cuda_hints(facts: SourceFacts) -> Iterator[str]:
    if not facts.cuda_sources:
        return
    first, *others = facts.cuda_sources
    sources_need = f"{first} and {len(others)} more need" if others else f"{first} needs"
    yield (
        f"{MARK} {sources_need} nvcc. "
        'cuda-arch-list = "torch" compiles them for the GPUs of each torch; without it the build has no CUDA toolkit.'
    )
    for name, value in facts.setup.forces_cuda.items():
        yield (
            f'{MARK} with cuda-arch-list, environment = {{ {name} = "{value}" }} compiles device code on a machine '
            "without a GPU too."
        )
    if facts.setup.asks_for_gpu and not facts.setup.forces_cuda:
        yield (
            f"{MARK} {facts.setup.script} asks torch.cuda.is_available(), which a machine without a GPU denies: with "
            "cuda-arch-list, a diff in patches has it compile device code in any case."
        )


def _standard_hints(facts: SourceFacts, variants: Sequence[Variant]) -> Iterator[str]:
    """The minors whose headers need a newer C++ than the source is compiled with."""
    standard = facts.standard
    if facts.torch_cxx is TorchInSource.NOTHING:
        return
    minors: dict[int, list[str]] = {}
    for variant in variants:
        if standard.years and variant.cxx_standard > min(standard.years):
            minors.setdefault(variant.cxx_standard, []).append(str(variant.torch))
    if minors:
        needs = "; ".join(f"torch {', '.join(names)} need C++{year}" for year, names in minors.items())
        newest = max(minors)
        old = standard.texts[0]
        change = f"s/{old}/{old[:-2]}{newest}/"
        yield (
            f"{MARK} {standard.file} asks for {', '.join(standard.texts)}: {needs}. An entry of overrides changes it, "
            f'such as torch = ">={minors[newest][0]}" with before-build = ["sed -i \'{change}\' {standard.file}"].'
        )


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


def _variants(facts: SourceFacts, variants: Sequence[Variant]) -> tuple[list[Variant], str]:
    """The minors to build for, and a mark where that is in doubt: those that the source's requirement admits, else all.

    Sources that include the stable headers alone compile for none that is older.
    """
    admitted = [variant for variant in variants if _admits(facts.torch, variant)]
    chosen = admitted or list(variants)
    oldest_stable = _oldest_stable(facts, [variant.torch for variant in chosen])
    if oldest_stable and facts.torch_cxx is TorchInSource.STABLE:
        chosen = [variant for variant in chosen if variant.torch >= oldest_stable]
    if not facts.compiles:
        return chosen, "nothing of the source is compiled: does it need a wheel for each torch?"
    if not facts.torch:
        return chosen, "the source names no torch: which minors does it compile for?"
    if not admitted:
        return chosen, "no known minor is admitted: which does it compile for?"
    return chosen, ""


def _oldest_stable(facts: SourceFacts, minors: Sequence[Minor]) -> Minor | None:
    """The oldest of the minors that one wheel of the stable ABI would serve; None for a source that uses another."""
    if not (facts.stable_target or facts.torch_cxx is TorchInSource.STABLE):
        return None
    target = _FIRST_STABLE
    if facts.stable_target and facts.stable_target in minors:
        target = facts.stable_target
    return min((minor for minor in minors if minor >= target), default=None)


def _line(key: str, value: str | Sequence[str], mark: str = "") -> str:
    """A line of TOML below a comment with the key's meaning; with `mark`, one that asks to be checked."""
    description = adapter(Settings).json_schema()["properties"][key]["description"]
    sentence = " ".join(description.split()).partition(". ")[0].removesuffix(".")
    return f"{_comment(sentence)}.\n{_setting(key, value, mark)}"


def _admits(requirement: str, variant: Variant) -> bool:
    """Whether a requirement on torch admits a release of the minor; every minor where there is no requirement."""
    if not requirement:
        return True
    specifier = Requirement(requirement).specifier
    return any(specifier.contains(release) for release in variant.releases)
