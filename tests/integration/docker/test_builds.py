"""Wheels built, repaired and tested in containers."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, Farm
from tests.integration.conftest import Built
from tests.integration.docker.conftest import STAND_IN, Docker, hold, left_behind, release
from tests.integration.test_bad_input import GRAFT, waiting
from tests.until import DEADLINE_S, until
from torch_build_farm.core.store import TorchStore, default_folder
from torch_build_farm.engines.docker import cibuildwheel_config
from torch_build_farm.pipeline import records
from torch_build_farm.wheels.wheel import read_wheel


class ContainedRun(Built):
    """`python build_farm.py --torch 2.8 2.9` with the engine that answers, and what the engine tells of it."""

    def __init__(self, farm: Farm) -> None:
        command = ["docker", "events", "--format", "{{json .}}", "--filter", "type=container",
                   "--filter", "label=torch-build-farm.job", "--filter", "event=start", "--filter", "event=die",
                   "--since", f"{time.time():.6f}"]  # fmt: skip
        last = ["docker", "run", "--rm", "--network=none", "--label=torch-build-farm.job=last", STAND_IN, "true"]
        self.events: list[Any] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stream:
            super().__init__(farm)
            # The engine reports in order: when a container of the test's own has come, those of the run have.
            subprocess.run(last, check=True)
            assert stream.stdout is not None
            for line in stream.stdout:
                event = json.loads(line)
                if event["Actor"]["Attributes"]["torch-build-farm.job"] == "last":
                    break
                self.events.append(event)
            stream.terminate()

    def life(self, torch: str) -> tuple[int, int]:
        """When the container that built for a torch minor started and died, in nanoseconds."""
        times = [
            event["timeNano"]
            for event in self.events
            if event["Actor"]["Attributes"]["name"].startswith("cibuildwheel-")
            and f"-torch{torch.replace('.', '')}-" in event["Actor"]["Attributes"]["torch-build-farm.job"]
            and event["Action"] in ("start", "die")
        ]
        assert len(times) == 2, times
        return times[0], times[1]


@pytest.fixture(scope="module")
def main_in_docker(tmp_path_factory: pytest.TempPathFactory, docker: Docker) -> ContainedRun:
    return ContainedRun(Farm(CHECKOUT, tmp_path_factory.mktemp("docker") / "work", engine="auto"))


def test_an_engine_that_answers_builds_both_at_the_same_time(main_in_docker: ContainedRun) -> None:
    run = main_in_docker
    assert run.answer.code == 0, run.answer.err
    assert "engine: docker " in run.answer.err
    assert [job["status"] for job in run.answer.document["jobs"]] == ["done", "done"]
    (start8, end8), (start9, end9) = run.life("2.8"), run.life("2.9")
    assert max(start8, start9) < min(end8, end9), "the containers were not alive at the same time"


def test_the_wheels_are_tested_and_carry_no_torch(main_in_docker: ContainedRun) -> None:
    for torch in ("2.8", "2.9"):
        details = main_in_docker.job(torch)["stages"][-1]["details"]
        assert details["torch"].startswith(f"{torch}.")
        assert "values and gradients agree on cpu" in details["script"]
        wheel = read_wheel(main_in_docker.wheel(torch))
        assert "manylinux" in wheel.platform
        assert not [member for member in wheel.members if "libtorch" in member or "libc10" in member]


def test_all_builds_share_one_jobserver(main_in_docker: ContainedRun) -> None:
    fifos = set()
    for torch in ("2.8", "2.9"):
        log = Path(main_in_docker.job(torch)["log"]).read_text()
        (line,) = [line for line in log.splitlines() if "Jobserver mode detected" in line]
        fifos.add(line.split("fifo:")[1])
    assert len(fifos) == 1


def test_cpp_alone_needs_no_nvcc(main_in_docker: ContainedRun, docker: Docker) -> None:
    """The image that built them has none."""
    job = main_in_docker.farm.work / "jobs" / main_in_docker.job("2.8")["job"]
    record = records.read(records.path_of(job, "build"))
    assert record is not None
    image = record.tools["image"]
    find = "command -v nvcc || ls -d /usr/local/cuda* || find / -xdev -name 'nvcc*' -o -name 'libcudart*' | grep ."
    assert (
        docker("run", "--rm", "--network=none", image, "sh", "-c", f"{{ {find}; }} 2>/dev/null || echo none") == "none"
    )


def test_a_second_run_starts_no_container(main_in_docker: ContainedRun) -> None:
    again = ContainedRun(main_in_docker.farm)
    assert again.answer.code == 0
    assert [job["status"] for job in again.answer.document["jobs"]] == ["kept", "kept"]
    assert again.events == []


def test_how_a_container_is_confined(contained: Farm, docker: Docker) -> None:
    hold(contained)
    volumes = docker.volumes()
    run = contained.start("build", "--torch", "2.8")
    until(lambda: waiting(contained))
    container = docker.of_job("tiny-torch28-cp311")
    facts = docker.inspect(container)
    release(docker, container)
    out, _ = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, out
    host = facts["HostConfig"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert not host["Privileged"]
    assert host["NetworkMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    # Engines write them with and without their prefix.
    assert {name.removeprefix("CAP_") for name in host["CapAdd"]} == {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
    assert 0 < host["Memory"] < 24e9
    assert host["MemorySwap"] == host["Memory"]
    assert host["PidsLimit"] > 0
    mounts = {mount["Destination"]: mount["RW"] for mount in facts["Mounts"]}
    job = TorchStore.at(default_folder(), contained.work).environment("tiny-torch28-cp311")
    writable = {place for place, may_write in mounts.items() if may_write}
    # The environment is the lower layer of an overlay; the others are the job's own.
    assert writable == {f"{job}-build", f"{job}-notes", cibuildwheel_config.BUILD}
    read_only = sorted(set(mounts) - writable)
    assert len(read_only) == 2, read_only
    assert read_only[0] == str(job.with_name("jobserver"))
    assert read_only[1].startswith(f"{default_folder().resolve()}/sdk/")
    assert not [text for text in facts["Config"]["Env"] if text.startswith(("UV_CONFIG_FILE", "SSL_CERT_FILE"))]
    assert left_behind(contained, docker) == []
    assert docker.volumes() == volumes


def test_torch_in_a_container_is_the_stores_by_hard_link(contained: Farm) -> None:
    contained.edit("CMakeLists.txt", "install(", 'file(GLOB torch "$ENV{CMAKE_PREFIX_PATH}/lib/libtorch_cpu.so")\n'
                   'execute_process(COMMAND stat -c "links %h" ${torch} COMMAND_ERROR_IS_FATAL ANY)\ninstall(')  # fmt: skip
    assert contained("build", "--torch", "2.8").code == 0
    (line,) = [line for line in contained.log("tiny-torch28-cp311").splitlines() if line.startswith("links ")]
    assert int(line.split()[1]) >= 2


def test_system_packages_are_in_the_image_and_grafts_are_judged(contained: Farm, docker: Docker) -> None:
    """liblzma-dev is in no base image; auditwheel grafts liblzma there where it lies; and without leave that fails."""
    contained.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\nsystem-packages.apt = ['liblzma-dev']")  # fmt: skip
    contained.edit("CMakeLists.txt", "install(", GRAFT)
    answer = contained("build", "--torch", "2.8", "--json")
    assert answer.code == 16, answer.err
    assert "was grafted from the build machine" in answer.err
    contained.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\ngrafted-libraries = ['liblzma.so*']")  # fmt: skip
    answer = contained("run", "--torch", "2.8", "--smoke", "import", "--json")
    assert answer.code == 0, answer.err
    assert [stage["kept"] for stage in answer.document["jobs"][0]["stages"]] == [True, True, False, False, False, False]
    (path,) = contained.work.glob("dist/*.whl")
    assert any(".libs/liblzma" in member for member in read_wheel(path).members)


def test_an_external_library_is_left_out_where_auditwheel_finds_it(contained: Farm) -> None:
    """auditwheel runs within the build there, so the setting is an input of the build; a change of it builds anew."""
    table = "[tool.torch-build-farm]"
    contained.edit("pyproject.toml", table, f"{table}\nsystem-packages.apt = ['liblzma-dev']")
    run_path = f"{GRAFT.removesuffix('install(')}set_target_properties(_core PROPERTIES INSTALL_RPATH /usr/lib/demo)\n"
    contained.edit("CMakeLists.txt", "install(", f"{run_path}install(")
    contained.edit("pyproject.toml", table, f"{table}\nexternal-libraries = {{ 'liblzma.so*' = 'system' }}")
    refused = contained("build", "--torch", "2.8", "--json")
    assert refused.code == 16, refused.err
    assert "RUNPATH entry /usr/lib/demo" in refused.err
    assert "grafted" not in refused.err

    contained.edit("CMakeLists.txt", "set_target_properties(_core PROPERTIES INSTALL_RPATH /usr/lib/demo)", "")
    answer = contained("build", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    (path,) = contained.work.glob("dist/*.whl")
    (library,) = read_wheel(path).libraries
    assert "liblzma.so.5" in library.needed
    (audit,) = [stage for stage in answer.document["jobs"][0]["stages"] if stage["stage"] == "audit"]
    assert "2.8.0=ENV" in audit["details"]["releases"]


def test_system_packages_of_another_package_manager_alone(contained: Farm) -> None:
    contained.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\nsystem-packages.dnf = ['xz-devel']")  # fmt: skip
    answer = contained("build", "--torch", "2.8", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (19, "ImageError"), answer.err
    assert "system-packages names none for apt" in Path(answer.document["error"]["where"]).read_text()


def test_every_python_of_the_image(contained: Farm) -> None:
    """3.9, whose front end knows no --env-dir, too."""
    planned = contained("plan", "--torch", "2.8", "--python", "all", "--json").document["include"]
    pythons = [job["python"] for job in planned]
    answer = contained("run", "--torch", "2.8", "--python", pythons[0], pythons[-1], "--smoke", "import", "--json")
    assert answer.code == 0, answer.err
    assert [job["status"] for job in answer.document["jobs"]] == ["done"] * len({pythons[0], pythons[-1]})


def test_the_projects_environment_reaches_the_compiler_as_it_stands(contained: Farm) -> None:
    """Values that a shell would take apart: cibuildwheel evaluates its own `environment` option."""
    contained.edit("core.cpp", "name ? 0 : 42", "name ? 0 : FROM_ENVIRONMENT + FROM_DEFINE")
    check = (
        'if(NOT "$ENV{ODD}" STREQUAL "a $HOME `b` \\"c\\" {project}")\n  message(FATAL_ERROR "$ENV{ODD}")\nendif()\n'
    )
    contained.edit("CMakeLists.txt", "install(", f"{check}target_compile_definitions(_core PRIVATE FROM_DEFINE=${{ONE_MORE}})\ninstall(")  # fmt: skip
    contained.edit(
        "pyproject.toml",
        "[tool.torch-build-farm]",
        """[tool.torch-build-farm]
