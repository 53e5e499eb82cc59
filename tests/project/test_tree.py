import subprocess
from pathlib import Path

import pytest

from torch_build_farm.core.errors import ConfigError, SourceError, VersionError
from torch_build_farm.project import tree as source
from torch_build_farm.project.fetch import Origin

STATIC = '[project]\nname = "demo"\nversion = "1.2"\n'
DYNAMIC = '[project]\nname = "demo"\ndynamic = ["version"]\n'


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(root: Path, exclude: tuple[str, ...] = ()) -> source.Source:
    return source.read(Origin(root), exclude)


def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True)


def test_static_version(tmp_path: Path) -> None:
    found = read(tree(tmp_path, pyproject_dot_toml=STATIC))
    assert (found.version, found.metadata.version_from_scm) == ("1.2", False)


@pytest.mark.parametrize("table", ["[tool.setuptools_scm]\n", '[tool.scikit-build.metadata.version]\nprovider = "scikit_build_core.metadata.setuptools_scm"\n'])  # fmt: skip
def test_version_from_git_tags_writes_nothing(tmp_path: Path, table: str) -> None:
    if table.startswith("[tool.setuptools_scm]"):
        table += 'version_file = "version.py"\n'
    tree(tmp_path, pyproject_dot_toml=DYNAMIC + table)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "tag", "v0.1.114.post0")
    found = read(tmp_path)
    assert (found.version, found.metadata.version_from_scm) == ("0.1.114.post0", True)
    assert not (tmp_path / "version.py").exists()


def test_version_by_regex(tmp_path: Path) -> None:
    table = '[tool.scikit-build.metadata.version]\nprovider = "scikit_build_core.metadata.regex"\ninput = "v.py"\n'
    found = read(tree(tmp_path, pyproject_dot_toml=DYNAMIC + table, v_dot_py='__version__ = "3.1"\n'))
    assert found.version == "3.1"


