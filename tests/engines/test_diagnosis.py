"""Real endings of real builds, and what they mean."""

import shutil
import subprocess
from pathlib import Path

import pytest

from torch_build_farm.core import tools
from torch_build_farm.core.errors import (
    BuildError,
    CompileError,
    DiskError,
    FarmError,
    OutOfMemoryError,
    PackageIndexError,
)
from torch_build_farm.core.log import STAGE_MARK
from torch_build_farm.engines.diagnosis import REQUIREMENTS_UNKNOWN, diagnose

CASES: list[tuple[str, type[FarmError], str]] = [
    (
        "[1/2] Building CXX object a.o\nFAILED: a.o\n/usr/bin/g++ -o a.o -c a.cpp\n"
        "a.cpp:57:32: error: no match for 'operator/' (operand types are 'const at::Tensor')\n"
        "b.cpp:1:1: error: second\nninja: build stopped: subcommand failed.",
        CompileError,
        "a.cpp:57:32: error: no match",
    ),
    ("a.cpp:3:10: fatal error: Eigen/Core: No such file or directory", CompileError, "Eigen/Core"),
    (
        "/usr/bin/ld: a.o: in function `f':\na.cpp:(.text+0x5): undefined reference to `g'\ncollect2: error: ld returned 1 exit status",
        CompileError,
        "undefined reference to `g'",
    ),
    (
        'CMake Error at CMakeLists.txt:4 (find_package):\n  Could not find a package "Eigen3"\n  with any of',
        CompileError,
        "Could not find a package",
    ),
    (
        "a.cpp:9:1: note: x\ng++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.",
        OutOfMemoryError,
        "Killed signal",
    ),
    ("cc1plus: out of memory allocating 65536 bytes after a total of 1 bytes", OutOfMemoryError, "out of memory"),
    ("a.cpp:1:1: fatal error: error writing to /tmp/x.s: No space left on device", DiskError, "No space left"),
    (
        "error: Failed to fetch: `https://index/simple/torch/`\n  Caused by: error sending request for url",
        PackageIndexError,
        "Failed to fetch",
    ),
    (
        "a.cpp:4:3: error: expected ';' before '}' token\n    4 |   throw std::bad_alloc()\n      |         ^~~",
        CompileError,
        "expected ';'",
    ),
    (
        "/home/me/work/jobs/x-cp311/scratch/source/cpp/op.cpp:4:19: error: expected ';'",
        CompileError,
        "job: cpp/op.cpp:4:19: error",
    ),
    ("=== Build summary ===\na.cpp:1:1: error: x\n=== end ===", CompileError, "a.cpp:1:1: error: x"),
    ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", OutOfMemoryError, "signal 9"),
    ("g++: internal compiler error: Killed (program cc1plus)", OutOfMemoryError, "Killed"),
    ("clang: error: unable to execute command: Killed", OutOfMemoryError, "Killed"),
    ("Traceback (most recent call last):\nValueError: setup failed", BuildError, "setup failed"),
    ("10 %\r20 %\rsetup failed: x\r", BuildError, "the build failed: setup failed: x"),
    (
        "ValueError: setup failed\ncibuildwheel: error: Command ['python', '-m', 'build'] failed with code 1.",
        BuildError,
        "setup failed",
    ),
    ("", BuildError, "no output"),
    (
        "copying demo/error.py -> build/demo\nTraceback (most recent call last):\nRuntimeError: set FOO_HOME",
        BuildError,
        "the build failed: RuntimeError: set FOO_HOME",
    ),
    (
        "  + Exception Group Traceback (most recent call last):\n  | ExceptionGroup: Failed to parse (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n    | own.errors.ConfigurationError: License file not found ('../X')\n"
        "    +------------------------------------",
        BuildError,
        "the build failed: own.errors.ConfigurationError: License file not found",
    ),
    ("packaging.requirements.InvalidRequirement: Expected a name\n    -r other.txt\n    ^", BuildError, "-r other.txt"),
    (
        "error: No solution found when resolving dependencies\n  cause: Because xyzzy was not found in the package registry",
        BuildError,
        "resolving dependencies: cause: Because xyzzy was not found",
    ),
]


@pytest.mark.parametrize(("text", "kind", "words"), CASES)
def test_the_reason_is_told_from_the_log(tmp_path: Path, text: str, kind: type[FarmError], words: str) -> None:
    log = tmp_path / "log"
    earlier = f"{STAGE_MARK}build old\nold.cpp:1:1: error: of an earlier stage\n"
    log.write_text(f"{earlier}{STAGE_MARK}build job\n$ g++ -DX='error: not this'\n{text}\n")
    error = diagnose("job", log)
    assert type(error) is kind
    assert words in error.what
    assert error.where == str(log)


