"""What the docs promise is there."""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from tests.conftest import CHECKOUT, PROJECTS, need
from torch_build_farm.cli import main
from torch_build_farm.core import errors
from torch_build_farm.project.settings import Ci, Settings
from torch_build_farm.project.variant import Variant

MAINTAINERS = (CHECKOUT / "docs" / "maintainers.md").read_text()


def test_every_key_is_in_the_guide() -> None:
    for shape in (Settings, Variant):
        for field in fields(shape):
            assert f"`{field.name.replace('_', '-')}`" in MAINTAINERS, field.name


def test_every_key_of_ci_is_in_its_guide() -> None:
    table = (CHECKOUT / "docs" / "ci.md").read_text().split("\n## ")[1]
    assert set(re.findall(r"^\| `([a-z-]+)` \| `", table, re.MULTILINE)) == {field.name for field in fields(Ci)}


def test_every_exit_code_is_in_the_guide_and_belongs_to_one_error() -> None:
    listed = dict(re.findall(r"^\| (\d+) \| (\w+) \|", MAINTAINERS, re.MULTILINE))
    defined = {
        str(error.exit_code): name
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.FarmError)
        and error not in (errors.FarmError, errors.Interrupted)
    }  # fmt: skip
    assert listed == defined


def test_every_command_and_option_is_in_the_guide() -> None:
    for name in main.COMMANDS:
        assert re.search(rf"^\| `{name}\b", MAINTAINERS, re.MULTILINE), name
    for option in re.findall(r'"(--[a-z]+)"', Path(main.__file__).read_text()):
        assert option in MAINTAINERS or option in ("--version", "--help"), option


def test_ci_runs_the_readmes_test_command() -> None:
    readme, ci = (CHECKOUT / "README.md").read_text(), (CHECKOUT / ".ci" / "run").read_text()
    assert "pip install '.[test]' && pytest\n" in readme
    assert re.search(r"^pip install .*'\.\[test\]'$", ci, re.MULTILINE)
    assert re.search(r"^pytest", ci, re.MULTILINE)


def test_the_installed_farm_brings_its_variants_and_templates() -> None:
    script = Path(sys.executable).parent / "torch-build-farm"
    need(script.is_file(), "needs the farm installed: pip install '.[test]'")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as work:
        command: list[str | Path] = [script, "render", "--project", PROJECTS / "tiny", "--work", work, "--torch", "all"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", check=False)
        assert done.returncode == 0, done.stderr
        assert len(list(Path(work).glob("jobs/*/source/pyproject.toml"))) == 8
