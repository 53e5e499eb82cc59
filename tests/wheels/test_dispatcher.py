"""The dispatcher at work, in interpreters of its own, beside stand-in torches."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests import elves
from tests.conftest import CHECKOUT
from tests.family import family, project, torch, variant
from torch_build_farm.core import tools
from torch_build_farm.core.versions import CPython
from torch_build_farm.engines.interpreters import find_interpreters
from torch_build_farm.wheels import one_name

FILES = {
    "demo/__init__.py": "'''What it is.'''\nimport os\nfrom . import sub\nfrom .sub.deep import VALUE\nwhere = os.path.dirname(__file__)\nclass Thing: pass\n",
    "demo/__main__.py": "import demo; print('main', demo.VALUE)\n",
    "demo/sub/__init__.py": "import demo\n",
    "demo/sub/deep.py": "VALUE = 'of @'\n",
    "demo/data.txt": "data of @",
}


class Site:
    """A site-packages folder with unpacked wheels."""

    def __init__(self, folder: Path, name: str = "demo", *packages: str) -> None:
        self.folder, self.project = folder / "site", project(name, *packages)
        self.made = folder / "made"

    def unpack(self, *wheels: Path) -> None:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(self.folder)

    def variants(self, files: Mapping[str, str | bytes], *minors: str, known: tuple[str, ...] = ()) -> None:
        """Variants for these minors, and the plain wheel; @ in the files is the minor."""
        for minor in minors:
            own = {n: text.replace("@", minor) if isinstance(text, str) else text for n, text in files.items()}
            made = variant(self.made, self.project, minor, "1.0", own)
            self.unpack(made)
        last = dict.fromkeys((*known, *minors), "1.0")
        self.unpack(one_name.write_plain(family(self.project, made, last), self.made))

    def torch(self, version: str) -> None:
        self.unpack(torch(self.made, version))

    def run(self, code: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run_in(self.folder, code, *words, **env)

    def run_in(self, cwd: Path, code: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        start = f"import sys; sys.path.insert(0, {str(self.folder)!r})\n"
        command = [sys.executable, "-S", *(words or ("-c", start + code))]
        paths = {"PYTHONPATH": str(self.folder)} if words else {}
        return subprocess.run(
            command,
            env={**os.environ, **paths, **env},
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
        )

    def says(self, code: str, **env: str) -> str:
        done = self.run(code, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize(
    ("installed", "minor"),
    [("2.8.0+cu128", "2.8"), ("2.9.1", "2.9"), ("2.10.0a0+git12", "2.10"), ("3.0.0", "3.0"), ("3.10.1", "3.10")],
)
def test_the_variant_of_the_torch_that_is_here(site: Site, installed: str, minor: str) -> None:
    site.variants(FILES, "2.8", "2.9", "2.10", "3.0", "3.10")
    site.torch(installed)
    for first in ("", "import torch; "):
        assert (
            site.says(f"{first}import demo; print(demo.VALUE, 'torch' in sys.modules)") == f"of {minor} {bool(first)}"
        )


@pytest.mark.parametrize(
    ("installed", "is_between"),
    [
        ("2.9.0a0+50eac811a6.nv25.09", True),
        ("2.9.0a0", True),
        ("2.9.0.dev20250901+cu128", True),
        ("2.9.0rc3", False),
        ("2.9.1+cu128", False),
        ("2.9.0.post1", False),
        ("2.9.0+a0.nv", False),
    ],
)
def test_a_torch_between_two_minors_is_warned_of(site: Site, installed: str, is_between: bool) -> None:
    site.variants(FILES, "2.8", "2.9")
    site.torch(installed)
    for first in ("", "import torch; "):
        done = site.run(f"{first}import demo; print(demo.VALUE)\nimport demo.sub\n")
        assert (done.returncode, done.stdout) == (0, "of 2.9\n"), done.stderr
        assert done.stderr.count("RuntimeWarning: ") == (1 if is_between else 0), done.stderr
        if is_between:
            assert f"torch {installed} was made before 2.9.0" in done.stderr
            assert "<string>" in done.stderr, "it points at the import"
    assert site.run("import demo", TORCH_BUILD_FARM_GUARD="off").stderr == ""
    assert site.run("import demo", PYTHONWARNINGS="error::RuntimeWarning").returncode == (1 if is_between else 0)


def test_a_loaded_torch_counts_and_not_the_one_on_disk(site: Site) -> None:
    site.variants(FILES, "2.8", "2.9")
    site.torch("2.8.0")
    fake = "import types; t = sys.modules['torch'] = types.ModuleType('torch'); t.__version__ = '2.9.0+vendor'; "
    assert site.says(f"{fake}import demo; print(demo.VALUE)") == "of 2.9"


def test_as_if_nothing_had_happened(site: Site) -> None:
    site.variants(FILES, "2.9")
    site.torch("2.9.0")
    folder = site.folder / "demo" / "_torch29"
    assert site.says("import demo; print(demo.__file__, demo.where, list(demo.__path__))") == (
        f"{folder / '__init__.py'} {folder} ['{folder}']"
    )
    assert site.says("import demo; print(demo.__doc__, demo.__name__, demo.__package__)") == "What it is. demo demo"
    assert site.says("import demo; print(demo.__spec__.origin, demo.__spec__.parent, demo.__spec__.has_location)") == (
        f"{folder / '__init__.py'} demo True"
    )
    names = "{'Thing', 'sub', 'VALUE', 'where', 'os'}"
    assert site.says(f"import demo; print({{n for n in vars(demo) if n[:2] != '__'}} == {names})") == "True"
    assert site.says("from importlib.resources import files; print(files('demo').joinpath('data.txt').read_text())") == "data of 2.9"  # fmt: skip
    assert site.says("import pkgutil; print(pkgutil.get_data('demo', 'data.txt'))") == "b'data of 2.9'"
    assert site.says("import demo, pickle; print(pickle.loads(pickle.dumps(demo.Thing)) is demo.Thing, demo.Thing.__module__)") == "True demo"  # fmt: skip
    assert site.says("import demo, inspect; print('What it is' in inspect.getsource(demo))") == "True"
    assert site.says("import demo.sub.deep as d, demo; print(d.__name__, d is demo.sub.deep)") == "demo.sub.deep True"
    assert site.says("import demo, importlib; print(importlib.reload(demo).VALUE)") == "of 2.9"
    assert site.says(
        "import demo, pkgutil; print([m.name for m in pkgutil.walk_packages(demo.__path__, 'demo.')])"
    ) == ("['demo.__main__', 'demo.sub', 'demo.sub.deep']")
    assert site.run("", "-m", "demo").stdout == "main of 2.9\n"
    assert site.run("", "-m", "demo.sub.deep").returncode == 0
    (folder / "__init__.py").write_text("raise RuntimeError('its own')\n")
    assert site.run("import demo").stderr.splitlines()[-1] == "RuntimeError: its own"


def test_tests_that_lie_in_the_package(site: Site) -> None:
    """By the line in docs/installing.md: pytest's usual way is to import by a folder's name."""
    test = "from demo.sub.deep import VALUE\ndef test(): assert VALUE == 'of 2.9'\n"
    site.variants({**FILES, "demo/tests/__init__.py": "", "demo/tests/test_it.py": test}, "2.8", "2.9")
    site.torch("2.9.0")
    docs = (CHECKOUT / "docs" / "installing.md").read_text("utf-8")
    (line,) = re.findall("`pytest (.* --pyargs) pymomentum.tests`", docs)
    words = ("-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, *line.split(), "demo.tests")
    done = site.run("", *words, PYTHONPATH=f"{site.folder}:{Path(pytest.__file__).parents[1]}")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_on_every_cpython_that_torch_is_made_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.variants(FILES, "2.8", "2.9")
    site.torch("2.9.0")
    code = "import demo.sub.deep, importlib; importlib.reload(demo); print(demo.VALUE, demo.__spec__.origin == demo.__file__)"
    found = find_interpreters(dict(os.environ))
    for python in (one for one in found if one >= CPython(3, 9)):
        monkeypatch.setattr(sys, "executable", str(found[python].path))
        assert site.says(code) == "of 2.9 True", python
    # Each of them also refuses: another CUDA, and a variant that nobody installed.
    (site.folder / "torch" / "version.py").write_text(version_file("2.9.0+cu130", CUDA_130))
    with (site.folder / "demo" / "_torch29" / "_variant.txt").open("a") as marker:
        marker.write("cuda: 12\n")
    for python in (one for one in found if one >= CPython(3, 9)):
        monkeypatch.setattr(sys, "executable", str(found[python].path))
        assert "and torch 2.9.0+cu130 has CUDA 13.0." in site.run("import demo").stderr, python
    (site.folder / "demo" / "_torch29").rename(site.folder / "moved")
    (site.folder.parent / "current" / "demo").mkdir(parents=True)
    (site.folder / "moved").rename(site.folder.parent / "current" / "demo" / "_torch29")
    for python in (one for one in found if one >= CPython(3, 9)):
        monkeypatch.setattr(sys, "executable", str(found[python].path))
        done = site.run_in(site.folder.parent / "current", "import demo")
        assert "demo has no variant for torch 2.9.0+cu130 here." in done.stderr, python


# Two threads import the package from the start, two when its variant is being imported; that goes on when all have begun.
IMPORTING_THREADS = """
import threading
begun, values, inside = [], [], threading.Event()

