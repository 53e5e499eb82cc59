"""A project file from a source tree."""

import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, PROJECTS
from torch_build_farm.cli import main
from torch_build_farm.project import scaffold
from torch_build_farm.project.settings import load


def written(tree: Path, *more: str) -> tuple[int, str]:
    code = main.main(["init", str(tree), *more])
    return code, (Path(more[0]) if more else tree).joinpath("pyproject.toml").read_text()


def test_a_tree_with_setup_py_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text(
        "import os, torch\nfrom setuptools import setup\n"
        'if os.getenv("FORCE_ONLY_CPU", "0") == "1" or "NVCC_FLAGS" in os.environ["FLAGS"]: pass\n'
        'setup(name="Demo_Ext", version="1.5", install_requires=["torch>=2.9,<2.12"])\n'
    )
    for name in ("demo_ext/__init__.py", "demo_ext/sub/__init__.py", "tests/__init__.py", "csrc/a.cu", "csrc/b.cu"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    code, text = written(tmp_path)
    assert code == 0
    settings = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert settings == {
        "name": "demo-ext",
        "packages": ["demo_ext"],
        "torch": ["2.9", "2.10", "2.11"],
        "environment": {"FORCE_ONLY_CPU": "1"},
    }
    assert "setuptools, requires 'torch>=2.9,<2.12'" in text
    assert "csrc/a.cu and 1 more need nvcc" in text
    assert "setup.py reads FLAGS, FORCE_ONLY_CPU;" in text
    assert "# The packages that a wheel may contain at top level.\npackages = " in text
    assert len(text.splitlines()) < 20
    assert load(tmp_path, CHECKOUT).settings.name == "demo-ext"
    capsys.readouterr()
    assert main.main(["init", str(tmp_path)]) == 2
    assert "there is a [tool.torch-build-farm] already" in capsys.readouterr().err
    assert (tmp_path / "pyproject.toml").read_text() == text


def test_what_cannot_be_told_is_marked(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("from setuptools import setup\nsetup(**everything())\n")
    _, text = written(tmp_path)
    for key in ("name", "version", "packages", "torch"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{key} = ")]
        assert scaffold.MARK in line


def test_a_projects_own_file_is_kept_and_added_to(tmp_path: Path) -> None:
    own = (PROJECTS / "probe" / "pyproject.toml").read_text().split("[tool.torch-build-farm]")[0]
    (tmp_path / "pyproject.toml").write_text(own)
    (tmp_path / "probe").mkdir()
    (tmp_path / "probe" / "__init__.py").touch()
    _, text = written(tmp_path)
    assert text.startswith(own)
    added = tomllib.loads(text)["tool"]["torch-build-farm"]
    assert (added["name"], added["packages"], len(added["torch"])) == ("torch-probe", ["probe"], 8)
    assert scaffold.MARK not in text.removeprefix(own).replace(f"{scaffold.MARK} marks", "")


def test_a_file_elsewhere_names_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1", packages=["demo"])\n')
    _, text = written(tree, str(tmp_path / "a" / "b"))
    assert tomllib.loads(text)["tool"]["torch-build-farm"]["source"] == "../../tree"
    assert not (tree / "pyproject.toml").exists()


def test_a_file_that_is_no_toml_and_line_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.other]\r\nx = 1\r\n")
    assert main.main(["init", str(tmp_path)]) == 0
    written = (tmp_path / "pyproject.toml").read_bytes()
    assert written.count(b"\n") == written.count(b"\r\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("no toml")
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "not valid TOML" in capsys.readouterr().err
    assert main.main(["init", str(tmp_path), str(tmp_path / "setup.py")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["no/such/folder", "a b"])
def test_what_is_no_source(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["init", what]) == 2
    assert "neither a folder, nor a file" in capsys.readouterr().err
