"""Where the loader looks: the libraries that one of a wheel finds in the wheel, in a torch release and on the system.

An undefined name is looked for in the libraries that the loaded one needs, and those that they need in turn, breadth
first (System V ABI, "Shared Object Dependencies"); torch's libraries are not in the global scope. A library that
others of the wheel need is looked up in their scope too, since it is loaded with them.
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

from torch_build_farm.core.resources import DATA
from torch_build_farm.releases.symbol_table import SymbolIndex, Unit
from torch_build_farm.wheels.elf.library import Elf


@dataclass(frozen=True)
class Policy:
    """data/loader.toml, its patterns compiled."""

    system: frozenset[str]
    driver: frozenset[str]
    interpreter: re.Pattern[str]
    shim: re.Pattern[str]
    cuda: re.Pattern[str]
    optional: re.Pattern[str]
    cxx: re.Pattern[str]
    in_torch: re.Pattern[str]
    mentions_torch: re.Pattern[str]
    functions: Mapping[str, re.Pattern[str]]


@cache
def policy() -> Policy:
    """The policy that ships with the farm."""
    table = tomllib.loads((DATA / "loader.toml").read_text("utf-8"))
    patterns = {name: re.compile(text) for name, text in table["patterns"].items()}
    functions = {library: re.compile(text) for library, text in table["functions"].items()}
    return Policy(frozenset(table["system"]), frozenset(table["driver"]), functions=functions, **patterns)


@dataclass(frozen=True)
class Reach:
    """What a library reaches outside of its wheel in a torch release: torch's units, and other libraries.

    `others` are libraries whose names no table lists: CUDA's and some of the system's. `companions` belong to
    distributions that the wheel requires. `missing` are needed and belong to none of these.
    """

    units: frozenset[Unit]
    others: frozenset[str]
    companions: frozenset[str]
    missing: frozenset[str]


class Contents:
    """A wheel's libraries by their paths in it, and the names of the distributions that it requires."""

    def __init__(self, libraries: Mapping[str, Elf], requires: Iterable[str] = ()) -> None:
        self.libraries = libraries
        self.requires = frozenset(requires)
        self._closures: dict[str, tuple[str, ...]] = {}

    @cached_property
    def by_name(self) -> dict[str, str]:
        """Paths by file name; a soname counts where no file has that name. Of several the first path counts."""
        by_name: dict[str, str] = {}
        for path in sorted(self.libraries):
            by_name.setdefault(PurePosixPath(path).name, path)
        for path in sorted(self.libraries):
            soname = self.libraries[path].soname
            if soname:
                by_name.setdefault(soname, path)
        return by_name

    def find(self, user: str, needed: str) -> str:
        """The library of the wheel that the one at `user` gets for a name: its neighbour, else any; empty for none."""
        # Called for every name of every library: making a Path costs more than all the rest.
        beside = posixpath.join(posixpath.dirname(user), needed)
        return beside if beside in self.libraries else self.by_name.get(needed, "")

    def comes_with(self, soname: str) -> bool:
        """Whether a library belongs, by its name, to a distribution that the wheel requires: libtbb.so.12 to tbb.

        Such a wheel is installed together with this one, and loads the library first (metatensor-torch does so with
        metatensor-core's libmetatensor.so).
        """
        match = re.match(r"lib([\w-]{3,}?)[\d._-]*\.so", soname)
        if not match:
            return False
        stem = canonicalize_name(match[1])
        return any(name == stem or name.startswith(f"{stem}-") for name in self.requires)

    @cached_property
    def users(self) -> dict[str, frozenset[str]]:
        """For each library those of the wheel that need it, directly or not, and itself."""
        users = defaultdict[str, set[str]](set)
        for path in self.libraries:
            for needed in self.closure(path):
                users[needed].add(path)
        return {path: frozenset(paths) for path, paths in users.items()}

    def closure(self, path: str) -> tuple[str, ...]:
        """A library and those of the wheel that it needs, directly or not."""
        if path not in self._closures:
            seen, queue = [path], deque([path])
            while queue:
                user = queue.popleft()
                for needed in self.libraries[user].needed:
                    inner = self.find(user, needed)
                    if inner and inner not in seen:
                        seen.append(inner)
                        queue.append(inner)
            self._closures[path] = tuple(seen)
        return self._closures[path]


