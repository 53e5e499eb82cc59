import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import setuptools_scm

from torch_build_farm.core.errors import ConfigError, SourceError, VersionError
from torch_build_farm.project import scm_version
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
        sub__build__kept="", data__big="", dot__venv="", env__pyvenv_dot_cfg="", env__x="",
    )  # fmt: skip
    (tmp_path / "pkg" / "venv").mkdir()
    (tmp_path / "pkg" / "venv" / "__init__.py").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "junk").touch()
    (tmp_path / "link").symlink_to("pkg")
    found = {file.path: file for file in read(tmp_path, ("/data/",)).files}
    assert set(found) == {"pyproject.toml", "a.cpp", "pkg/b.py", "sub/build/kept", "dot/venv", "link",
                          "pkg/venv/__init__.py"}  # fmt: skip
    assert found["link"].link == "pkg"


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "a", pyproject_dot_toml=STATIC)
    (tmp_path / "b").mkdir()
    link = tmp_path / "a" / "third_party"
    (tmp_path / "a" / "pkg").mkdir()
    # An absolute one leads into the tree here, and out of every copy of it.
    for target in ("../b", str(tmp_path / "b"), str(tmp_path / "a" / "pkg")):
        link.symlink_to(target)
        with pytest.raises(SourceError, match="leads out of the source tree"):
            read(tmp_path / "a")
        assert read(tmp_path / "a", ("/third_party/",)).version == "1.2"
        link.unlink()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STATIC + 'requires-python = "abc"\n', "cannot be rendered: project.requires-python"),
        ("[tool.other]\nname = 1\n", "project: Field required"),
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


# ---- sources of strangers


def ran(tmp_path: Path) -> Path:
    """A script that leaves a file when it is run, and that file."""
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\necho v1.2-0-gabcdef\n")
    script.chmod(0o755)
    return script


def commit(root: Path, tag: str = "v0.4") -> None:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    git(root, "tag", tag)


@pytest.mark.parametrize(
    "table",
    [
        'git_describe_command = ["{script}"]',
        'git_describe_command = "{script} --dirty"',
        'git_describe_command = "git -c core.fsmonitor={script} describe"',
        'git_describe_command = "git describe --exec={script}"',
        'git_describe_command = "git describe v9"',
        'git_describe_command = ["git", "describe", "--match"]',
        'scm.git.describe_command = ["{script}"]',
        'scm.git.pre_parse = "os:getcwd"',
        'scm.hg = {{ command = "{script}" }}',
        'version_scheme = "os:getcwd"',
        'version_scheme = ["guess-next-dev", "os:getcwd"]',
        'version_scheme = "hook:run"',
        'local_scheme = "hook:run"',
        'parse = "hook:run"',
        'version_cls = "hook:run"',
        "tag = {{ prefix = 1 }}",
        'tag = {{ prefix = "a\\u0000b" }}',
        "no_such_key = 1",
        "root = 1",
        "tag_regex = 1",
        "tag = 1",
        "version_scheme = 1",
        'root = "a\\u0000b"',
        "tag = {{ regex = 1 }}",
        'tag = {{ parse = "os:getcwd" }}',
        "scm = 1",
        "scm = {{ git = 1 }}",
        "git_describe_command = [1]",
        "git_describe_command = 1",
        'git_describe_command = "git \'describe"',
        'git_describe_command = "git describe --abbrev=x"',
        'git_describe_command = "git log --tags"',
        'git_describe_command = "git describe --match \\u0000"',
        f'git_describe_command = "git describe --match {"x" * 300}"',
        f'tag = {{{{ prefix = "{"x" * 300}" }}}}',
    ],
)
def test_a_version_by_code_of_the_source_is_asked_for(
    tmp_path: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ran(tmp_path)
    root = tree(tmp_path / "tree", hook_dot_py=f"import os\nos.system('{script}')\n")
    (root / "pyproject.toml").write_text(DYNAMIC + "[tool.setuptools_scm]\n" + table.format(script=script) + "\n")
    commit(root)
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root)
    key = table.partition(" ")[0]
    with pytest.raises(VersionError, match="only code of the source's would tell") as caught:
        read(root)
    assert key.partition(".")[0] in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert source.read(Origin(root), (), "1.5").version == "1.5"


