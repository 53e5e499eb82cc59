"""auditwheel gives a wheel its tag, and what makes it unfit for users is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.files import clear
from torch_build_farm.core.process import Shell
from torch_build_farm.pipeline.stage import Farm, Outcome, Stage, Step
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels import auditwheel
from torch_build_farm.wheels import wheel as wheels
from torch_build_farm.wheels.auditwheel import command, failure, without_library
from torch_build_farm.wheels.checks import problems


def repair(
    raw: Path,
    out: Path,
    scratch: Path,
    *,
    settings: Settings,
    expected: Iterable[str],
    builders: Iterable[str],
    shell: Shell | None,
) -> wheels.Wheel:
    """Let auditwheel give `raw` its tag in folder `scratch`, check the result and put it into `out`.

    `expected` and `builders` are as in `problems`. Without `shell` the engine has let auditwheel do so
    already. Raises RepairError with every reason why the wheel is unfit.
    """
    if not wheels.read(raw).libraries:
        raise without_library(raw.name, raw)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        if shell:
            done = shell.run(*command(str(tools.scripts() / "auditwheel"), str(raw), str(scratch)))
            if not done.ok:
                raise failure(shell.log, done.tail)
        else:
            shutil.copyfile(raw, scratch / raw.name)
        (made,) = scratch.glob("*.whl")
        wheel = wheels.read(made)
        if found := problems(wheel, settings, expected, builders):
            raise RepairError(
                f"{raw.name} is not fit for users:\n" + "\n".join(f"  - {p}" for p in found), where=str(raw)
            )
        final = out / made.name
        made.replace(final)
        return wheels.read(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _init_files(farm: Farm) -> list[str]:
    """The __init__.py of each of the project's packages that has one in the source."""
    wanted = [f"{package.replace('.', '/')}/__init__.py" for package in farm.project.settings.packages]
    return [init for init in wanted if any(f"/{file.path}".endswith(f"/{init}") for file in farm.source.files)]


def _builders_folders(farm: Farm) -> list[str]:
    """Folders that a wheel must not name, each with a slash at its end: those in which the engine builds."""
    source_folders = {file.path.partition("/")[0] for file in farm.source.files if "/" in file.path}
    folders = [farm.engine.store.root, farm.work, *farm.engine.build_folders(sorted(source_folders))]
    return [f"{folder}/" for folder in folders]


def _repair_inputs(step: Step) -> dict[str, Any]:
    settings = step.farm.project.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of("build"),
        "name": step.output("build").name,
        "policy": asdict(auditwheel.policy()),
        "packages": settings.packages,
        "grafted-libraries": settings.grafted_libraries,
        "size-limit-mb": settings.size_limit_mb,
        "torch-flavours": settings.torch_flavours,
        "init-files": _init_files(step.farm),
        "auditwheel": tools.versions()["auditwheel"],
    }


def _repair(step: Step) -> Outcome:
    farm, scratch, out = step.farm, step.folder / "scratch", step.folder / "repaired"
    clear(out)
    more = {"SOURCE_DATE_EPOCH": str(farm.epoch), "PATH": tools.search_path(tools.scripts())}
    shell = replace(step.shell, env={**step.shell.env, **more})
    wheel = repair(
        step.output("build"),
        out,
        scratch,
        settings=farm.project.settings,
        expected=_init_files(farm),
        builders=_builders_folders(farm),
        shell=None if farm.engine.repairs_itself else shell,
    )
    return Outcome((wheel.path,), {"tag": wheel.platform})


REPAIR = Stage("repair", _repair_inputs, _repair)