def go(late):
    if late:
        inside.wait()
    begun.append(1)
    import demo
    values.append(demo.VALUE)

threads = [threading.Thread(target=go, args=[late]) for late in (False, False, True, True)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(values)
"""
IMPORTED = """
import time, __main__
__main__.inside.set()
while len(__main__.begun) < 4:
    time.sleep(0.01)
time.sleep(0.1)
VALUE = "whole"
"""


def test_threads_wait_for_each_other(site: Site) -> None:
    site.variants({**FILES, "demo/__init__.py": IMPORTED}, "2.9")
    site.torch("2.9.0")
    assert site.says(IMPORTING_THREADS) == str(["whole"] * 4)


def test_a_package_without_init_keeps_its_other_portions(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.variants({"demo/mine.py": "VALUE = '@'\n"}, "2.8", "2.9")
    site.torch("2.8.0")
    (site.folder / "demo" / "theirs.py").write_text("VALUE = 'theirs'\n")
    (tmp_path / "else" / "demo").mkdir(parents=True)
    (tmp_path / "else" / "demo" / "far.py").write_text("VALUE = 'far'\n")
    code = f"sys.path.append({str(tmp_path / 'else')!r}); import demo, demo.mine, demo.theirs, demo.far; "
    assert site.says(f"{code}print(demo.mine.VALUE, demo.theirs.VALUE, demo.far.VALUE, getattr(demo, '__file__', None))") == "2.8 theirs far None"  # fmt: skip
    later = f"import demo.mine; sys.path.append({str(tmp_path / 'else')!r}); import demo.far; "
    assert site.says(f"{later}print(demo.far.VALUE, demo.__path__[0][-8:], len(demo.__path__))") == "far _torch28 3"


def test_a_package_without_init_in_another(tmp_path: Path) -> None:
    site = Site(tmp_path, "demo", "demo", "demo.inner")
    site.variants({"demo/mine.py": "VALUE = '@'\n", "demo/inner/deep.py": "VALUE = '@'\n"}, "2.8", "2.9")
    site.torch("2.9.0")
    assert site.says("import demo.inner.deep, demo.mine; print(demo.inner.deep.VALUE, demo.mine.VALUE)") == "2.9 2.9"


def test_a_package_in_a_namespace(tmp_path: Path) -> None:
    site = Site(tmp_path, "ns-demo", "ns.demo")
    site.variants({"ns/demo/__init__.py": "VALUE = '@'\n", "ns/demo/a.py": "from . import VALUE\n"}, "2.8", "2.9")
    site.torch("2.9.0")
    assert site.says("import ns.demo.a; print(ns.demo.a.VALUE, ns.demo.__name__)") == "2.9 ns.demo"


def test_a_single_module(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.variants({"demo.py": "VALUE = '@'\nif __name__ == '__main__': print('main', VALUE)\n"}, "2.8", "2.9")
    site.torch("2.9.0")
    assert site.says("import demo; print(demo.VALUE)") == "2.9"
    assert site.run("", "-m", "demo").stdout == "main 2.9\n"


# A library that only torch's folder has; torch's __init__ loads it, as the real one does with its own.
TORCHS_LIBRARY = "int torchs_answer(void) { return 42; }\n"
LOADING_TORCH = """
import ctypes, os
from .version import __version__
ctypes.CDLL(os.path.join(os.path.dirname(__file__), "lib", "libtorch_made.so"), mode=ctypes.RTLD_GLOBAL)
"""
MODULE = """
#include <Python.h>
int torchs_answer(void);
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "fast", NULL, -1, NULL};
PyMODINIT_FUNC PyInit_fast(void) {
    PyObject *self = PyModule_Create(&module);
    PyModule_AddIntConstant(self, "ANSWER", torchs_answer());
    return self;
}
"""


def compiled_for_torch(folder: Path) -> tuple[Path, bytes]:
    """torch's library, and a module `fast` that needs it and has no run path: it loads after torch alone."""
    folder.mkdir()
    (folder / "torch.c").write_text(TORCHS_LIBRARY)
    (folder / "fast.c").write_text(MODULE)
    library, module = folder / "libtorch_made.so", folder / "fast.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", folder / "torch.c", "-o", library, f"-Wl,-soname,{library.name}"], check=True
    )
    include = f"-I{sysconfig.get_path('include')}"
    subprocess.run(["gcc", "-shared", "-fPIC", include, folder / "fast.c", "-o", module, library], check=True)
    return library, module.read_bytes()


