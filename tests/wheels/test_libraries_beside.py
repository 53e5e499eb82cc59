"""Libraries that lie beside a wheel's packages: what run paths find moves along, what is loaded by a path is refused."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.family import family, torch
from tests.wheels.test_dispatcher import Site
from torch_build_farm.core import tools
from torch_build_farm.core.errors import RepairError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.wheel_archive import write_wheel
from torch_build_farm.pipeline.stages.repair import repair
from torch_build_farm.wheels import one_name
from torch_build_farm.wheels.relocate import relocate
from torch_build_farm.wheels.wheel import read_wheel, record_problems

DEEP = "int deep(void) { return 40; }\n"
SUM = "int deep(void);\nint sum(void) { return deep() + 2; }\n"
CORE = """
#include <Python.h>
int sum(void);
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", NULL, -1, NULL};
PyMODINIT_FUNC PyInit__core(void) {
    PyObject *self = PyModule_Create(&module);
    PyModule_AddIntConstant(self, "SUM", sum());
    return self;
}
"""
INIT = "from ._core import SUM\n"
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


def compiled(folder: Path, name: str, code: str, *flags: str, links: tuple[str, ...] = ()) -> bytes:
    """A shared library, linked to those of `links`, which were compiled before."""
    folder.mkdir(exist_ok=True)
    source, library = folder / f"{name}.c", folder / name
    source.write_text(code)
    include = f"-I{sysconfig.get_path('include')}"
    command: list[str | Path] = [
        "gcc",
        "-shared",
        "-fPIC",
        include,
        source,
        "-o",
        library,
        *(folder / link for link in links),
    ]
    subprocess.run([*command, *flags], check=True)
    return library.read_bytes()


def beside(tmp_path: Path, folder: str) -> dict[str, bytes]:
    """A package whose module needs a library of `folder` at top level, which needs a second one."""
    here, up = tmp_path / "compiled", f"../{folder}".rstrip("/")
    deep = compiled(here, "libdeep.so", DEEP, "-Wl,-soname,libdeep.so")
    middle = compiled(here, "libsum.so", SUM, "-Wl,-soname,libsum.so,-rpath,$ORIGIN/.", links=("libdeep.so",))
    core = compiled(here, "_core.so", CORE, f"-Wl,-rpath,$ORIGIN/{up}", links=("libsum.so",))
    return {
        "acme/__init__.py": INIT.encode(),
        f"acme/_core{SUFFIX}": core,
        f"{folder}libsum.so": middle,
        f"{folder}libdeep.so": deep,
    }


def raw_wheel(folder: Path, files: Mapping[str, bytes], minor: str) -> Path:
    """A variant's wheel of these files as a back end writes it, for this CPython and machine."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"acme-torch{minor.replace('.', '')}"
    stem, python = f"{name.replace('-', '_')}-1.0", f"cp{sys.version_info.major}{sys.version_info.minor}"
    tag = f"{python}-{python}-linux_x86_64"
    members = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        f"{stem}.dist-info/RECORD": b"",
    }
    path = folder / f"{stem}-{tag}.whl"
    write_wheel(path, [(zipfile.ZipInfo(member), content) for member, content in members.items()])
    return path


def repaired(site: Site, raw: Path) -> Path:
    """The wheel as the stage repair leaves it, by the real auditwheel."""
    folder = raw.parent
    (folder / "repaired").mkdir(exist_ok=True)
    shell = Shell(Runner(), {"PATH": tools.search_path(tools.scripts())}, folder, folder / "log", lambda _: None)
    settings = site.project.settings
    wheel, _ = repair(
        raw, folder / "repaired", folder / "scratch", settings=settings, expected=(), builders=(), shell=shell
    )
    return wheel.path


