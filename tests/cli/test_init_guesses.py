"""What `init` proposes where a source only suggests it: libraries of others, and code for the machine at hand."""

import tomllib
from pathlib import Path

import pytest

from tests.cli.test_init import written


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