def with_loading_torch(site: Site, library: Path) -> None:
    site.torch("2.9.0")
    (site.folder / "torch" / "__init__.py").write_text(LOADING_TORCH)
    (site.folder / "torch" / "lib").mkdir()
    shutil.copy(library, site.folder / "torch" / "lib")


def test_a_compiled_module_that_needs_torch_first(tmp_path: Path) -> None:
    """Two packages, one of them a single compiled module, which cannot import torch before its libraries are needed."""
    library, module = compiled_for_torch(tmp_path / "compiled")
    site = Site(tmp_path, "conv", "conv", "fast")
    name = f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"
    site.variants({"conv/__init__.py": "import torch, fast\nVALUE = fast.ANSWER\n", name: module}, "2.8", "2.9")
    with_loading_torch(site, library)
    assert site.says("import fast; print(fast.ANSWER, 'torch' in sys.modules)") == "42 True"
    assert site.says("import conv; print(conv.VALUE)") == "42"
    assert site.says("import torch, fast; print(fast.ANSWER)") == "42"
    # What the guard refuses loads no torch either.
    (site.folder / "torch" / "version.py").write_text("__version__ = '2.10.0'\n")
    refused = (
        "try:\n  import fast\nexcept ImportError as error:\n  print(str(error).split('.')[0], 'torch' in sys.modules)"
    )
    assert site.says(refused) == "fast has no variant for torch 2 False"