environment = { CXXFLAGS = "-DFROM_ENVIRONMENT=40", ODD = 'a $HOME `b` "c" {project}' }
cmake-defines = { ONE_MORE = "2" }
before-build = ["echo before in {project}", "test -f pyproject.toml"]
smoke-script = "tests/smoke.py"
test-requires = ["pytest"]
test-command = ["pytest -q {project}/tests", "ls"]""",
    )
    (contained.project / "tests").mkdir()
    (contained.project / "tests" / "data.txt").write_text("42")
    (contained.project / "tests" / "smoke.py").write_text(
        "from pathlib import Path\nimport tiny\n"
        "assert tiny.answer() == int((Path(__file__).parent / 'data.txt').read_text())\nprint('forty-two')\n"
    )
    (contained.project / "tests" / "test_answer.py").write_text(
        "import tiny\n\ndef test_answer():\n    assert tiny.answer() == 42\n"
    )
    answer = contained("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    smoke = answer.document["jobs"][0]["stages"][-1]["details"]
    assert smoke["script"] == "forty-two"
    assert re.fullmatch(r"1 passed in [\d.]+s; passed", smoke["tests"])
    assert "before in {project}" in contained.log("tiny-torch28-cp311")


def test_a_projects_own_cibuildwheel_settings_do_not_interfere(contained: Farm) -> None:
    contained.edit("pyproject.toml", "[tool.torch-build-farm]",
                   '[tool.cibuildwheel]\nbuild = "cp27-*"\ntest-command = "false"\nbefore-all = "false"\n\n[tool.torch-build-farm]')  # fmt: skip
    answer = contained("build", "--torch", "2.8")
    assert answer.code == 0, answer.err


def test_a_build_that_leaves_two_wheels(contained: Farm, docker: Docker) -> None:
    command = "mkdir -p /output && touch /output/other-1.0-py3-none-any.whl"
    contained.edit(
        "pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['{command}']"
    )
    answer = contained("build", "--torch", "2.8", "--json")
    assert answer.code == 13, answer.err
    assert "the build left 2 wheels where one is expected: other-1.0-py3-none-any.whl, tiny_" in answer.err
    assert left_behind(contained, docker) == []


def test_both_engines_know_their_own_wheels(contained: Farm, docker: Docker) -> None:
    assert contained("build", "--torch", "2.8").code == 0
    other = contained("build", "--torch", "2.8", "--engine", "local", "--json")
    assert [stage["kept"] for stage in other.document["jobs"][0]["stages"]][:2] == [True, False]


@pytest.fixture
def image_of(docker: Docker, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Make an image from Dockerfile lines over the base image; gone afterwards."""
    made: list[str] = []

    def make(lines: str) -> str:
        tag = f"torch-build-farm-test:{len(made)}-{time.time_ns()}"
        (tmp_path / "Dockerfile").write_text(f"FROM torch-build-farm-base:latest\n{lines}\n")
        docker("build", "--quiet", "--tag", tag, "--file", str(tmp_path / "Dockerfile"), str(tmp_path))
        made.append(tag)
        return tag

    yield make
    for tag in made:
        docker("rmi", "--force", tag)


