"""Dependencies of a build that are made once, in a folder where neither compilers nor the loader look by themselves."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from tests.conftest import Farm
from torch_build_farm.wheels.wheel import read_wheel

BUILD = ("build", "--torch", "2.8", "2.9", "--json")


def depend_on_a_library(farm: Farm, *settings: str) -> None:
    """Let the project link against libdependency.so, which CMake finds by its own search and pkg-config."""
    # Every run's file is another, since the store keeps what earlier runs have prepared, and pytest reuses its folders' names.
    (farm.project / "dependency.c").write_text(f"int dependency(void) {{ return 42; }} // {uuid.uuid4().hex}\n")
    (farm.project / "dependency.pc").write_text("Name: dependency\nDescription: none\nVersion: 1\n")
    farm.edit(
        "CMakeLists.txt",
        "install(",
        "find_library(DEPENDENCY dependency REQUIRED)\nfind_file(PACKAGE_FILE dependency.pc REQUIRED "
        "PATH_SUFFIXES lib/pkgconfig)\ntarget_link_libraries(_core PRIVATE ${DEPENDENCY})\ninstall(",
    )
    farm.edit("core.cpp", "#include <Python.h>", '#include <Python.h>\nextern "C" int dependency(void);')
    farm.edit("core.cpp", "name ? 0 : 42", "name ? 0 : dependency()")
    table = "\n".join(["[tool.torch-build-farm]", 'grafted-libraries = ["libdependency.so*"]', *settings])
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", table)


PREPARE = """prepare = [
    'mkdir -p "$PREFIX/lib/pkgconfig"',
    'cc $CFLAGS -shared -fPIC -g -o "$PREFIX/lib/libdependency.so" dependency.c && cp dependency.pc "$PREFIX/lib/pkgconfig"',
]
prepare-files = ["dependency.c", "dependency.pc"]"""


def check_grafted(farm: Farm) -> None:
    """Both wheels bring the library, and name no folder of the build."""
    wheels = [read_wheel(path) for path in farm.work.glob("dist/*.whl")]
    assert len(wheels) == 2
    for wheel in wheels:
        (grafted,) = [library for library in wheel.libraries if "libdependency" in library.path]
        (module,) = [library for library in wheel.libraries if "libdependency" not in library.path]
        assert Path(grafted.path).name in module.needed
        assert all(path.startswith("$ORIGIN") for path in module.run_paths)


def test_prepared_once_for_all_minors(tiny: Farm) -> None:
    depend_on_a_library(tiny, PREPARE)
    first = tiny(*BUILD)
    assert first.code == 0, first.err
    assert first.err.count("prepare: into ") == 1
    check_grafted(tiny)

    # Again, from nothing but the store.
    again = tiny(*BUILD, "--force")
    assert again.code == 0, again.err
    assert "prepare: into " not in again.err

    # What the commands use counts.
    (tiny.project / "dependency.c").write_text(f"int dependency(void) {{ return 43; }} // {uuid.uuid4().hex}\n")
    changed = tiny(*BUILD)
    assert changed.code == 0, changed.err
    assert changed.err.count("prepare: into ") == 1


def test_a_prefix_that_is_there_already(tiny: Farm, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (prefix / "lib" / "pkgconfig").mkdir(parents=True)
    (prefix / "lib" / "pkgconfig" / "dependency.pc").touch()
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(prefix / "lib" / "libdependency.so")]
    subprocess.run(command, input="int dependency(void) { return 42; }", text=True, check=True)
    depend_on_a_library(tiny, f'prefixes = ["{prefix}"]')
    answer = tiny(*BUILD)
    assert answer.code == 0, answer.err
    check_grafted(tiny)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ("prepare = ['echo one', 'no-such-command --now', 'echo three']", 13, "prepare: "),
        ("prepare = ['true']\nprepare-files = ['no.c']", 3, "prepare-files: no.c cannot be used: there is no "),
        ("prepare = ['true']\nprepare-files = ['../other.c']", 3, "prepare-files: ../other.c cannot be used"),
        ("prefixes = ['/no/such/folder']", 8, "there is no folder /no/such/folder"),
        ("prefixes = ['folder']", 3, "prefixes[0]: 'folder' is not the absolute path of a folder"),
        ("cmake-defines = { CMAKE_PREFIX_PATH = '/opt' }", 3, "name its folders in prefixes"),
    ],
)
def test_what_cannot_be_prepared(tiny: Farm, settings: str, code: int, words: str) -> None:
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\n{settings}")
    answer = tiny("build", "--torch", "2.9")
    assert words in answer.err
    assert answer.code == code, answer.err
    if code == 13:
        assert "no-such-command" in answer.err
