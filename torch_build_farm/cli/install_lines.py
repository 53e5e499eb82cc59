"""How to install what a run built, in commands that work as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from torch_build_farm.cli.context import Context
from torch_build_farm.core import machine
from torch_build_farm.pipeline.results import RunResult
from torch_build_farm.project.settings import Project


def install_lines(context: Context, project: Project, run: RunResult) -> list[str]:
    """The lines of a run that made wheels and had no failure; else none.

    A variant requires the plain wheel, which `meta` writes beside it. Torch comes from the index. The name's lines are
    the same on every platform; variants for another machine than this one are not installed here.
    """
    if run.exit_code or not run.wheels:
        return []
    platforms = {result.job.platform for result in run.jobs}
    title = "install it with"
    if machine.running() not in platforms:
        words = " or ".join(platform.words for platform in machine.MACHINES if platform in platforms)
        title = f"install it on a machine of {words} with"
    source = f"--find-links {shlex.quote(str(run.work / 'dist'))}"
    of_variants = [result.job for result in run.jobs if result.job.variant.needs_torch]
    if not of_variants:  # a core alone
        core = run.jobs[0].job
        return [title, f"  pip install {source} {core.distribution}=={core.version}"]
    version = of_variants[0].version
    variants = {job.distribution: job.variant for job in of_variants}
    one_name = f"{project.settings.name}=={version}"
    lines = [
        title,
        f"  {_meta_command(context)}  # once: writes the wheels behind the one name",
        f"  pip install {source} {one_name}  # the variant for the torch that is there",
        f"  uv pip install {source} {one_name}",
    ]
    for distribution, variant in variants.items():
        index = f"--extra-index-url {shlex.quote(variant.index)} " if variant.index else ""
        lines.append(f"  pip install {source} {index}{distribution}=={version}  # with its torch")
    return lines


def _meta_command(context: Context) -> str:
    """`meta` for the same project and work folder, from the current folder."""
    words = ["build_farm.py", "meta", "--offline"]
    if context.root != Path.cwd():
        words += ["--project", str(context.root)]
    if context.work_option:
        words += ["--work", str(context.work)]
    return shlex.join(words)
