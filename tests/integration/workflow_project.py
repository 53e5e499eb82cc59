"""Repositories whose workflows are run, and the machine that they are run on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import CHECKOUT, PROJECTS, Farm
from torch_build_farm.core.store import STORE_VARIABLE, default_folder
from torch_build_farm.core.versions import CPython

_NOT_COMMITTED = (".git", ".venv", ".nox", "work", "__pycache__", ".*_cache")


def machine(tmp_path: Path) -> dict[str, str]:
    """What a hosted runner's own environment would be, with this machine's certificates, and torch kept in the store."""
    env = {name: value for name, value in os.environ.items() if re.search("CERT|BUNDLE|SSL|_proxy|_PROXY", name)}
    return {
        **env,
        "PATH": f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": os.environ["HOME"],
        "LANG": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        STORE_VARIABLE: str(default_folder()),
    }


def wheel_of_the_farm(folder: Path, *without: str) -> str:
    """The farm as a requirement: a wheel of this checkout, some of its variants left out."""
    tree = folder / "farm"
    shutil.copytree(CHECKOUT, tree, ignore=shutil.ignore_patterns(*_NOT_COMMITTED, "tests", *without))
    build: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--installer", "uv", "--outdir", folder, tree]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
    (wheel,) = folder.glob("torch_build_farm-*.whl")
    return f"torch-build-farm @ {wheel.as_uri()}"


def repository(root: Path) -> Path:
    """Make the project at `root` a repository with its workflows, as its maintainer would commit them."""
    git(root, "init", "--quiet", "--initial-branch", "main")
    answer = Farm(root, root / "work")("ci")
    assert answer.code == 0, answer.err
    commit(root)
    return root


def checkout(folder: Path) -> Path:
    """This checkout, with the embedded project, as a repository of its own."""
    root = folder / "checkout"
    shutil.copytree(CHECKOUT, root, ignore=shutil.ignore_patterns(*_NOT_COMMITTED))
    return repository(root)


def project(folder: Path, farm: str, *lines: str) -> Path:
    """A repository with the tiny project and its workflows, as its maintainer would commit them."""
    root = folder / "tiny"
    shutil.copytree(PROJECTS / "tiny", root)
    settings = [f"farm = {json.dumps(farm)}", 'engine = "local"', f'python = ["{CPython.running()}"]', *lines]
    with (root / "pyproject.toml").open("a") as stream:
        stream.write("\n".join(['torch = ["2.8", "2.9"]', "[tool.torch-build-farm.ci]", *settings]))
    (root / ".gitignore").write_text("/work/\n")
    return repository(root)


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *words], cwd=root, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "workflows")