@pytest.mark.parametrize(
    ("table", "tags", "version"),
    [
        ('git_describe_command = "git describe --dirty --tags --long --match \'ext-v*\'"', ["v9", "ext-v0.5"], "0.5"),
        ('git_describe_command = ["git", "describe", "--tags", "--match=v*", "--exclude", "v9"]', ["v9", "v0.5"], "0.5"),
        ('tag = { prefix = "ext-" }', ["v9", "ext-v0.5"], "0.5"),
        ('local_scheme = "no-local-version"\ngit_describe_command = "git describe --match v*"', ["v7"], "0.1.dev1"),
        ('tag_regex = "^(?:ext-)?v([0-9.]+)(?:\\\\+.*)?$"', ["ext-v0.5+cu128"], "0.5+cu128"),
        ('local_scheme = "no-local-version"\nversion_scheme = "post-release"\nversion_file = "v.py"', ["v0.5"], "0.5"),
        ('relative_to = "pyproject.toml"', ["v0.5"], "0.5"),
        ('fallback_version = "9"\nwrite_to = "v.py"\nwrite_to_template = "{version}"', ["v0.5"], "0.5"),
    ],
)  # fmt: skip
def test_settings_of_setuptools_scm_that_are_data(tmp_path: Path, table: str, tags: list[str], version: str) -> None:
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n" + table + "\n")
    commit(root, tags[0])
    for tag in tags[1:]:
        git(root, "tag", tag)
    assert read(root).version == version
    assert sorted(path.name for path in root.iterdir()) == [".git", "pyproject.toml"]


def test_keys_are_looked_at_before_git_is_asked() -> None:
    for table in ({"tag_regex": 1}, {"tag": {"regex": 1}}):
        with pytest.raises(VersionError, match="only code of the source's would tell"):
            scm_version.question(table)


