"""The configuration that cibuildwheel gets: one file a build, in place of the project's own. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import tomlkit
from packaging.version import Version

from torch_build_farm.core.machine import Machine
from torch_build_farm.project.settings import Settings
from torch_build_farm.wheels import auditwheel

PROJECT = "/project"  # where cibuildwheel puts the source tree
BUILD = "/tmp/build"  # CMake's build folder there
ENV_DIR = Version("1.6")  # of `build`: the first with --env-dir
_REPAIRING = "Repairing wheel..."
_STEPS = ("Building wheel...", _REPAIRING, "Copying wheels back to host...")
PURE = 5  # cibuildwheel's exit code for a pure Python wheel, which it refuses (its errors.py)


def configuration(
    image: str, platform: Machine, create_arguments: Sequence[str], environment_folder: str, settings: Settings
) -> str:
    """The configuration file, as TOML, for a build with the project's `settings` in an image of a platform.

    `environment_folder` is where `build` (1.6) makes its isolated environment; empty lets it pick one. Environment
    variables come with `create_arguments`, since cibuildwheel's own `environment` evaluates its values as shell words.
    """
    front_end_arguments = ["--verbose"]  # so that the log shows what uv installs
    if environment_folder:
        front_end_arguments.append(f"--env-dir={environment_folder}")

    # cibuildwheel runs one command line; each of the project's commands gets a shell of its own.
    commands = [f"sh -c {shlex.quote(_literal(command))}" for command in settings.before_build]
    table: dict[str, Any] = {
        "build-frontend": {"name": "build[uv]", "args": front_end_arguments},
        # By default cibuildwheel mounts the machine's root folder into the container, writable.
        "container-engine": {"name": "docker", "create-args": list(create_arguments), "disable-host-mount": True},
        f"manylinux-{platform.name}-image": image,
        "before-build": " && ".join(commands),
        "config-settings": _config_settings(settings),
        # auditwheel has to run where the libraries are that it may graft.
        "repair-wheel-command": _repair_command(settings.external_libraries),
        "dependency-versions": "latest",  # no constraints file: nothing is installed but the build environment
        # Both are stages of the farm's own.
        "audit-command": "",
        "test-command": "",
    }
    return tomlkit.dumps({"tool": {"cibuildwheel": table}})


def _config_settings(settings: Settings) -> dict[str, str | list[str]]:
    """The settings for the back end, which cibuildwheel quotes itself."""
    table: dict[str, str | list[str]] = {}
    for name, value in settings.config_settings.items():
        table[name] = _literal(value) if isinstance(value, str) else [_literal(text) for text in value]
    return table


def _repair_command(external_libraries: Iterable[str]) -> str:
    """The command line of auditwheel, with two of cibuildwheel's placeholders. A shell reads it: it is quoted."""
    words = []
    for word in auditwheel.command("auditwheel", "{wheel}", "{dest_dir}", external_libraries):
        words.append(word if word in ("{wheel}", "{dest_dir}") else shlex.quote(word))
    return " ".join(words)


def _literal(text: str) -> str:
    """A text whose {project} and {package} cibuildwheel leaves as they are (its escape is a #)."""
    return re.sub(r"(\{(?:project|package)\})", r"#\1", text)


def was_repairing(tail: Sequence[str]) -> bool:
    """Whether cibuildwheel ended while auditwheel ran, by the end of its output."""
    steps = [line for line in tail if line in _STEPS]
    return bool(steps) and steps[-1] == _REPAIRING