class TorchRelease:
    """One release for one CPython, as a wheel's libraries meet it once torch is imported. `units` are by file name."""

    def __init__(self, index: SymbolIndex, release: str, python: str) -> None:
        of_release = [unit for unit in index.units if unit.release == release]
        pythons_read = {unit.python for unit in of_release if unit.python}
        # libtorch_python differs by a few names between CPythons; `index add` reads it for one of them by default.
        nearest = python if python in pythons_read else min(pythons_read, default="")
        self.units = {unit.library: unit for unit in of_release if unit.python in ("", nearest)}
        self._closures: dict[str, frozenset[str]] = {}
        self._reaches: dict[str, Reach] = {}

    def closure(self, name: str) -> frozenset[str]:
        """Names of a library, and of those that it needs as far as torch's own need them."""
        if name not in self._closures:
            seen, queue = {name}, deque([name])
            while queue:
                unit = self.units.get(queue.popleft())
                for needed in unit.needed if unit else ():
                    if needed not in seen:
                        seen.add(needed)
                        queue.append(needed)
            self._closures[name] = frozenset(seen)
        return self._closures[name]

    @cached_property
    def loaded(self) -> frozenset[str]:
        """The libraries that `import torch` loads.

        Beside those that its own need these are nvrtc and nvJitLink, the latter for cuSPARSE (torch/__init__.py,
        _load_global_deps; seen in a process with torch 2.8).
        """
        loaded = set(self.closure("libtorch_python.so") | self.closure("libtorch_global_deps.so"))
        for name in self.brought:
            if name.startswith("libnvrtc.so."):
                loaded |= {name, name.replace("nvrtc", "nvJitLink")}
        return frozenset(loaded)

    @cached_property
    def brought(self) -> frozenset[str]:
        """Libraries that come with torch or with its requirements, loaded or not."""
        names = set(self.units)
        for unit in self.units.values():
            names |= set(unit.needed)
        names -= policy().system | policy().driver
        return frozenset(name for name in names if not name.startswith("libpython"))  # the interpreter's, if shared

    def reach(self, contents: Contents, path: str) -> Reach:
        """What the library at `path` of a wheel reaches. Answers are kept: one TorchRelease serves one wheel only."""
        if path not in self._reaches:
            self._reaches[path] = self._reach(contents, path)
        return self._reaches[path]

    def _reach(self, contents: Contents, path: str) -> Reach:
        torch: set[str] = set()
        others: set[str] = set()
        missing: set[str] = set()
        companions: set[str] = set()
        for inner in contents.closure(path):
            elf = contents.libraries[inner]
            # A file that versions are asked of has to be loaded, or the loader ends the process (glibc, dl-version.c).
            required = {*elf.needed, *(file for file, _ in elf.versions)}
            available = self.loaded | self.brought if _leads_to_torch(elf.run_paths) else self.loaded
            for needed in sorted(required):
                if contents.find(inner, needed):
                    continue  # the wheel has it
                if needed in available:
                    torch |= self.closure(needed)
                elif needed in policy().system:
                    others.add(needed)
                elif contents.comes_with(needed):
                    companions.add(needed)
                else:
                    missing.add(needed)
        units = {self.units[name] for name in torch if name in self.units}
        others |= torch - set(self.units)
        return Reach(frozenset(units), frozenset(others), frozenset(companions), frozenset(missing))


def _leads_to_torch(run_paths: Iterable[str]) -> bool:
    """Whether a run path leads to the folders of torch's libraries or of CUDA's."""
    return any(re.search(r"/(torch/lib|nvidia/[\w/-]+)/?$", path) for path in run_paths)
