"""`publish`: gate, plan, uploads in order, and the check of what users then get; `meta`: what the one name is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from torch_build_farm.cli.context import Context
from torch_build_farm.core import tools
from torch_build_farm.core.errors import NoPythonError, PublishError, UsageError, nearest
from torch_build_farm.core.files import clear, size_text
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.interpreters import find_interpreters
from torch_build_farm.pipeline import workfolder
from torch_build_farm.project.settings import Project
from torch_build_farm.publish import install_check, inventory, upload, upload_plan
from torch_build_farm.publish.inventory import VariantFile
from torch_build_farm.publish.upload import Target
from torch_build_farm.publish.upload_plan import Item, PublishPlan
from torch_build_farm.wheels import one_name, wheel
from torch_build_farm.wheels.one_name import Family


def _chosen(context: Context, family: Family, here: Sequence[VariantFile]) -> list[Path]:
    """The variants to publish, proven; with --build-number their re-issues. Raises PublishError."""
    options = context.options
    patterns = options.files or ["*"]
    paths = [
        file.path
        for file in here
        if file.path and file.version == family.version and any(fnmatchcase(file.name, one) for one in patterns)
    ]
    if not paths:
        raise UsageError("no built variant matches", where="--only", next_step="wheels are in work/dist")
    if problems := upload_plan.proven(paths, context.work):
        raise PublishError(
            "not everything is proven:\n" + "\n".join(f"  - {line}" for line in problems),
            where=str(context.work),
            next_step="build and smoke-test with this work folder, then publish again",
        )
    if options.build_number is None:
        return paths
    if not options.files:
        raise UsageError("--build-number re-issues what --only names", next_step="--only '*torch28*' --build-number 1")
    out = context.work / "reissued"
    clear(out)
    return [wheel.reissued(path, options.build_number, out) for path in paths]


def _show(context: Context, target: Target, planned: PublishPlan, without: str) -> None:
    context.say(f"publish to {target.name}, in this order:")
    for number, item in enumerate(planned.items, 1):
        words = {"new": "new", "there": "already there", "kept": "published earlier, stays as it is"}
        context.say(f"  {number:2}  {item.path.name}  {size_text(item.size)}  {words[item.state]}")
    for number, wave in enumerate(planned.waves, 1):
        names = ", ".join(wave)
        context.say(f"  names not on the index yet, wave {number} of pending publishers: {names}")
    for warning in filter(None, (*planned.warnings, without)):
        context.say(f"  warning: {warning}")


def _named(names: Sequence[str] | None, planned: PublishPlan) -> list[Item]:
    """What is due, of these names alone where some are given.

    Raises UsageError for a name that is not in the plan, PublishError where something else has to go first.
    """
    if not names:
        return list(planned.due)
    asked = {canonicalize_name(name) for name in names}
    if unknown := asked - {item.name for item in planned.items}:
        known = dict.fromkeys(item.name for item in planned.items)
        raise UsageError(f"{min(unknown)} is not published here; {nearest(min(unknown), known)}", where="--names")
    chosen = [item for item in planned.due if item.name in asked]
    for item in planned.due[: planned.due.index(chosen[-1])] if chosen else ():
        if item not in chosen:
            raise PublishError(
                f"{item.path.name} has to be on the index before {chosen[-1].path.name}",
                where=f"--names {' '.join(names)}",
                next_step=f"publish {item.name} first, or both: wheels go after what they require",
            )
    return chosen


def _verify(context: Context, project: Project, family: Family, planned: PublishPlan, target: Target) -> None:
    """Install NAME[torchNN] of each published minor. Raises PublishError."""
    shell = upload.shell_for(target, context.runner, context.work)
    interpreters = find_interpreters(tools.environment(context.store.uv_cache, context.store.root))
    expected = {item.path.name: item.sha256 for item in planned.items}
    for variant in project.variants.values():
        name = canonicalize_name(project.distribution(variant))
        files = [item.path.name for item in planned.items if item.name == name]
        usable = [python for python in variant.cpython if python in interpreters]
        fitting = [p for p in usable if any(file.split("-")[-3] in (p.tag, "py3") for file in files)]
        if not files:
            continue
        if not fitting:
            raise NoPythonError(f"published, but no CPython here can install {name}", where=", ".join(files))
        running = CPython.running()
        python = running if running in fitting else max(fitting)
        install_check.check(
            project, variant, family.version, expected,
            python=python, interpreter=interpreters[python], index=target.index, store=context.store, shell=shell,
        )  # fmt: skip
        context.say(f"installed from {target.name}: {project.settings.name}[{variant.tag}]=={family.version}, imports")


def carry_out(context: Context) -> dict[str, Any]:
    """Publish what is built; a dry run unless --yes or CI. Returns what happened, for programs."""
    target = Target.of(context.options.publish, context.options.index_url or "")
    project, dist = context.project, context.work / "dist"
    with contextlib.ExitStack() as stack:
        stack.enter_context(workfolder.locked(context.work, context.runner, context.options.wait, context.say))
        here = inventory.built(project, dist)
        family = inventory.family(project, here, inventory.published(project, target.index))
        variants = _chosen(context, family, here)
        behind = one_name.write(family, dist)
        planned = upload_plan.plan(project, variants, behind, target.index)
        without = one_name.without_rungs(family)
        _show(context, target, planned, without)
        due = _named(context.options.names, planned)
        real = context.options.yes or os.environ.get("CI", "").lower() in ("true", "1")
        if real:
            shell = upload.shell_for(target, context.runner, context.work)
            upload.check([item.path for item in planned.items], shell)
            for item in due:
                context.runner.check()
                upload.upload(item, target, shell, item.name not in planned.new_names)
                context.say(f"uploaded {item.path.name}, sha256 {item.sha256}")
            if not context.options.names:
                stack.enter_context(context.store.in_use())
                stack.enter_context(context.store.environments())
                _verify(context, project, family, planned, target)
        else:
            context.say("a dry run: nothing was uploaded; --yes does it")
    return {
        "target": target.name,
        "version": family.version,
        "dry_run": not real,
        "files": [{**asdict(item), "path": str(item.path)} for item in planned.items],
        "waves": planned.waves,
        "warnings": [*planned.warnings, *filter(None, [without])],
    }


def meta(context: Context) -> int:
    """`meta`: the wheels behind the one name and COMPATIBILITY.md, of the variants in work/dist and on the index."""
    project, dist = context.project, context.work / "dist"
    here = inventory.built(project, dist)
    there = [] if context.options.offline else inventory.published(project, PackageIndex.configured())
    family = inventory.family(project, here, there)
    with workfolder.locked(context.work, context.runner, context.options.wait, context.say):
        made = one_name.write(family, dist)
        table = inventory.compatibility(family, [*there, *here])
        (context.work / "COMPATIBILITY.md").write_text(table, "utf-8")
    left_out = sorted({f"{file.name}" for file in here if family.last[file.minor] != file.version})
    if context.options.json:
        last = {str(minor): version for minor, version in family.last.items()}
        context.answer({"schema": 1, "version": family.version, "variants": last, "wheels": list(map(str, made)),
                     "left_out": left_out})  # fmt: skip
    for path in made:
        context.say(f"wrote {path}")
    if without := one_name.without_rungs(family):
        context.say(without)
    for name in left_out:
        context.say(f"left out {name}: {family.version} is newer")
    context.say(f"wrote {context.work / 'COMPATIBILITY.md'}:\n\n{table}")
    return 0


def publish(context: Context) -> int:
    """`publish`: variants that are built and proven, and the wheels behind the one name, to an index."""
    document = carry_out(context)
    if context.options.json:
        context.answer({"schema": 1, **document})
    return 0
