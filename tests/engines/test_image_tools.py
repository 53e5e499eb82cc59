"""The farm's tools for an image of another platform, by a stand-in for uv."""

from __future__ import annotations

from pathlib import Path

import pytest

from torch_build_farm.core import tools
from torch_build_farm.core.machine import ARM64, X86_64, running
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.engines.docker import image_tools

# Makes the files of all tools in the folder that follows --target.
UV = """#!/bin/sh
env
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/bin" "$2/cmake/data/bin" "$2/cmake/data/share/cmake-4.1"
touch "$2/bin/uv" "$2/bin/ninja" "$2/cmake/data/bin/cmake"
"""


def test_tools_come_from_the_callers_index_and_are_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "uv"
    uv.write_text(UV)
    uv.chmod(0o755)
    monkeypatch.setattr(tools, "uv", lambda: uv)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://index.example/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    other = X86_64 if running() == ARM64 else ARM64
    lines: list[str] = []
    files = image_tools.files_for(other, running(), Shell(Runner(), {}, tmp_path, tmp_path / "log", lines.append))
    assert sorted(files) == ["bin/cmake", "bin/ninja", "bin/uv"]
    for variable in (
        "UV_DEFAULT_INDEX=https://index.example/simple",
        "HTTPS_PROXY=http://proxy.example:3128",
        "UV_NO_BUILD=1",
    ):
        assert lines.count(variable) == 2, variable
