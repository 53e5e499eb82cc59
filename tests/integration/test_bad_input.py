"""What goes wrong, for real, and what people are told."""

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm, need
from tests.until import DEADLINE_S, until

pytestmark = pytest.mark.torch

ONE = ("build", "--torch", "2.8", "--json")


def test_a_compile_error_is_the_compilers_and_other_jobs_go_on(tiny: Farm) -> None:
    tiny.edit("CMakeLists.txt", "install(", "find_package(Torch REQUIRED)\n"
              "if(Torch_VERSION VERSION_LESS 2.9)\n  target_compile_definitions(_core PRIVATE answer=)\nendif()\ninstall(")  # fmt: skip
    answer = tiny("build", "--torch", "2.8", "2.9", "--json")
    assert answer.code == 14, answer.err
    bad, good = answer.document["jobs"]
    assert re.search(r"core\.cpp:\d+:\d+: error: ", bad["error"]["what"])
    assert bad["error"]["where"] == bad["log"]
    assert "error: " in Path(bad["log"]).read_text()
    assert good["status"] == "done"
    assert "tiny-torch28" in answer.err
    assert "FAILED" in answer.err
    # mended, it goes on: the good job is kept
    tiny.edit("CMakeLists.txt", "PRIVATE answer=", "PRIVATE other=")
    assert tiny("build", "--torch", "2.8", "2.9").code == 0


def test_a_linker_error(tiny: Farm) -> None:
    tiny.edit("core.cpp", "static PyObject* answer(PyObject*, PyObject*) {", "void gone();\nstatic PyObject* answer(PyObject*, PyObject*) {\n  gone();")  # fmt: skip
    tiny.edit("CMakeLists.txt", "install(", "target_link_options(_core PRIVATE -Wl,--no-undefined,--allow-shlib-undefined)\ninstall(")  # fmt: skip
    answer = tiny(*ONE)
    assert answer.code == 14, answer.err
    assert "undefined reference to" in answer.document["jobs"][0]["error"]["what"]


def test_a_cmake_error(tiny: Farm) -> None:
    tiny.edit("CMakeLists.txt", "install(", "find_package(NoSuchLibrary REQUIRED)\ninstall(")
    answer = tiny(*ONE)
    assert answer.code == 14, answer.err
    assert "NoSuchLibrary" in answer.document["jobs"][0]["error"]["what"]


@pytest.mark.parametrize(
    ("command", "words"), [("echo it broke; exit 5", "exit 5' fails: it broke"), ("false", "command 'false' fails")]
)
def test_a_command_before_the_build_that_fails(tiny: Farm, command: str, words: str) -> None:
    tiny.edit(
        "pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['true', '{command}']"
    )
    answer = tiny(*ONE)
    assert answer.code == 13
    assert words in answer.document["jobs"][0]["error"]["what"]


@pytest.fixture
def memory_limit(root: None) -> Iterator[Callable[[int], Path]]:
    """A control group with so many bytes of memory; cgroup.procs in it takes a process."""
    made: list[Path] = []

    def limit(size: int) -> Path:
        one, two = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        name = f"farm-test-{uuid.uuid4().hex[:8]}"
        if (one / "memory.limit_in_bytes").exists():
            group, files = one / name, {"memory.limit_in_bytes": size}
        else:
            need("memory" in (two / "cgroup.subtree_control").read_text(), "needs the memory controller")
            group, files = two / name, {"memory.max": size, "memory.swap.max": 0}
        group.mkdir()
        made.append(group)
        for file, value in files.items():
            (group / file).write_text(str(value))
        return group

    yield limit
    for group in made:
        group.rmdir()


def test_out_of_memory_is_no_compile_error(tiny: Farm, memory_limit: Callable[[int], Path]) -> None:
    # A hundred million initialisers: gigabytes in the compiler.
    bomb = ["#define A0 1"] + [f"#define A{n} {','.join([f'A{n - 1}'] * 10)}" for n in range(1, 9)]
    tiny.edit("core.cpp", "#include <Python.h>", "#include <Python.h>\n" + "\n".join(bomb) + "\nint numbers[] = {A8};")
    group = memory_limit(1_000_000_000)
    command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *tiny.command(*ONE)]
    done = subprocess.run(command, capture_output=True, text=True, env=tiny.environment, check=False)
    assert done.returncode == 15, done.stderr
    error = json.loads(done.stdout)["jobs"][0]["error"]
    assert error["kind"] == "OutOfMemoryError"
    assert "ran out of memory" in error["what"]
    assert "out-of-memory killer struck" in error["what"]
    assert "--jobs 1" in error["next"]


