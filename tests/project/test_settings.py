import re
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.settings import Project, load

TABLE = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
VARIANT = (CHECKOUT / "variants" / "torch29.toml").read_text()


def loaded(tmp_path: Path, table: str = TABLE, **variants: str) -> Project:
    (tmp_path / "pyproject.toml").write_text(table)
    for name, text in variants.items():
        (tmp_path / "variants").mkdir(exist_ok=True)
        (tmp_path / "variants" / f"{name}.toml").write_text(text)
    return load(tmp_path, CHECKOUT)


def complaint(tmp_path: Path, table: str = TABLE, **variants: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, table, **variants)
    return caught.value.what


def test_every_built_in_variant_is_loaded_in_the_order_of_versions() -> None:
    project = load(CHECKOUT, CHECKOUT)
    assert [str(minor) for minor in project.variants] == [f"2.{n}" for n in range(8, 16)]
    assert list(project.on(ARM64).variants) == list(project.variants)
    files = {path.name for path in (CHECKOUT / "variants").iterdir()}
    assert set(project.variants_files) == files


def test_a_projects_own_variant_wins_file_by_file(tmp_path: Path) -> None:
    project = loaded(tmp_path, torch29=VARIANT.replace("cpython = [", 'cpython = ["cp39", '))
    assert CPython(3, 9) in project.variants[Minor(2, 9)].cpython
    assert len(project.variants) == 8


def test_a_variants_file_may_still_state_the_pin(tmp_path: Path) -> None:
    project = loaded(tmp_path, torch29=VARIANT + 'pin = "==2.9.*"\n')
    assert project.variants[Minor(2, 9)].pin == "==2.9.*"


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    said = complaint(tmp_path, TABLE + 'sorce = "."\n')
    assert "pyproject.toml: [tool.torch-build-farm]: sorce: unknown key; did you mean 'source'?" in said


def test_an_unknown_key_below_names_its_own_neighbours(tmp_path: Path) -> None:
    assert "system-packages.atp: unknown key; did you mean 'apt'?" in complaint(
        tmp_path, TABLE + 'system-packages = { atp = ["x"] }\n'
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("size-limit-mb = '100'", "size-limit-mb"),
        ("size-limit-mb = -1", "greater than 0"),
        ("torch = [2.8]", 'must be a string in quotes, such as "2.8"'),
        ("torch-flavours = 'gpu'", "'cuda' or 'any'"),
        ("imports = ['demo.1x']", "not an import name"),
        ("packages = 'demo'", "packages"),
        ("environment = { MAKEFLAGS = '-j8' }", "the farm sets this itself"),
        ("environment = { TORCH_BUILD_FARM_SYSROOT = '/x' }", "the farm sets this itself"),
        ("requires = ['numpy', 'Torch>=2']", "'Torch>=2': the farm pins torch itself"),
        ("requires = ['numpy @ https://example.org/numpy.whl']", "package indexes refuse"),
        ("requires = ['numpy>>1']", "requires[0]"),
        ("config-settings = { setup-args = 1 }", "must be a string or a list of strings"),
        ("config-settings = { setup-args = ['-Da=b', 1] }", "must be a string or a list of strings"),
        ("config-settings = { setup-args = [] }", "must name something"),
        ("config-settings = { 'a b' = '1' }", "'a b' is no name of a config setting"),
        ("config-settings = { 'a=b' = '1' }", "'a=b' is no name of a config setting"),
        ('config-settings = { a = "\\u0000" }', "a NUL"),
        ("config-settings = { build-dir = 'b' }", "build-dir: the farm sets this itself"),
    ],
)
def test_wrong_types_are_named(tmp_path: Path, line: str, words: str) -> None:
    table = TABLE.replace('packages = ["demo"]\n', "") if line.startswith("packages") else TABLE
    said = complaint(tmp_path, f"{table}{line}\n")
    assert words in said
    assert line.split(" =", maxsplit=1)[0] in said