def test_the_kernels_count_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{STAGE_MARK}build job\ng++: fatal error: Killed signal terminated program cc1plus\n")
    assert "struck 2 times" in diagnose("job", log, oom_kills=2).what
    log.write_text(f"{STAGE_MARK}build job\n")
    assert type(diagnose("job", log, oom_kills=1)) is OutOfMemoryError
    log.write_text(f"{STAGE_MARK}build job\na.cpp:1:1: error: x\n")
    assert type(diagnose("job", log, oom_kills=1)) is CompileError, "another job's compiler was killed"


def test_headers_of_torch_that_want_a_newer_standard(tmp_path: Path) -> None:
    """However many sources say so, and whatever else comes first."""
    log = tmp_path / "log"
    refused = "torch/include/ATen/ATen.h:9:2: error: #error C++20 or later compatible compiler is required to use ATen."
    log.write_text(
        f"{STAGE_MARK}build job\n/env/c10/a.h:4:5: error: 'bit_width' is not a member of 'std'\n"
        f"/env/lib/python3.12/site-packages/{refused}\n/env/lib/python3.12/site-packages/{refused}\n"
    )
    error = diagnose("job", log)
    assert type(error) is CompileError
    assert error.what == f"job: {refused}"
    assert "[[tool.torch-build-farm.overrides]]" in error.next_step
    assert "-std=c++20" in error.next_step


TRACEBACK = 'Traceback (most recent call last):\n  File "setup.py", line 3, in <module>\n    import it\n'


@pytest.mark.parametrize(
    ("message", "what", "next_step"),
    [
        ("ModuleNotFoundError: No module named 'psutil'", "the module psutil", 'build-requires = ["psutil"]'),
        ("ImportError: No module named psutil", "the module psutil", 'build-requires = ["psutil"]'),
        ("ModuleNotFoundError: No module named 'yaml'", "the module yaml", 'build-requires = ["PyYAML"]'),
        ("ModuleNotFoundError: No module named 'numpy.core.x'", "numpy.core.x", "build-constraints"),
        ("ImportError: cannot import name 'f' from 'wheel.x' (/env/x.py)", "f of wheel.x", "build-constraints"),
        ("ERROR Backend 'poetry.core.masonry.api' is not available.", "the module poetry", "poetry-core"),
        ("ModuleNotFoundError: No module named 'torch'", "the module torch", "before-build"),
    ],
)
def test_a_module_that_the_back_end_lacks_is_named(tmp_path: Path, message: str, what: str, next_step: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"{STAGE_MARK}build job\nerror: one of many\n{TRACEBACK}{message}\n")
    error = diagnose("job", log)
    assert type(error) is BuildError
    assert what in error.what
    assert next_step in error.next_step


def test_what_the_back_end_lacked_before_before_build_is_not_the_reason(tmp_path: Path) -> None:
    """In a container it is asked first, and asked again by the build itself."""
    log = tmp_path / "log"
    asked = f"{TRACEBACK}ModuleNotFoundError: No module named 'generated'\n{REQUIREMENTS_UNKNOWN}: it failed\n"
    log.write_text(f"{STAGE_MARK}build job\n{asked}$ cibuildwheel\nValueError: setup failed\n")
    assert "setup failed" in diagnose("job", log).what


