"""The last check of a release: what users install from the index is what was published, and it imports."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
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


def _project_file(project: Project, variant: Variant, version: str, python: CPython, index: PackageIndex) -> str:
    """A project that depends on NAME[torchNN]; the farm's names come from `index`, all others from uv's default."""
    plain_name = project.settings.name
    names = [plain_name, project.auto_name, project.select_name, project.distribution(variant)]
    document = {
        "project": {
            "name": "check-of-a-release",
            "version": "0",
            "requires-python": f"=={python.release}.*",
            "dependencies": [f"{plain_name}[{variant.tag}]=={version}", *names[1:]],
        },
        "tool": {
            "uv": {
                "package": False,
                "environments": ["sys_platform == 'linux' and platform_machine == 'x86_64'"],
                "index": [{"name": "target", "url": public(index.url or PYPI_SIMPLE_ENDPOINT), "explicit": True}],
                "sources": {name: {"index": "target"} for name in names},
            }
        },
    }
    return tomlkit.dumps(document)


def _environment(store: TorchStore, index: PackageIndex, home: Path) -> dict[str, str]:
    parts = urlsplit(index.url)
    secrets = {"USERNAME": parts.username, "PASSWORD": parts.password}
    return {
        **tools.environment(store.uv_cache, home),
        **{f"UV_INDEX_TARGET_{name}": unquote(value) for name, value in secrets.items() if value},
        "UV_PROJECT_ENVIRONMENT": str(home / "env"),
    }


def _foreign(lock: Path, expected: Mapping[str, str], names: set[str], index: PackageIndex) -> list[str]:
    """Which of the farm's `names` in a lock do not come from the index, or are not the files that were published.

    `expected` has the SHA-256 of each published file by its name. A sentence each.
    """
    url = public(index.url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
    problems = []
    missing = set(names)
    for package in tomllib.loads(lock.read_text("utf-8"))["package"]:
        if package["name"] not in names:
            continue
        if str(package["source"].get("registry", "")).rstrip("/") != url:
            problems.append(f"{package['name']} comes from {package['source']}")
        for wheel in package.get("wheels", ()):
            file = str(wheel.get("filename") or wheel["url"].rsplit("/", 1)[-1].partition("#")[0])
            if file in expected and wheel.get("hash", "").removeprefix("sha256:") != expected[file]:
                problems.append(f"{file} has {wheel.get('hash')}, not sha256:{expected[file]}")
            if file in expected:
                missing.discard(package["name"])
    return problems + [f"{name} is not what was published" for name in sorted(missing)]


def check(
    project: Project, variant: Variant, version: str, expected: Mapping[str, str], *,
    python: CPython, interpreter: Interpreter, index: PackageIndex, store: TorchStore, shell: Shell,
) -> None:  # fmt: skip
    """Install NAME[torchNN] into a fresh environment and import it.

    `expected` has the SHA-256 of each published file by its name. Raises PublishError.
    """
    home = store.environment(f"{variant.tag}-published")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    shell = replace(shell, env=_environment(store, index, home), cwd=home)
    what = f"{project.settings.name}[{variant.tag}]=={version}"
    try:
        (home / "pyproject.toml").write_text(_project_file(project, variant, version, python, index), "utf-8")
        _do(shell, f"{what} does not resolve", tools.uv(), "lock", "--python", interpreter.path, "--refresh")
        names = {project.settings.name, project.auto_name, project.select_name, project.distribution(variant)}
        if problems := _foreign(home / "uv.lock", expected, names, index):
            raise PublishError(f"{what} is not what was published: " + "; ".join(problems), where=str(shell.log))
        _do(shell, f"{what} does not install", tools.uv(), "sync", "--frozen", "--python", interpreter.path)
        for name in project.imports:
            _do(shell, f"{what}: import {name} fails", home / "env" / "bin" / "python", "-I", "-c", f"import {name}")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _do(shell: Shell, otherwise: str, *command: str | Path) -> None:
    done = shell.run(*command)
    if not done.ok:
        last = next((line for line in reversed(done.tail) if line.strip()), "no reason given")
        raise PublishError(f"{otherwise}: {last.strip()}", where=str(shell.log), next_step="the log has it all")
