"""`ci`: workflows of GitHub Actions, or a script for other systems, rendered into the maintainer's project.

A rendered file carries the SHA-256 of its own text. So the farm tells a file that it may write anew from one that
somebody changed, or wrote, by hand: that it leaves alone unless it is told otherwise.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
from pydantic import TypeAdapter

from torch_build_farm.cli.context import Context
from torch_build_farm.core.errors import EditedError, RenderError, UsageError, nearest
from torch_build_farm.core.files import replace_text
from torch_build_farm.project.settings import Project

# What is rendered for each system: file <- template; and the folder where it belongs.
SYSTEMS = {
    "github": (".github/workflows", {"torch-wheels.yml": "wheels.yml.j2", "torch-watch.yml": "watch.yml.j2"}),
    "shell": ("ci", {"torch-wheels.sh": "wheels.sh.j2"}),
}
FARMS_PYTHON = "3.12"  # that the farm itself runs with, and builds for where `python` names none
_SEAL = re.compile(r"^# sha256 of the rest: ([0-9a-f]{64})\n", re.MULTILINE)
State = Literal["new", "changed", "same", "edited"]


@dataclass(frozen=True)
class Pin:
    """An action, as data/actions.toml has it."""

    uses: str
    commit: str
    version: str

    def __str__(self) -> str:
        return f"{self.uses}@{self.commit} # {self.version}"


@dataclass(frozen=True)
class Rendered:
    """A file to be, and how the one that is there compares."""

    path: Path
    text: str
    old: str | None

    @property
    def state(self) -> State:
        if self.old is None:
            return "new"
        if self.old == self.text:
            return "same"
        return "changed" if is_ours(self.old) else "edited"

    @property
    def diff(self) -> str:
        lines = difflib.unified_diff(
            (self.old or "").splitlines(), self.text.splitlines(), str(self.path), str(self.path), lineterm=""
        )
        return "\n".join(lines)


def pins() -> dict[str, Pin]:
    """The pinned actions, by their short names."""
    table = tomllib.loads(files("torch_build_farm").joinpath("data/actions.toml").read_text("utf-8"))
    return TypeAdapter(dict[str, Pin]).validate_python(table)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(text: str) -> str:
    """`text` with the digest of what follows filled in, at its line for that."""
    head, line, rest = text.partition("# sha256 of the rest:\n")
    return f"{head}{line.rstrip()} {_digest(rest)}\n{rest}"


def _shell_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def is_ours(text: str) -> bool:
    """Whether a file is as the farm rendered it."""
    match = _SEAL.search(text)
    return match is not None and match[1] == _digest(text[match.end() :])


def repository(root: Path) -> Path:
    """The folder of version control around a project: only there are workflows found. The project itself without."""
    return next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)


def _template_values(project: Project, out: Path) -> dict[str, Any]:
    settings, top = project.settings.ci, repository(project.root)
    pythons = [str(python) for python in settings.python]
    options = [f"--engine {settings.engine}", *([f"--python {' '.join(pythons)}"] if pythons else [])]
    others = [python for python in pythons if python != FARMS_PYTHON]
    folder = "" if project.root == top else project.root.relative_to(top).as_posix()
    index = "inputs.publish"
    if settings.index != settings.environment:
        index = f"inputs.publish == '{settings.environment}' && '{settings.index}' || inputs.publish"
    return {
        "actions": pins(),
        "ci": settings,
        "name": project.settings.name,
        "folder": folder,
        "prefix": f"{folder}/" if folder else "",
        "index": f"${{{{ {index} }}}}",
        "options": " ".join(options),
        "torch": "" if project.settings.torch else "all",
        "pythons": [*(others if settings.engine == "local" else []), FARMS_PYTHON],
        "all_pythons": [*others, FARMS_PYTHON],
        "trusted": settings.credentials == "trusted-publisher",
        "to_project": os.path.relpath(project.root, out),
        "minute": int(_digest(project.settings.name), 16) % 60,
    }


def render(project: Project, system: str, out: Path) -> list[Rendered]:
    """The files for a system, to be written to `out`. Raises RenderError where a template is wrong."""
    # GitHub's own expressions have jinja's usual braces
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(project.template_folders),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        variable_start_string="<%=",
        variable_end_string="%>",
        comment_start_string="<%#",
        comment_end_string="#%>",
    )
    environment.filters.update(quoted=json.dumps, shell_quoted=_shell_quoted)
    rendered = []
    for name, template in SYSTEMS[system][1].items():
        try:
            text = sealed(environment.get_template(template).render(_template_values(project, out)))
        except jinja2.TemplateError as error:
            raise RenderError(
                f"a template cannot be rendered: {error}", where=f"{template}, line {getattr(error, 'lineno', '?')}"
            ) from None
        path = out / name
        rendered.append(Rendered(path, text, path.read_text("utf-8", "replace") if path.is_file() else None))
    return rendered


def _store(file: Rendered) -> None:
    try:
        replace_text(file.path, file.text, 0o755 if file.text.startswith("#!") else 0o644)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(file.path), next_step="name another folder with --out"
        ) from None


def write(context: Context) -> int:
    """`ci`: render, and write what changed; nothing at all where a file was edited, unless --force."""
    options, project = context.options, context.project
    if options.system not in SYSTEMS:
        raise UsageError(f"{options.system!r} is no system; {nearest(options.system, SYSTEMS)}", where="ci SYSTEM")
    folder = SYSTEMS[options.system][0]
    out = Path(options.out).resolve() if options.out else repository(project.root) / folder
    rendered = render(project, options.system, out)
    edited = [file for file in rendered if file.state == "edited"]
    refused = bool(edited) and not options.force and not options.dry_run
    for file in rendered:
        if options.dry_run or (refused and file in edited):
            context.say(file.diff or f"{file.path}: no change")
    if refused:
        raise EditedError(
            f"{', '.join(file.path.name for file in edited)}: changed by hand, or not written by the farm",
            where=str(out),
            next_step="what the diff takes away would be lost: move it to templates/ of your project, or --force",
        )
    for file in rendered:
        if file.state != "same" and not options.dry_run:
            _store(file)
            context.say(f"wrote {file.path}")
    if options.json:
        context.answer({"schema": 1, "files": [{"path": str(file.path), "state": file.state} for file in rendered],
                     "dry_run": options.dry_run})  # fmt: skip
    elif not options.dry_run and all(file.state == "same" for file in rendered):
        context.say("nothing to do: every file is as it was")
    return 0
