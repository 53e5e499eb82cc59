"""The last check of a release: users who install from the index get the published files, and the package imports."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import tomlkit
from pypi_simple import PYPI_SIMPLE_ENDPOINT

from torch_build_farm.core import tools
from torch_build_farm.core.errors import PublishError
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.process import Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.urls import public
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.base import Interpreter
from torch_build_farm.project.settings import Project
from torch_build_farm.project.variant import Variant


def _farm_names(project: Project, variant: Variant) -> list[str]:
    """The distributions that an installation of NAME[torchNN] takes from the farm, the plain name first."""
    return [project.settings.name, project.auto_name, project.select_name, project.distribution(variant)]


def _project_file(project: Project, variant: Variant, version: str, python: CPython, index: PackageIndex) -> str:
    """A project that depends on NAME[torchNN]; the farm's names come from `index`, all others from uv's default."""
    names = _farm_names(project, variant)
    sources = {}
    for name in names:
        sources[name] = {"index": "target"}
    plain_name, *others = names
    document = {
        "project": {
            "name": "check-of-a-release",
            "version": "0",
            "requires-python": f"=={python.release}.*",
            # uv applies sources only to dependencies that the project itself declares (astral-sh/uv#8253).
            "dependencies": [f"{plain_name}[{variant.tag}]=={version}", *others],
        },
        "tool": {
            "uv": {
                "package": False,
                # The farm's wheels are for this platform alone; uv would look for those of all others too.
                "environments": ["sys_platform == 'linux' and platform_machine == 'x86_64'"],
                "index": [{"name": "target", "url": public(index.url or PYPI_SIMPLE_ENDPOINT), "explicit": True}],
                "sources": sources,
            }
        },
    }
    return tomlkit.dumps(document)


def _environment(store: TorchStore, index: PackageIndex, home: Path) -> dict[str, str]:
    """Variables for uv. The index is named "target" in _project_file, and so are those for its credentials."""
    env = tools.environment(store.uv_cache, home)
    parts = urlsplit(index.url)
    if parts.username:
        env["UV_INDEX_TARGET_USERNAME"] = unquote(parts.username)
    if parts.password:
        env["UV_INDEX_TARGET_PASSWORD"] = unquote(parts.password)
    env["UV_PROJECT_ENVIRONMENT"] = str(home / "env")
    return env


def _foreign(lock: Path, expected: Mapping[str, str], names: Sequence[str], index: PackageIndex) -> list[str]:
    """Which of the farm's `names` in a lock file do not come from the index, or are not the published files.

    `expected` has the SHA-256 of each published file by its name. One sentence each.
    """
    url = public(index.url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
    problems = []
    not_seen = set(names)
    for package in tomllib.loads(lock.read_text("utf-8"))["package"]:
        name = package["name"]
        if name not in names:
            continue
        if str(package["source"].get("registry", "")).rstrip("/") != url:
            problems.append(f"{name} comes from {package['source']}")
        for wheel in package.get("wheels", ()):
            file = str(wheel.get("filename") or wheel["url"].rsplit("/", 1)[-1].partition("#")[0])
            if file not in expected:  # a wheel for another CPython
                continue
            not_seen.discard(name)
            if wheel.get("hash", "").removeprefix("sha256:") != expected[file]:
                problems.append(f"{file} has {wheel.get('hash')}, not sha256:{expected[file]}")
    for name in sorted(not_seen):
        problems.append(f"{name} is not what was published")
    return problems


def check(
    project: Project, variant: Variant, version: str, expected: Mapping[str, str], *,
    python: CPython, interpreter: Interpreter, index: PackageIndex, store: TorchStore, shell: Shell,
) -> None:  # fmt: skip
    """Install NAME[torchNN] from the index into a fresh environment and import it.

    `expected` has the SHA-256 of each published file by its name. Raises PublishError if the index has something else,
    or if uv does not resolve or install it, or if an import fails.
    """
    home = store.environment(f"{variant.tag}-published")
    # A farm that was killed may have left it behind.
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    shell = replace(shell, env=_environment(store, index, home), cwd=home)
    what = f"{project.settings.name}[{variant.tag}]=={version}"
    try:
        (home / "pyproject.toml").write_text(_project_file(project, variant, version, python, index), "utf-8")
        # --refresh: uv's cache may still hold the index as it was before the upload.
        _do(shell, f"{what} does not resolve", tools.uv(), "lock", "--python", interpreter.path, "--refresh")
        problems = _foreign(home / "uv.lock", expected, _farm_names(project, variant), index)
        if problems:
            raise PublishError(f"{what} is not what was published: " + "; ".join(problems), where=str(shell.log))
        # --frozen installs exactly what was checked in the lock file.
        _do(shell, f"{what} does not install", tools.uv(), "sync", "--frozen", "--python", interpreter.path)
        # -I: neither the current folder nor the caller's variables may stand in for what was installed.
        for name in project.imports:
            _do(shell, f"{what}: import {name} fails", home / "env" / "bin" / "python", "-I", "-c", f"import {name}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _do(shell: Shell, otherwise: str, *command: str | Path) -> None:
    """Run a command. Raises PublishError that begins with `otherwise` if it fails."""
    done = shell.run(*command)
    if not done.ok:
        reason = done.last_line or "no reason given"
        raise PublishError(f"{otherwise}: {reason}", where=str(shell.log), next_step="the log has the whole output")
