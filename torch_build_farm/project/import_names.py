"""The names that a source's wheel makes importable, as far as the source says so without being run.

What is listed counts: by the back end's table, by setup() as plain values, by an sdist's top_level.txt. Else packages
are looked for where back ends look, and there may be more of them than the wheel has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from packaging.utils import canonicalize_name

from torch_build_farm.core.toml import table_in
from torch_build_farm.project import meson_file, setup_script, source_files
from torch_build_farm.project.dynamic_version import back_end

# Folders with an __init__.py that are seldom installed.
_BESIDE = {"benchmark", "benchmarks", "build", "cmake", "conda", "csrc", "dist", "doc", "docs", "example", "examples",
           "extern", "external", "include", "scripts", "test", "testing", "tests", "third_party", "tools",
           "vendor"}  # fmt: skip
_BUILDS_OWN = {"build", "dist"}  # no part of a source
_NAMESPACES_DEEP = 4
_MOST_FOLDERS = 2_000
_LONGEST = 200  # bytes of a name, which is that of a file too


@dataclass(frozen=True)
class ImportNames:
    """Packages, dotted in a namespace, and single modules; `listed`: the source itself lists them.

    `modules` are those of them that setup.py may or may not build. `without_sources` are
    extensions that may stand for no module; they are among `names` only where there is nothing else.
    `base` is the folder of packages that no list names.
    """

    names: tuple[str, ...]
    listed: bool
    modules: tuple[str, ...] = ()
    without_sources: tuple[str, ...] = ()
    base: str = field(default="", compare=False)

    @property
    def beside(self) -> tuple[str, ...]:
        """Those that are seldom meant to be installed, such as tests."""
        return tuple(name for name in self.names if name.partition(".")[0] in _BESIDE)


def find(project: Path, pyproject: Mapping[str, Any], setup: Mapping[str, Any], name: str) -> ImportNames:
    """The import names of the project in a folder, whose distribution's name is `name`.

    `setup` are the arguments of setup() that are plain. Raises SourceError where a file cannot be read.
    """
    places = _places(pyproject, setup)
    extensions = setup_script.extension_names(project)
    stated = set(_listed(pyproject, setup))
    # setuptools writes extensions down without the package that setup() puts them into.
    written_down = set(_top_level(project)) - extensions.relative
    written_down -= {name for name in _BESIDE & written_down if not places.has_files(project, name)}
    listed_names = _importable(stated | written_down)
    packages = {package for listed_name in listed_names for package in _below_namespace(project, places, listed_name)}
    found_in = ""
    for base in places.bases:
        if not packages:
            candidates = _packages(project / base, "", _Budget())
            packages = {package for package in candidates if base or _plausible(package, name)}
            if packages:
                found_in = base
                packages |= _found_by_setuptools(project, base, pyproject)

    # Of these setuptools wrote down the first name alone: they are compiled modules, or folders with nothing but such.
    compiled = {name for name in packages & written_down - stated if not places.has_files(project, name)}
    without_sources = set(filter(can_be_a_module, extensions.without_sources))
    without_sources = {module for module in without_sources if not places.has_files(project, module)}
    installed = meson_file.modules(project) if back_end(pyproject) == "mesonpy" else set()
    of_meson = set(filter(can_be_a_module, installed))  # there are other files too
    named = extensions.names | of_meson
    modules = {module for module in named if _is_outside(module, packages - compiled)} - without_sources
    built = packages - compiled - without_sources | modules
    for module in compiled - without_sources:
        if not any(other.startswith(f"{module}.") for other in modules):
            built.add(module)
    uncertain = (modules | compiled) & built - extensions.certain if extensions.any else modules & of_meson
    return ImportNames(
        names=tuple(sorted(built or without_sources)),
        listed=bool(listed_names),
        modules=tuple(sorted(uncertain)),
        without_sources=tuple(sorted(without_sources)),
        base=found_in,
    )


def can_be_a_module(name: str) -> bool:
    """Whether Python can import a module of that name, and a file can have it."""
    return name.isidentifier() and len(name.encode()) <= _LONGEST


def _is_outside(module: str, packages: Iterable[str]) -> bool:
    """Whether a module, which may be dotted, lies in none of the packages."""
    importable = all(map(can_be_a_module, module.split(".")))
    return importable and not any(f"{module}.".startswith(f"{package}.") for package in packages)


def _plausible(dotted: str, name: str) -> bool:
    """At a tree's top only a package is likely, or a namespace that the distribution is called after.

    Any folder may be part of a namespace, by PEP 420.
    """
    first = dotted.partition(".")[0]
    return "." not in dotted or canonicalize_name(first) == canonicalize_name(name).partition("-")[0]


def _importable(names: Iterable[str]) -> set[str]:
    """Those of the names that can be imported, without the packages within others: the settings take no others."""
    valid = {name for name in names if all(map(can_be_a_module, name.split(".")))}
    return {name for name in valid if not any(name.startswith(f"{other}.") for other in valid)}


@dataclass(frozen=True)
class _Places:
    """Where packages lie: in the folders `bases`, the likeliest first, and those of `folders` in their own."""

    bases: tuple[str, ...]
    folders: Mapping[str, str]

    def of(self, name: str) -> Iterator[str]:
        """The folders in which a package may lie."""
        if name in self.folders:
            yield self.folders[name]
        for base in self.bases:
            yield f"{base}/{name.replace('.', '/')}".lstrip("/")

    def has_files(self, project: Path, name: str) -> bool:
        """Whether a name is that of a package or a module in Python."""
        return any((project / f"{place}{suffix}").exists() for place in self.of(name) for suffix in ("", ".py"))


def _places(pyproject: Mapping[str, Any], setup: Mapping[str, Any]) -> _Places:
    """As the project says, then src/, python/ or its own folder."""
    setuptools = table_in(pyproject, "tool", "setuptools")
    folders: dict[str, str] = {}
    for stated in (table_in(setuptools, "package-dir"), setup.get("package_dir")):
        if isinstance(stated, dict):
            folders |= {str(name): folder for name, folder in stated.items() if _is_inside(folder)}
    where = table_in(setuptools, "packages", "find").get("where")
    bases = [folders.pop("", None), *(where if isinstance(where, list) else [])]
    return _Places(tuple(dict.fromkeys([*filter(_is_inside, bases), "src", "python", ""])), folders)


def _is_inside(folder: object) -> TypeGuard[str]:
    return isinstance(folder, str) and ".." not in folder and not folder.startswith("/")


# ---- what is listed


def _listed(pyproject: Mapping[str, Any], setup: Mapping[str, Any]) -> Iterator[str]:
    """The names in the tables of back ends and in setup(). A path stands for the name of its last part."""
    tool = table_in(pyproject, "tool")
    scikit_build = table_in(tool, "scikit-build", "wheel").get("packages")
    if isinstance(scikit_build, dict):  # where each belongs in the wheel
        yield from (str(path).replace("/", ".") for path in scikit_build)
    paths = [scikit_build, table_in(tool, "hatch", "build", "targets", "wheel").get("packages")]
    for path in _texts(*paths):
        yield Path(path).name
    for package in _tables(table_in(tool, "poetry").get("packages")):
        yield str(package.get("to") or package.get("include", "")).replace("/", ".")
    setuptools = table_in(tool, "setuptools")
    yield from _texts(
        setuptools.get("packages"), setuptools.get("py-modules"), setup.get("packages"), setup.get("py_modules")
    )
    flit = [table_in(tool, "flit", "module").get("name"), table_in(tool, "flit", "metadata").get("module")]
    yield from _texts(flit)


def _texts(*lists: object) -> list[str]:
    return [text for texts in lists if isinstance(texts, list) for text in texts if isinstance(text, str)]


def _tables(tables: object) -> list[dict[str, Any]]:
    return [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []


def _top_level(project: Path) -> list[str]:
    """What setuptools wrote down when it made an unpacked sdist."""
    if not (project / "PKG-INFO").is_file():
        return []
    names: list[str] = []
    for path in [*project.glob("*.egg-info/top_level.txt"), *project.glob("*/*.egg-info/top_level.txt")]:
        names += source_files.text(project, path.relative_to(project).as_posix()).split()
    return names


def _below_namespace(project: Path, places: _Places, name: str) -> list[str]:
    """The packages of a namespace that is listed by its first name; the name itself where it is a package."""
    for place in places.of(name):
        folder = project / place
        if folder.is_dir():
            packages = list(_packages(folder, name, _Budget()))
            if packages:
                return packages
    return [name]


# ---- what is found


def _found_by_setuptools(project: Path, base: str, pyproject: Mapping[str, Any]) -> set[str]:
    """The packages in a folder that are seldom installed, where setuptools is told to take whatever is there."""
    if back_end(pyproject) != "setuptools":
        return set()
    folders = set()
    finder = table_in(pyproject, "tool", "setuptools", "packages").get("find")
    if isinstance(finder, dict) and not {"include", "exclude"} & finder.keys():
        folders |= set(_texts(finder.get("where", ["."])))
    for call in setup_script.calls(project, "setup.py"):
        if setup_script.called(call) in ("find_packages", "find_namespace_packages"):
            folders |= set(setup_script.only_folder(call))
    if base not in {"" if folder == "." else folder.removeprefix("./").rstrip("/") for folder in folders}:
        return set()
    return {name for name in _BESIDE - _BUILDS_OWN if (project / base / name / "__init__.py").is_file()}


class _Budget:
    """How many more folders are looked at."""

    def __init__(self) -> None:
        self.folders = _MOST_FOLDERS


def _packages(folder: Path, dotted: str, budget: _Budget) -> Iterator[str]:
    """The packages in a folder, or those in folders without an __init__.py, which are namespaces (PEP 420)."""
    if dotted and ((folder / "__init__.py").is_file() or (folder / "__init__.pyi").is_file()):
        yield dotted
        return
    if dotted.count(".") >= _NAMESPACES_DEEP or budget.folders <= 0 or not folder.is_dir():
        return
    budget.folders -= 1
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in names:
        if name.isidentifier() and name not in _BESIDE:
            yield from _packages(folder / name, f"{dotted}.{name}" if dotted else name, budget)