def test_a_version_is_that_of_setuptools_scm_itself(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n")
    commit(root, "v1.0")
    git(root, "commit", "-qm", "two", "--allow-empty")
    assert read(root).version == setuptools_scm.get_version(root)


def test_a_tag_that_looks_like_two_commits_after_another(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n")
    commit(root, f"v1.0-2-g{'a' * 40}")
    with pytest.warns(UserWarning, match="could not be parsed"), pytest.raises(ValueError, match="from tag 'v1"):
        setuptools_scm.get_version(root)
    with pytest.raises(VersionError, match="from tag 'v1"):
        read(root)


def test_an_expression_for_tags_matches_from_their_start(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\ntag_regex = '([0-9.]+)'\n")
    commit(root, "v0.5")
    with pytest.raises(VersionError, match=r"tag_regex does not match the tag v0\.5"):
        read(root)


def test_commits_after_a_tag_and_changed_files_count(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n", a_dot_cpp="")
    commit(root)
    (root / "a.cpp").write_text("x")
    assert read(root).version.startswith("0.5.dev0+g")
    git(root, "commit", "-qam", "two")
    assert read(root).version.startswith("0.5.dev1+g")
    (root / "pyproject.toml").write_text(DYNAMIC + '[tool.setuptools_scm]\nlocal_scheme = "no-local-version"\n')
    git(root, "commit", "-qam", "three")
    assert read(root).version == "0.5.dev2"


def test_a_repository_above_the_project(tmp_path: Path) -> None:
    table = DYNAMIC + "[tool.setuptools_scm]\n{}\n"
    root = tree(tmp_path / "repository" / "python", pyproject_dot_toml=table.format('root = ".."'))
    commit(root.parent)
    assert read(root).version == "0.4"
    (root / "pyproject.toml").write_text(table.format("search_parent_directories = true"))
    git(root.parent, "commit", "-qam", "two")
    git(root.parent, "tag", "v0.5")
    assert read(root).version == "0.5"
    (root / "pyproject.toml").write_text(table.format(""))
    with pytest.raises(VersionError, match="no repository here"):
        read(root)


def test_what_git_archive_wrote_down(tmp_path: Path) -> None:
    root = tree(tmp_path, pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n")
    (root / ".git_archival.txt").write_text(
        "node: abc\nnode-date: 2026-01-02T00:00:00+00:00\ndescribe-name: v1.4-0-gabcdef\n"
    )
    assert read(root).version == "1.4"
    (root / ".git_archival.txt").write_text("node: abc\nref-names: HEAD -> main, tag: latest, tag: v1.5, origin/main\n")
    assert read(root).version == "1.5"
    (root / ".git_archival.txt").write_text("node: $Format:%H$\ndescribe-name: $Format:%(describe:tags=true)$\n")
    with pytest.raises(VersionError, match="git tags give no version"):
        read(root)


@pytest.mark.parametrize(("where", "key"), [("setuptools_scm", "tag_regex"), ("scikit", "regex")])
@pytest.mark.parametrize("pattern", ["^(?P<version>(a+)+)$", "((((x{1,999}){1,999}){1,999}){1,999})", "("])
def test_an_expression_without_end(tmp_path: Path, where: str, key: str, pattern: str) -> None:
    if where == "scikit":
        pattern = pattern.replace("version", "value")
        table = f"[tool.scikit-build.metadata.version]\nprovider = 'scikit_build_core.metadata.regex'\ninput = 'v.py'\nregex = '{pattern}'\n"
    else:
        table = f"[tool.setuptools_scm]\ntag_regex = '{pattern}'\n"
    root = tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + table, v_dot_py="a" * 60 + "!")
    commit(root, "a" * 60 + "!1")
    with pytest.raises(VersionError, match=r"git tags give no version|cannot be searched for|does not state"):
        read(root)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "a\0b", "x" * 5000])
@pytest.mark.parametrize("where", ["setup.cfg", "dynamic", "scikit"])
def test_a_version_from_a_file_outside(tmp_path: Path, name: str, where: str) -> None:
    (tmp_path / "secret").write_text('__version__ = "6.6.6"')
    root = tree(tmp_path / "tree", pyproject_dot_toml=STATIC)
    (root / "link").symlink_to("../secret")
    if where == "setup.cfg":
        (root / "pyproject.toml").unlink()
        (root / "setup.py").touch()
        (root / "setup.cfg").write_text(f"[metadata]\nname = demo\nversion = file: {name}\n")
    else:
        quoted = name.replace("\0", "\\u0000")
        dynamic = f'[tool.setuptools.dynamic]\nversion = {{ file = ["{quoted}"] }}\n'
        scikit = (
            f'[tool.scikit-build.metadata.version]\nprovider = "scikit_build_core.metadata.regex"\ninput = "{quoted}"\n'
        )
        (root / "pyproject.toml").write_text(DYNAMIC + (dynamic if where == "dynamic" else scikit))
    with pytest.raises(SourceError, match="a file of the source cannot be read"):
        read(root)


@pytest.mark.parametrize("reference", ["..secret.v", "/etc/x.v", "a/../../secret.v", "v", ".", ""])
def test_an_attribute_outside(tmp_path: Path, reference: str) -> None:
    (tmp_path / "secret.py").write_text('v = "6.6.6"')
    table = f'[tool.setuptools.dynamic]\nversion = {{ attr = "{reference}" }}\n'
    with pytest.raises(VersionError, match="does not state its version"):
        read(tree(tmp_path / "tree", pyproject_dot_toml=DYNAMIC + table))


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.py", "setup.cfg", "PKG-INFO", ".git_archival.txt"])
def test_a_file_of_metadata_that_leads_out_or_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("Version: 6.6.6\nName: secret\n")
    root = tree(tmp_path / "tree", setup_dot_py="", pyproject_dot_toml=DYNAMIC + "[tool.setuptools_scm]\n")
    for make in (lambda path: path.symlink_to("../secret"), os.mkfifo):
        (root / name).unlink(missing_ok=True)
        make(root / name)
        with pytest.raises((SourceError, VersionError)) as caught:
            read(root)
        assert "6.6.6" not in str(caught.value)


@pytest.mark.parametrize(
    "script",
    [
        "\n".join(["a0 = 'xxxxxxxx'"] + [f"a{i + 1} = a{i} + a{i}" for i in range(60)] + ["setup(name=a60, version='1')"]),
        "\n".join(["a0 = ['x']"] + [f"a{i + 1} = [a{i}, a{i}]" for i in range(60)] + ["setup(name=f'{a60}', version='1')"]),
        "\n".join(["a0 = 'x'"] + [f"a{i + 1} = f'{{a{i}}}{{a{i}}}'" for i in range(60)] + ["setup(name=a60, version='1')"]),
        "setup(name=" + "-" * 20000 + "1, version='1')",
        "setup(name=" + "'x'+" * 20000 + "'x', version='1')",
        "setup(name=" + "(" * 20000 + "1" + ")" * 20000 + ", version='1')",
        "setup(name=f'{0x" + "f" * 20000 + "}', version='1')",
        "setup(version=0x" + "f" * 20000 + ")",
        "setup(version='" + "9" * 20000 + "')",
        "#" * (1 << 20),
        "a = b'\\0'\0",
    ],
)  # fmt: skip
def test_a_setup_py_that_grows_or_never_ends(tmp_path: Path, script: str) -> None:
    root = tree(tmp_path, setup_dot_py=script)
    with contextlib.suppress(VersionError, SourceError):
        assert len(read(root).metadata.name) <= 10_000


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 3000 + "]" * 3000, "a = " + "{b=" * 3000 + "1" + "}" * 3000, "a" + ".a" * 50_000 + " = 1",
        "[a" + ".a" * 3000 + "]", "a = 0x" + "f" * 5000, "a = " + "9" * 5000, "a = '''" + "x" * (1 << 20) + "'''",
        "a = " + "[" * 200 + "]" * 200, '["a"' + '."a"' * 100 + "]",
    ],
)  # fmt: skip
def test_a_toml_file_without_end(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"is not valid TOML|cannot be read"):
        read(tree(tmp_path, pyproject_dot_toml=STATIC + "[tool.x]\n" + text + "\n"))


