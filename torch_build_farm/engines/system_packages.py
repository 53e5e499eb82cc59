"""Whether the system packages that a project names are on this machine, or in a sysroot. None of them is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.process import capture
from torch_build_farm.engines.sysroot import Sysroot
from torch_build_farm.project.settings import Settings

_QUERY = {"apt": ("dpkg-query", "-W", "-f", "${Status}"), "dnf": ("rpm", "-q")}
# Of a sysroot: where its packages are listed, and how the query is told.
_DATABASES = {"apt": "var/lib/dpkg/status", "dnf": "var/lib/rpm"}
_IN_FOLDER = {"apt": lambda root: [f"--admindir={root}/var/lib/dpkg"], "dnf": lambda root: [f"--root={root}"]}


def check(settings: Settings, sysroot: Sysroot | None) -> None:
    """Raise ToolError where a package manager of this machine, or of the sysroot, lacks a package of the project."""
    by_manager = {"apt": settings.system_packages.apt, "dnf": settings.system_packages.dnf}
    for manager, packages in by_manager.items():
        query = _QUERY[manager]
        if not shutil.which(query[0]):  # another distribution's manager
            continue
        if sysroot:
            if not _lists_packages(sysroot.folder / _DATABASES[manager]):
                continue
            query = (query[0], *_IN_FOLDER[manager](sysroot.folder), *query[1:])
        missing = []
        for package in packages:
            answer = capture([*query, package])
            # dpkg knows packages that were removed, too.
            installed = answer.ok and (manager != "apt" or "ok installed" in answer.tail[0])
            if not installed:
                missing.append(package)
        if missing:
            raise ToolError(
                f"system packages are missing: {', '.join(missing)}",
                where="[tool.torch-build-farm.system-packages]",
                next_step=f"{manager} install {' '.join(missing)}" + (f", in {sysroot.folder}" if sysroot else ""),
            )


def _lists_packages(database: Path) -> bool:
    """Whether a sysroot has a database of its packages, a file or a folder, that is not empty.

    Where packages were unpacked and not installed (ci/sysroot) it is, and the build says what it lacks.
    """
    return database.is_dir() or (database.is_file() and database.stat().st_size > 0)
