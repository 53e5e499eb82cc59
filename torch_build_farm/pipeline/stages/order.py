"""The stages of a job, in order: render, build, repair, relocate, audit, smoke."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import PurePath, PurePosixPath
from typing import Any

from torch_build_farm import __version__
from torch_build_farm.audit import output as show
from torch_build_farm.audit import wheel_report as matrix
from torch_build_farm.audit.read_wheel import read as read_wheel
from torch_build_farm.core import tools as toolbox
from torch_build_farm.core.errors import AbiError, AuditError
from torch_build_farm.core.files import clear, sha256
from torch_build_farm.engines import ninja_log
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.engines.docker import cibuildwheel_config as cibuildwheel
from torch_build_farm.pipeline import estimates as history
from torch_build_farm.pipeline import installed_packages as build_environment
from torch_build_farm.pipeline.recorded import built_against
from torch_build_farm.pipeline.runner import Farm, Outcome, Stage, Step
from torch_build_farm.pipeline.stages import render as rendering
from torch_build_farm.pipeline.stages.build import with_torch
from torch_build_farm.pipeline.stages.smoke import Smoke, neighbour
from torch_build_farm.releases.known import Knowledge, added_folder
from torch_build_farm.wheels import checks as repairing
from torch_build_farm.wheels import one_name as meta
from torch_build_farm.wheels.relocate import relocate


def _render_inputs(step: Step) -> dict[str, Any]:
    tree = rendering.render(step.farm.project, step.farm.source, step.job)
    return {
        "source": tree.source.digest(without=tree.rendered),
        "rendered": dict(tree.rendered),
        "epoch": step.farm.epoch,
    }


def _render(step: Step) -> Outcome:
    tree = rendering.render(step.farm.project, step.farm.source, step.job)
    folder = step.folder / "source"
    clear(folder)
    rendering.write(tree, folder, step.farm.epoch)
    facts = {
        "version": step.job.version,
        "source": tree.source.origin.identity,
        "content": tree.source.digest(without=tree.rendered),
        "epoch": str(step.farm.epoch),
    }
    return Outcome((folder,), facts)


def _build_inputs(step: Step) -> dict[str, Any]:
    settings = step.farm.project.settings
    return {
        "tree": step.digest_of("render"),
        "variant": asdict(step.job.variant),
        "farm": __version__,
        "engine": step.farm.engine.name,
        "toolchain": dict(step.farm.engine.toolchain(step.job)),
        "environment": dict(settings.environment),
        "cmake-defines": dict(settings.cmake_defines),
        "before-build": settings.before_build,
        "system-packages": asdict(settings.system_packages),
        "cuda-arch-list": settings.cuda_arch_list,
        "torch-build": settings.torch_build,
        "network": settings.network,
        "epoch": step.farm.epoch,
        **({"policy": asdict(repairing.policy())} if step.farm.engine.grafts else {}),
    }


def _build(step: Step) -> Outcome:
    farm = step.farm
    request = BuildRequest(
        job=step.job,
        tree=step.output("render"),
        scratch=step.folder / "scratch",
        out=step.folder / "raw",
        makeflags=farm.jobserver.makeflags,
        share=farm.share,
        epoch=farm.epoch,
        version_from_scm=farm.source.metadata.version_from_scm,
        shell=step.shell,
        reuse=not farm.force and os.environ.get("TORCH_BUILD_FARM_CCACHE", "").lower() != "off",
    )
    wheel, built_with = with_torch(step, request)
    facts = {"engine": farm.engine.name, "base-image": farm.engine.base_image, "built-with": built_with}
    if request.peak.is_file():
        facts[history.PEAK] = history.peak(farm.work, step.job, request.peak.read_text("utf-8"), reused=request.reuse)
    return Outcome((wheel,), {**facts, **ninja_log.details(request.out), **build_environment.details(step.log)})


@contextlib.contextmanager
def _build_slot(farm: Farm, number: int) -> Iterator[None]:
    """Hold one of the --jobs places and one token of the jobserver."""
    with farm.build_slots.hold(number, farm.runner), farm.jobserver.build(farm.runner):
        yield


def _init_files(farm: Farm) -> list[str]:
    """The __init__.py of each of the project's packages that has one in the source."""
    wanted = [f"{package.replace('.', '/')}/__init__.py" for package in farm.project.settings.packages]
    return [init for init in wanted if any(f"/{file.path}".endswith(f"/{init}") for file in farm.source.files)]


def _builders_folders(farm: Farm) -> list[str]:
    """What a wheel may not name: folders of the engine's builds, and the tree's own where containers have it."""
    places: list[PurePath] = [farm.engine.store.root, farm.work]
    if farm.engine.grafts:  # in a container
        tops = {file.path.partition("/")[0] for file in farm.source.files if "/" in file.path}
        places += [
            PurePosixPath(cibuildwheel.BUILD),
            *(PurePosixPath(cibuildwheel.PROJECT, top) for top in sorted(tops)),
        ]
    return [f"{place}/" for place in places]