def test_a_toml_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(STATIC.encode() + b"# \xff\n")
    with pytest.raises(SourceError, match="is not valid TOML"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        STATIC + "dependencies = ['torch; " + "(" * 3000 + "']\n",
        STATIC + "dependencies = ['torch" + "x" * 5000 + "']\n",
        STATIC + "requires-python = '>=" + "3" * 5000 + "'\n",
        STATIC.replace("1.2", "9" * 5000),
        "[build-system]\nrequires = ['x; " + "(" * 3000 + "']\n" + STATIC,
        STATIC + "optional-dependencies = { x = ['y; " + "(" * 3000 + "'] }\n",
    ],
)
def test_requirements_and_versions_that_nobody_writes(tmp_path: Path, text: str) -> None:
    with pytest.raises((SourceError, VersionError)):
        read(tree(tmp_path, pyproject_dot_toml=text))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("install_requires=['torch" + "x" * 5000 + "']", "torchx"),
        ("install_requires=['torch; " + "(" * 30 + "']", r"torch; \("),
        ("python_requires='>=" + "3" * 5000 + "'", "requires-python is not valid: '>=3+'... is too long"),
        ("python_requires='3.9'", "requires-python is not valid: Invalid specifier"),
    ],
    ids=["a long requirement", "brackets", "a long specifier", "no specifier"],
)
def test_arguments_of_setup_that_nobody_writes(tmp_path: Path, arguments: str, reason: str) -> None:
    text = f"from setuptools import setup\nsetup(name='demo', version='1.2', {arguments})\n"
    with pytest.raises(SourceError, match=reason):
        read(tree(tmp_path, setup_dot_py=text))


def test_a_percent_sign_in_setup_cfg(tmp_path: Path) -> None:
    """setuptools reads the file without interpolation."""
    text = "[metadata]\nname = demo\nversion = 1.5\ndescription = 100% of %(it)s\n"
    assert read(tree(tmp_path, setup_dot_py="", setup_dot_cfg=text)).version == "1.5"


def test_a_build_system_without_a_backend(tmp_path: Path) -> None:
    """PEP 517: then it is setuptools' older one."""
    text = f"{STATIC}[build-system]\nrequires = ['setuptools']\n"
    assert read(tree(tmp_path, pyproject_dot_toml=text)).version == "1.2"


def test_blanks_in_setup_cfg(tmp_path: Path) -> None:
    text = "[metadata]\nname = demo\nversion = 1.5\nx" + " " * 200_000 + "y\n[options]\ninstall_requires =\n    torch\n"
    with pytest.raises(VersionError):  # a line without a value, found in no time
        read(tree(tmp_path, setup_dot_py="", setup_dot_cfg=text))
    (tmp_path / "setup.cfg").write_text(text.replace("x" + " " * 200_000 + "y", "x = " + " " * 200_000 + "y"))
    assert read(tmp_path).metadata.requires == ("torch",)


@pytest.mark.parametrize(
    "target", ["../secret", "/etc/hostname", "sub/../../secret", ".git/config", "repository/config"]
)
def test_a_link_to_a_file_outside_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "secret").write_text("secret")
    root = tree(tmp_path / "tree", pyproject_dot_toml=STATIC, sub__a="")
    git(root, "init", "-q")
    (root / "repository").symlink_to(".git")
    (root / "data").symlink_to(target)
    with pytest.raises(SourceError, match="a link to a file leads out of the source tree"):
        read(root)
    assert "data" not in {file.path for file in read(root, ("/data",)).files}