def test_a_package_whose_own_init_cannot_import_torch_first(tmp_path: Path) -> None:
    library, module = compiled_for_torch(tmp_path / "compiled")
    files: dict[str, str | bytes] = {"demo/__init__.py": "from . import fast\n", "demo/fast.so": module}
    site = Site(tmp_path)
    site.variants(files, "2.9")
    with_loading_torch(site, library)
    assert "libtorch_made.so: cannot open shared object file" in site.run("import demo").stderr
    site.project = replace(site.project, settings=replace(site.project.settings, import_torch_first=True))
    site.variants(files, "2.9")
    assert site.says("import demo; print(demo.fast.ANSWER)") == "42"
    # A package without __init__.py has nowhere to import it.
    site = Site(tmp_path / "namespace")
    site.project = replace(site.project, settings=replace(site.project.settings, import_torch_first=True))
    site.variants({"demo/fast.so": module}, "2.9")
    with_loading_torch(site, library)
    assert site.says("import demo.fast; print(demo.fast.ANSWER)") == "42"


def test_what_an_uninstalled_variant_left_behind(site: Site) -> None:
    """Bytecode and files made since are no variant."""
    site.variants(FILES, "2.8", "2.9")
    site.torch("2.9.0")
    assert site.says("import demo; print(demo.VALUE)", PYTHONDONTWRITEBYTECODE="") == "of 2.9"
    for path in (site.folder / "demo" / "_torch29").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            path.unlink()
    assert list(site.folder.glob("demo/_torch29/**/*.pyc"))
    assert told(site)[1] == "  variants installed: torch 2.8"


def test_torch_in_an_archive(site: Site) -> None:
    site.variants(FILES, "2.8")
    archive = site.folder.parent / "torch.zip"
    torch(site.made, "2.8.0").replace(archive)
    assert site.says(f"sys.path.append({str(archive)!r}); import torch, demo; print(demo.VALUE)") == "of 2.8"
    done = site.run(f"sys.path.append({str(archive)!r}); import demo")
    assert "demo needs torch, and there is none" in done.stderr.splitlines()[-5], done.stderr


def test_a_variant_in_another_folder_of_the_path(site: Site, tmp_path: Path) -> None:
    site.variants(FILES, "2.8")
    site.torch("2.9.0")
    other = Site(tmp_path / "user")
    other.variants(FILES, "2.9")
    (other.folder / "demo" / "__init__.py").unlink()
    assert site.says(f"sys.path.append({str(other.folder)!r}); import demo; print(demo.VALUE)") == "of 2.9"


def told(site: Site) -> list[str]:
    done = site.run("import demo")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    text = done.stderr[done.stderr.index("ImportError: ") :]
    return text.removeprefix("ImportError: ").splitlines()