def install(site: Site, raws: Mapping[str, Path]) -> dict[str, Path]:
    """Repair, relocate and unpack variants, by their torch minors, with their plain wheel."""
    relocated = {}
    for minor, raw in raws.items():
        shell = Shell(Runner(), {}, raw.parent, raw.parent / "log", lambda _: None)
        wheel, scratch, out = repaired(site, raw), raw.parent / "relocation", raw.parent / "relocated"
        scratch.mkdir()
        out.mkdir()
        tag = f"torch{minor.replace('.', '')}"
        relocated[minor] = relocate(wheel, out, scratch, settings=site.project.settings, tag=tag, shell=shell)
        assert record_problems(relocated[minor]) == []
    site.unpack(*relocated.values())
    model = next(iter(relocated.values()))
    site.unpack(one_name.write_plain(family(site.project, model, dict.fromkeys(raws, "1.0")), site.folder.parent))
    return relocated


@pytest.mark.parametrize("folder", [".acme_geo.mesonpy.libs/", "acme.libs/", "lib/", "share/acme/lib64/", ""])
def test_libraries_that_others_find_by_their_run_paths_move_along(tmp_path: Path, folder: str) -> None:
    """meson-python's folder, that of a build which bundles by itself, CMake's, and site-packages itself."""
    files = beside(tmp_path, folder)
    site = Site(tmp_path, "acme")
    wheels = install(site, {minor: raw_wheel(tmp_path / minor, files, minor) for minor in ("2.8", "2.9")})
    for minor, wheel in wheels.items():
        tag = f"torch{minor.replace('.', '')}"
        strangers = [name for name in read_wheel(wheel).members if tag not in name]
        assert strangers == [], "two variants would both own it"
        assert f"acme_{tag}.libs/{folder}libdeep.so" in read_wheel(wheel).members
    for minor in wheels:
        site.unpack(torch(tmp_path, f"{minor}.0"))
        assert site.says("import acme; print(acme.SUM)") == "42"
        loaded = "import acme; print(open('/proc/self/maps').read().count('.libs/'), '/acme_torch{}.libs/' in open('/proc/self/maps').read())"  # fmt: skip
        assert site.says(loaded.format(minor.replace(".", ""))).endswith("True")


# What pyg-lib has: an operator library at top level, found by its name in the folder above the package's.
BESIDE_BY_NAME = """
import importlib.machinery, os.path as osp, ctypes
details = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
finder = importlib.machinery.FileFinder(osp.abspath(osp.join(osp.dirname(__file__), "..")), details)
spec = finder.find_spec("libops")
if spec:
    ctypes.CDLL(spec.origin)
"""


@pytest.mark.parametrize(
    ("place", "packages"),
    [
        ("libops.so", ("acme",)),
        ("libops.so", ("acme", "libops")),
        ("lib/libops.so", ("acme",)),
        ("acme/libops.so", ("acme.inner",)),
    ],
)
def test_a_library_beside_the_package_that_is_loaded_by_a_path_is_refused(
    tmp_path: Path, place: str, packages: tuple[str, ...]
) -> None:
    """Also where packages names it, as if it were a module: its package would look for it in vain, with a warning."""
    inside = packages[0].replace(".", "/")
    files = {
        f"{inside}/__init__.py": BESIDE_BY_NAME.encode(),
        place: compiled(tmp_path / "compiled", "libops.so", DEEP),
    }
    site = Site(tmp_path, "acme", *packages)
    with pytest.raises(RepairError) as error:
        repaired(site, raw_wheel(tmp_path / "wheel", files, "2.9"))
    assert f"{place} lies beside the packages" in error.value.what
    assert "install it inside the package, and load it from os.path.dirname(__file__)" in error.value.what
    assert error.value.what.count("libops.so") == 1


WAYS_TO_A_LIBRARY = {
    "a path beside __file__": "Path(__file__).parent / '_ops.so'",
    "__file__ of a submodule": "Path(demo.deep.place.__file__).parents[1] / '_ops.so'",
    "importlib.resources": "files('demo') / '_ops.so'",
    "resources of a subpackage": "files('demo.deep') / '..' / '_ops.so'",
    "PathFinder": "importlib.machinery.PathFinder().find_spec('_ops', [os.path.dirname(__file__)]).origin",
    "find_spec": "importlib.util.find_spec('demo._ops').origin",
    "__path__": "os.path.join(demo.__path__[0], '_ops.so')",
    "glob": "glob.glob(os.path.join(os.path.dirname(os.path.realpath(__file__)), '*.so'))[0]",
    "inspect": "Path(inspect.getfile(demo)).parent / '_ops.so'",
    "the loader": "demo.__spec__.loader.get_resource_reader('demo').resource_path('_ops.so')",
}
LOADER = """
import ctypes, glob, importlib.machinery, importlib.util, inspect, os, sys, types
from importlib.resources import files
from pathlib import Path
import demo, demo.deep.place
path = {expression}
ctypes.CDLL(str(path))  # which is all that torch.ops.load_library does with it
VALUE = "of @"
"""