def test_every_problem_of_every_file_at_once(tmp_path: Path) -> None:
    said = complaint(
        tmp_path,
        '[tool.torch-build-farm]\nnaem = "demo"\n',
        torch29=VARIANT.replace("cxx-standard = 17", 'cxx-standard = "17"'),
        torch28="not toml",
    )
    for words in ("naem: unknown key", "name: missing key", "packages: missing key", "torch29.toml: cxx-standard",
                  "torch28.toml: not valid TOML"):  # fmt: skip
        assert words in said, said


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('cuda = "12.8"', 'pin = ">=2.9,<2.11"\ncuda = "12.8"', "pinned to '==2.9.*': remove the key"),
        ('releases = ["2.9.0"', 'releases = ["2.8.0", "2.9.0"', "2.8.0 is not a release of torch 2.9"),
        ('release = "2.9.0"', 'release = "2.9.7"', "not among releases"),
        ('cuda = "12.8"', 'cuda = "13.0"', "contradicts cuda = '13.0'"),
        ('torch = "2.9"', 'torch = "2.10"', "belongs in torch210.toml"),
        ('["cp310"', '["cp310", "cp310"', "listed twice"),
        ('["cp310"', '["py310"', "not a CPython"),
    ],
)
def test_contradictions_in_a_variant(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in VARIANT
    assert words in complaint(tmp_path, torch29=VARIANT.replace(old, new))


def test_no_table_of_ours(tmp_path: Path) -> None:
    assert "did you mean 'torch-build-fram'" in complaint(tmp_path, "[tool.torch-build-fram]\n")


def test_a_template_for_pyproject_is_refused(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "pyproject.toml.j2").write_text("[project]\n")
    assert "pyproject.toml.j2: the farm no longer takes a template" in complaint(tmp_path)


def test_no_pyproject(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no pyproject"):
        load(tmp_path, CHECKOUT)


SDIST = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            'sdist = "demo==1.0"',
            "sdist-sha256: must be the SHA-256 of the file.*`init demo==1.0` writes the one on the package index",
        ),
        (f'sdist = "demo>=1.0"\nsdist-sha256 = "{"0" * 64}"', "must name one version"),
        (f'sdist = "demo==1.*"\nsdist-sha256 = "{"0" * 64}"', "must name one version"),
        ('git = "x"\nrevision = "v1"\nsource = "."', "git: contradicts source; a project has one source"),
        ('git = "x"', "git: needs revision beside it"),
        ('version = "one"', "Invalid version"),
    ],
)
def test_a_source_that_is_none(tmp_path: Path, lines: str, words: str) -> None:
    assert re.search(words, complaint(tmp_path, SDIST + lines + "\n"))


def test_from_the_stable_abis_oldest_minor_on_there_is_one_variant(tmp_path: Path) -> None:
    project = loaded(tmp_path, TABLE + 'stable-abi = "2.10"\n')
    assert [variant.tag for variant in project.variants.values()] == ["torch28", "torch29", "torch-stable"]
    stable = project.variants[Minor(2, 10)]
    assert (project.distribution(stable), stable.pin, stable.release) == ("demo-torch-stable", ">=2.10", "2.10.0")
    assert [str(facts.torch) for facts in stable.minors] == [f"2.{n}" for n in range(10, 16)]
    assert stable.tested_with == ("2.10.0", "2.15.*")
    assert CPython(3, 10) not in stable.cpython, "torch 2.15 has no wheel for it"
    assert [str(minor) for minor in project.torch_minors] == [f"2.{n}" for n in range(8, 16)]


@pytest.mark.parametrize(
    ("oldest", "tags", "tested_with"),
    [
        ("2.8", ["torch-stable"], ("2.8.0", "2.15.*")),
        ("2.15", [*(f"torch2{n}" for n in range(8, 15)), "torch-stable"], ("2.15.*",)),
    ],
)
def test_the_stable_part_may_be_all_or_the_newest_minor_alone(
    tmp_path: Path, oldest: str, tags: list[str], tested_with: tuple[str, ...]
) -> None:
    project = loaded(tmp_path, f'{TABLE}stable-abi = "{oldest}"\n')
    assert [variant.tag for variant in project.variants.values()] == tags
    assert project.variants[Minor.parse(oldest)].tested_with == tested_with


def test_an_oldest_minor_of_which_nothing_is_known(tmp_path: Path) -> None:
    said = complaint(tmp_path, TABLE + 'stable-abi = "2.7"\n')
    assert "stable-abi: torch 2.7 has no file variants/torch27.toml; known minors: 2.8, 2.9" in said


def test_an_oldest_minor_that_no_cpython_shares_with_the_newest(tmp_path: Path) -> None:
    old = re.sub(r"cpython = \[.*?\]", 'cpython = ["cp310"]', VARIANT)
    said = complaint(tmp_path, TABLE + 'stable-abi = "2.9"\n', torch29=old)
    assert "stable-abi: torch 2.9 and torch 2.15 have no CPython in common; raise it" in said
