"""What `init` writes into a source tree leaves `pip install .` as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import Environment
from torch_build_farm.cli import main

pytestmark = pytest.mark.resolvers

# As many extensions do with torch: what the environment has is imported where setup.py begins.
SETUP = "import needed\nfrom setuptools import setup\nsetup(name='demo', version='1.0', py_modules=['demo'])\n"


def test_a_setup_py_that_imports_what_the_environment_has(environment: Environment, tmp_path: Path) -> None:
    assert environment.uv("install", "pip==23.0.1", "setuptools<80", "wheel").returncode == 0
    (site_packages,) = environment.home.glob("lib/python3*/site-packages")
    (site_packages / "needed.py").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text(SETUP)
    (tree / "demo.py").touch()
    assert main.main(["init", str(tree)]) == 0
    installed = environment.pip("install", "--no-deps", tree)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert environment.run("import demo").returncode == 0
