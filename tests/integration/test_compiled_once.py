"""What ccache shares between the builds of this machine, by the runs of a compiler that notes each of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Answer, Farm, need

pytestmark = pytest.mark.torch

TORCH = """#include <c10/core/ScalarType.h>
unsigned long size() { return c10::elementSize(c10::ScalarType::Float); }
"""
# ccache runs the compiler to preprocess (-E), and then only if it has no result.
COMPILER = """#!/bin/sh
case " $* " in *" -E "*) ;; *" -c "*) echo "$*" >> @LOG@ ;; esac
exec c++ "$@"
"""


@pytest.fixture
def project(tiny: Farm, tmp_path: Path) -> Farm:
    """A project with one source that includes torch, and more than one for each CPU that do not."""
    need(shutil.which("ccache") is not None, "needs ccache on PATH, as the group test installs it")
    now = time.time_ns()  # so that no earlier run has compiled it
    sources = ["core.cpp", "torch.cpp"]
    (tiny.project / "torch.cpp").write_text(f"{TORCH}// {now}\n")
    for number in range(len(os.sched_getaffinity(0)) + 1):
        sources.append(f"free{number}.cpp")
        text = f"const char* where_{now}_{number}() {{ return __FILE__; }}\n"
        (tiny.project / sources[-1]).write_text(text)
    tiny.edit(
        "CMakeLists.txt",
        "WITH_SOABI core.cpp)",
        f"WITH_SOABI {' '.join(sources)})\nfind_package(Torch REQUIRED)\n"
        "target_link_libraries(_core PRIVATE ${TORCH_LIBRARIES})",
    )
    compiler = tmp_path / "g++"
    compiler.write_text(COMPILER.replace("@LOG@", str(tmp_path / "compiled")))
    compiler.chmod(0o755)
    tiny.env = {"CXX": str(compiler), "SOURCE_DATE_EPOCH": "1700000000", "TORCH_BUILD_FARM_CCACHE": "on"}
    return tiny


def compiled(farm: Farm) -> Counter[str]:
    """How often each source of the project was compiled since this was last asked."""
    log = farm.project.parent / "compiled"
    if not log.exists():
        return Counter()
    names = re.findall(r"/(\w+\.cpp)$", log.read_text(), re.MULTILINE)
    log.unlink()
    return Counter(name for name in names if (farm.project / name).exists())


def wheels(answer: Answer) -> dict[str, str]:
    assert answer.code == 0, answer.err
    return {job["job"]: job["wheel"]["sha256"] for job in answer.document["jobs"]}


def test_a_source_without_torch_is_compiled_once_for_all_minors(project: Farm) -> None:
    call = ("build", "--torch", "2.8", "2.9", "--json")
    built = wheels(project(*call))
    times = compiled(project)
    assert times.pop("torch.cpp") == 2
    assert set(times.values()) == {1}, times

    # What ccache had is what a compiler makes, in name spaces as without any.
    project.env["TORCH_BUILD_FARM_CCACHE"] = "off"
    assert wheels(project(*call, "--force")) == built
    assert set(compiled(project).values()) == {2}
    assert wheels(without_name_spaces(project, *call, "--force")) == built


def test_another_work_folder_has_the_same_results(project: Farm, tmp_path: Path) -> None:
    call = ("build", "--torch", "2.8", "--json")
    built = wheels(project(*call))
    assert compiled(project)["torch.cpp"] == 1
    project.work = tmp_path / "another"
    assert wheels(project(*call)) == built
    assert compiled(project) == {}


def without_name_spaces(farm: Farm, *words: str) -> Answer:
    """A call of the farm in a user name space that allows no further ones."""
    script = 'for kind in mnt net user; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh"]
    need(subprocess.run([*command, "true"], check=False).returncode == 0, "needs user name spaces")
    done = subprocess.run(
        [*command, *farm.command(*words)], env=farm.environment, capture_output=True, text=True, check=False
    )
    assert "builds can use the network" in done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)
