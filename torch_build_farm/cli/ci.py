"""`ci`: workflows of GitHub Actions, or a script for other systems, rendered into the maintainer's project.

A rendered file carries the SHA-256 of its own text. With it the farm distinguishes a file that it may overwrite from
one that somebody changed, or wrote, by hand: it leaves that one alone, unless --force is given.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
from pydantic import TypeAdapter

from torch_build_farm.cli.answer import Answer
from torch_build_farm.cli.arguments import CommonOptions, Parser, add_common_arguments, optional_path
from torch_build_farm.cli.command import Command
from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import EditedError, RenderError, UsageError, nearest
from torch_build_farm.core.files import replace_text
from torch_build_farm.core.machine import ARM64, X86_64
from torch_build_farm.core.templates import strict_environment
from torch_build_farm.core.versions import Minor
from torch_build_farm.project import checkout
from torch_build_farm.project.plan import job_id
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import StableVariant, Variant

# For each CI system: the folder where its files belong, and the template of each file.
SYSTEMS = {
    "github": (".github/workflows", {"torch-wheels.yml": "wheels.yml.j2", "torch-watch.yml": "watch.yml.j2"}),
    "shell": ("ci", {"torch-wheels.sh": "wheels.sh.j2"}),
}
_MINORS_AHEAD = 4  # torch minors of about a year
FARMS_PYTHON = "3.12"  # runs the farm itself; also the CPython to build for, where `python` names none
_SEAL = re.compile(r"^# sha256 of the rest: ([0-9a-f]{64})\n", re.MULTILINE)
State = Literal["new", "changed", "same", "edited"]


@dataclass(frozen=True, kw_only=True)
class CiOptions(CommonOptions):
    """Options of `ci`."""

    system: str
    out: Path | None
    dry_run: bool
    force: bool


def _configure_parser(parser: Parser) -> None:
    add_common_arguments(parser)
    parser.add_argument("system", nargs="?", default="github", metavar="SYSTEM", help="github (default) or shell")
    parser.add_argument(
        "--out",
        type=optional_path,
        metavar="DIR",
        help="where to write (default: .github/workflows for github, ci for shell)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite files that were changed by hand, too")


@dataclass(frozen=True)
class Pin:
    """An action of GitHub Actions, as data/actions.toml pins it."""

    uses: str
    commit: str
    version: str

    def __str__(self) -> str:
        return f"{self.uses}@{self.commit} # {self.version}"


@dataclass(frozen=True)
class Rendered:
    """A file to write: its new text, and the text that it has now, None if it does not exist."""

    path: Path
    text: str
    old: str | None

    @property
    def state(self) -> State:
        """How the file compares: "changed" by the farm, which may overwrite it, or "edited" by somebody else."""
        if self.old is None:
            return "new"
        if self.old == self.text:
            return "same"
        return "changed" if is_sealed(self.old) else "edited"

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(
            (self.old or "").splitlines(), self.text.splitlines(), str(self.path), str(self.path), lineterm=""
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class RenderedFile:
    """A rendered file, and how the one that was there compared."""

    path: Path
    state: State


@dataclass(frozen=True, kw_only=True)
class CiAnswer(Answer):
    """The document of `ci`."""

    files: tuple[RenderedFile, ...]
    dry_run: bool


def pins() -> dict[str, Pin]:
    """The pinned actions, by their short names."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/actions.toml").read_text("utf-8"))
    return TypeAdapter(dict[str, Pin]).validate_python(table)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(text: str) -> str:
    """`text` with its digest line filled in: the SHA-256 of everything after that line."""
    head, line, rest = text.partition("# sha256 of the rest:\n")
    return f"{head}{line.rstrip()} {_digest(rest)}\n{rest}"


def _shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def is_sealed(text: str) -> bool:
    """Whether a file is as the farm rendered it: its digest line matches the rest."""
    match = _SEAL.search(text)
    return match is not None and match[1] == _digest(text[match.end() :])


def repository(root: Path) -> Path:
    """The folder of version control around a project, the only place where workflows are found; else the project."""
    for folder in (root, *root.parents):
        if (folder / ".git").exists():
            return folder
    return root


def _possible_jobs(project: Project) -> list[str]:
    """The ids of the jobs that a run of the workflow may have, also those of the next torch minors.

    GitHub knows a job's outputs by the names in the file alone. A variant that comes later, such as one of the watch's,
    then finds its jobs there; a workflow that is older than that says so in its job `plan`.
    """
    jobs = []
    for platform in project.described_platforms:
        on_platform = project.on(platform)
        for variant in _possible_variants(on_platform):
            # Without the setting a job takes one CPython, and never one without the GIL.
            default = [python for python in variant.cpython if not python.free_threaded]
            for python in project.settings.ci.python or default:
                jobs.append(job_id(on_platform.distribution(variant), python, platform))
    return jobs


def _possible_variants(project: Project) -> list[Variant]:
    """The variants of one platform, those of the next minors, and the core."""
    variants = list(project.all_variants.values())
    newest = max(project.variants.values(), key=lambda variant: variant.torch)
    # That of the stable ABI serves the next minors itself.
    if not isinstance(newest, StableVariant):
        for step in range(1, _MINORS_AHEAD + 1):
            variants.append(replace(newest, torch=Minor(newest.torch.major, newest.torch.minor + step)))
    if project.core:
        variants.append(project.core)
    return variants


