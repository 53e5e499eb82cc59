"""Namespaces among the packages that a project names: folders in which other distributions have packages too.

A dispatcher in such a folder would belong to several distributions, and where it finds no variant, the packages of all
others would fail to import.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from torch_build_farm.core.errors import RelocationError
from torch_build_farm.wheels.record import installed_path

# How an __init__.py opens its package to other distributions, before PEP 420.
_OPENED = re.compile(rb"\b(extend_path|declare_namespace)\s*\(")


@dataclass(frozen=True)
class Folders:
    """The modules of a wheel, by the folder that holds them: "acme/foo" -> "acme/foo/__init__.py", "acme/foo/a.so".

    `opened` are the __init__.py that open their package to other distributions.
    """

    modules: Mapping[str, Collection[str]]
    opened: Collection[str]

    @classmethod
    def of(cls, archive: zipfile.ZipFile) -> Self:
        """The modules of a wheel, by where they are installed."""
        modules = defaultdict(list)
        opened = set()
        for member in archive.namelist():
            if not member.endswith((".py", ".so")):
                continue
            path = installed_path(member)
            modules[posixpath.dirname(path)].append(path)
            if path.endswith("/__init__.py") and _OPENED.search(archive.read(member)):
                opened.add(path)
        return cls(modules, opened)

    def is_namespace(self, folder: str) -> bool:
        """Whether a folder has no module, except an __init__.py that opens it to other distributions."""
        modules = self.modules.get(folder, ())
        if not modules:
            return True
        return modules == [f"{folder}/__init__.py"] and modules[0] in self.opened

    def packages_in(self, namespace: str) -> list[str]:
        """The outermost folders in a namespace that are none themselves, in alphabetical order."""
        packages = set()
        for folder in self.modules:
            if not folder.startswith(f"{namespace}/"):
                continue
            outermost = namespace
            for name in folder[len(namespace) + 1 :].split("/"):
                outermost = f"{outermost}/{name}"
                if not self.is_namespace(outermost):
                    packages.add(outermost)
                    break
        return sorted(packages)


def check(folders: Iterable[str], archive: zipfile.ZipFile) -> None:
    """Raise RelocationError for a folder of `folders` that is a namespace in the wheel `archive`."""
    wheel = Folders.of(archive)
    for folder in folders:
        packages = [package.replace("/", ".") for package in wheel.packages_in(folder)]
        if not (wheel.is_namespace(folder) and packages):
            continue
        quoted = ", ".join(f'"{package}"' for package in packages)
        raise RelocationError(
            f"{folder.replace('/', '.')} is a namespace, without code of its own: other distributions may have "
            "packages in it, and a dispatcher there would be in their way",
            where=f"{folder}/",
            next_step=f"name the packages in it: packages = [{quoted}]",
        )
