"""Install a build's requirements once, with network: the build itself has none, and finds them in uv's cache.

An interpreter of the container that has `build` runs this with the arguments TREE HOME UV PYTHON.
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
    names = sorted(requirements)
    if names:
        call([uv, "pip", "install", "--python", home, *names])


call([uv, "venv", "--clear", "--python", python, home])
builder = build.ProjectBuilder(tree, python_executable=str(Path(home, "bin", "python")), runner=call)
install(builder.build_system_requires)
try:
    additional = builder.get_requires_for_build("wheel")
except build.BuildException as error:
    # `before-build` has not run yet. If the error stays, the build itself reports it, with more around it.
    sys.stderr.write(f"torch-build-farm: the back end's further requirements are unknown as yet: {error}\n")
else:
    install(additional)
