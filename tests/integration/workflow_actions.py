"""What stands in for the pinned actions on this machine. An input that a stand-in does not know is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.expressions import Unknown
from torch_build_farm.cli import ci
from torch_build_farm.core import tools
from torch_build_farm.core.store import default_folder
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.interpreters import find_interpreters

if TYPE_CHECKING:
    from tests.integration.workflow_runner import Workplace

Inputs = Mapping[str, str]


class ActionFailed(Exception):  # noqa: N818
    """What the real action would end with."""


def _only(given: Inputs, *known: str) -> None:
    if unknown := set(given) - set(known):
        raise Unknown(f"inputs {', '.join(sorted(unknown))}")


def checkout(given: Inputs, place: Workplace) -> None:
    """A clone of the repository; of one commit alone, as the action does it, unless it says otherwise."""
    _only(given, "fetch-depth", "persist-credentials", "ref", "path")
    depth = given.get("fetch-depth", "1")
    words = ["--quiet", "--no-tags", "--depth", depth] if depth != "0" else ["--quiet"]
    branch = given.get("ref", place.run.event.ref)
    folder = place.workspace / given.get("path", ".")
    source = ["--branch", branch, f"file://{place.run.repository}", str(folder)]
    subprocess.run(["git", "clone", *words, *source], check=True, env=place.machine)


def setup_python(given: Inputs, place: Workplace) -> None:
    """Interpreters of this machine; the last one in an environment that holds what earlier jobs installed, if any."""
    _only(given, "python-version")
    there = find_interpreters(tools.environment(default_folder() / "uv", place.temp))
    for version in given["python-version"].split():
        if CPython.parse(version) not in there:
            raise ActionFailed(f"no CPython {version} on this machine")
        interpreter = there[CPython.parse(version)].path
        scripts = place.folder / "python" / version
        if version == given["python-version"].split()[-1]:
            home = place.run.tools / version
            scripts = home / "bin"
            if not home.exists():
                subprocess.run([interpreter, "-m", "venv", home], check=True, env=place.machine)
        else:
            scripts.mkdir(parents=True)
            (scripts / f"python{version}").symlink_to(interpreter)
        place.path.insert(0, str(scripts))


def _found(patterns: list[str], workspace: Path) -> tuple[list[Path], Path]:
    """The files of an upload, and the folder that they are named from: the deepest that all searches share."""
    files: list[Path] = []
    roots = []
    for pattern in patterns:
        whole = workspace / pattern
        plain = Path(pattern.partition("*")[0].rpartition("/")[0]) if "*" in pattern else Path(pattern)
        roots.append(workspace / plain)
        absolute = whole.relative_to(whole.anchor)
        for path in sorted(Path(whole.anchor).glob(str(absolute))):
            files += [path] if path.is_file() else [one for one in sorted(path.rglob("*")) if one.is_file()]
    root = Path(os.path.commonpath(roots))
    hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(root).parts)]
    return [path for path in files if path not in hidden], root if root.is_dir() else root.parent


def upload_artifact(given: Inputs, place: Workplace) -> None:
    """Copies files under the artifact's name, which a run may use once."""
    _only(given, "name", "path", "if-no-files-found")
    if set('"<>|*?:\r\n\\/') & set(given["name"]):
        raise ActionFailed(f"{given['name']} is no artifact's name")
    files, root = _found(given["path"].split(), place.workspace)
    if not files and given.get("if-no-files-found") == "error":
        raise ActionFailed(f"no files were found with {given['path']}")
    target = place.run.artifacts / given["name"]
    if target.exists():
        raise ActionFailed(f"an artifact {given['name']} is there already")
    for file in files:
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)  # artifacts keep no modes


def download_artifact(given: Inputs, place: Workplace) -> None:
    """Copies one artifact, or all that fit a pattern, each into a folder of its own."""
    _only(given, "name", "pattern", "path")
    found = sorted(place.run.artifacts.glob(given.get("name") or given["pattern"]))
    if not found:
        raise ActionFailed(f"no artifact {given}")
    for one in found:
        folder = place.workspace / given["path"]
        shutil.copytree(one, folder if "name" in given else folder / one.name, dirs_exist_ok=True)


_ACTIONS: dict[str, Callable[[Inputs, Workplace], None]] = {
    "checkout": checkout,
    "setup-python": setup_python,
    "upload-artifact": upload_artifact,
    "download-artifact": download_artifact,
}


def act(uses: str, given: Inputs, place: Workplace) -> None:
    """What a `uses:` step does. Only the farm's pins are known, by their full commits."""
    known = {f"{pin.uses}@{pin.commit}": name for name, pin in ci.pins().items()}
    if uses not in known:
        raise Unknown(f"the action {uses}")
    _ACTIONS[known[uses]](given, place)