def test_a_disk_that_is_too_small_is_said_before_anything_starts(tiny: Farm, tmp_path: Path) -> None:
    tiny.env["TORCH_BUILD_FARM_STORE"] = str(tmp_path / "store")
    (tiny.project / "variants").mkdir()
    text = (CHECKOUT / "variants" / "torch28.toml").read_text()
    (tiny.project / "variants" / "torch28.toml").write_text(re.sub(r"torch-gb = .*", "torch-gb = 1e6", text))
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\ntorch-build = "full"')
    answer = tiny(*ONE)
    assert (answer.code, answer.document["error"]["kind"]) == (9, "DiskError"), answer.err
    assert re.search(r"1000\d+\.\d GB are needed, \d+\.\d GB are free", answer.err)
    assert not (tiny.work / "jobs").exists()


@pytest.mark.parametrize("size", ["200k", "480k"])
def test_a_disk_that_becomes_full(tiny: Farm, root: None, size: str) -> None:
    """At the first stage, and, with a little more room, while the tree is copied for the build."""
    tiny.work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,size={size}", "none", str(tiny.work)], check=True)
    try:
        (tiny.project / "big.bin").write_bytes(os.urandom(300_000))
        answer = tiny(*ONE)
    finally:
        subprocess.run(["umount", str(tiny.work)], check=True)
    assert answer.code == 9, answer.err
    assert "the disk is full" in answer.err
    assert "Traceback" not in answer.err


def test_an_index_out_of_reach(tiny: Farm, tmp_path: Path) -> None:
    tiny.env |= {"TORCH_BUILD_FARM_STORE": str(tmp_path / "store"), "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"}
    answer = tiny(*ONE)
    assert (answer.code, answer.document["error"]["kind"]) == (10, "PackageIndexError"), answer.err
    assert "out of reach" in answer.err
    assert "UV_DEFAULT_INDEX" in answer.err


def test_an_index_that_goes_away_in_mid_run(tiny: Farm) -> None:
    """Torch's SDK is in the store, but a build requirement has to be fetched."""
    assert tiny(*ONE).code == 0
    tiny.edit(
        "pyproject.toml",
        'requires = ["scikit-build-core>=0.11"',
        'requires = ["scikit-build-core>=0.11", "zest-releaser==9.1.2"',
    )
    tiny.env |= {"ALL_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "UV_HTTP_RETRIES": "0"}
    answer = tiny(*ONE)
    assert answer.code == 10, answer.err
    assert answer.document["jobs"][0]["error"]["kind"] == "PackageIndexError"


def test_no_compiler(tiny: Farm) -> None:
    tiny.env["CXX"] = "no-such-compiler"
    answer = tiny(*ONE)
    assert answer.code == 8, answer.err
    assert "no-such-compiler does not run" in answer.err


def test_missing_system_packages(tiny: Farm) -> None:
    need(shutil.which("dpkg-query") is not None, "needs Debian's package manager")
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        "[tool.torch-build-farm]\nsystem-packages.apt = ['libc6', 'no-such-package']",
    )
    answer = tiny(*ONE)
    assert answer.code == 8, answer.err
    assert "apt install no-such-package" in answer.err


def hang(farm: Farm, tmp_path: Path) -> Path:
    """Let builds wait for the file that is returned."""
    gate = tmp_path / "gate"
    command = f"echo waiting; while ! test -e {gate}; do sleep 0.1; done"
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['{command}']")
    return gate


def waiting(farm: Farm, jobs: int = 1) -> bool:
    """Whether so many jobs have come to where their builds wait."""
    return sum(log.read_text().endswith("waiting\n") for log in farm.work.glob("logs/*.log")) >= jobs