def test_the_guard(site: Site) -> None:
    """Nothing of a variant runs, and the message says what to type."""
    loud = {**FILES, "demo/__init__.py": "raise SystemExit('it ran')\n"}
    site.variants(loud, "2.8", known=("2.9",))
    site.torch("2.9.1+cu128")
    assert told(site) == [
        "demo has no variant for torch 2.9.1+cu128 here.",
        "  variants installed: torch 2.8",
        "  variants known to demo 1.0: torch 2.8, 2.9",
        '  with pip:  pip install "demo[torch29]"',
        '  with uv:   uv pip install "demo[torch29]"',
    ]


def test_the_guard_for_a_minor_that_is_not_known(site: Site) -> None:
    site.variants(FILES, "2.8")
    site.torch("2.16.0")
    assert told(site)[-2:] == [
        '  with pip:  pip install --upgrade "demo[torch216]"',
        '  with uv:   uv pip install --upgrade "demo[torch216]"',
    ]


def test_the_guard_for_a_torch_older_than_all(site: Site) -> None:
    """No variant will come for it, and what helps replaces torch: that is said."""
    site.variants(FILES, "2.8", "2.9")
    site.torch("2.7.1")
    assert told(site)[-3:] == [
        "  None is made for a torch that old. These install torch 2.8 in its place:",
        '  with pip:  pip install "demo[torch28]"',
        '  with uv:   uv pip install "demo[torch28]"',
    ]


def test_the_guard_without_torch_and_without_a_variant(site: Site) -> None:
    site.variants(FILES, "2.8")
    assert told(site)[0] == "demo needs torch, and there is none."
    assert told(site)[-1] == '  with uv:   uv pip install "demo"'
    site.torch("2.8.0")
    (site.folder / "demo" / "_torch28").rename(site.folder / "gone")
    assert told(site)[1] == "  variants installed: torch none"


def version_file(version: str, *lines: str) -> str:
    """version.py as torch's own build writes it."""
    start = [
        "from typing import Optional",
        "",
        "__all__ = ['__version__', 'debug', 'cuda']",
        f"__version__ = '{version}'",
    ]
    return "\n".join([*start, "debug = False", *lines, "git_version = 'abc'", "hip: Optional[str] = None", ""])


CUDA_128, CUDA_130, NO_CUDA = (f"cuda: Optional[str] = {value}" for value in ("'12.8'", "'13.0'", "None"))


@pytest.mark.parametrize(
    ("needed", "torch_version", "line", "refusal"),
    [
        ("libcudart.so.12", "2.9.1+cu128", CUDA_128, ""),
        ("libcudart.so.12", "2.9.1", CUDA_128, ""),
        ("libcudart.so.12", "2.9.1+cu126", "", ""),
        ("libcudart.so.12", "2.9.1", "", ""),  # not to be told
        ("libcudart.so.12", "2.9.1a0+git12", "cuda = some_call()", ""),
        ("libcudart.so.12", "2.9.1+cu130", CUDA_130, "CUDA 12, and torch 2.9.1+cu130 has CUDA 13.0."),
        ("libcudart.so.12", "2.9.1", CUDA_130, "CUDA 12, and torch 2.9.1 has CUDA 13.0."),
        ("libcudart.so.12", "2.9.1+cu130", "", "CUDA 12, and torch 2.9.1+cu130 has CUDA 13.0."),
        ("libcudart.so.12", "2.9.1+cpu", NO_CUDA, "CUDA 12, and torch 2.9.1+cpu has none."),
        ("libcudart.so.12", "2.9.1+cpu", "", "CUDA 12, and torch 2.9.1+cpu has none."),
        ("libcublasLt.so.13", "2.9.1+cu128", CUDA_128, "CUDA 13, and torch 2.9.1+cu128 has CUDA 12.8."),
        ("libtorch_cuda.so", "2.9.1+cu130", CUDA_130, ""),
        ("libtorch_cuda.so", "2.9.1+rocm6.4", NO_CUDA, "CUDA, and torch 2.9.1+rocm6.4 has none."),
        ("libcufft.so.11", "2.9.1+cpu", NO_CUDA, "CUDA, and torch 2.9.1+cpu has none."),
        ("libc10.so", "2.9.1+cpu", NO_CUDA, ""),
        ("libc10.so", "2.9.1+cu130", CUDA_130, ""),
    ],
)
def test_the_guard_knows_torchs_cuda(site: Site, needed: str, torch_version: str, line: str, refusal: str) -> None:
    site.variants({**FILES, "demo/_core.so": elves.library(needed=[needed])}, "2.9")
    site.torch(torch_version)
    (site.folder / "torch" / "version.py").write_text(version_file(torch_version, line))
    (site.folder / "torch" / "__init__.py").write_text("from . import version\nfrom .version import __version__\n")
    firsts = ["", "import torch; "] if line != "cuda = some_call()" else [""]
    for first in firsts:
        done = site.run(f"{first}import demo; print(demo.VALUE)")
        if not refusal:
            assert done.stdout == "of 2.9\n", done.stderr
        else:
            text = done.stderr[done.stderr.index("ImportError: ") :]
            assert text.splitlines() == [
                f"ImportError: demo's variant for torch 2.9 needs a torch with {refusal}",
                "  It is made for torch 2.9 as the package index has it. These install that one in its place:",
                '  with pip:  pip install --force-reinstall "torch==2.9.*"',
                '  with uv:   uv pip install --reinstall-package torch "torch==2.9.*"',
            ]
            off = site.run(f"{first}import demo; print(demo.VALUE)", TORCH_BUILD_FARM_GUARD="off")
            assert (off.returncode, off.stdout) == (0, "of 2.9\n")
            assert "RuntimeWarning: demo's variant for torch 2.9 needs" in off.stderr


