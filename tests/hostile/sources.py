"""Source trees: pyproject.toml, PKG-INFO, setup.cfg, setup.py and what else states a name or a version, damaged."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from tests.hostile.damage import damage, damage_text
from torch_build_farm.core import toml
from torch_build_farm.core.errors import FarmError
from torch_build_farm.project import kept_sources, scaffold, source_facts, tree
from torch_build_farm.project.fetch import Origin
from torch_build_farm.project.settings import Settings
from torch_build_farm.project.variant import read_variants
from torch_build_farm.releases.sdk import fallback

_PYPROJECT = """[build-system]
requires = ["setuptools>=70", "setuptools_scm>=8", "torch==2.9.1"]
build-backend = "{backend}"

[project]
name = "demo-ext"
{version}
requires-python = ">=3.9"
dependencies = ["torch>=2.8", "numpy ; python_version < '3.13'"]
optional-dependencies = {{ test = ["pytest>=8", "demo-ext[all]"] }}

[tool.setuptools.dynamic]
version = {{ {way} }}

[tool.scikit-build.metadata.version]
provider = "scikit_build_core.metadata.{provider}"
input = "demo/version.py"
{regex}

[tool.scikit-build.wheel]
packages = ["src/demo", "demo"]
{scm}
"""
_SCM = """
[tool.setuptools_scm]
version_scheme = "guess-next-dev"
git_describe_command = "git describe --dirty --tags --long --match v*"
tag_regex = "^v(?P<version>[0-9.]+)$"
root = "."
"""
_PKG_INFO = "Metadata-Version: 2.1\nName: demo-ext\nVersion: 1.2.3\nRequires-Python: >=3.8\nRequires-Dist: torch (>=2.8)\nRequires-Dist: numpy ; extra == 'x'\n\n# Demo\n"
_SETUP_CFG = "[metadata]\nname = demo-ext\nversion = attr: demo.version.__version__\n[options]\npython_requires = >=3.6.*\ninstall_requires =\n    torch>=2.8\n    numpy\n"
_SETUP_PY = """import os, torch
from setuptools import setup
__version__ = "2.1." + "2"
NAME = f"demo-{__version__}"
if os.getenv("FORCE_ONLY_CPU", "0") == "1": pass
requires = ["torch", "numpy"] + ["x"]
setup(name="demo", version=__version__, python_requires=f">={'3.8'}", install_requires=requires)
"""
_MESON = """project('demo-ext', 'cpp', version: '1.7')
py = import('python').find_installation(pure: false)
py.extension_module('demo_cpu', 'a.cpp', cpp_args: ['-march=native', f(x, y: 1)], install: true)
py.install_sources(['helper.py'])  # beside the package
subdir('cpp')
"""
_ARCHIVAL = "node: 0123abc\nnode-date: 2026-01-02T00:00:00+00:00\ndescribe-name: v1.4-3-g0123abc\nref-names: HEAD -> main, tag: v1.4\n"
_HEAD, _PACKED = (
    "ref: refs/heads/main\n",
    "# pack-refs with: peeled\n" + "0" * 39 + "1 refs/heads/main\n" + "0" * 39 + "2 refs/tags/v1\n",
)


def examples(seed: int) -> dict[str, bytes]:
    """The files of a source tree by their names."""
    chance = random.Random(seed)
    pyproject = _PYPROJECT.format(
        backend="mesonpy" if chance.random() < 0.2 else "setuptools.build_meta",
        version=chance.choice(['version = "1.2.3"', 'dynamic = ["version"]', 'dynamic = ["version"]', ""]),
        way=chance.choice(['file = ["VERSION"]', 'attr = "demo.version.__version__"', 'file = "../VERSION"']),
        provider=chance.choice(["regex", "setuptools_scm", "own"]),
        regex="regex = '''(?P<value>[0-9.]+)'''" if chance.random() < 0.1 else "",
        scm=_SCM if chance.random() < 0.3 else "",
    )
    files = {
        "pyproject.toml": pyproject, "PKG-INFO": _PKG_INFO, "setup.cfg": _SETUP_CFG, "setup.py": _SETUP_PY,
        "VERSION": "1.5\n", "demo/version.py": '__version__ = "1.6"\n', "demo/__init__.py": "",
        "demo.egg-info/top_level.txt": "demo\n_demo\n", ".git_archival.txt": _ARCHIVAL, "meson.build": _MESON,
    }  # fmt: skip
    for name in list(files):
        if chance.random() < 0.4:
            del files[name]
    files.setdefault(chance.choice(["pyproject.toml", "setup.py"]), pyproject if chance.random() < 0.5 else _SETUP_PY)
    if chance.random() < 0.05:
        files |= {".git/HEAD": _HEAD, ".git/packed-refs": _PACKED, ".git/config": "[core]\n", ".git/objects/a": ""}
    chosen = chance.choice(list(files))
    if chance.random() < 0.2:
        files[chosen] = _bomb(chance, chosen)
    else:
        files[chosen] = damage_text(files[chosen], chance)
    result = {name: text.encode("utf-8", "surrogatepass") for name, text in files.items()}
    if chance.random() < 0.2:
        result[chosen] = damage(result[chosen], chance)
    if chance.random() < 0.1:
        names = [
            "a\nb.cu",
            "\x1b[2J.cu",
            "\udcff.cpp",
            "src/" + "x" * 255,
            "a.egg-info/top_level.txt",
            "d\n/__init__.py",
        ]
        result[chance.choice(names)] = b""
    return result


def _bomb(chance: random.Random, name: str) -> str:
    """A text that takes a reader of its kind much: time, memory or the stack."""
    many = chance.choice((50, 500, 5_000, 100_000))
    if name.endswith(".toml"):
        return chance.choice([
            "a = " + "[" * many, "a = " + "{b=" * many, "[" + "a." * many + "a]", "a" + ".a" * many + " = 1", "a = 0x" + "f" * many,
            "a = " + "9" * many, "[[a]]\n" * many, "a = '" + "\\" * many, "a = [" + "{b=1}," * (many // 5) + "]",
            '[project]\nname = "x"\nversion = "1"\ndependencies = ["torch; ' + "(" * many + '"]',
            '[project]\nname = "x"\nversion = "' + "1." * many + '1"', '[project]\nname = "' + "-" * many + '"\nversion = "1"',
            '[project]\nname = "x"\nversion = "1"\nrequires-python = "' + ">=3," * many + '"',
        ])  # fmt: skip
    if name.endswith(".py"):
        return chance.choice([
            "x = " + "(" * many, "x = " + "-" * many + "1", "x = " + "'a'+" * many + "'a'", "x = [" * many, "x = 0x" + "f" * many,
            "a0 = 'xx'\n" + "".join(f"a{i + 1} = a{i} + a{i}\n" for i in range(min(many, 500))) + "setup(name=a50, version=a40)",
            "a0 = ['xx']\n" + "".join(f"a{i + 1} = [a{i}, a{i}]\n" for i in range(min(many, 500))) + "setup(version=f'{a40}')",
            "setup(" * many, "lambda: " * many + "1", "[],\n" * many, "x.y" * many, "f'" + "{" * many, "#" * many * 10,
            "\n" * many, "from torch.utils import (\n" * many, "from torch.utils import " + "x, " * many, " \t" * many,
        ])  # fmt: skip
    if name == "meson.build":
        return chance.choice([
            "project(" * many, "project('a', version: " + "[" * many, "subdir('a')\n" * many, "x.extension_module('a', " * many,
            "subdir('" + "a/" * many + "')", "'" * many, "f'" * many, "project()\n" + "subdir('.')\n" * many, "-march=" * many,
            "-march=" + "a" * many, "extension_module('" + "a" * many + "', install: true)", "\\\n" * many,
        ])  # fmt: skip
    return chance.choice([
        "Name: " + "x" * many, "[metadata]\nname" + " " * many + "x", " \t" * many, "[" * many, "Name: a\n b" * many, ":" * many,
        "[metadata]\n" + "a = b\n" * many, "[metadata]\nversion = file: " + "../" * many, "Requires-Dist: " + "(" * many,
        "Version: " + "1" * many, "[metadata]\nversion = attr: " + "a." * many, "ref: refs/heads/" + "a/" * many, "\n" * many,
        "describe-name: " + "-1-g" * many, "=?utf-8?q?" * many, "Requires-Python: " + ">=3.*," * many,
    ])  # fmt: skip


def check(data: dict[str, bytes], folder: Path) -> None:
    root = folder / "tree"
    for name, content in data.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    kept_sources.digest(root)
    # Each reader by itself: one that refuses the tree keeps no other from it.
    with contextlib.suppress(FarmError):
        tree.read(Origin(root)).digest()
    fallback.reason_for_full_torch(Settings(name="demo", packages=("demo",)), root)
    variants = list(read_variants([Path(__file__).parents[2] / "variants"]).values())
    text = scaffold.project_file(source_facts.look(Origin(root)), {}, variants)
    settings = toml.loads(text)
    assert list(settings) == ["tool"]
    assert set(settings["tool"]["torch-build-farm"]) <= {
        "name", "version", "subdirectory", "packages", "torch", "environment",
    }  # fmt: skip
