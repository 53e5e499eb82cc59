"""What the built distribution brings, and that the ways to install the tests' requirements agree."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm import __version__

BUILD = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The farm's own wheel, built from the checkout by its back end."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=CHECKOUT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_type_checkers_see_the_installed_package(wheel: zipfile.ZipFile) -> None:
    assert "torch_build_farm/py.typed" in wheel.namelist()


def test_the_wheel_brings_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "torch_build_farm"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert set(listed.stdout.split()) - set(wheel.namelist()) == set()


def test_the_wheels_metadata_names_licence_and_version(wheel: zipfile.ZipFile) -> None:
    folder = f"torch_build_farm-{__version__}.dist-info"
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert "License-Expression: MIT\n" in metadata
    assert "License-File: LICENSE\n" in metadata
    assert wheel.read(f"{folder}/licenses/LICENSE") == Path(CHECKOUT / "LICENSE").read_bytes()


def test_the_extra_for_tests_has_what_the_groups_have() -> None:
    """pip knows extras everywhere and groups since 25.1: the README's command takes the extra."""
    document: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    groups = document["dependency-groups"]
    extra = set(document["project"]["optional-dependencies"]["test"])
    assert {*groups["test"], *groups["types"]} <= extra
