"""Versions, names and requirements as the tables of other back ends than setuptools state them; nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.test_tree import commit, git
from torch_build_farm.core.errors import SourceError, VersionError
from torch_build_farm.project import metadata
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.metadata import Metadata

PROJECT = '[project]\nname = "demo-ext"\ndynamic = ["version"]\n'


def back_end(name: str) -> str:
    return f'[build-system]\nrequires = ["x"]\nbuild-backend = "{name}"\n'


HATCH = back_end("hatchling.build") + PROJECT
PDM = back_end("pdm.backend") + PROJECT
FLIT = back_end("flit_core.buildapi") + PROJECT
MESON = back_end("mesonpy") + PROJECT
POETRY = back_end("poetry.core.masonry.api")


def stated(root: Path, pyproject: str, **files: str) -> Metadata:
    (root / "pyproject.toml").write_text(pyproject)
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return metadata.read(root, metadata.document(root), answers=Origin(root).answer)


@pytest.mark.parametrize(
    ("pyproject", "file", "text"),
    [
        (HATCH + '[tool.hatch.version]\npath = "src/d/about.py"\n', "src__d__about_dot_py", "x = 1\n__version__ = 'v1.2'\n"),
        (HATCH + '[tool.hatch.version]\nsource = "regex"\npath = "V"\n', "V", 'version = "1.2"\n'),
        (HATCH + "[tool.hatch.version]\npath = 'V'\npattern = true\n", "V", 'VERSION="1.2"\n'),
        (HATCH + "[tool.hatch.version]\npath = 'a.h'\npattern = 'DEMO \"(?P<version>[^\"]+)\"'\n", "a_dot_h", '#define DEMO "1.2"\n'),
        (PDM + '[tool.pdm.version]\nsource = "file"\npath = "d/__init__.py"\n', "d__/__init__/_dot_py", ""),
        (PDM + '[tool.pdm.version]\npath = "d.py"\n', "d_dot_py", "__version__ = '1.2'  # the next one\n"),
        (PDM + "[tool.pdm.version]\nsource = 'file'\npath = 'd.h'\npattern = 'V ([0-9.]+)'\n", "d_dot_h", "#define V 1.2\n"),
        (FLIT, "demo_ext_dot_py", '"""A module."""\n__version__ = "1.2"\n'),
        (FLIT + '[tool.flit.module]\nname = "d.e"\n', "src__d__e_dot_py", '__version__ = "1.2"\n'),
        (MESON, "meson_dot_build", "# a comment with (\nproject('d', ['c', 'cpp'],\n  license: 'MIT', version : '1.2', meson_version: '>=1.1')\n"),
        (MESON, "meson_dot_build", "project('d',\n  default_options: {'x': 'y, version: 3'},\n  version: '''1.2'''\n)\nx = 1"),
        (POETRY + '[tool.poetry]\nname = "demo-ext"\nversion = "1.2"\n', "x", ""),
        (POETRY + PROJECT + '[tool.poetry]\nversion = "1.2"\n', "x", ""),
        (POETRY + '[project]\nname = "demo-ext"\nversion = "1.2"\n[tool.poetry]\nversion = "9"\n', "x", ""),
    ],
)  # fmt: skip
def test_a_version_in_a_file(tmp_path: Path, pyproject: str, file: str, text: str) -> None:
    if file == "d__/__init__/_dot_py":  # `__` is a slash above
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "__init__.py").write_text('__version__ = "1.2"\n')
        file = "x"
    read = stated(tmp_path, pyproject, **{file: text})
    assert (read.name, read.version, read.version_from_scm) == ("demo-ext", "1.2", False)


def test_a_version_in_a_file_that_meson_names(tmp_path: Path) -> None:
    read = stated(tmp_path, MESON, meson_dot_build="project('d', version: files('VERSION'))\n", VERSION="1.2\n")
    assert read.version == "1.2"


def test_meson_alone_may_name_the_project(tmp_path: Path) -> None:
    read = stated(tmp_path, back_end("mesonpy"), meson_dot_build="project('demo-ext', 'cpp', version: '1.2')\n")
    assert (read.name, read.version) == ("demo-ext", "1.2")


@pytest.mark.parametrize(
    ("pyproject", "meson", "key"),
    [
        (HATCH + '[tool.hatch.version]\nsource = "code"\npath = "about.py"\n', "", "hatch.version"),
        (HATCH + '[tool.hatch.version]\nsource = "env"\nvariable = "V"\n', "", "hatch.version"),
        (HATCH + '[tool.hatch.version]\nsource = "vcs"\nraw-options = { parse = "os:getcwd" }\n', "", "parse"),
        (PDM + '[tool.pdm.version]\nsource = "call"\ngetter = "demo:version"\n', "", "pdm.version"),
        (PDM + '[tool.pdm.version]\nsource = "scm"\nversion_format = "demo:version"\n', "", "version_format"),
        (MESON, "project('d', version: run_command('git', 'describe', check: true).stdout().strip())", "meson.build"),
        (MESON, "project('d', version: '1.' + '2')", "meson.build"),
        (POETRY + '[tool.poetry]\nname = "d"\nversion = "0.0.0"\n[tool.poetry-dynamic-versioning]\nenable = true\n', "", "poetry-dynamic-versioning"),
    ],
)  # fmt: skip
def test_what_only_code_would_tell_is_said(tmp_path: Path, pyproject: str, meson: str, key: str) -> None:
    with pytest.raises(VersionError, match="only code of the source's would tell its version") as caught:
        stated(tmp_path, pyproject, meson_dot_build=meson)
    assert key in str(caught.value)
    assert metadata.read(tmp_path, metadata.document(tmp_path), "1.5").version == "1.5"


@pytest.mark.parametrize(
    "pyproject",
    [
        HATCH, HATCH + "[tool.hatch.version]\n", HATCH + "[tool.hatch]\nversion = 1\n", HATCH + "[tool.hatch.version]\npath = 1\n",
        HATCH + "[tool.hatch.version]\npath = 'gone'\n", PDM, PDM + "[tool.pdm.version]\nsource = 'file'\n", FLIT, MESON,
        POETRY + PROJECT, back_end("other.backend") + PROJECT + "[tool.hatch.version]\npath = 'v.py'\n",
    ],
)  # fmt: skip
def test_where_nothing_is_said(tmp_path: Path, pyproject: str) -> None:
    with pytest.raises(VersionError, match="does not state its version"):
        stated(tmp_path, pyproject, v_dot_py="__version__ = '1.2'\n")


@pytest.mark.parametrize("text", ["", "project(", "project('d'", "project('d', version: '1", "project()" * 9, "version: '1.2'", "((((" * 50_000, "project('d', " + "[" * 100_000])  # fmt: skip
def test_a_meson_build_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(VersionError):
        stated(tmp_path, MESON, meson_dot_build=text)


@pytest.mark.parametrize("path", ["../outside", "/etc/hostname"])
@pytest.mark.parametrize("table", ["hatch", "pdm"])
def test_a_version_file_outside_of_the_tree(tmp_path: Path, table: str, path: str) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (tmp_path / "outside").write_text('__version__ = "1.2"\n')
    pyproject = {"hatch": HATCH, "pdm": PDM}[table] + f'[tool.{table}.version]\npath = "{path}"\n'
    with pytest.raises(SourceError, match="cannot be read"):
        stated(root, pyproject)


@pytest.mark.parametrize(
    ("pyproject", "tag", "version"),
    [
        (HATCH + '[tool.hatch.version]\nsource = "vcs"\n', "v0.4", "0.4"),
        (HATCH + '[tool.hatch.version]\nsource = "vcs"\ntag-pattern = "ext-(?P<version>.*)"\n', "ext-0.4", "0.4"),
        (HATCH + '[tool.hatch.version]\nsource = "vcs"\n[tool.hatch.version.raw-options]\nlocal_scheme = "no-local-version"\n', "v0.4", "0.4"),
        (PDM + '[tool.pdm.version]\nsource = "scm"\n', "v0.4", "0.4"),
        (PDM + '[tool.pdm.version]\nsource = "scm"\ntag_filter = "ext-*"\ntag_regex = "ext-(.*)"\n', "ext-0.4", "0.4"),
    ],
)  # fmt: skip
def test_a_version_that_git_counts(tmp_path: Path, pyproject: str, tag: str, version: str) -> None:
    (tmp_path / "pyproject.toml").write_text(pyproject)
    commit(tmp_path, tag)
    read = stated(tmp_path, pyproject)
    assert (read.version, read.version_from_scm) == (version, True)
    git(tmp_path, "commit", "-qm", "two", "--allow-empty")
    assert stated(tmp_path, pyproject).version.startswith("0.5.dev1")


def test_what_poetrys_own_table_states(tmp_path: Path) -> None:
    read = stated(
        tmp_path,
        POETRY
        + """
