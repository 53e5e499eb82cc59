"""Settings that differ between jobs: which entries select a job, and what it gets of them."""

from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.settings import Project, Settings, load

TABLE = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
ENTRY = "[[tool.torch-build-farm.overrides]]\n"


def project(folder: Path, text: str) -> Project:
    (folder / "pyproject.toml").write_text(TABLE + text)
    return load(folder, CHECKOUT)


def of_job(found: Project, torch: str, *, on: str = "3.12") -> Settings:
    return found.settings.for_job(found.variants[Minor.parse(torch)], CPython.parse(on))


def test_a_later_entry_wins_and_tables_are_joined(tmp_path: Path) -> None:
    found = project(
        tmp_path,
        'environment = { A = "1", B = "1" }\nbefore-build = ["one"]\ncmake-defines = { X = "1" }\n'
        f'{ENTRY}torch = ">=2.9"\nenvironment = {{ B = "2", C = "2" }}\nbefore-build = ["two", "three"]\n'
        f'build-requires = ["numpy"]\ncuda-arch-list = ["9.0"]\nconfig-settings = {{ "--build-option" = "--x" }}\n'
        f'{ENTRY}torch = ["2.10", "2.11"]\nenvironment = {{ C = "3" }}\nbefore-build = []\ncuda-arch-list = []\n',
    )
    assert of_job(found, "2.8").environment == {"A": "1", "B": "1"}
    assert of_job(found, "2.8").before_build == ("one",)
    nine, ten = of_job(found, "2.9"), of_job(found, "2.10")
    assert nine.environment == {"A": "1", "B": "2", "C": "2"}
    assert (nine.before_build, nine.build_requires, nine.cuda_arch_list) == (("two", "three"), ("numpy",), ("9.0",))
    assert nine.config_settings == {"--build-option": "--x"}
    assert nine.cmake_defines == {"X": "1"}
    assert ten.environment == {"A": "1", "B": "2", "C": "3"}
    assert (ten.before_build, ten.build_requires, ten.cuda_arch_list) == ((), ("numpy",), ())
    # Of two jobs that the same entries select, and of a job resolved twice, the settings are equal.
    assert of_job(found, "2.11") == ten


def test_an_entry_selects_by_all_of_its_keys(tmp_path: Path) -> None:
    text = f'{ENTRY}torch = ">=2.9"\ncpython = ["3.13", "3.13t"]\ncuda = "==12.*"\nenvironment = {{ A = "1" }}\n'
    found = project(tmp_path, text)
    selected = {
        (str(minor), str(python))
        for minor, variant in found.variants.items()
        for python in variant.cpython
        if found.settings.for_job(variant, python).environment
    }
    assert selected == {("2.9", "3.13"), ("2.9", "3.13t"), ("2.10", "3.13"), ("2.10", "3.13t")}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('torch = ["2.99"]', "overrides[0].torch: 2.99 is no minor that this farm knows; did you mean '2.9'?"),
        ('torch = ">=9"', "overrides[0].torch: '>=9' admits no minor that this farm knows"),
        ('torch = "2.9"', "overrides[0].torch: '2.9' is no version specifier"),
        ("torch = 2.9", "overrides[0].torch"),
        ('cpython = ["3.1"]', "overrides[0].cpython: no torch that this farm knows has CPython 3.1; did you mean"),
        ('cuda = ">=99"', "overrides[0].cuda: '>=99' admits no CUDA of a torch that this farm knows; known: 12.8"),
        ('torch = ["2.8"]\ncuda = ">=13"', "overrides[0]: selects no job"),
        ("", "overrides[0]: selects every job; name torch, cpython, cuda or platform"),
    ],
)
def test_a_selector_that_selects_nothing(tmp_path: Path, entry: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, f'{ENTRY}{entry}\nbefore-build = ["true"]\n')
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cmake-defnes = {}", "overrides[0].cmake-defnes: unknown key; did you mean 'cmake-defines'?"),
        ("size-limit-mb = 5", "overrides[0].size-limit-mb: unknown key"),
        ("environment = { PATH = '/x' }", "overrides[0].environment: PATH: the farm sets this itself"),
        ("", "overrides[0]: changes nothing"),
    ],
)
def test_what_no_entry_can_say(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, f'{ENTRY}torch = ">=2.9"\n{key}\n')
    assert words in caught.value.what


def test_an_entry_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        project(tmp_path, "overrides = 'torch'\n")
    assert "overrides" in caught.value.what
