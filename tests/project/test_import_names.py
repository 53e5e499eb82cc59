"""Which packages and modules a source installs, by what it lists and by where its packages lie."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from torch_build_farm.project import import_names, setup_hints
from torch_build_farm.project.setup_script import setup_arguments

CASES = {
    "a package": ({"demo/__init__.py": ""}, ["demo"]),
    "beside tests": ({"demo/__init__.py": "", "tests/__init__.py": "", "csrc/__init__.py": ""}, ["demo"]),
    "two": ({"demo/__init__.py": "", "more/__init__.py": ""}, ["demo", "more"]),
    "src": ({"src/demo/__init__.py": "", "hopper/__init__.py": ""}, ["demo"]),
    "a namespace": ({"src/acme/ext/__init__.py": "", "src/acme/ext/sub/__init__.py": ""}, ["acme.ext"]),
    "a namespace at the top": ({"demo/ext/__init__.py": "", "other/x/__init__.py": ""}, ["demo.ext"]),
    "deep namespaces": ({"src/a/b/c/__init__.py": "", "src/a/d/__init__.pyi": ""}, ["a.b.c", "a.d"]),
    "where": ({"lib/demo/__init__.py": "", "pyproject.toml": '[tool.setuptools.packages.find]\nwhere = ["lib"]'}, ["demo"]),
    "package_dir": ({"lib/demo/__init__.py": "", "setup.py": "setup(package_dir={'': 'lib'})"}, ["demo"]),
    "outside": ({"demo/__init__.py": "", "setup.py": "setup(package_dir={'': '../..'})"}, ["demo"]),
}  # fmt: skip
LISTED = {
    "scikit-build": ({"pyproject.toml": '[tool.scikit-build]\nwheel.packages = ["python/demo"]'}, ["demo"]),
    "a table of it": ({"pyproject.toml": '[tool.scikit-build.wheel.packages]\n"acme/ext" = "src/ext"'}, ["acme.ext"]),
    "hatch": ({"pyproject.toml": '[tool.hatch.build.targets.wheel]\npackages = ["src/demo"]'}, ["demo"]),
    "poetry": ({"pyproject.toml": '[tool.poetry]\npackages = [{ include = "demo", from = "lib" }]'}, ["demo"]),
    "flit": ({"pyproject.toml": '[tool.flit.module]\nname = "acme.ext"'}, ["acme.ext"]),
    "setuptools": ({"pyproject.toml": '[tool.setuptools]\npackages = ["acme.ext", "acme.ext.sub"]\npy-modules = ["one"]'}, ["acme.ext", "one"]),
    "setup": ({"setup.py": "setup(packages=['demo', 'demo.sub'], py_modules=['one'])"}, ["demo", "one"]),
    "a namespace by its first name": ({"pyproject.toml": '[tool.hatch.build.targets.wheel]\npackages = ["src/acme"]', "src/acme/ext/__init__.py": ""}, ["acme.ext"]),
    "an sdist": ({"PKG-INFO": "", "x.egg-info/top_level.txt": "demo\nhelpers\n", "demo/__init__.py": "", "beside/__init__.py": ""}, ["demo", "helpers"]),
    "tests that an sdist lists and lacks": ({"PKG-INFO": "", "x.egg-info/top_level.txt": "demo\ntest\n", "demo/__init__.py": ""}, ["demo"]),
    "an sdist with src": ({"PKG-INFO": "", "src/x.egg-info/top_level.txt": "acme\n", "src/acme/ext/__init__.py": ""}, ["acme.ext"]),
    "a package in another folder": ({"setup.py": "name = 'demo'\nsetup(packages=[name], package_dir={name: 'demo/python/demo'})", "demo/python/demo/__init__.py": "", "demo/csrc/a.cc": ""}, ["demo"]),
    "packages of setuptools in other folders": ({"pyproject.toml": '[tool.setuptools]\npackages = ["acme", "acme.sub", "other"]\n[tool.setuptools.package-dir]\nacme = "lib"\nother = "python/other"', "lib/__init__.py": "", "python/other/ext/__init__.py": ""}, ["acme", "other.ext"]),
    "a package of setup's for its extensions": ({"setup.py": "setup(packages=['demo'], ext_package='demo', ext_modules=[Extension('_impl', ['a.c'])])", "demo/__init__.py": "", "PKG-INFO": "", "x.egg-info/top_level.txt": "_impl\ndemo\n"}, ["demo"]),
    "a package for extensions that is computed": ({"setup.py": "import meta\nsetup(packages=[meta.name], ext_package=meta.name, ext_modules=[Extension('_impl', ['a.c'])])", "demo/__init__.py": "", "PKG-INFO": "", "x.egg-info/top_level.txt": "_impl\ndemo\n"}, ["demo"]),
    "an extension in a folder of its own": ({"setup.py": "setup(packages=['demo'], ext_modules=[CppExtension('demo_backend._C', ['a.cc']), CppExtension('demo.sub._D', ['b.cc'])])", "demo/__init__.py": "", "PKG-INFO": "", "x.egg-info/top_level.txt": "demo\ndemo_backend\n"}, ["demo", "demo_backend._C"]),
    "an extension in a namespace": ({"setup.py": "setup(packages=['acme.geometry'], ext_modules=[Extension('acme._core', ['a.c']), Extension('acme.geometry._g', ['g.c'])])", "acme/geometry/__init__.py": ""}, ["acme._core", "acme.geometry"]),
    "modules of setup": ({"setup.py": "from torch.utils import cpp_extension as c\nprefix = 'demo'\nsetup(packages=['demo'], ext_modules=[c.CUDAExtension(name='demo_cuda', sources=['a.cu']), c.CppExtension('demo._C', []), Extension(name=prefix + '_ext'), Extension(name(), [])])"}, ["demo", "demo_cuda", "demo_ext"]),
}  # fmt: skip


def names(tree: Path, files: dict[str, str]) -> import_names.ImportNames:
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pyproject = tomllib.loads(files.get("pyproject.toml", ""))
    return import_names.find(tree, pyproject, setup_arguments(tree), "demo-ext")


@pytest.mark.parametrize("case", CASES)
def test_packages_that_are_looked_for(tmp_path: Path, case: str) -> None:
    files, expected = CASES[case]
    assert names(tmp_path, files) == import_names.ImportNames(tuple(expected), listed=False)


@pytest.mark.parametrize("case", LISTED)
def test_packages_that_are_listed(tmp_path: Path, case: str) -> None:
    files, expected = LISTED[case]
    read = names(tmp_path, files)
    assert (read.names, read.listed, read.modules) == (tuple(expected), True, ())


def test_a_loop_of_folders_and_names_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "loop").symlink_to(tmp_path / "src")
    assert names(tmp_path, {"setup.py": "setup(packages=['a b', '../x', 1, 'a/b'])"}).names == ()


def test_tests_that_an_sdist_lists_are_in_doubt(tmp_path: Path) -> None:
    read = names(tmp_path, {"PKG-INFO": "", "x.egg-info/top_level.txt": "demo\ntests\n", "tests/a/__init__.py": ""})
    assert (read.names, read.beside) == (("demo", "tests.a"), ("tests.a",))


def test_an_extension_without_sources_is_in_doubt(tmp_path: Path) -> None:
    files = {
        "setup.py": "setup(ext_modules=[Extension('demo_ext', sources=[]), CppExtension('demo', ())])",
        "PKG-INFO": "",
        "x.egg-info/top_level.txt": "acme\ndemo\ndemo_ext\n",
        "acme/ext/__init__.py": "",
        "demo/__init__.py": "",
    }
    read = names(tmp_path, files)
    assert (read.names, read.without_sources) == (("acme.ext", "demo"), ("demo_ext",))


def test_an_extension_without_sources_that_is_the_only_name(tmp_path: Path) -> None:
    read = names(tmp_path, {"setup.py": "setup(ext_modules=[Extension(name='demo_ext', sources=[])])"})
    assert (read.names, read.without_sources) == (("demo_ext",), ("demo_ext",))


def test_extensions_that_setup_py_may_leave_out(tmp_path: Path) -> None:
    files = {
        "setup.py": "extensions = [CppExtension('demo_cpu', ['a.cc'])]\n"
        "if cuda: extensions.append(CUDAExtension('demo_cuda', ['a.cu']))\n"
        "extensions += [CppExtension(name, []) for name in computed()]\n"
        "def more(): return [Extension('demo_more', ['b.c'])]\n"
        "extensions += [Extension('demo_hip', ['h.c'])] if hip else []\n",
        "PKG-INFO": "",
        "x.egg-info/top_level.txt": "demo\ndemo_cpu\ndemo_cuda\ndemo_hip\ndemo_more\ndemo_ops\n",
        "demo/__init__.py": "",
    }
    read = names(tmp_path, files)
    assert read.names == ("demo", "demo_cpu", "demo_cuda", "demo_hip", "demo_more", "demo_ops")
    assert read.modules == ("demo_cuda", "demo_hip", "demo_ops")


def test_modules_of_meson(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": '[build-system]\nbuild-backend = "mesonpy"',
        "demo/__init__.py": "",
        "meson.build": """project('demo', 'cpp', version: '1')