def test_two_farms_on_one_work_folder(tiny: Farm, tmp_path: Path) -> None:
    gate = hang(tiny, tmp_path)
    first = tiny.start("build", "--torch", "2.8")
    until(lambda: waiting(tiny))
    second = tiny(*ONE)
    assert (second.code, second.document["error"]["kind"]) == (11, "LockedError"), second.err
    assert f"process {first.pid}" in second.err
    third = tiny.start("build", "--torch", "2.8", "--wait")
    assert third.stdout is not None
    before = []
    for line in third.stdout:
        before.append(line)
        if f"waiting for process {first.pid}" in line:
            break
    else:
        pytest.fail(f"it did not wait: {before}")
    gate.touch()
    assert first.wait(DEADLINE_S) == 0
    out, _ = third.communicate(timeout=DEADLINE_S)
    assert third.returncode == 0, out
    assert "nothing to do" in out


GRAFT = """
find_library(MAGIC NAMES liblzma.so.5 lzma REQUIRED)
target_link_options(_core PRIVATE -Wl,--no-as-needed)
target_link_libraries(_core PRIVATE ${MAGIC})
install("""


def test_a_grafted_library_needs_leave(tiny: Farm) -> None:
    tiny.edit("CMakeLists.txt", "install(", GRAFT)
    answer = tiny(*ONE)
    assert answer.code == 16, answer.err
    assert "add liblzma.so* to grafted-libraries" in answer.err
    assert not list(tiny.work.glob("dist/*"))
    tiny.edit(
        "pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\ngrafted-libraries = ['liblzma.so*']"
    )
    answer = tiny(*ONE)
    assert answer.code == 0, answer.err
    assert [stage["stage"] for stage in answer.document["jobs"][0]["stages"] if not stage["kept"]] == [
        "repair",
        "relocate",
        "audit",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            'set_target_properties(_core PROPERTIES INSTALL_RPATH "/opt/somewhere/lib")',
            "RUNPATH entry /opt/somewhere/lib",
        ),
        ("install(FILES core.cpp DESTINATION include)", "include (1 file) lies outside the packages tiny"),
    ],
)
def test_a_wheel_that_is_unfit_for_users(tiny: Farm, line: str, said: str) -> None:
    tiny.edit("CMakeLists.txt", "install(TARGETS", line + "\ninstall(TARGETS")
    answer = tiny(*ONE)
    assert answer.code == 16, answer.err
    assert said in answer.err
    assert not list(tiny.work.glob("dist/*"))


def test_a_package_whose_python_files_were_left_behind(tiny: Farm) -> None:
    """It would import, as a namespace package, and have nothing in it."""
    tiny.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        "[tool.scikit-build]\nwheel.packages = []\n\n[tool.torch-build-farm]",
    )
    answer = tiny(*ONE)
    assert answer.code == 16, answer.err
    assert "tiny/__init__.py is in the source but not in the wheel" in answer.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'imports = ["tiny", "tiny._core"]',
            'imports = ["tiny.gone"]',
            "import tiny.gone fails in a fresh interpreter",
        ),
        (
            "[tool.torch-build-farm]",
            "[tool.torch-build-farm]\nsmoke-script = 'bad.py'",
            "bad.py fails: AssertionError: 42",
        ),
    ],
)
def test_a_wheel_that_fails_its_smoke_test(tiny: Farm, old: str, new: str, said: str) -> None:
    (tiny.project / "bad.py").write_text("import tiny\nassert tiny.answer() == 7, tiny.answer()\n")
    tiny.edit("pyproject.toml", old, new)
    answer = tiny("run", "--torch", "2.8", "--json")
    assert answer.code == 17, answer.err
    assert said in answer.document["jobs"][0]["error"]["what"]
    assert answer.document["jobs"][0]["wheel"], "the wheel is there to be looked at"


def test_a_wheel_whose_metadata_promises_too_much(tiny: Farm) -> None:
    """A build that widens the pin: pip would accept the wheel beside a torch it cannot load with."""
    widen = "sed -i 's/torch==2.8.[*]/torch>=2.8,<2.10/' pyproject.toml"
    tiny.edit("pyproject.toml", "[tool.torch-build-farm]", f'[tool.torch-build-farm]\nbefore-build = ["{widen}"]')
    answer = tiny("run", "--torch", "2.8", "--json")
    assert answer.code == 17, answer.err
    assert "Requires-Dist asks for torch<2.10,>=2.8, not torch==2.8.*" in answer.err
