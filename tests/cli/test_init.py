"""A project file from a source tree."""

import io
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tests.conftest import CHECKOUT, PROJECTS
from tests.index import Index
from tests.project.test_tree import nested_folders
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


def test_folders_too_deep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rglob recurses up to CPython 3.11; later ones end where a path is too long."""
    (tmp_path / "setup.py").write_text("from setuptools import setup\nsetup(name='demo', version='1')\n")
    with nested_folders(tmp_path, 2000):
        if main.main(["init", str(tmp_path)]):
            assert "folders of the source lie too deep in one another" in capsys.readouterr().err


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


# ---- sources of strangers

BREAK = 'x\nbefore-build = ["touch ran"]\n#'


def packed(folder: Path, files: dict[str, str]) -> Path:
    """An sdist file with these files, in a folder of any name."""
    path = folder / "demo-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"demo-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize(
    "name",
    ["/{other}", "{other}", "../other", "..", ".", "", "a/b", "-C", "a b", "demo\n /x", "d\x1b[2J", "\u202edemo", "d" * 129],
)  # fmt: skip
def test_a_name_of_an_sdist_that_is_a_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("[tool.other]\n")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    info = f"Metadata-Version: 2.1\nName: {name.format(other=other)}\nVersion: 1.0\n\n"
    archive = packed(tmp_path, {"PKG-INFO": info, "setup.py": ""})
    assert main.main(["init", str(archive)]) == 2
    assert "does not state its name and version" in capsys.readouterr().err
    assert (other / "pyproject.toml").read_text() == "[tool.other]\n"
    assert not list(here.rglob("*"))


def test_an_sdist_does_not_choose_a_file_to_be_added_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "pyproject.toml").write_text("[tool.other]\n")
    monkeypatch.chdir(tmp_path)
    archive = packed(tmp_path, {"PKG-INFO": "Name: demo\nVersion: 1.0\n", "setup.py": "", "demo/__init__.py": ""})
    assert main.main(["init", str(archive)]) == 2
    assert "there is a project file already" in capsys.readouterr().err
    assert (tmp_path / "demo" / "pyproject.toml").read_text() == "[tool.other]\n"
    assert main.main(["init", str(archive), str(tmp_path / "demo")]) == 0  # somebody named it
    assert "torch-build-farm" in (tmp_path / "demo" / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "where", ["cuda", "package", "top_level", "listed", "backend", "requirement", "name", "version"]
)
def test_no_word_of_a_source_becomes_a_setting(tmp_path: Path, where: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    project = {"name": "demo", "version": "1.0", "dependencies": ["torch>=2.8"]}
    document: dict[str, Any] = {"project": project, "build-system": {"requires": ["x"], "build-backend": "x"}}
    if where == "cuda":
        (tree / f"{BREAK}.cu").touch()
    elif where == "package":
        (tree / BREAK).mkdir()
        (tree / BREAK / "__init__.py").touch()
    elif where == "top_level":
        (tree / "x.egg-info").mkdir()
        (tree / "x.egg-info" / "top_level.txt").write_text("a'b\nbefore-build\n")
    elif where == "listed":
        document["tool"] = {"scikit-build": {"wheel": {"packages": [BREAK, "src/demo"]}}}
    elif where == "backend":
        document["build-system"]["build-backend"] = BREAK
    elif where == "requirement":
        project["dependencies"] = [f"torch ; {BREAK}", "torch\n>=2.8"]
    else:
        project[where] = BREAK
    (tree / "pyproject.toml").write_text(tomlkit.dumps(document))
    folder = tmp_path / "written"
    code = main.main(["init", str(tree), str(folder)])
    if where == "version":
        assert code == 0 or not folder.exists()
    else:
        assert code == 0
    if folder.exists():
        written = tomllib.loads((folder / "pyproject.toml").read_text())
        assert list(written) == ["tool"]
        assert set(written["tool"]["torch-build-farm"]) <= {"name", "source", "version", "packages", "torch"}
        assert load(folder, CHECKOUT).settings.before_build == ()


@pytest.mark.parametrize("packages", ["5", '"demo"', "[5]", "{ 5 = 5 }", "[]"])
def test_settings_of_a_back_end_of_a_wrong_type(tmp_path: Path, packages: str) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f'[project]\nname = "demo"\nversion = "1"\n[tool.scikit-build]\nwheel = {{ packages = {packages} }}\n'
    )
    assert written(tmp_path)[0] == 0


def test_a_tree_whose_project_file_is_another_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.toml").write_text('[project]\nname = "demo"\nversion = "1"\n')
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").symlink_to("../other.toml")
    assert main.main(["init", str(tree)]) == 6
    assert "leads out of its folder by a link" in capsys.readouterr().err
    assert "torch-build-farm" not in (tmp_path / "other.toml").read_text()


@pytest.mark.parametrize("text", [b"a = " + b"[" * 3000, b"\xff\xfe", b"tool = 1", b"[tool]\ntorch-build-farm = 1"])
def test_a_project_file_that_cannot_be_added_to(
    tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_bytes(text)
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert (other / "pyproject.toml").read_bytes() == text


def test_an_sdist_of_another_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "index").mkdir()
    index = Index(tmp_path / "index")
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    monkeypatch.chdir(tmp_path)
    archive = packed(tmp_path, {"PKG-INFO": "Name: other\nVersion: 1.0\n", "setup.py": ""})
    index.add("demo-1.0.tar.gz", archive.read_bytes())
    assert main.main(["init", "demo==1.0"]) == 2
    assert "is not an sdist of demo: it says that its name is other" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    index.close()


def test_a_project_file_that_is_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "setup.py").write_text('from setuptools import setup\nsetup(name="demo", version="1")\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text("#" * (1 << 20))
    assert main.main(["init", str(tmp_path), str(other)]) == 2
    assert "cannot be read" in capsys.readouterr().err
