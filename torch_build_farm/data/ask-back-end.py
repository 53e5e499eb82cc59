"""Ask a source's back end what more it requires to build a wheel (PEP 517, get_requires_for_build_wheel).

An interpreter of the container that has `build` runs this with the arguments TREE ENVIRONMENT CONFIG_SETTINGS, the last
as JSON, where nothing of the farm's can be written. The last line that it prints is the answer, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import build

tree, home, config_settings = sys.argv[1:]


def call(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
    subprocess.run(cmd, cwd=cwd, env={**os.environ, **(extra_environ or {})}, check=True)


builder = build.ProjectBuilder(tree, python_executable=str(Path(home, "bin", "python")), runner=call)
required: list[str] = []
try:
    required = sorted(builder.get_requires_for_build("wheel", json.loads(config_settings)))
except (build.BuildException, build.BuildBackendException) as error:
    # `before-build` has not run yet. If the error stays, the build itself reports it, with more around it.
    sys.stderr.write(f"torch-build-farm: the back end's further requirements are unknown as yet: {error}\n")
sys.stderr.flush()
sys.stdout.write(f"\ntorch-build-farm: the back end requires {json.dumps(required)}\n")
