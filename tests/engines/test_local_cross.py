"""What the local engine says of a job for another machine before it builds anything."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import ToolError
from torch_build_farm.core.machine import ARM64, X86_64, running
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.store import TorchStore
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines import system_packages
from torch_build_farm.engines.local import LocalEngine
from torch_build_farm.engines.sysroot import Sysroot, variable_of
from torch_build_farm.project.plan import Job
from torch_build_farm.project.settings import load

INSTALLED = """Package: libfmt-dev
Status: install ok installed
Maintainer: nobody <nobody@example.org>
Architecture: arm64
Multi-Arch: same
Version: 9.1.0
Description: none
"""


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


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs Debian's dpkg")
def test_packages_of_a_system_that_was_unpacked_and_not_installed(tmp_path: Path) -> None:
    """As ci/sysroot does: dpkg's list is empty, whatever is there."""
    settings = load(CHECKOUT, CHECKOUT).settings
    packages = replace(settings.system_packages, apt=("libfmt-dev", "libre2-dev"))
    settings = replace(settings, system_packages=packages)
    database = tmp_path / "var" / "lib" / "dpkg"
    database.mkdir(parents=True)
    (database / "status").touch()
    system_packages.check(settings, Sysroot(ARM64, tmp_path))
    (database / "status").write_text(INSTALLED)
    with pytest.raises(ToolError, match="system packages are missing: libre2-dev\n"):
        system_packages.check(settings, Sysroot(ARM64, tmp_path))