def test_a_base_image_of_ones_own(contained: Farm, image_of: Callable[[str], str]) -> None:
    lacking = image_of('RUN rm -f "$(readlink -f "$(command -v auditwheel)")" "$(command -v auditwheel)"')
    answer = contained("build", "--torch", "2.8", "--base-image", lacking, "--json")
    assert answer.code == 19, answer.err
    assert "lacks auditwheel" in answer.err
    assert not list(contained.work.glob("jobs/*/raw/*"))
    marked = image_of("ENV OF_THE_IMAGE=yes")
    contained.edit("CMakeLists.txt", "install(", 'message(STATUS "marked $ENV{OF_THE_IMAGE}")\ninstall(')
    assert contained("build", "--torch", "2.8", "--base-image", marked).code == 0
    assert "marked yes" in contained.log("tiny-torch28-cp311")


def test_doctor_knows_the_engine(contained: Farm, docker: Docker) -> None:
    answer = contained("doctor", "--json")
    found = {finding["subject"]: finding for finding in answer.document["findings"]}
    assert found["Docker engine"]["state"] == "ok"
    assert "torch-build-farm-base" in found["container image"]["found"]


def test_a_build_has_no_network(make_farm: Callable[..., Farm], docker: Docker) -> None:
    """No interface but the loopback; what the build required was there before. A setting gives the network back."""
    farm = make_farm("tiny")
    farm.engine = "docker"
    alone = "test $(grep -c : /proc/net/dev) = 1"
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", f"[tool.torch-build-farm]\nbefore-build = ['{alone}']")
    answer = farm("build", "--torch", "2.9")
    assert answer.code == 0, answer.err + answer.out

    farm.edit("pyproject.toml", alone, f"! {alone}")
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\nnetwork = true")
    answer = farm("build", "--torch", "2.9")
    assert answer.code == 0, answer.err + answer.out


