"""auditwheel, with torch and CUDA left out by policy data; then everything that makes a wheel unfit for users."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels.auditwheel import matches_any, policy
from torch_build_farm.wheels.wheel import Wheel, members_naming, record_problems

# auditwheel keeps a library's name and puts the start of its hash into it: libgomp-24e2ab19.so.1.0.0.
_GRAFT_HASH = re.compile(r"-[0-9a-f]{8}(?=\.so)")


def _bundled(wheel: Wheel, settings: Settings) -> list[str]:
    """Shared libraries in the wheel that are torch's, CUDA's, or grafted without leave.

    A library counts by its file name, its SONAME and its name before auditwheel put a hash into it.
    """
    problems = []
    for library in wheel.libraries:
        path = PurePosixPath(library.path)
        names = {path.name, library.soname, _GRAFT_HASH.sub("", path.name)} - {""}
        for owner, patterns in (("torch", policy().torch), ("CUDA", policy().cuda)):
            if any(matches_any(name, patterns) for name in names):
                problems.append(f"{library.path} is a library of {owner}, which must not be in the wheel")
        if path.parts[0].endswith(".libs") and not any(matches_any(n, settings.grafted_libraries) for n in names):
            problems.append(
                f"{library.path} was grafted from the build machine; if that is meant, "
                f"add {_GRAFT_HASH.sub('', path.name).split('.so')[0]}.so* to grafted-libraries"
            )
    return problems


def _run_paths(wheel: Wheel) -> list[str]:
    """RPATH and RUNPATH entries that mean nothing, or something else, on the user's machine."""
    problems = []
    for library in wheel.libraries:
        for entry in library.run_paths:
            if not entry:
                problems.append(f"{library.path} has an empty RUNPATH entry, which means the current folder")
            elif not entry.startswith(("$ORIGIN", "${ORIGIN}")):
                problems.append(
                    f"{library.path} has the RUNPATH entry {entry}, a place on the build machine; "
                    "set CMAKE_INSTALL_RPATH, or CMAKE_SKIP_INSTALL_RPATH=ON in cmake-defines"
                )
    return problems


def _top_level(wheel: Wheel, settings: Settings) -> list[str]:
    """Files outside the project's packages, where another distribution may have files of the same name."""
    packages = {name.split(".")[0] for name in settings.packages}
    stray: dict[str, int] = {}
    for member in wheel.members:
        parts = PurePosixPath(member).parts
        if parts[0].endswith(".data") and len(parts) > 2:
            if parts[1] == "scripts":
                continue
            parts = parts[2:] if parts[1] in ("purelib", "platlib") else (f"{parts[1]}/{parts[2]}",)
        top = parts[0]
        module = top.split(".")[0] if len(parts) == 1 else top
        if not (module in packages or top.endswith((".dist-info", ".libs"))):
            stray[top] = stray.get(top, 0) + 1
    return [
        f"{top} ({count} file{'s' if count > 1 else ''}) lies outside the packages {', '.join(sorted(packages))}"
        for top, count in sorted(stray.items())
    ]


def problems(wheel: Wheel, settings: Settings, expected: Iterable[str] = (), builders: Iterable[str] = ()) -> list[str]:
    """Every reason why the wheel is unfit for users, a sentence each; none for a good one.

    `expected` are members that the wheel must have, `builders` folders of the build that no member may name.
    """
    found = [
        f"{path} is in the source but not in the wheel, so Python would take the folder for a namespace package; "
        "name the packages in the build back end's settings (scikit-build-core: wheel.packages)"
        for path in expected
        if path not in wheel.members
    ]
    found += [*_bundled(wheel, settings), *_run_paths(wheel), *_top_level(wheel, settings)]
    found += [
        f"{member} names {folder}, a folder of the build: users have none such, and the same sources built elsewhere "
        "give another file"
        for member, folder in members_naming(wheel.path, builders).items()
    ]
    found += record_problems(wheel.path)
    size = wheel.path.stat().st_size / 1e6
    if size > settings.size_limit_mb:
        found.append(f"the wheel has {size:.1f} MB, over size-limit-mb = {settings.size_limit_mb}")
    if settings.torch_flavours == "any":
        for library in wheel.libraries:
            for needed in library.needed:
                if matches_any(needed, policy().cuda_torch_only):
                    found.append(
                        f"{library.path} needs {needed}, which a CPU torch has not; link to torch_cpu and c10, or set "
                        'torch-flavours = "cuda"'
                    )
    return found
