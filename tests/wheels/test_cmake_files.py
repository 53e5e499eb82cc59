"""CMake package files after relocation, used by a real CMake project."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.family import project, variant
from torch_build_farm.core import tools
from torch_build_farm.wheels.cmake_files import moved
from torch_build_farm.wheels.relocate import Move

CMAKE = tools.scripts() / "cmake"
# `prefix` is where the project installs itself within site-packages: "." is scikit-build-core's way.
LIBRARY = """cmake_minimum_required(VERSION 3.20)
project(demo CXX)
include(CMakePackageConfigHelpers)
add_library(demo SHARED demo.cpp)
target_include_directories(demo INTERFACE $<INSTALL_INTERFACE:{within}include>)
install(TARGETS demo EXPORT demoTargets LIBRARY DESTINATION {within}lib)
install(FILES demo.h DESTINATION {within}include)
install(EXPORT demoTargets NAMESPACE demo:: DESTINATION {within}share/cmake/demo)
configure_package_config_file(demoConfig.cmake.in demoConfig.cmake INSTALL_DESTINATION {within}share/cmake/demo
  PATH_VARS CMAKE_INSTALL_PREFIX)
install(FILES ${{CMAKE_CURRENT_BINARY_DIR}}/demoConfig.cmake DESTINATION {within}share/cmake/demo)
"""
CONFIG = """@PACKAGE_INIT@
include("${CMAKE_CURRENT_LIST_DIR}/demoTargets.cmake")
set_and_check(demo_HEADER "${PACKAGE_PREFIX_DIR}/WITHINinclude/demo.h")
"""
HANDWRITTEN = """add_library(demo::demo SHARED IMPORTED)
set_target_properties(demo::demo PROPERTIES
  IMPORTED_LOCATION "${CMAKE_CURRENT_LIST_DIR}/../../../../demo/lib/libdemo.so"
  INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_LIST_DIR}/../../../include")
"""
CONSUMER = """cmake_minimum_required(VERSION 3.20)
project(consumer CXX)
find_package(demo CONFIG REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer demo::demo)
"""


def installed(folder: Path, within: str) -> Path:
    """What the library's project installs; site-packages is the result."""
    source = folder / "library"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(LIBRARY.format(within=within))
    (source / "demoConfig.cmake.in").write_text(CONFIG.replace("WITHIN", within))
    (source / "demo.h").write_text("int answer();\n")
    (source / "demo.cpp").write_text("int answer() { return 42; }\n")
    site = folder / "site"
    prefix = site if within else site / "demo"
    arguments = [f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([CMAKE, "-S", source, "-B", folder / "build", *arguments], check=True, capture_output=True)
    subprocess.run([CMAKE, "--build", folder / "build", "--target", "install"], check=True, capture_output=True)
    return site


def used(folder: Path, package: Path) -> int:
    """What a program that finds the library by the package's CMake files returns."""
    source = folder / "consumer"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(CONSUMER)
    (source / "main.cpp").write_text("#include <demo.h>\nint main() { return answer(); }\n")
    found = f"-Ddemo_DIR={package / 'share/cmake/demo'}"
    subprocess.run([CMAKE, "-S", source, "-B", folder / "used", found], check=True)
    subprocess.run([CMAKE, "--build", folder / "used"], check=True, capture_output=True)
    return subprocess.run([folder / "used/consumer"], check=False).returncode


@pytest.mark.parametrize("kind", ["site-packages is the prefix", "the package is the prefix", "written by hand"])
def test_a_project_finds_the_library_of_a_relocated_wheel(tmp_path: Path, kind: str) -> None:
    site = installed(tmp_path, "" if kind == "the package is the prefix" else "demo/")
    if kind == "written by hand":
        for path in (site / "demo/share/cmake/demo").iterdir():
            path.unlink()
        (site / "demo/share/cmake/demo/demoConfig.cmake").write_text(HANDWRITTEN)
    files: dict[str, str | bytes] = {"demo/__init__.py": ""}
    for path in site.rglob("*"):
        if path.is_file():
            files[path.relative_to(site).as_posix()] = path.read_bytes()
    wheel = variant(tmp_path / "wheels", project("demo"), "2.9", "1.0", files)
    zipfile.ZipFile(wheel).extractall(tmp_path / "relocated")
    # Not by accident from where it was installed first.
    site.rename(tmp_path / "gone")
    assert used(tmp_path, tmp_path / "relocated/demo/_torch29") == 42


MOVE = Move(("demo", "ns.sub"), "torch29")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("demo/cmake/a.cmake", b'"${CMAKE_CURRENT_LIST_DIR}/../lib"', b'"${CMAKE_CURRENT_LIST_DIR}/../lib"'),
        ("demo/cmake/a.cmake", b"${CMAKE_CURRENT_LIST_DIR}/../../torch", b"${CMAKE_CURRENT_LIST_DIR}/../../../torch"),
        ("demo/a.cmake", b"${CMAKE_CURRENT_LIST_DIR}/../demo/x/", b"${CMAKE_CURRENT_LIST_DIR}/x/"),
        (
            "demo/a.cmake",
            b"${CMAKE_CURRENT_LIST_DIR}/../ns/sub/x",
            b"${CMAKE_CURRENT_LIST_DIR}/../../ns/sub/_torch29/x",
        ),
        ("demo/a.cmake", b"${CMAKE_CURRENT_LIST_DIR}/x.cmake \xff", b"${CMAKE_CURRENT_LIST_DIR}/x.cmake \xff"),
        ("demo/a.cmake", b"${CMAKE_CURRENT_LIST_DIR}/../demo/\xff", b"${CMAKE_CURRENT_LIST_DIR}/\xff"),
        ("demo/a.cmake", b"${CMAKE_CURRENT_LIST_DIR}/../../../usr", b"${CMAKE_CURRENT_LIST_DIR}/../../../../usr"),
    ],
)
def test_places_lead_where_they_led(path: str, old: bytes, new: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # however deep the farm's own folder lies
    assert moved({path: old}, MOVE.folder) == {path: new}