def test_a_wheel_for_every_torch_is_not_refused_for_its_cuda(site: Site) -> None:
    """Its library for CUDA is loaded where there is a GPU, and the package works without."""
    settings = replace(site.project.settings, torch_flavours="any")
    site.project = replace(site.project, settings=settings)
    site.variants({**FILES, "demo/_gpu.so": elves.library(needed=["libcudart.so.12"])}, "2.9")
    site.torch("2.9.1")
    for version, line in (("2.9.1+cpu", NO_CUDA), ("2.9.1+cu130", CUDA_130)):
        (site.folder / "torch" / "version.py").write_text(version_file(version, line))
        assert site.says("import demo; print(demo.VALUE)") == "of 2.9"


PLANTED = {"__init__.py": "raise SystemExit('it ran')\n", "_variant.txt": "The variant torch29.\n"}


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"other-1.0.dist-info/RECORD": "demo/_torch29/_variant.txt,,\n"},
        {"demo_torch29-1.0.dist-info/RECORD": "demo/_torch29/__init__.py,,\n"},
        {"demo_torch28-1.0.dist-info/RECORD": "demo/_torch29/_variant.txt,,\n"},
    ],
)
def test_a_folder_that_nobody_installed_is_no_variant(site: Site, tmp_path: Path, records: dict[str, str]) -> None:
    """The current folder, or any other of sys.path, with an unpacked or planted variant."""
    site.variants(FILES, "2.8", known=("2.9",))
    site.torch("2.9.0")
    planted = tmp_path / "current"
    (planted / "demo" / "_torch29").mkdir(parents=True)
    for name, text in PLANTED.items():
        (planted / "demo" / "_torch29" / name).write_text(text)
    for name, text in records.items():
        (planted / name).parent.mkdir()
        (planted / name).write_text(text)
    for code in ("import demo", f"sys.path.insert(0, {str(planted)!r}); sys.path.append(''); import demo"):
        done = site.run_in(planted, code)
        assert "demo has no variant for torch 2.9.0 here." in done.stderr, done.stderr
        assert "it ran" not in done.stderr