@pytest.mark.parametrize("way", WAYS_TO_A_LIBRARY)
def test_every_way_to_a_library_of_the_package(tmp_path: Path, way: str) -> None:
    site = Site(tmp_path)
    files: dict[str, str | bytes] = {
        "demo/__init__.py": LOADER.format(expression=WAYS_TO_A_LIBRARY[way]),
        "demo/deep/__init__.py": "",
        "demo/deep/place.py": "",
        "demo/_ops.so": compiled(tmp_path / "compiled", "_ops.so", DEEP),
    }
    site.variants(files, "2.8", "2.9")
    site.torch("2.9.0")
    says = site.says("import demo, os; print(demo.VALUE, os.path.realpath(demo.path))")
    assert says == f"of 2.9 {site.folder}/demo/_torch29/_ops.so"


@pytest.mark.torch
@pytest.mark.network
def test_pkg_resources_finds_what_the_variant_has(tmp_path: Path) -> None:
    """setuptools had it until release 81."""
    site = Site(tmp_path)
    site.variants({"demo/__init__.py": "", "demo/data.txt": "of @"}, "2.8", "2.9")
    site.torch("2.9.0")
    command: list[str | Path] = [tools.uv(), "pip", "install", "--no-config", "--target", site.folder, "setuptools<81"]
    subprocess.run(command, check=True)
    code = "import warnings; warnings.simplefilter('ignore'); import pkg_resources; print(pkg_resources.resource_{}('demo', 'data.txt'))"
    assert site.says(code.format("filename")) == f"{site.folder}/demo/_torch29/data.txt"
    assert site.says(code.format("string")) == "b'of 2.9'"


MESON = {
    "pyproject.toml": """
[build-system]
requires = ["meson-python"]
build-backend = "mesonpy"
[project]
name = "Acme"
version = "1.0"
""",
    "meson.build": """
project('acme', 'c', version: '1.0')
py = import('python').find_installation(pure: false)
deep = shared_library('deep', 'deep.c', install: true)
sum = shared_library('sum', 'sum.c', link_with: deep, install: true)
py.extension_module('_core', 'core.c', link_with: sum, install: true, subdir: 'acme')
py.install_sources('acme/__init__.py', subdir: 'acme')
""",
    "deep.c": DEEP,
    "sum.c": SUM,
    "core.c": CORE,
    "acme/__init__.py": INIT,
}


@pytest.mark.torch
@pytest.mark.network
def test_a_real_project_of_meson_python(tmp_path: Path) -> None:
    """Its back end decides on the folder's name, which is the project's where another back end changes METADATA alone."""
    raws = {}
    for minor, name in (("2.8", "Acme-torch28"), ("2.9", "Acme-torch29")):
        source = tmp_path / minor
        for path, text in MESON.items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(text.replace('"Acme"', f'"{name}"'))
        command: list[str | Path] = [tools.uv(), "build", "--wheel", "--python", sys.executable, "--no-config", source]
        subprocess.run(command, check=True)
        (raws[minor],) = (source / "dist").glob("*.whl")
        assert any(".mesonpy.libs/" in member for member in read_wheel(raws[minor]).members)
    site = Site(tmp_path, "acme")
    site.project = replace(site.project, settings=replace(site.project.settings, torch_flavours="any"))
    install(site, raws)
    for minor in raws:
        site.unpack(torch(tmp_path, f"{minor}.0"))
        assert (
            site.says("import acme; print(acme.SUM, acme.__file__[-21:])")
            == f"42 /_torch{minor.replace('.', '')}/__init__.py"
        )
