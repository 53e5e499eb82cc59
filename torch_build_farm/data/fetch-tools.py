"""What a build requires, installed once with network, so that the build itself finds it in uv's cache without.

Run by an interpreter of the container that has `build`: TREE HOME UV PYTHON.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import build

tree, home, uv, python = sys.argv[1:]


def call(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
    subprocess.run(cmd, cwd=cwd, env={**os.environ, **(extra_environ or {})}, check=True)


def install(requirements: Iterable[str]) -> None:
    if wanted := sorted(requirements):
        call([uv, "pip", "install", "--python", home, *wanted])


call([uv, "venv", "--clear", "--python", python, home])
builder = build.ProjectBuilder(tree, python_executable=str(Path(home, "bin", "python")), runner=call)
install(builder.build_system_requires)
try:
    more = builder.get_requires_for_build("wheel")
except build.BuildException as error:  # the build itself, which `before-build` comes before, tells it better
    sys.stderr.write(f"torch-build-farm: what else the build requires cannot be told yet: {error}\n")
else:
    install(more)
