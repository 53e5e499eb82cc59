"""Where the loader looks: what a wheel's library finds in the wheel itself, in a torch release and on the system.

The loader looks for an undefined name in the libraries that the loaded one needs, and in those that they need in turn,
breadth first (System V ABI, "Shared Object Dependencies"); torch's libraries are not in the global scope. A library
that others of the wheel need is also resolved in their scope, since it is loaded with them.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import PurePosixPath

from packaging.utils import canonicalize_name

from torch_build_farm.core.errors import AuditError
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.resources import DATA
from torch_build_farm.project import external_libraries
from torch_build_farm.project.external_libraries import matches_any, provider
from torch_build_farm.releases.symbol_table import SymbolIndex, Unit
from torch_build_farm.wheels.elf.library import Elf

_LONGEST_FILE_NAME = 255  # characters of a file name (Linux, NAME_MAX)
# Needed libraries that are followed for one wheel: the closures of 300 libraries that need 30 others each are 90,000.
_MOST_STEPS = 500_000


@dataclass(frozen=True)
class Policy:
    """data/loader.toml, which explains each field, with its patterns compiled."""

    system: Mapping[str, frozenset[str]]  # by the machine's name
    driver: frozenset[str]
    compilers: frozenset[str]
    interpreter: re.Pattern[str]
    shim: re.Pattern[str]
    cuda: re.Pattern[str]
    optional: re.Pattern[str]
    cxx: re.Pattern[str]
    in_torch: re.Pattern[str]
    mentions_torch: re.Pattern[str]
    functions: Mapping[str, re.Pattern[str]]
    attributes: Mapping[str, str]
    pybind11: Mapping[str, Mapping[str, str]]  # by the machine's name and the minor


@cache
def policy() -> Policy:
    """The policy that ships with the farm."""
    table = tomllib.loads((DATA / "loader.toml").read_text("utf-8"))
    patterns = {name: re.compile(text) for name, text in table["patterns"].items()}
    functions = {library: re.compile(text) for library, text in table["functions"].items()}
    return Policy(
        system={machine: frozenset(table["system"] + names) for machine, names in table["system-of"].items()},
        driver=frozenset(table["driver"]),
        compilers=frozenset(table["compilers"]),
        attributes=table["attributes"],
        functions=functions,
        pybind11={machine: table["pybind11"] | table["pybind11-of"].get(machine, {}) for machine in table["system-of"]},
        **patterns,
    )


@dataclass(frozen=True)
class Reach:
    """What a library reaches outside its wheel in a torch release.

    - `units`: torch's libraries, whose exported names the symbol table lists.
    - `others`: sonames of CUDA's and the system's libraries; of most of them no table lists the names.
    - `companions`: sonames that belong to distributions which the wheel requires, and those distributions.
    - `missing`: sonames that are needed and belong to none of these.
    """

    units: frozenset[Unit]
    others: frozenset[str]
    companions: Mapping[str, str]
    missing: frozenset[str]


@dataclass(frozen=True)
class Outside:
    """A soname that a library requires and the wheel lacks.

    `searches_torch` tells whether the library's run paths lead to torch's folders.
    """

    soname: str
    searches_torch: bool


class Contents:
    """A wheel's libraries by the paths they are installed to, and the distributions that the wheel requires.

    `requires` are normalized names (PEP 503); `external_libraries` are patterns of libraries with who brings them, the
    setting of that name.
    """

    def __init__(
        self,
        libraries: Mapping[str, Elf],
        requires: Iterable[str] = (),
        external_libraries: Mapping[str, str] | None = None,
    ) -> None:
        self.libraries = libraries
        self.requires = frozenset(requires)
        self.external_libraries = external_libraries or {}
        self._closures: dict[str, tuple[str, ...]] = {}
        self._steps = 0  # of all closures so far
        self._paths: dict[tuple[str, str], str] = {}  # by the user's folder and the soname
        self._outside: dict[str, tuple[Outside, ...]] = {}

    @cached_property
    def by_name(self) -> dict[str, str]:
        """Paths by file name, and by soname where no file has that name; of several the first path in sorted order."""
        by_name: dict[str, str] = {}
        for path in sorted(self.libraries):
            by_name.setdefault(PurePosixPath(path).name, path)
        for path in sorted(self.libraries):
            soname = self.libraries[path].soname
            if soname:
                by_name.setdefault(soname, path)
        return by_name

    def find(self, user: str, needed: str) -> str:
        """The path of the wheel's library that the one at `user` loads for a soname; empty if the wheel has none.

        A library in the same folder comes first, then any other of that name.
        """
        # Called for every name of every library: two hundred libraries that need each other ask half a million times.
        folder = user.rpartition("/")[0]
        key = (folder, needed)
        if key not in self._paths:
            beside = posixpath.join(folder, needed)
            self._paths[key] = beside if beside in self.libraries else self.by_name.get(needed, "")
        return self._paths[key]

    def companion(self, soname: str) -> str:
        """The distribution that brings a library and that the wheel requires; empty if there is none.

        It is known from the project's settings, or by its name: libtbb.so.12 belongs to tbb. It is installed together
        with this wheel, and its library is loaded first (metatensor-torch loads metatensor-core's libmetatensor.so this
        way).
        """
        stated = canonicalize_name(provider(soname, self.external_libraries))
        if stated:
            return stated if stated in self.requires else ""
        match = re.match(r"lib([\w-]{3,}?)[\d._-]*\.so", soname[:_LONGEST_FILE_NAME])
        if not match:
            return ""
        stem = canonicalize_name(match[1])
        for name in sorted(self.requires):
            # At the end of a name several words say enough: libtvm_ffi.so is apache-tvm-ffi's.
            at_the_end = "-" in stem and name.endswith(f"-{stem}")
            if name == stem or name.startswith(f"{stem}-") or at_the_end:
                return name
        return ""

    @cached_property
    def users(self) -> dict[str, frozenset[str]]:
        """For each library the libraries of the wheel that need it, directly or not, and the library itself."""
        users = defaultdict[str, set[str]](set)
        for path in self.libraries:
            for needed in self.closure(path):
                users[needed].add(path)
        return {path: frozenset(paths) for path, paths in users.items()}

    def closure(self, path: str) -> tuple[str, ...]:
        """A library and those of the wheel that it needs, directly or not, in the order of the loader's search.

        Raises AuditError for a wheel in which too many libraries need too many others.
        """
        if path not in self._closures:
            seen, queue = {path: None}, deque([path])
            while queue:
                user = queue.popleft()
                self._steps += len(self.libraries[user].needed)
                if self._steps > _MOST_STEPS:
                    raise AuditError(
                        "too many of its libraries need too many others",
                        where=path,
                        next_step="audit a wheel with fewer libraries",
                    )
                for needed in self.libraries[user].needed:
                    inner = self.find(user, needed)
                    if inner and inner not in seen:
                        seen[inner] = None
                        queue.append(inner)
            self._closures[path] = tuple(seen)
        return self._closures[path]

    def outside(self, path: str) -> tuple[Outside, ...]:
        """What a library and those of the wheel that it needs require from outside: the same for every release."""
        if path not in self._outside:
            outside: dict[Outside, None] = {}  # an ordered set
            for inner in self.closure(path):
                elf = self.libraries[inner]
                searches_torch = _leads_to_torch(elf.run_paths)
                for soname in sorted(required(elf)):
                    if not self.find(inner, soname):
                        outside[Outside(soname, searches_torch)] = None
            self._outside[path] = tuple(outside)
        return self._outside[path]


class TorchRelease:
    """One release for one CPython, as a wheel's libraries find it after `import torch`.

    `units` are by file name; `system` are the sonames that every system of the machine brings. `other_cuda`: it stands
    for the same release of another CUDA, whose libraries have other numbers and are all taken to be there.
    """

    def __init__(
        self, index: SymbolIndex, release: str, python: str, machine: Machine = X86_64, *, other_cuda: bool = False
    ) -> None:
        self.other_cuda = other_cuda
        self.system = policy().system[machine.name]
        of_release = [unit for unit in index.units if unit.release == release]
        # libtorch_python differs by a few names between CPythons; `index add` reads it for one of them by default,
        # which then stands for the others.
        pythons_read = {unit.python for unit in of_release if unit.python}
        nearest = python if python in pythons_read else min(pythons_read, default="")
        self.units: dict[str, Unit] = {}
        for unit in of_release:
            if unit.python in ("", nearest):
                self.units[unit.library] = unit
        self._closures: dict[str, frozenset[str]] = {}
        self._reaches: dict[str, Reach] = {}

    def closure(self, name: str) -> frozenset[str]:
        """The sonames of a library and of all that it needs; what CUDA's libraries need is not known."""
        if name not in self._closures:
            seen, queue = {name}, deque([name])
            while queue:
                unit = self.units.get(queue.popleft())
                if unit is None:  # CUDA's or the system's
                    continue
                for needed in unit.needed:
                    if needed not in seen:
                        seen.add(needed)
                        queue.append(needed)
            self._closures[name] = frozenset(seen)
        return self._closures[name]

    @cached_property
    def loaded(self) -> frozenset[str]:
        """The sonames of the libraries that `import torch` loads.

        Besides what its own libraries need, these are nvrtc and nvJitLink, the latter for cuSPARSE (torch/__init__.py,
        _load_global_deps; seen in a process with torch 2.8).
        """
        loaded = set(self.closure("libtorch_python.so") | self.closure("libtorch_global_deps.so"))
        for name in self.brought:
            if name.startswith("libnvrtc.so."):
                loaded |= {name, name.replace("nvrtc", "nvJitLink")}
        return frozenset(loaded)

    @cached_property
    def brought(self) -> frozenset[str]:
        """The sonames of libraries that come with torch or with its requirements, loaded or not."""
        names = set(self.units)
        for unit in self.units.values():
            names |= set(unit.needed)
        names -= self.system | policy().driver
        # libpython is the interpreter's, if it is shared at all.
        return frozenset(name for name in names if not name.startswith("libpython"))

    def reach(self, contents: Contents, path: str) -> Reach:
        """What the library at `path` of a wheel reaches.

        Answers are cached by path, so that a TorchRelease serves one wheel only.
        """
        if path not in self._reaches:
            self._reaches[path] = self._reach(contents, path)
        return self._reaches[path]

    def _reach(self, contents: Contents, path: str) -> Reach:
        torch: set[str] = set()
        others: set[str] = set()
        missing: set[str] = set()
        companions: dict[str, str] = {}
        for needed in contents.outside(path):
            soname = needed.soname
            # Run paths into torch's folders also find libraries there that `import torch` has not loaded.
            if soname in self.loaded or (needed.searches_torch and soname in self.brought):
                torch |= self.closure(soname)
            elif soname in self.system or (self.other_cuda and _is_of_cuda_toolkit(soname)):
                others.add(soname)
            elif contents.companion(soname):
                companions[soname] = contents.companion(soname)
            else:
                missing.add(soname)
        # Torch needs CUDA's libraries too, which have no unit: they join the others.
        units = set()
        for name in torch:
            if name in self.units:
                units.add(self.units[name])
            else:
                others.add(name)
        return Reach(frozenset(units), frozenset(others), companions, frozenset(missing))


def _is_of_cuda_toolkit(soname: str) -> bool:
    """Whether a library is CUDA's and not the driver's: what comes with every torch for CUDA, under some number."""
    return matches_any(soname, external_libraries.policy().cuda) and soname not in policy().driver


def required(elf: Elf) -> set[str]:
    """The sonames without which a library does not load."""
    required = set(elf.needed)
    # A file that symbol versions refer to must be loaded too, or the loader ends the process (glibc, dl-version.c).
    for file, _ in elf.versions:
        required.add(file)
    return required


def _leads_to_torch(run_paths: Iterable[str]) -> bool:
    """Whether a run path leads to the folders of torch's libraries or of CUDA's."""
    return any(re.search(r"/(torch/lib|nvidia/[\w/-]+)/?$", path) for path in run_paths)