def test_version_of_an_unpacked_sdist(tmp_path: Path) -> None:
    sdist = tree(tmp_path, pyproject_dot_toml=DYNAMIC)
    (sdist / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 4.5\n")
    assert read(sdist).version == "4.5"


def test_no_version(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="does not state its version"):
        read(tree(tmp_path, pyproject_dot_toml=DYNAMIC))


def test_git_tags_without_a_tag_or_repository(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="git tags give no version"):
        read(tree(tmp_path, pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n"))


def test_invalid_version(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="not a valid version"):
        read(tree(tmp_path, pyproject_dot_toml=STATIC.replace("1.2", "one")))


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"has neither pyproject.toml nor setup.py"):
        read(tmp_path)


def test_files_leave_out_what_builds_leave_and_what_is_excluded(tmp_path: Path) -> None:
    tree(
        tmp_path, pyproject_dot_toml=STATIC, a_dot_cpp="", pkg__b_dot_py="", pkg__b_dot_so="", build__x="",
        sub__build__kept="", data__big="", dot__venv="",
    )  # fmt: skip
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "junk").touch()
    (tmp_path / "link").symlink_to("pkg")
    found = {file.path: file for file in read(tmp_path, ("/data/",)).files}
    assert set(found) == {"pyproject.toml", "a.cpp", "pkg/b.py", "sub/build/kept", "dot/venv", "link"}
    assert found["link"].link == "pkg"


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "a", pyproject_dot_toml=STATIC)
    (tmp_path / "b").mkdir()
    link = tmp_path / "a" / "third_party"
    for target in ("../b", str(tmp_path / "b")):
        link.symlink_to(target)
        with pytest.raises(SourceError, match="leads out of the source tree"):
            read(tmp_path / "a")
        assert read(tmp_path / "a", ("/third_party/",)).version == "1.2"
        link.unlink()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STATIC + 'requires-python = "abc"\n', "requires-python"),
        (STATIC + 'dependencies = "torch"\n', "project.dependencies"),
        (STATIC + 'optional-dependencies = ["x"]\n', "project.optional-dependencies"),
        ("[build-system]\n" + STATIC, "build-system.requires"),
        ("[project]\nversion = '1'\n", "project.name"),
    ],
)
def test_metadata_of_the_wrong_shape(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read(tree(tmp_path, pyproject_dot_toml=text))


def test_a_pattern_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude"):
        read(tree(tmp_path, pyproject_dot_toml=STATIC), ("!",))


def test_digest_tells_content_name_mode_and_version(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=STATIC, a_dot_cpp="x")
    digests = {read(tmp_path).digest()}
    (tmp_path / "a.cpp").write_text("y")
    digests.add(read(tmp_path).digest())
    (tmp_path / "a.cpp").chmod(0o755)
    digests.add(read(tmp_path).digest())
    (tmp_path / "a.cpp").rename(tmp_path / "b.cpp")
    digests.add(read(tmp_path).digest())
    assert len(digests) == 4
    assert read(tmp_path).digest() in digests


def test_setup_py_is_read_and_not_run(tmp_path: Path) -> None:
    tree(
        tmp_path,
        setup_dot_py="""
import torch_that_is_not_there
from setuptools import setup
__version__ = "2.1." + "2"
setup(name="demo", version=__version__, python_requires=f">={'3.8'}", packages=computed())
""",
    )
    said = read(tmp_path).metadata
    assert (said.name, said.version, said.requires_python, said.version_from_scm) == ("demo", "2.1.2", ">=3.8", False)


def test_old_ways_of_setup_py(tmp_path: Path) -> None:
    tree(tmp_path, setup_dot_py="\ufeff__version__: str = '2024.01.05'\n"
         "from setuptools import setup\nsetup(name='demo', version=__version__, python_requires='>=3.6.*', install_requires='torch')\n")  # fmt: skip
    said = read(tmp_path).metadata
    assert (said.version, said.requires_python, said.requires) == ("2024.1.5", ">=3.6", ("torch",))


def test_setup_cfg_is_read_and_setup_py_wins(tmp_path: Path) -> None:
    tree(tmp_path, setup_dot_py='from setuptools import setup\nsetup(name="demo")\n', VERSION="7.1\n")
    (tmp_path / "setup.cfg").write_text(
        "[metadata]\nname = other\nversion = file: VERSION\n[options]\ninstall_requires =\n  torch\n"
    )
    said = read(tmp_path).metadata
    assert (said.name, said.version, said.requires) == ("demo", "7.1", ("torch",))


def test_a_version_that_only_running_would_tell(tmp_path: Path) -> None:
    tree(tmp_path, setup_dot_py="from setuptools import setup\nsetup(version=compute())\n")
    with pytest.raises(VersionError, match="does not state its version"):
        read(tmp_path)
    assert source.read(Origin(tmp_path), (), "1.5").version == "1.5"


@pytest.mark.parametrize(
    "text", ['[tool.setuptools.dynamic]\nversion = "1"\n', '[tool.scikit-build]\nmetadata = "regex"\n']
)
def test_settings_of_a_wrong_type_say_no_version(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f"{DYNAMIC}{text}")
    with pytest.raises(VersionError, match="does not state its version"):
        source.read(Origin(tmp_path))


def test_an_unpacked_sdist_keeps_its_list_of_files(tmp_path: Path) -> None:
    tree(tmp_path, pyproject_dot_toml=STATIC)
    (tmp_path / "demo.egg-info").mkdir()
    (tmp_path / "demo.egg-info" / "SOURCES.txt").touch()
    assert {file.path for file in read(tmp_path).files} == {"pyproject.toml"}
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.2\n")
    assert "demo.egg-info/SOURCES.txt" in {file.path for file in read(tmp_path).files}


@pytest.mark.parametrize("where", ["setup.cfg", "pyproject.toml"])
@pytest.mark.parametrize(("way", "value"), [("file", "VERSION"), ("attr", "demo.version.__version__")])
def test_where_setuptools_is_directed_for_a_version(tmp_path: Path, where: str, way: str, value: str) -> None:
    tree(tmp_path, VERSION="3.2\n", src__demo__version_dot_py='__version__ = "3" + ".2"\n')
    if where == "setup.cfg":
        (tmp_path / where).write_text(f"[metadata]\nname = demo\nversion = {way}: {value}\n")
        (tmp_path / "setup.py").touch()
    else:
        (tmp_path / where).write_text(f'{DYNAMIC}[tool.setuptools.dynamic]\nversion = {{ {way} = "{value}" }}\n')
    assert read(tmp_path).version == "3.2"
