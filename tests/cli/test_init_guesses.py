"""What `init` proposes where a source only suggests it: libraries of others, and code for the machine at hand."""

import tomllib
from pathlib import Path

import pytest

from tests.cli.test_init import written
from tests.conftest import CHECKOUT
from torch_build_farm.project.settings import load


def test_a_library_that_a_requirement_brings(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "demo"\nversion = "1"\ndependencies = ["torch", "engine-core>=1", "pyfoo", "numpy", "tbb"]\n'
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    (tmp_path / "setup.py").write_text("""
import subprocess, engine, numpy, pyfoo as pf, torch
prefixes = [engine.utils.cmake_prefix_path, torch.utils.cmake_prefix_path]
folders = [*pf.get_library_dirs(), numpy.get_include()]
subprocess.run(["cmake", "-DCMAKE_INSTALL_PREFIX=lib/demo"])
""")
    (tmp_path / "CMakeLists.txt").write_text("""
find_package(Torch REQUIRED)
find_package(TBB REQUIRED)
find_package(NumPy REQUIRED)
install(TARGETS demo LIBRARY DESTINATION lib)
set_target_properties(demo PROPERTIES INSTALL_RPATH "$ORIGIN/../../engine/lib;$ORIGIN/../torch/lib;$ORIGIN/../demo/lib")
""")
    _, text = written(tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("external-libraries")]
    libraries = {"libengine.so*": "engine-core", "libpyfoo.so*": "pyfoo", "libtbb.so*": "tbb"}
    assert tomllib.loads(line) == {"external-libraries": libraries}
    assert "# CHECK: the build seems to link against engine, pyfoo, tbb" in line
    assert "CMake requires NumPy, TBB:" in text
    assert "outside of the packages" not in text  # setup.py chooses the folder


@pytest.mark.parametrize(
    ("setup", "cmake", "expected"),
    [
        ('x = os.environ.get("DEMO_NATIVE", "ON")', "-march=native", 'environment = { DEMO_NATIVE = "OFF" }'),
        ('f = ["-march=native"] if os.getenv("NATIVE", "1") == "1" else []', "", 'environment = { NATIVE = "0" }'),
        ("", 'option(DEMO_NATIVE_CODE "x" ON)\n-march=native', 'cmake-defines = { DEMO_NATIVE_CODE = "OFF" }'),
        ('f = ["-O3", "-march=native"]', "option(DEMO_NATIVE off OFF)", "# CHECK: setup.py compiles with"),
        ("", "add_compile_options(-mcpu=native)", "# CHECK: CMakeLists.txt compiles with"),
    ],
)
def test_code_for_the_machine_at_hand(tmp_path: Path, setup: str, cmake: str, expected: str) -> None:
    setup_py = f"import os\n{setup}\ncmake = 1\nsetup(name='demo', version='1', packages=['demo'])\n"
    (tmp_path / "setup.py").write_text(setup_py)
    (tmp_path / "CMakeLists.txt").write_text(cmake)
    _, text = written(tmp_path)
    (line,) = [line for line in text.splitlines() if "native" in line and "reads" not in line]
    assert line.startswith(expected)
    assert "CHECK:" in line


def test_nothing_for_the_machine_at_hand(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("import os\nos.getenv('NATIVE_THREADS', '1')\nf = '-mtune=native'\n")
    _, text = written(tmp_path)
    assert "CHECK: else" not in text
    assert "native" not in text


def project_with(tree: Path, files: dict[str, str]) -> str:
    """The text that `init` writes for a project of these files and the package `demo`."""
    for name, text in {"demo/__init__.py": "", **files}.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return written(tree)[1]


def line_of(text: str, start: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line


SETUP = "setup(name='demo', version='1', packages=['demo'], ext_modules=[CUDAExtension('demo._C', ['a.cpp'])])\n"


def test_device_code_that_depends_on_a_gpu(tmp_path: Path) -> None:
    asks = "import torch\nif torch.cuda.is_available(): pass\n"
    text = project_with(tmp_path / "asks", {"setup.py": asks + SETUP, "a.cu": ""})
    assert "# CHECK: setup.py asks torch.cuda.is_available(), which a machine without a GPU denies" in text
    for name, setup, source in (
        ("forced", asks + "import os; os.getenv('FORCE_CUDA')\n", "a.cu"),  # which another line names
        ("comment", "# torch.cuda.is_available()\n", "a.cu"),
        ("none", asks, "third_party/cutlass/a.cu"),
    ):
        text = project_with(tmp_path / name, {"setup.py": setup + SETUP, source: ""})
        assert "is_available" not in text, name
        assert ("nvcc" in text) == (source == "a.cu")


def test_an_older_standard_than_some_minors_need(tmp_path: Path) -> None:
    old = SETUP.replace("['a.cpp']", "['a.cpp'], extra_compile_args={'cxx': ['-std=c++17'], 'nvcc': ['-std=gnu++14']}")
    text = project_with(tmp_path / "setup", {"setup.py": old})
    line = line_of(text, "# CHECK: setup.py asks for -std=c++17, -std=gnu++14")
    assert "torch 2.8, 2.9, 2.10, 2.11 need C++17" in line
    assert "torch 2.12, 2.13, 2.14, 2.15 need C++20" in line
    assert """before-build = ["sed -i 's/-std=c++17/-std=c++20/' setup.py"]""" in line
    new = old.replace("c++17", "c++20").replace("gnu++14", "c++20")
    assert "asks for" not in project_with(tmp_path / "new", {"setup.py": new})

    narrow = old.replace("gnu++14", "c++17").replace("version=", "install_requires=['torch<2.12'], version=")
    assert "asks for" not in project_with(tmp_path / "narrow", {"setup.py": narrow})

    cmake = {"setup.py": SETUP + "cmake = 1\n", "CMakeLists.txt": "set(CMAKE_CXX_STANDARD 17)\n"}
    assert "# CHECK: CMakeLists.txt asks for CXX_STANDARD 17:" in project_with(tmp_path / "cmake", cmake)
    stable = {"setup.py": old.replace("gnu++14", "c++17"), "a.cpp": "#include <torch/csrc/stable/ops.h>"}
    assert "asks for" not in project_with(tmp_path / "stable", stable)  # one wheel, compiled against torch 2.10
    nothing = {**cmake, "a.cpp": "", "setup.py": "cmake = 1\nsetup(name='demo', version='1', packages=['demo'])\n"}
    assert "asks for" not in project_with(tmp_path / "nothing", nothing)


def test_imports_that_only_some_builds_make(tmp_path: Path) -> None:
    setup = (
        "def jobs():\n    import psutil, os, helper\n    from yaml import load\n"
        "try:\n    import optional\nexcept ImportError: pass\n" + SETUP
    )
    files = {
        "setup.py": setup,
        "helper.py": "",
        "pyproject.toml": '[build-system]\nrequires = ["setuptools", "yaml"]\n',
    }
    text = project_with(tmp_path / "a", files)
    assert '# CHECK: setup.py imports psutil in some cases: build-requires = ["psutil"] brings it.' in text
    assert not [line for line in text.splitlines() if line.startswith("build-requires")]
    # A back end in the tree may bring what it likes.
    files["pyproject.toml"] += 'build-backend = "backend"\nbackend-path = ["."]\n'
    assert "psutil" not in project_with(tmp_path / "b", files)


def test_downloads_and_builds_that_are_forced(tmp_path: Path) -> None:
    text = project_with(tmp_path, {"setup.py": "from urllib.request import urlopen\nurlopen(url)\n" + SETUP})
    assert "# CHECK: setup.py downloads something, and a build has no network: network = true gives it one" in text


@pytest.mark.parametrize(
    ("setup", "header", "stable", "minors"),
    [
        ("", "torch/csrc/stable/library.h", "2.10", ["2.10", "2.11", "2.12", "2.13", "2.14", "2.15"]),
        ("x = '-DTORCH_TARGET_VERSION=0x020b000000000000'", "torch/csrc/stable/ops.h", "2.11", ["2.11", "2.12", "2.13", "2.14", "2.15"]),
        ("x = '-DTORCH_TARGET_VERSION=0x020a000000000000'", "torch/all.h", "2.10", None),
        ("x = '-DTORCH_TARGET_VERSION=0x0c0a000000000000'", "torch/csrc/stable/ops.h", "2.10", ["2.10", "2.11", "2.12", "2.13", "2.14", "2.15"]),
        ("", "torch/all.h", None, None),
    ],
)  # fmt: skip
def test_sources_of_the_stable_abi(
    tmp_path: Path, setup: str, header: str, stable: str | None, minors: list[str] | None
) -> None:
    vendored = {"third_party/x/x.cpp": "#include <ATen/ATen.h>\n"}
    text = project_with(tmp_path, {"setup.py": f"{setup}\n{SETUP}", "a.cpp": f"#include <{header}>\n", **vendored})
    settings = load(tmp_path / "torch-build-farm", CHECKOUT).settings
    assert (settings.stable_abi and str(settings.stable_abi)) == stable
    assert [str(minor) for minor in settings.torch] == (
        minors or ["2.8", "2.9", "2.10", "2.11", "2.12", "2.13", "2.14", "2.15"]
    )
    if stable:
        assert "# CHECK:" in line_of(text, "stable-abi = ")


def test_a_source_that_compiles_nothing(tmp_path: Path) -> None:
    pure = "setup(name='demo', version='1', packages=['demo'], install_requires=['torch'])\n"
    mark = "# CHECK: nothing of the source is compiled: does it need a wheel for each torch?"
    for name, files in {"pure": {}, "compiled by its users": {"demo/csrc/a.cpp": "", "CMakeLists.txt": ""}}.items():
        assert mark in line_of(project_with(tmp_path / name, {"setup.py": pure, **files}), "torch = ")
    stated = '[project]\nname = "demo"\nversion = "1"\ndependencies = ["torch"]\n'
    table = '[tool.setuptools]\next-modules = [{ name = "demo._C", sources = ["a.c"] }]\n'
    meson = '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n'
    for name, files in {
        "setup": {"setup.py": SETUP},
        "imported": {"setup.py": pure.replace(")", ", ext_modules=helper.extensions())")},
        "table": {"pyproject.toml": stated + table},
        "cmake": {"setup.py": f"cmake = 1\n{pure}"},
        "meson": {"pyproject.toml": meson + stated, "meson.build": "project('demo', 'c')"},
    }.items():
        assert mark not in project_with(tmp_path / name, files), name


def test_requirements_that_setuptools_wrote_down(tmp_path: Path) -> None:
    text = project_with(
        tmp_path,
        {
            "setup.py": "setup(install_requires=read())\n" + SETUP.replace("setup(", "other("),
            "PKG-INFO": "Metadata-Version: 2.1\nName: demo\nVersion: 1\n",
            "demo.egg-info/requires.txt": "numpy\ntorch>=2.13\n\n[all]\ntorch<2\n",
        },
    )
    assert "requires 'torch>=2.13'" in text
    assert line_of(text, "torch = ") == 'torch = ["2.13", "2.14", "2.15"]'


def test_files_that_cmake_includes(tmp_path: Path) -> None:
    text = project_with(
        tmp_path,
        {
            "setup.py": SETUP + "cmake = 1\n",
            "CMakeLists.txt": "include(cmake/dependencies.cmake)\nfind_package(Demo REQUIRED)\n",
            "cmake/dependencies.cmake": "FetchContent_Declare(fmt URL x)\n",
            "cmake/Fetch.cmake": "#[==[\nFetchContent_Declare(quoted URL x)\n]] #]==] FetchContent_Declare(real URL x) #[[ to the end\nFetchContent_Declare(last URL x)\n",
            "cmake/FindOther.cmake": "find_package(Inner REQUIRED)\n",
        },
    )
    assert "# CHECK: CMake fetches fmt, real:" in text
    assert "Inner" not in text
    assert "CMake requires" not in text  # Demo is the project's own name


_MESON = """[build-system]
requires = ["meson-python"]
build-backend = "mesonpy"
[project]
name = "demo"
version = "1"
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"setup.py": "flags = ['-fopenmp']"}, True),
        ({"setup.py": "cmake", "CMakeLists.txt": "find_package( OpenMP REQUIRED)"}, True),
        (
            {"pyproject.toml": _MESON, "meson.build": "dependency('openmp')"},
            True,
        ),
        ({"pyproject.toml": _MESON, "meson.build": "dependency( 'fmt')"}, False),
        ({"setup.py": "# -fopenmp-simd", "CMakeLists.txt": "find_package(OpenMP)"}, False),
    ],
)
def test_openmp_is_left_to_torch(tmp_path: Path, files: dict[str, str], expected: bool) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "__init__.py").touch()
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    _, text = written(tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("external-libraries")]
    assert (
        lines
        == ['external-libraries = { "libgomp.so.1" = "torch" }  # CHECK: OpenMP by torch\'s own library'] * expected
    )


_EXCLUDES = """[project]
name = "demo"
version = "1"
dependencies = ["torch", "engine-core"]
[build-system]
requires = ["setuptools"]
[tool.cibuildwheel]
before-build = "pip install psutil>=5 ninja"
environment = { DEMO = "1" }
repair-wheel-command = "auditwheel repair --exclude libengine.so.2 --exclude libfoo.so.1 --exclude libgomp.so.1"
"""


@pytest.mark.parametrize("excludes", [True, False])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("openmp", [True, False])
def test_libraries_of_the_source_and_of_cibuildwheel(tmp_path: Path, excludes: bool, links: bool, openmp: bool) -> None:
    lines = ["import engine, psutil, yaml, os", "os.getenv('DEMO_FORCE_BUILD')", SETUP]
    if links:
        lines.append("engine.get_library_dir()")
    if openmp:
        lines.append("flags = '-fopenmp'")
    pyproject = _EXCLUDES if excludes else _EXCLUDES.partition("[tool.")[0]
    document = project_with(tmp_path, {"setup.py": "\n".join(lines), "pyproject.toml": pyproject})
    text = document.partition("[tool.torch-build-farm]")[2]

    libraries = {"libengine.so*": "engine-core"} if links else {}
    reasons = ["the build seems to link against engine; what are the libraries called?"] if links else []
    if openmp:
        libraries["libgomp.so.1"] = "torch"
        reasons.append("OpenMP by torch's own library")
    if excludes:
        libraries |= {} if links else {"libengine.so.2": "system"}
        libraries["libfoo.so.1"] = "system"
        libraries.setdefault("libgomp.so.1", "system")
        reasons.append("by [tool.cibuildwheel]")
    settings = load(tmp_path, CHECKOUT).settings
    assert dict(settings.external_libraries) == libraries
    if libraries:
        assert line_of(text, "external-libraries = ").endswith(f"  # CHECK: {'; '.join(reasons)}")

    by_cibuildwheel = "by [tool.cibuildwheel]; " if excludes else ""
    imported = ["engine", "yaml"] if excludes else ["engine", "psutil", "yaml"]
    line = line_of(text, "build-requires = ")
    assert list(settings.build_requires) == (["psutil>=5", "ninja"] if excludes else []) + imported
    assert line.endswith(f"  # CHECK: {by_cibuildwheel}setup.py imports {', '.join(imported)}")
    assert f"# CHECK: {by_cibuildwheel}compiles, where" in line_of(text, "environment = ")


@pytest.mark.parametrize(
    ("build_system", "file", "proposed"),
    [
        ('requires = ["meson-python"]\nbuild-backend = "mesonpy"', "meson.build", True),
        ('requires = ["meson-python", "setuptools<81"]\nbuild-backend = "mesonpy"', "meson.build", False),
        ('requires = ["scikit-build-core"]\nbuild-backend = "scikit_build_core.build"', "CMakeLists.txt", True),
        ('requires = ["scikit-build-core"]\nbuild-backend = "scikit_build_core.build"', "README.md", False),
        ('requires = []\nbuild-backend = "poetry.core.masonry.api"', "make.py", True),
        ('requires = []\nbuild-backend = "setuptools.build_meta"', "setup.py", False),
        ('requires = []\nbuild-backend = "own"\nbackend-path = ["."]', "setup.py", False),
    ],
)
def test_what_torchs_cpp_extension_imports(tmp_path: Path, build_system: str, file: str, *, proposed: bool) -> None:
    """A build has setuptools where its back end or a requirement brings it; torch requires it for newer CPythons alone."""
    project = '[project]\nname = "demo"\nversion = "1"\n[tool.poetry.build]\nscript = "make.py"\n'
    files = {
        "pyproject.toml": f"{project}[build-system]\n{build_system}\n",
        file: "run('-c', '''from torch.utils import cpp_extension''')\n",
        "demo/core.cpp": "",
    }
    text = project_with(tmp_path, files)
    line = 'build-requires = ["setuptools"]  # CHECK: torch.utils.cpp_extension imports setuptools'
    assert (line in text.splitlines()) is proposed
