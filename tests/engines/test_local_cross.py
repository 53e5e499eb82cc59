"""What the local engine says of a job for another machine before it builds anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.machine import ARM64, X86_64, running
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.engines.sysroot import variable_of
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load


def test_a_cross_compiler_is_named_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX of the caller is this machine's compiler, and no cross build takes it."""
    other = X86_64 if running() == ARM64 else ARM64
    monkeypatch.setenv(variable_of(other), str(tmp_path))
    project = load(CHECKOUT, CHECKOUT)
    project = replace(project, settings=replace(project.settings, environment={"CXX": "no-such-compiler"}))
    job = Job("demo-torch29", "1.0", project.on(other).variants[Minor(2, 9)], CPython.running())
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", print)
    with pytest.raises(ToolError, match="no-such-compiler does not run") as raised:
        LocalEngine(project, TorchStore(tmp_path / "store", "")).check([job], shell)
    assert "[[tool.torch-build-farm.overrides]]" in raised.value.next_step