def _template_values(project: Project, out: Path) -> dict[str, Any]:
    """The names that the templates use, with their values."""
    settings = project.settings.ci
    top = repository(project.root)
    own = not (project.settings.git or project.settings.sdist)
    pythons = list(map(str, settings.python))
    options = f"--engine {settings.engine}"
    if pythons:
        options += f" --python {' '.join(pythons)}"
    other_pythons = [python for python in pythons if python != FARMS_PYTHON]
    # Workflows start at the root of the repository; the project may be in a folder below.
    folder = "" if project.root == top else project.root.relative_to(top).as_posix()
    platforms = []
    for platform in project.described_platforms:
        runner = settings.arm64_runner if platform == ARM64 else settings.runner
        platforms.append({"name": platform.name, "runner": runner})
    index = "inputs.publish"
    if settings.index != settings.environment:
        # The form for a manual run offers environments: one that is not named after its index is translated.
        index = f"inputs.publish == '{settings.environment}' && '{settings.index}' || inputs.publish"
    return {
        "actions": pins(),
        # A source from elsewhere brings its own.
        "submodules": own and checkout.has_submodules(top),
        "lfs": own and checkout.uses_lfs(top),
        "ci": settings,
        "jobs": _possible_jobs(project),
        "platforms": platforms,
        # Commands for x86-64 alone need not be told a platform.
        "with_platform": project.described_platforms != (X86_64,),
        "name": project.settings.name,
        "folder": folder,
        "prefix": f"{folder}/" if folder else "",
        "index": f"${{{{ {index} }}}}",
        "options": options,
        "torch": "" if project.settings.torch else "all",
        # Containers bring their own CPythons; the local engine builds with those that the workflow sets up.
        "pythons": [*other_pythons, FARMS_PYTHON] if settings.engine == "local" else [FARMS_PYTHON],
        "all_pythons": [*other_pythons, FARMS_PYTHON],
        "trusted": settings.credentials == "trusted-publisher",
        "to_project": os.path.relpath(project.root, out),
        # Spread over the hour, so that not all projects ask the index at the same minute.
        "minute": int(_digest(project.settings.name), 16) % 60,
    }


def render(project: Project, system: str, out: Path) -> list[Rendered]:
    """Render the files of a CI system for the folder `out`. Raises RenderError if a template is wrong."""
    # GitHub's own expressions use Jinja's usual braces: ${{ ... }}
    environment = strict_environment(*project.template_folders).overlay(
        variable_start_string="<%=",
        variable_end_string="%>",
        comment_start_string="<%#",
        comment_end_string="#%>",
    )
    environment.filters.update(quoted=json.dumps, shell_quoted=_shell_quoted)
    values = _template_values(project, out)
    _, templates = SYSTEMS[system]
    rendered = []
    for name, template in templates.items():
        try:
            text = sealed(environment.get_template(template).render(values))
        except jinja2.TemplateError as error:
            raise RenderError(
                f"a template cannot be rendered: {error}", where=f"{template}, line {getattr(error, 'lineno', '?')}"
            ) from None
        path = out / name
        old = path.read_text("utf-8", "replace") if path.is_file() else None
        rendered.append(Rendered(path, text, old))
    return rendered


def _write(file: Rendered) -> None:
    """Write a file, scripts as executable ones. Raises UsageError if that is not possible."""
    mode = 0o755 if file.text.startswith("#!") else 0o644
    try:
        replace_text(file.path, file.text, mode)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(file.path), next_step="name another folder with --out"
        ) from None


def _show_diff(context: Context, files: Sequence[Rendered]) -> None:
    for file in files:
        context.say(file.diff or f"{file.path}: no change")


def _ci(context: Context, options: CiOptions) -> int:
    """`ci`: render, and write what changed; nothing at all if a file was edited by hand, unless --force is given."""
    project = context.load_project()
    if options.system not in SYSTEMS:
        raise UsageError(f"unknown CI system {options.system!r}; {nearest(options.system, SYSTEMS)}", where="ci SYSTEM")
    default_folder, _ = SYSTEMS[options.system]
    out = options.out.resolve() if options.out else repository(project.root) / default_folder
    files = render(project, options.system, out)
    # One edited file stops all of them: nothing is written before it is known that everything may be.
    edited = [file for file in files if file.state == "edited"]
    outdated = [file for file in files if file.state != "same"]

    if options.dry_run:
        _show_diff(context, files)
    elif edited and not options.force:
        _show_diff(context, edited)
        names = ", ".join(file.path.name for file in edited)
        raise EditedError(
            f"{names}: changed by hand, or not written by the farm",
            where=str(out),
            next_step="to keep the lines that the diff removes, move them to templates/ of your project; else --force",
        )
    else:
        for file in outdated:
            _write(file)
            context.say(f"wrote {file.path}")

    rows = []
    for file in files:
        rows.append(RenderedFile(file.path, file.state))
    context.answer(CiAnswer(files=tuple(rows), dry_run=options.dry_run))
    if not outdated and not options.dry_run and not context.json:
        context.say("nothing to do: every file is up to date")
    return 0


COMMANDS = {"ci": Command(CiOptions, _configure_parser, _ci, CiAnswer)}
