"""Checks on a repaired wheel: whatever would make it unfit for users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from packaging.utils import canonicalize_name

from torch_build_farm.core.machine import Machine
from torch_build_farm.core.requirements import read_requirement
from torch_build_farm.project.external_libraries import matches_any, policy, provider
from torch_build_farm.project.settings import SYSTEM, Settings
from torch_build_farm.wheels import grafts, run_paths
from torch_build_farm.wheels.elf.headers import ElfError
from torch_build_farm.wheels.elf.library import read as read_elf
from torch_build_farm.wheels.plain_files import is_plain
from torch_build_farm.wheels.platforms import machine_of_wheel
from torch_build_farm.wheels.record import installed_path
from torch_build_farm.wheels.relocate import Move
from torch_build_farm.wheels.wheel import Wheel, members_naming, opened, record_problems


def _bundled(wheel: Wheel, settings: Settings) -> list[str]:
    """Shared libraries in the wheel that belong to torch or CUDA, or that were grafted without permission."""
    problems = []
    grafted_without_leave = []
    for library in wheel.libraries:
        path = PurePosixPath(library.path)
        original_name = grafts.original_name(path.name)
        # A renamed copy of torch's library is torch's all the same, so every name it goes by counts.
        names = {path.name, original_name}
        if library.soname:
            names.add(library.soname)
        for owner, patterns in (("torch", policy().torch), ("CUDA", policy().cuda)):
            if any(matches_any(name, patterns) for name in names):
                problems.append(f"{library.path} is a library of {owner}, which must not be in the wheel")
        for name in sorted(names):
            owner = provider(name, settings.external_libraries)
            if owner:
                problems.append(
                    f"{library.path} is a library that {'the system' if owner == SYSTEM else owner} brings, by "
                    "external-libraries; leave it out of the wheel"
                )
                break
        # A folder of that name may be the back end's own, such as meson-python's.
        grafted = path.parts[0].endswith(".libs") and path.name != original_name
        allowed = any(matches_any(name, settings.grafted_libraries) for name in names)
        if grafted and not allowed:
            grafted_without_leave.append(library.path)
    if grafted_without_leave:
        problems.append(grafts.not_allowed(grafted_without_leave))
    return problems


def _not_required(wheel: Wheel, settings: Settings) -> list[str]:
    """Libraries that a distribution brings which the wheel does not require."""
    problems = []
    added = {canonicalize_name(read_requirement(text).name) for text in settings.requires}  # by relocation
    for library in wheel.libraries:
        for needed in library.needed:
            distribution = provider(needed, settings.external_libraries)
            if (
                distribution in ("", SYSTEM)
                or canonicalize_name(distribution) in added
                or wheel.requirements(canonicalize_name(distribution))
            ):
                continue
            problems.append(
                f"{library.path} needs {needed}, which {distribution} brings by external-libraries, and the wheel does "
                f"not require {distribution}; add it to the project's dependencies, or to requires"
            )
    return problems


# How to link without a run path, by what links.
_WITHOUT_RUN_PATH = {
    "cmake": "set CMAKE_INSTALL_RPATH, or CMAKE_SKIP_INSTALL_RPATH=ON in cmake-defines",
    "setuptools": "leave runtime_library_dirs out of the extension, and -Wl,-rpath out of extra_link_args and LDFLAGS",
    "meson": "set install_rpath of the target, and leave -Wl,-rpath out of link_args and LDFLAGS",
}


def _run_paths(wheel: Wheel, linked_by: Sequence[str]) -> list[str]:
    """RPATH and RUNPATH entries that mean nothing, or something else, on the user's machine."""
    advice = "; or ".join(_WITHOUT_RUN_PATH[tool] for tool in linked_by) or "leave -Wl,-rpath out of the linker's flags"
    problems = []
    for library in wheel.libraries:
        for entry in library.run_paths:
            if not entry:
                problems.append(f"{library.path} has an empty RUNPATH entry, which means the current folder")
            elif not entry.startswith(("$ORIGIN", "${ORIGIN}")):
                problems.append(f"{library.path} has the RUNPATH entry {entry}, a place on the build machine; {advice}")
    return problems


def _is_module(content: bytes, machine: Machine) -> bool:
    """Whether a library is a Python module; so is one that cannot be read, of which the audit says more."""
    try:
        return any(name.startswith("PyInit") for name in read_elf(content, machine).exported)
    except ElfError:
        return True