def _repair_inputs(step: Step) -> dict[str, Any]:
    settings = step.farm.project.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of("build"),
        "name": step.output("build").name,
        "policy": asdict(repairing.policy()),
        "packages": settings.packages,
        "grafted-libraries": settings.grafted_libraries,
        "size-limit-mb": settings.size_limit_mb,
        "torch-flavours": settings.torch_flavours,
        "init-files": _init_files(step.farm),
        "auditwheel": toolbox.versions()["auditwheel"],
    }


def _repair(step: Step) -> Outcome:
    farm, scratch, out = step.farm, step.folder / "scratch", step.folder / "repaired"
    clear(out)
    more = {"SOURCE_DATE_EPOCH": str(farm.epoch), "PATH": toolbox.search_path(toolbox.scripts())}
    shell = replace(step.shell, env={**step.shell.env, **more})
    wheel = repairing.repair(
        step.output("build"),
        out,
        scratch,
        settings=farm.project.settings,
        expected=_init_files(farm),
        builders=_builders_folders(farm),
        shell=None if farm.engine.grafts else shell,
    )
    return Outcome((wheel.path,), {"tag": wheel.platform})


def _relocate_inputs(step: Step) -> dict[str, Any]:
    settings = step.farm.project.settings
    return {
        "farm": __version__,
        "wheel": step.digest_of("repair"),
        "packages": settings.packages,
        "name": settings.name,
        "patchelf": toolbox.versions()["patchelf"],
    }


def _relocate(step: Step) -> Outcome:
    scratch, out = step.folder / "scratch", step.folder / "relocated"
    clear(out)
    clear(scratch)
    try:
        tag, settings = step.job.variant.tag, step.farm.project.settings
        made = relocate(step.output("repair"), out, scratch, settings=settings, tag=tag, shell=step.shell)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Outcome((made,))


def _audit_inputs(step: Step) -> dict[str, Any]:
    return {
        "farm": __version__,
        "wheel": step.digest_of("relocate"),
        "releases": step.job.variant.releases,
        "built": built_against(step.before["build"]),
        "knowledge": [sha256(path) for path in Knowledge.files(added_folder())],
    }


def _audit(step: Step) -> Outcome:
    known, path, own = Knowledge.load(added_folder()), step.output("relocate"), step.job.variant.releases
    if unknown := [release for release in own if release not in known.releases]:
        raise AuditError(
            f"{step.job.id}: nothing is known of torch {', '.join(unknown)}",
            where=str(added_folder()),
            next_step=f"build_farm.py index add {' '.join(unknown)}",
        )
    found = matrix.audit(read_wheel(path), known, known.releases, built_against(step.before["build"]))
    if broken := [release for release in own if release in found.releases and not found.works(release)]:
        reasons = "; ".join(f"torch {one}: {', '.join(show.reasons(found.releases[one]))}" for one in broken)
        raise AbiError(
            f"{step.job.id}: the wheel does not work with every release of its torch minor: {reasons}",
            where=str(path),
            next_step=f"build_farm.py audit {path} tells more",
        )
    step.say(f"works with torch {found.true_range}")
    matrix_text = " ".join(f"{release}={one.verdict.value}" for release, one in found.releases.items())
    return Outcome(details={"range": found.true_range, "releases": matrix_text, "asks-for": "; ".join(found.floors)})


def _smoke_inputs(step: Step) -> dict[str, Any]:
    farm = step.farm
    script = farm.project.smoke_script
    other = neighbour(farm.project, step.job.variant)
    return {
        "farm": __version__,
        "wheel": step.digest_of("relocate"),
        "names": (farm.project.auto_name, farm.project.select_name),
        "dispatcher": meta.dispatcher_template(farm.project),
        "newest": step.job.variant.newest,
        "refused": other.pin if other else "",
        "mode": farm.smoke,
        "imports": farm.project.imports,
        "script": sha256(script) if script and script.is_file() else "",
        "pin": step.job.variant.pin,
    }


def _smoke(step: Step) -> Outcome:
    farm = step.farm
    wheel, tree = step.output("relocate"), step.output("render")
    names = step.folder / "one-name"
    clear(names)
    minor = step.job.variant.torch
    family = meta.Family.of(farm.project, wheel, {minor: step.job.version}, farm.epoch)
    beside = meta.write(family, names)
    try:
        with farm.engine.site(step.job, step.shell) as site:
            test = Smoke(farm.project, step.job, wheel, tuple(beside), farm.source.root, tree, farm.smoke, site)
            return Outcome(details=test.run())
    finally:
        shutil.rmtree(names, ignore_errors=True)


RENDER = Stage("render", _render_inputs, _render)
BUILD = Stage("build", _build_inputs, _build, _build_slot)
REPAIR = Stage("repair", _repair_inputs, _repair)
RELOCATE = Stage("relocate", _relocate_inputs, _relocate)
AUDIT = Stage("audit", _audit_inputs, _audit)
MADE = (RENDER, BUILD, REPAIR, RELOCATE)  # what it takes to make a wheel
WHEEL = (*MADE, AUDIT)
SMOKE = Stage("smoke", _smoke_inputs, _smoke, lambda farm, number: farm.smoke_slots.hold(number, farm.runner))
