"""Settings that a build needs from outside its source, each in both engines: real back ends, in torch's environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import Answer, Farm

pytestmark = pytest.mark.torch
IN_BOTH_ENGINES = pytest.mark.parametrize("engine", ["local", pytest.param("docker", marks=pytest.mark.docker)])


@pytest.fixture
def scripted(make_farm: Callable[..., Farm]) -> Farm:
    """A project whose setup.py decides everything."""
    return make_farm("scripted")


def settings(farm: Farm, *lines: str) -> None:
    """Add lines to the farm's table."""
    farm.edit("pyproject.toml", "[tool.torch-build-farm]\n", "\n".join(["[tool.torch-build-farm]", *lines, ""]))


def error(answer: Answer) -> Any:
    """The error of the one job."""
    (job,) = answer.document["jobs"]
    return job["error"]


@IN_BOTH_ENGINES
def test_what_setup_py_imports_undeclared(scripted: Farm, engine: str) -> None:
    """As flash-attn's setup.py does. The error names the module, and the setting that it names mends it."""
    scripted.engine = engine
    scripted.edit("setup.py", "# imports of a test", "import psutil\nimport yaml")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert error(answer)["kind"] == "BuildError"
    assert "the module psutil" in error(answer)["what"]
    assert 'build-requires = ["psutil"]' in error(answer)["next"]

    settings(scripted, 'build-requires = ["psutil"]')
    answer = scripted("build", "--torch", "2.9", "--json")
    assert 'build-requires = ["PyYAML"]' in error(answer)["next"]

    scripted.edit("pyproject.toml", '["psutil"]', '["psutil", "PyYAML"]')
    answer = scripted("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err


@IN_BOTH_ENGINES
@pytest.mark.parametrize(
    ("back_end", "distribution"), [("mesonpy", "meson-python"), ("scikit_build_core.build", "scikit_build_core")]
)
def test_a_back_end_that_is_not_required(scripted: Farm, engine: str, back_end: str, distribution: str) -> None:
    """The farm's own back end imports the first; the front end imports the second."""
    scripted.engine = engine
    tables = f"""
[build-system]
requires = ["setuptools"]
build-backend = "{back_end}"
[project]
name = "scripted"
version = "1.0"
[tool.torch-build-farm]
"""
    scripted.edit("pyproject.toml", "[tool.torch-build-farm]\n", tables)
    (scripted.project / "setup.py").unlink()
    answer = scripted("build", "--torch", "2.9", "--json")
    assert f"the module {back_end.partition('.')[0]}" in error(answer)["what"]
    assert f'build-requires = ["{distribution}"]' in error(answer)["next"]


@IN_BOTH_ENGINES
def test_what_a_back_end_requires_in_vain_is_the_error(scripted: Farm, engine: str) -> None:
    """In a container the back end is asked in one of its own, whose end is the farm's own doing."""
    scripted.engine = engine
    scripted.edit("setup.py", "# settings of a test", "requires = ['no requirement at all']")
    scripted.edit("setup.py", "setup(name", "setup(setup_requires=requires, name")
    answer = scripted("build", "--torch", "2.9", "--json")
    assert error(answer)["kind"] == "BuildError", error(answer)
    assert "no requirement at all" in error(answer)["what"]