py = import('python').find_installation(pure: false)
py.extension_module('demo_cpu', 'a.cpp', cpp_args: f('x', subdir: 'y'), install: true)
py.extension_module('_core', 'a.cpp', subdir: 'demo', install: true)
py.extension_module('tool', 'a.cpp')
foreach name : ['a', 'b']
  py.extension_module('_@0@'.format(name), 'a.cpp', install: true)
endforeach
py.install_sources('demo/__init__.py', subdir: 'demo')
py.install_sources(['helper.py', 'data.txt'])
subdir('cpp')
# py.extension_module('commented', 'a.cpp', install: true)
""",
        "cpp/meson.build": "py.extension_module('demo_gpu', 'b.cpp', install : get_option('gpu'))\n",
    }
    read = names(tmp_path, files)
    assert (read.names, read.modules) == (
        ("demo", "demo_cpu", "demo_gpu", "helper"),
        ("demo_cpu", "demo_gpu", "helper"),
    )


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    name = "a" * 300
    setup = f"import {name}\nsetup(packages=['demo', '{name}'], ext_modules=[Extension('{name}', [])])"
    assert names(tmp_path, {"setup.py": setup}).names == ("demo",)
    assert setup_hints.find(tmp_path, {}).undeclared == ()


@pytest.mark.parametrize(
    ("files", "expected", "place"),
    [
        ({"setup.py": "setup(packages=find_packages())"}, ["demo", "tests"], ""),
        ({"setup.py": "setup(packages=setuptools.find_packages('.'))"}, ["demo", "tests"], ""),
        ({"setup.py": "setup(packages=find_packages(where='src'), package_dir={'': 'src'})"}, ["demo", "tests"], "src"),
        ({"pyproject.toml": "[tool.setuptools.packages.find]\nwhere = ['src']"}, ["demo", "tests"], "src"),
        ({"setup.py": "setup(packages=find_packages(exclude=['tests']))"}, ["demo"], ""),
        ({"setup.py": "setup(packages=find_packages('lib'))"}, ["demo"], ""),
        ({"pyproject.toml": "[tool.setuptools.packages.find]\ninclude = ['demo*']"}, ["demo"], ""),
        ({"pyproject.toml": "[tool.setuptools]"}, ["demo"], ""),  # setuptools leaves tests out by itself
        ({"pyproject.toml": "[build-system]\nbuild-backend = 'hatchling.build'"}, ["demo"], ""),
    ],
)
def test_what_setuptools_takes_beside_the_package(
    tmp_path: Path, files: dict[str, str], expected: list[str], place: str
) -> None:
    folder = f"{place}/" if place else ""
    there = {f"{folder}demo/__init__.py": "", f"{folder}tests/__init__.py": "", f"{folder}docs/conf.py": ""}
    found = names(tmp_path, {**there, **files})
    assert list(found.names) == expected
    assert found.base == place
    assert found.beside == (("tests",) if "tests" in expected else ())