def test_installers_own_what_they_put_elsewhere(tmp_path: Path) -> None:
    """uv and pip install the variant into one folder, the plain wheel into another; an uninstall takes it away."""
    made, own = tmp_path / "made", project("demo-GPU.x", "demo")
    wheel = variant(made, own, "2.9", "1.0", {n: t.replace("@", "2.9") for n, t in FILES.items()})
    plain = one_name.write_plain(family(own, wheel, {"2.9": "1.0"}), made)
    places = {name: tmp_path / name for name in ("plain", "uv", "pip")}
    installers = {
        "plain": [str(tools.uv()), "pip", "install", "--python", sys.executable],
        "uv": [str(tools.uv()), "pip", "install", "--python", sys.executable],
        "pip": [sys.executable, "-m", "pip", "install"],
    }
    for name, command in installers.items():
        wheels = [plain, torch(made, "2.9.0")] if name == "plain" else [wheel]
        words = [*command, "--no-deps", "--no-index", "--target", str(places[name]), *map(str, wheels)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name in ("uv", "pip"):
        paths = f"sys.path[:0] = [{str(places['plain'])!r}, {str(places[name])!r}]"
        code = f"import sys; {paths}; import demo; print(demo.VALUE)"
        done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout == "of 2.9\n", done.stderr


@pytest.mark.parametrize(
    "answer",
    [
        "raise RuntimeError('strange')",
        "return object()",
        "return types.SimpleNamespace(submodule_search_locations=[7, b'x', 'a\\0b', '/gone'])",
    ],
)
def test_a_strange_finder(site: Site, answer: str) -> None:
    site.variants(FILES, "2.9")
    site.torch("2.9.0")
    code = f"""
import types

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            {answer}

sys.meta_path.insert(0, Finder())
import demo
print(demo.VALUE)
"""
    assert site.says(code) == "of 2.9"


STRANGE_VERSIONS = {
    "not UTF-8": b"# caf\xe9\n__version__ = '2.9.0'\n",
    "an expression": b"__version__ = '.'.join(('2', '9'))\n",
    "escapes": b"__version__ = '2.8\x1b[2J'\n",
    "no number": "__version__ = '\u00b2.9'\n".encode(),
    "empty": b"",
    "a number without end": b"__version__ = '%s.9'\n" % (b"9" * 5000),
    "endless": b"x" * 10_000_000,
    "nulls": b"\0" * 100,
}


@pytest.mark.parametrize("content", STRANGE_VERSIONS.values(), ids=STRANGE_VERSIONS)
def test_a_strange_version_file(site: Site, content: bytes) -> None:
    """What it cannot tell is told by the name of torch's .dist-info."""
    site.variants(FILES, "2.8", "2.9")
    site.torch("2.9.0")
    (site.folder / "torch" / "version.py").write_bytes(content)
    assert site.says("import demo; print(demo.VALUE)") == "of 2.9"


def test_a_loaded_torch_with_a_number_without_end(site: Site) -> None:
    site.variants(FILES, "2.9")
    loaded = "import sys, types; torch = types.ModuleType('torch'); torch.__version__ = '9' * 5000 + '.9'\n"
    done = site.run(f"{loaded}sys.modules['torch'] = torch\nimport demo")
    assert "ImportError: demo has no variant for torch 9999" in done.stderr


def test_strange_places(site: Site, tmp_path: Path) -> None:
    """A current folder that is gone, entries that are no text, folders with strange names, a torch that loads itself."""
    site.variants(FILES, "2.8", known=("2.9",))
    site.torch("2.9.0")
    (site.folder / "demo" / "_torch\u00b29").mkdir()
    (site.folder / "demo" / "_torch\u00b29" / "_variant.txt").touch()
    gone = tmp_path / "gone"
    start = f"import os; os.makedirs({str(gone)!r}, exist_ok=True); os.chdir({str(gone)!r}); os.rmdir({str(gone)!r}); sys.path += [7, b'x', 'a\\0b', '', 'relative']\n"
    lazy = "class Lazy:\n  def __getattr__(self, name): raise RuntimeError(name)\nsys.modules['torch'] = Lazy()\n"
    for code in (start, lazy, f"{start}{lazy}"):
        done = site.run(f"{code}import demo")
        assert "demo has no variant for torch 2.9.0 here." in done.stderr, done.stderr


def test_what_it_costs(site: Site) -> None:
    """Under a millisecond beside a hundred other distributions (with the real torch: ci/guard_cost.py)."""
    site.variants({**FILES, "demo/__init__.py": "import torch\n"}, "2.8", "2.9", "2.10")
    site.torch("2.9.0")
    for number in range(120):
        (site.folder / f"filler_{number}-1.dist-info").mkdir()
        (site.folder / f"filler_{number}-1.dist-info" / "METADATA").write_text(f"Name: filler-{number}\nVersion: 1\n")
    home = site.folder.parent / "env"
    venv.create(home, symlinks=True, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "site.pth").write_text(f"{site.folder}\n")
    command: list[str | Path] = [sys.executable, CHECKOUT / "ci" / "guard_cost.py", home / "bin" / "python", "demo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["distributions"] > 100


def test_the_guard_as_a_warning(site: Site) -> None:
    site.variants(FILES, "2.8", "2.9", "2.11")
    site.torch("2.10.0")
    done = site.run("import demo; print(demo.VALUE)", TORCH_BUILD_FARM_GUARD="off")
    assert (done.returncode, done.stdout) == (0, "of 2.9\n")
    assert "RuntimeWarning: demo has no variant for torch 2.10.0 here." in done.stderr


@pytest.fixture
def stable_site(tmp_path: Path) -> Site:
    """A variant for torch 2.9, and from 2.10 on one of the stable ABI."""
    made = Site(tmp_path)
    made.project = project("demo", stable_abi="2.10")
    made.variants(FILES, "2.9", "2.10")
    return made


@pytest.mark.parametrize(
    ("installed", "minor"),
    [("2.9.1", "2.9"), ("2.10.0", "2.10"), ("2.12.1+cu130", "2.10"), ("2.31.0", "2.10"), ("3.0.0", "2.10")],
)
def test_the_stable_variant_serves_every_later_torch(stable_site: Site, installed: str, minor: str) -> None:
    stable_site.torch(installed)
    assert stable_site.says("import demo; print(demo.VALUE)") == f"of {minor}"
    folder = "_torch29" if minor == "2.9" else "_torch_stable"
    assert Path(stable_site.says("import demo; print(demo.where)")).name == folder


def test_a_torch_older_than_the_stable_variant(stable_site: Site) -> None:
    stable_site.torch("2.8.0")
    done = stable_site.run("import demo")
    assert "variants installed: torch 2.9, 2.10 and later" in done.stderr
    assert "variants known to demo 1.0: torch 2.9, 2.10 and later" in done.stderr
    assert 'pip install "demo[torch29]"' in done.stderr


def test_a_later_torch_where_the_stable_variant_is_not_installed(stable_site: Site) -> None:
    shutil.rmtree(stable_site.folder / "demo" / "_torch_stable")
    stable_site.torch("2.12.0")
    done = stable_site.run("import demo")
    assert "variants installed: torch 2.9\n" in done.stderr
    assert 'pip install "demo[torch212]"' in done.stderr, "no --upgrade: this version has the variant"


def test_a_variant_left_from_before_the_stable_one(stable_site: Site) -> None:
    """pip leaves what nothing requires any more: demo-torch210 of an earlier version lies beside demo-torch-stable."""
    stable_site.unpack(
        variant(stable_site.made, project("demo"), "2.10", "0.9", {"demo/__init__.py": "VALUE = 'old'\n"})
    )
    stable_site.torch("2.10.0")
    assert stable_site.says("import demo; print(demo.VALUE)") == "of 2.10"


def test_a_stable_variant_left_from_before_its_oldest_minor_rose(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.unpack(
        variant(site.made, project("demo", stable_abi="2.10"), "2.10", "0.9", {"demo/__init__.py": "VALUE = 'old'\n"})
    )
    site.variants(FILES, "2.10", "2.11")
    site.torch("2.11.0")
    assert site.says("import demo; print(demo.VALUE)") == "of 2.11"
    shutil.rmtree(site.folder / "demo" / "_torch211")
    assert site.says("import demo; print(demo.VALUE)") == "old", "better than none"


def test_a_stable_variant_in_another_place(stable_site: Site, tmp_path: Path) -> None:
    """The package's folder may be in two places, as with pip install --target."""
    other = tmp_path / "other"
    for name in ("demo", "demo_torch_stable-1.0.dist-info"):
        (other / name).mkdir(parents=True)
    shutil.move(stable_site.folder / "demo" / "_torch_stable", other / "demo" / "_torch_stable")
    info = "demo_torch_stable-1.0.dist-info"
    (stable_site.folder / info / "RECORD").rename(other / info / "RECORD")
    stable_site.torch("2.15.0")
    code = f"import sys; sys.path.append({str(other)!r}); import demo; print(demo.VALUE)"
    assert stable_site.says(code) == "of 2.10"
    (other / info / "RECORD").unlink()
    assert "has no variant for torch 2.15.0" in stable_site.run(code).stderr, "no installer put it there"


@pytest.mark.parametrize("text", ["torch: 2\n", "torch: x.y\n", "torch: \n", "", "torch: ٢.١٠\n"])
def test_a_marker_that_does_not_say_what_it_serves(stable_site: Site, text: str) -> None:
    (stable_site.folder / "demo" / "_torch_stable" / "_variant.txt").write_text(f"The variant\n{text}", "utf-8")
    stable_site.torch("2.15.0")
    assert "variants installed: torch 2.9\n" in stable_site.run("import demo").stderr


@pytest.mark.parametrize(("version", "warned"), [("2.10.0a0+git12", True), ("2.12.0a0+git12", False)])
def test_a_torch_between_two_minors_that_the_stable_variant_serves(
    stable_site: Site, version: str, warned: bool
) -> None:
    """Both minors keep the stable ABI; only before its oldest one it may still have changed."""
    stable_site.torch(version)
    done = stable_site.run("import demo; print(demo.VALUE)")
    assert done.stdout == "of 2.10\n"
    assert ("was made before 2.10.0" in done.stderr) == warned
    assert done.stderr == "" or warned