def test_a_build_that_downloads_is_told_how(make_farm: Callable[..., Farm], docker: Docker) -> None:
    farm = make_farm("tiny")
    farm.engine = "docker"
    path = farm.project / "CMakeLists.txt"
    path.write_text(
        path.read_text()
        + "file(DOWNLOAD http://example.org/x ${CMAKE_BINARY_DIR}/x STATUS s)\nmessage(FATAL_ERROR ${s})\n"
    )
    answer = farm("build", "--torch", "2.9", "--json")
    assert answer.code == 13, answer.err
    assert "tries to download something, and builds have no network" in answer.err
    assert "network = true" in answer.err


def results() -> set[Path]:
    """What ccache keeps, a file a compile."""
    return set((default_folder() / "ccache").rglob("*R"))


def test_ccache_shares_what_has_no_torch_in_it(make_farm: Callable[..., Farm], docker: Docker) -> None:
    """One compile for two minors; the same wheels as without it."""
    farm = make_farm("tiny", TORCH_BUILD_FARM_CCACHE="on", SOURCE_DATE_EPOCH="1700000000")
    farm.engine = "docker"
    text = f'extern "C" int made_{time.time_ns()}() {{ return 1; }}\n'  # that no earlier run has compiled
    (farm.project / "core.cpp").write_text((farm.project / "core.cpp").read_text() + text)
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", "[tool.torch-build-farm]\nsystem-packages.apt = ['ccache']")
    compiled: list[int] = []
    shared: dict[str, str] = {}
    for minor in ("2.8", "2.9"):
        before = results()
        answer = farm("build", "--torch", minor, "--json")
        assert answer.code == 0, answer.err
        compiled.append(len(results() - before))
        shared |= {job["job"]: job["wheel"]["sha256"] for job in answer.document["jobs"]}
    assert compiled[1] == compiled[0] - 1, "CMake tries the compilers in folders of random names; core.cpp was there"
    farm.env["TORCH_BUILD_FARM_CCACHE"] = "off"
    again = farm("build", "--torch", "2.8", "2.9", "--force", "--json")
    assert {job["job"]: job["wheel"]["sha256"] for job in again.document["jobs"]} == shared