def _loaded_by_path(wheel: Wheel, settings: Settings) -> list[str]:
    """Libraries outside the packages that are no Python modules, and that no run path leads to.

    A package can only load such a library by a path, as torch.ops.load_library does.
    """
    move = Move(settings.packages, "variant")
    linked = run_paths.linked(wheel.libraries)
    machine = machine_of_wheel(wheel.path.name)
    members = []
    with opened(wheel.path) as archive:
        for library in wheel.libraries:
            path = PurePosixPath(installed_path(library.path))
            new_path = move.member(str(path))
            # Only a single module at top level gets another name.
            inside_package = new_path is not None and PurePosixPath(new_path).name == path.name
            if inside_package or library.path in linked or path.parts[0].endswith((".libs", ".data")):
                continue
            if not _is_module(archive.read(library.path), machine):
                members.append(library.path)
    return members


def _top_level(wheel: Wheel, settings: Settings) -> list[str]:
    """Files outside the project's packages, where another distribution may have files of the same name.

    Libraries that others find by their run paths are moved into the variant's own folder.
    """
    by_path = _loaded_by_path(wheel, settings)
    linked = run_paths.linked(wheel.libraries)
    packages = {name.split(".")[0] for name in settings.packages}
    stray: dict[str, int] = {}  # top-level name -> number of files
    for member in wheel.members:
        if member in by_path or member in linked or is_plain(member, settings.plain_files):
            continue
        path = installed_path(member)
        parts = PurePosixPath(path).parts
        # In a .data folder (PEP 427), but installed outside site-packages.
        if path == member and parts[0].endswith(".data") and len(parts) > 2:
            # Relocation refuses scripts and suggests an entry point in their place, which is better advice.
            if parts[1] == "scripts":
                continue
            parts = (f"{parts[1]}/{parts[2]}",)
        top = parts[0]
        module = top.split(".")[0] if len(parts) == 1 else top
        if not (module in packages or top.endswith((".dist-info", ".libs"))):
            stray[top] = stray.get(top, 0) + 1
    problems = [
        f"{member} lies beside the packages, is no Python module, and no library of the wheel is linked to it: it is "
        "loaded by a path, and relocation moves what the path starts from; install it inside the package, and load it "
        "from os.path.dirname(__file__)"
        for member in by_path
    ]
    for top, count in sorted(stray.items()):
        files = "1 file" if count == 1 else f"{count} files"
        problems.append(
            f"{top} ({files}) lies outside the packages {', '.join(sorted(packages))}; what is the same for every "
            "variant can go into the plain wheel, by plain-files"
        )
    return problems


def _cuda_needed(wheel: Wheel) -> list[str]:
    """Libraries that load only beside a torch with CUDA."""
    problems = []
    for library in wheel.libraries:
        for needed in library.needed:
            if matches_any(needed, policy().cuda_torch_only):
                problems.append(
                    f"{library.path} needs {needed}, which a CPU torch does not have; link to torch_cpu and c10, or "
                    'set torch-flavours = "cuda"'
                )
    return problems


def _pybind11(wheel: Wheel) -> list[str]:
    """Modules of pybind11 that do not see each other's types."""
    if len(wheel.pybind11) < 2:
        return []
    listed = [f"{internals_id} in {', '.join(paths)}" for internals_id, paths in wheel.pybind11.items()]
    return [
        "modules of pybind11 do not see each other's types, since they are of several versions of it or of several "
        f"compilers: {'; '.join(listed)}; build all of them with one, such as the one among torch's headers"
    ]


def problems(
    wheel: Wheel,
    settings: Settings,
    expected: Iterable[str] = (),
    builders: Iterable[str] = (),
    linked_by: Sequence[str] = (),
) -> list[str]:
    """Every reason why the wheel is unfit for users, one sentence each; empty for a good wheel.

    `expected` are members that the wheel must have, `builders` folders of the build that no member may name.
    `linked_by` are the tools that may have linked it ("cmake", "setuptools", "meson"), which advice speaks of.
    """
    reasons = []
    for path in expected:
        if path not in wheel.members:
            reasons.append(
                f"{path} is in the source but not in the wheel, so Python would take the folder for a namespace "
                "package; name the packages in the build back end's settings (scikit-build-core: wheel.packages)"
            )
    reasons += [*_bundled(wheel, settings), *_not_required(wheel, settings), *_run_paths(wheel, linked_by)]
    reasons += [*_pybind11(wheel), *_top_level(wheel, settings)]
    for member, folder in members_naming(wheel.path, builders).items():
        reasons.append(
            f"{member} names {folder}, a folder of the build: users do not have it, and the same sources built "
            "elsewhere give another file"
        )
    reasons += record_problems(wheel.path)
    if settings.torch_flavours == "any":
        reasons += _cuda_needed(wheel)
    return reasons