def test_cmake_that_lacks_a_module_of_python(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cmake = "CMake Error at /usr/share/FindPackageHandleStandardArgs.cmake:2 (message):\n  Could NOT find Python\n  (missing: NumPy)"
    log.write_text(f"{STAGE_MARK}build job\n{TRACEBACK}ModuleNotFoundError: No module named 'numpy'\n{cmake}\n")
    error = diagnose("job", log)
    assert type(error) is CompileError
    assert "Could NOT find Python" in error.what
    assert 'build-requires = ["numpy"]' in error.next_step


CMAKE = """CMake Error at /opt/env/cmake/Modules/FindPython/Support.cmake:4680 (add_library):
  Cannot find source file:

    {path}
Call Stack (most recent call first):
  /opt/env/cmake/Modules/FindPython.cmake:788:EVAL:2 (__Python_add_library)
  {caller}:4 (Python_add_library)


CMake Error at /opt/env/cmake/Modules/FindPython/Support.cmake:4680 (add_library):
  No SOURCES given to target: _core
"""


@pytest.mark.parametrize(
    ("text", "subdirectory", "words", "outside"),
    [
        (
            CMAKE.format(path="../../cpp/core.cpp", caller="CMakeLists.txt"),
            "",
            "job: CMake Error at CMakeLists.txt:4 (Python_add_library): Cannot find source file: ../../cpp/core.cpp",
            True,
        ),
        # Of a folder below, and of a project below, the same words lead to a place within the source.
        (CMAKE.format(path="../cpp/core.cpp", caller="src/CMakeLists.txt"), "", "file: ../cpp/core.cpp", False),
        (CMAKE.format(path="../../cpp/core.cpp", caller="CMakeLists.txt"), "packages/ext", "cpp/core.cpp", False),
        (CMAKE.format(path="../../../cpp/core.cpp", caller="CMakeLists.txt"), "packages/ext", "cpp/core.cpp", True),
        (CMAKE.format(path="core.cpp", caller="CMakeLists.txt"), "", "Cannot find source file: core.cpp", False),
        (CMAKE.format(path="a/../core.cpp", caller="CMakeLists.txt"), "", "file: a/../core.cpp", False),
        (
            'CMake Error at CMakeLists.txt:4 (add_subdirectory):\n  add_subdirectory given source "../../cpp" which is not an\n'
            "  existing directory.\n\n\n",
            "",
            'given source "../../cpp" which is not an existing directory.',
            True,
        ),
        (
            "CMake Error at CMakeLists.txt:5 (include):\n  include could not find requested file:\n\n    ../cmake/foo.cmake\n\n",
            "",
            "requested file: ../cmake/foo.cmake",
            True,
        ),
        (
            "CMake Error at CMakeLists.txt:7 (file):\n  file failed to open for reading (No such file or directory):\n\n"
            "    /w/jobs/x-cp311/scratch/source/../../VERSION\n",
            "",
            "../../VERSION",
            True,
        ),
        (
            "cc1plus: fatal error: ../../cpp/x.cpp: No such file or directory\ncompilation terminated.\n"
            "error: Command '['g++', '-c', '../../cpp/x.cpp']' returned non-zero exit status 1.\n"
            "cibuildwheel: error: Command ['python', '-m', 'build', '/project'] failed with code 1.",
            "",
            "job: cc1plus: fatal error: ../../cpp/x.cpp: No such",
            True,
        ),
        ("cc1plus: fatal error: ../../cpp/x.cpp: No such file or directory", "packages/ext", "../../cpp/x.cpp", False),
        ("src/a.cpp:3:10: fatal error: ../cpp/x.h: No such file or directory", "", "../cpp/x.h", False),
        ("src/a.cpp:3:10: fatal error: ../../cpp/x.h: No such file or directory", "", "../../cpp/x.h", True),
        ("/project/src/a.cpp:3:10: fatal error: ../../x.h: No such file or directory", "", "src/a.cpp:3:10", True),
        # Not of the source: a path of a header that another one includes says nothing of it.
        ("/env/include/a.h:3:10: fatal error: ../../x.h: No such file or directory", "", "../../x.h", False),
        ("clang++: error: no such file or directory: '../x.cpp'", "", "'../x.cpp'", True),
        ("a.cpp:1:10: fatal error: '../x.h' file not found", "", "'../x.h' file not found", True),
        ("ninja: error: '../../cpp/x.cpp', needed by 'x.o', missing and no known rule to make it", "", "x.cpp", True),
        ("ninja: error: '/cpp/x.cpp', needed by '/project/x.o', missing and no known rule to make it", "", "x.cpp", True),
        ("ninja: error: '/project/x.cpp', needed by 'x.o', missing and no known rule to make it", "", "x.cpp", False),
        ("ninja: error: '/usr/lib/libz.so', needed by 'x.so', missing and no known rule to make it", "", "libz", False),
        ("meson.build:3:3: ERROR: File ../cpp/x.cpp does not exist.", "", "../cpp/x.cpp does not exist", True),
        ("Traceback:\nFileNotFoundError: [Errno 2] No such file or directory: '../../VERSION'", "", "'../../VERSION'", True),
    ],
)  # fmt: skip
def test_a_missing_file_is_named_and_where_it_lies(
    tmp_path: Path, text: str, subdirectory: str, words: str, outside: bool
) -> None:
    log = tmp_path / "log"
    log.write_text(f"{STAGE_MARK}build job\n{text}\n")
    error = diagnose("job", log, subdirectory=subdirectory)
    assert words in error.what
    assert ("subdirectory" in str(error)) is outside


ROGUE = "/usr/bin/ld: /tmp/a.o: in function `f()':\n"
LINKERS = [
    ("/usr/bin/ld: cannot find -lre2: No such file or directory", "cannot find -lre2", "system-packages"),
    ("/usr/bin/ld: skipping incompatible /lib/libre2.so when searching for -lre2\n/usr/bin/ld: cannot find -lre2",
     "cannot find -lre2", "the library re2"),
    ("/usr/bin/ld.gold: error: cannot find -lre2", "cannot find -lre2", "the library re2"),
    ("ld.lld: error: unable to find library -lre2", "unable to find library -lre2", "the library re2"),
    ("mold: fatal: library not found: re2", "library not found: re2", "the library re2"),
    (f"{ROGUE}a.cpp:(.text+0x5): undefined reference to `g()'", "undefined reference to `g()'", "link the library"),
    ("ld.lld: error: undefined symbol: g()\n>>> referenced by a.cpp", "undefined symbol: g()", "link the library"),
    ("/tmp/a.o:a.cpp:function f(): error: undefined reference to 'g()'", "undefined reference to 'g()'", "link the"),
    ("/usr/bin/ld: libz.a(x.o): relocation R_X86_64_32 against `.rodata' can not be used when making a shared object; "
     "recompile with -fPIC", "recompile with -fPIC", "static library"),
    ("nvcc fatal   : Unsupported gpu architecture 'compute_50'", "Unsupported gpu", "cuda-arch-list"),
    ('../meson.build:3:0: ERROR: Dependency "re2" not found, tried pkgconfig and cmake', 'Dependency "re2"', "find re2:"),
    ("../meson.build:4:2: ERROR: C++ shared or static library 're2' not found", "library 're2' not found", "find re2:"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words", "next_step"), LINKERS)
@pytest.mark.parametrize(
    "summary",
    [
        "collect2: error: ld returned 1 exit status",
        "clang-17: error: linker command failed with exit code 1 (use -v to see invocation)",
        "error: command '/usr/bin/g++' failed with exit code 1",
    ],
)
def test_the_linkers_own_words_come_before_its_drivers(
    tmp_path: Path, text: str, words: str, next_step: str, summary: str
) -> None:
    log = tmp_path / "log"
    # A log may have the two streams in either order.
    for lines in (f"{text}\n{summary}", f"{summary}\n{text}"):
        log.write_text(f"{STAGE_MARK}build job\nFAILED: x.so\n{lines}\nninja: build stopped: subcommand failed.\n")
        error = diagnose("job", log)
        assert isinstance(error, CompileError)
        assert words in error.what
        assert next_step in error.next_step


def test_a_driver_that_is_alone_with_its_complaint(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{STAGE_MARK}build job\ncollect2: error: ld terminated\n")
    assert "collect2: error: ld terminated" in diagnose("job", log).what


def said(folder: Path, *command: str | Path) -> FarmError:
    """What the farm makes of the output of a real tool that fails."""
    done = subprocess.run(command, check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode
    (folder / "log").write_text(f"{STAGE_MARK}build job\n{done.stdout}")
    return diagnose("job", folder / "log")


def test_real_linkers(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text("int g(); int main() { return g(); }\n")
    error = said(tmp_path, "g++", "a.cpp", "-lno_such_library")
    assert "cannot find -lno_such_library" in error.what
    assert "the library no_such_library" in error.next_step
    assert "undefined reference to `g()'" in said(tmp_path, "g++", "a.cpp").what


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("find_package(nosuch CONFIG REQUIRED)", "nosuch"),
        ("find_package(nosuch REQUIRED)", "nosuch"),
        ("find_package(PkgConfig REQUIRED)\npkg_check_modules(X REQUIRED nosuch)", "nosuch"),
        ("set(BLA_VENDOR FLAME)\nfind_package(BLAS REQUIRED)", "BLAS"),
    ],
)
def test_a_package_that_cmake_does_not_find(tmp_path: Path, line: str, name: str) -> None:
    if "PkgConfig" in line and not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    (tmp_path / "CMakeLists.txt").write_text(f"cmake_minimum_required(VERSION 3.20)\nproject(x C)\n{line}\n")
    error = said(tmp_path, tools.scripts() / "cmake", "-S", ".", "-B", "b")
    assert isinstance(error, CompileError)
    assert f"does not find {name}:" in error.next_step
    assert "system-packages" in error.next_step