[tool.poetry]
name = "Demo_Ext"
version = "1.2"
[tool.poetry.dependencies]
python = "^3.10"
torch = ">=2.8"
numpy = { version = "~1.26", extras = ["all"] }
scipy = "1.2.3"
exact = "1.2.*"
any = "*"
zero = "^0.3.1"
zeros = "^0.0.3"
tilde = "~2"
several = ">=1.2 <2, !=1.5"
either = "^1.0 || ^2.0"
marked = [{ version = "^1", python = "<3.12" }, { version = "^2", markers = "sys_platform == 'linux'" }]
optional = { version = "1", optional = true }
there = { git = "https://example.org/there", branch = "main" }
""",
    )
    assert (read.name, read.version, read.requires_python) == ("Demo_Ext", "1.2", ">=3.10,<4.0")
    assert read.requires == (
        "torch>=2.8",
        "numpy[all]>=1.26,<1.27",
        "scipy==1.2.3",
        "exact==1.2.*",
        "any",
        "zero>=0.3.1,<0.4.0",
        "zeros>=0.0.3,<0.0.4",
        "tilde>=2,<3",
        "several>=1.2,<2,!=1.5",
        "either",
        "marked>=1,<2",
        "there",
    )


def test_what_flits_own_table_states(tmp_path: Path) -> None:
    table = '[tool.flit.metadata]\nmodule = "demo_ext"\nrequires = ["torch>=2.8"]\nrequires-python = ">=3.9"\n'
    read = stated(tmp_path, back_end("flit_core.buildapi") + table, demo_ext_dot_py='__version__ = "1.2"\n')
    assert (read.name, read.version, read.requires_python) == ("demo_ext", "1.2", ">=3.9")
    assert read.requires == ("torch>=2.8",)


@pytest.mark.parametrize(
    "table",
    [
        '[tool.poetry]\nname = 1\n', '[tool.poetry]\nversion = "1"\n', '[tool.poetry]\nname = "d"\nversion = 1\n',
        '[tool.poetry]\nname = "d"\nversion = "1"\ndependencies = 1\n',
        '[tool.poetry]\nname = "d"\nversion = "1"\n[tool.poetry.dependencies]\ntorch = "nonsense"\npython = "x"\n',
        '[tool.poetry]\nname = "d"\nversion = "1"\n[tool.poetry.dependencies]\ntorch = [[1]]\npython = 3\n"a b" = "1"\n',
        f'[tool.poetry]\nname = "d"\nversion = "1"\n[tool.poetry.dependencies]\npython = "{"^1," * 9999}"\n',
    ],
)  # fmt: skip
def test_a_table_that_poetry_would_not_take(tmp_path: Path, table: str) -> None:
    try:
        read = stated(tmp_path, POETRY + table)
    except (SourceError, VersionError):
        return
    assert read.name == "d"
    assert read.requires in ((), ("torch",))