def test_a_chain_of_links_that_is_too_long_to_follow(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    root = tree(tmp_path / "tree", pyproject_dot_toml=STATIC)
    for number in range(60):  # the kernel follows 40
        (root / f"l{number}").symlink_to(f"l{number + 1}")
    (root / "l60").symlink_to("../secret")
    with pytest.raises(SourceError, match="leads out of the source tree"):
        read(root)


def test_a_link_to_a_file_of_the_tree_is_that_file(tmp_path: Path) -> None:
    root = tree(tmp_path, pyproject_dot_toml=STATIC, sub__a="text")
    (root / "data").symlink_to("sub/a")
    files = {file.path: file for file in read(root).files}
    assert files["data"].sha256 == files["sub/a"].sha256
    assert not files["data"].link


def test_what_is_no_file_is_left_out_and_not_opened(tmp_path: Path) -> None:
    root = tree(tmp_path, pyproject_dot_toml=STATIC)
    os.mkfifo(root / "pipe")
    (root / "pipe-too").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    (root / "nothing").symlink_to("no-such-file")
    (root / "zeros").symlink_to("/dev/zero")
    assert [file.path for file in read(root).files] == ["pyproject.toml"]


@pytest.mark.parametrize("name", [b"a\nb.cpp", b"\xff.cpp", b"a\x1b[2J", "\u2028".encode(), b"dir\n/x"])
def test_a_name_that_cannot_be_written_down(tmp_path: Path, name: bytes) -> None:
    root = tree(tmp_path, pyproject_dot_toml=STATIC)
    path = root / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(SourceError, match=r"the name .* (has a control character|is not UTF-8)"):
        read(root)


@contextlib.contextmanager
def nested_folders(root: Path, levels: int) -> Iterator[None]:
    """Folders in one another, deeper than a path can name."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    yield
    subprocess.run(["rm", "-rf", str(root / "d")], check=True)  # shutil's recurses


def test_folders_too_deep(tmp_path: Path) -> None:
    root = tree(tmp_path, pyproject_dot_toml=STATIC)
    with nested_folders(root, 300), pytest.raises(SourceError, match="has too many folders"):
        read(root)


def test_a_link_to_a_folder_of_the_tree_may_lead_up_within_it(tmp_path: Path) -> None:
    root = tree(tmp_path, pyproject_dot_toml=STATIC, sub__a="", other__b="")
    (root / "sub" / "link").symlink_to("../other")
    assert {file.path: file.link for file in read(root).files}["sub/link"] == "../other"
    (root / "sub" / "long").symlink_to("../other/" * 150)
    with pytest.raises(SourceError, match="is too long"):
        read(root)


def test_a_tag_that_is_no_version_and_a_shallow_repository(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "tree", pyproject_dot_toml=DYNAMIC + '[tool.setuptools_scm]\nscm.git.pre_parse = "fail_on_shallow"\n'
    )
    commit(root)
    assert read(root).version == "0.4"
    git(root, "commit", "-qm", "two", "--allow-empty")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", "shallow")
    with pytest.raises(VersionError, match="is shallow") as caught:
        read(tmp_path / "shallow")
    assert "--unshallow" in str(caught.value)
    git(root, "commit", "-qm", "three", "--allow-empty")
    git(root, "commit", "-qm", "four", "--allow-empty")
    git(root, "tag", "v0.4.1", "HEAD~1")
    git(tmp_path, "clone", "-q", "--depth=2", f"file://{root}", "with-a-tag")
    with pytest.raises(VersionError, match="is shallow"):
        read(tmp_path / "with-a-tag")
    (tmp_path / "with-a-tag" / "pyproject.toml").write_text(DYNAMIC + "[tool.setuptools_scm]\n")
    assert read(tmp_path / "with-a-tag").version.startswith("0.4.2.dev1+g")
    git(root, "tag", "v0.5")
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", "tagged")
    assert read(tmp_path / "tagged").version == "0.5"
    git(root, "tag", "-d", "v0.5")
    git(root, "tag", "v" + "9" * 220)
    with pytest.raises(VersionError, match="the tag is too long"):
        read(root)


def test_a_list_of_metadata_that_nobody_writes(tmp_path: Path) -> None:
    """A million fields in 4 MB took 8 seconds and 350 MB."""
    root = tree(tmp_path, setup_dot_py="")
    (root / "PKG-INFO").write_text("Name: demo\nVersion: 1.2\n" + "a:\n" * 20_001)
    with pytest.raises(SourceError, match=r"PKG-INFO cannot be read: .* more than 20000 lines"):
        read(root)
