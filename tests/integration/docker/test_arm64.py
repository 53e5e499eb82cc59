"""Wheels for arm64 from containers on an x86-64 engine, whose kernel runs their programs under QEMU."""

import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm, need
from tests.integration.docker.conftest import STAND_IN, Docker, left_behind
from torch_build_farm.core import machine
from torch_build_farm.core.machine import ARM64, X86_64
from torch_build_farm.wheels.elf.headers import identify

ON_ARM64 = ("--torch", "2.10", "--platform", "aarch64", "--json")


@pytest.fixture(autouse=True)
def _x86_64_machine() -> None:
    need(machine.running() == X86_64, "needs an x86-64 machine, where arm64 is another platform")


def machines(wheel: Path) -> set[int]:
    """The machines of a wheel's libraries, as ELF files state them."""
    with zipfile.ZipFile(wheel) as archive:
        return {identify(archive.read(name)[:20]).machine for name in archive.namelist() if name.endswith(".so")}


@pytest.mark.torch
def test_a_wheel_for_arm64_is_built_and_tested(contained: Farm, arm64_image: str, docker: Docker) -> None:
    """With the real torch for arm64."""
    # torch's cpuinfo must not see this machine's processors, which torch 2.13 crashes on.
    commands = "['uname -m', 'test -z \"$(cat /sys/devices/system/cpu/possible)\"']"
    table = "[tool.torch-build-farm]"
    contained.edit("pyproject.toml", table, f"{table}\nbefore-build = {commands}")
    answer = contained("run", *ON_ARM64)
    assert answer.code == 0, answer.err
    assert f"image: {arm64_image}, made by ci/base-image, in place of cibuildwheel's manylinux_2_28" in answer.err
    (job,) = answer.document["jobs"]
    assert job["job"] == "tiny-torch210-cp311-aarch64"
    assert [stage["stage"] for stage in job["stages"]] == ["render", "build", "repair", "relocate", "audit", "smoke"]
    path = Path(job["wheel"]["path"])
    assert path.name.endswith("_aarch64.whl")
    assert machines(path) == {ARM64.elf_number}
    assert "aarch64\n" in contained.log(job["job"])
    assert left_behind(contained, docker) == []
    (again,) = contained("run", *ON_ARM64).document["jobs"]
    assert all(stage["kept"] for stage in again["stages"])


def test_one_run_builds_for_both_platforms(contained: Farm, arm64_image: str, docker: Docker) -> None:
    answer = contained("build", "--torch", "2.10", "--platform", "all", "--json")
    assert answer.code == 0, answer.err
    x86_64, arm64 = [Path(job["wheel"]["path"]) for job in answer.document["jobs"]]
    assert x86_64.name.endswith("_x86_64.whl")
    assert arm64.name.endswith("_aarch64.whl")
    assert (machines(x86_64), machines(arm64)) == ({X86_64.elf_number}, {ARM64.elf_number})
    assert left_behind(contained, docker) == []


def test_an_image_for_another_platform_is_refused_by_its_name(
    contained: Farm, arm64_image: str, docker: Docker
) -> None:
    for image, platform, has, lacks in (
        (STAND_IN, "aarch64", "amd64", "arm64"),
        (arm64_image, "x86_64", "arm64", "amd64"),
    ):
        answer = contained("build", "--torch", "2.10", "--platform", platform, "--base-image", image, "--json")
        assert (answer.code, answer.document["error"]["kind"]) == (19, "ImageError"), answer.err
        assert answer.document["error"]["what"].startswith(f"the image {image} is for {has}, and wheels for ")
        assert answer.document["error"]["what"].endswith(f"need one for {lacks}")
        assert f"ci/base-image --platform {platform}" in answer.document["error"]["next"]
    assert not list(contained.work.glob("jobs/*/raw"))


@pytest.fixture
def without_emulation(arm64_image: str, docker: Docker, tmp_path: Path) -> Iterator[str]:
    """An image for arm64 whose shell is for a machine that no kernel knows, as arm64 is to one without QEMU."""
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    program = identification + struct.pack("<HHIQQQIHHHHHH", 2, 0xFFFF, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0)
    (tmp_path / "program").write_bytes(program)
    (tmp_path / "program").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(f"FROM {arm64_image}\nCOPY program /usr/bin/dash\n")
    docker("build", "--platform=linux/arm64", "--tag=torch-build-farm-test:no-emulation", str(tmp_path))
    yield "torch-build-farm-test:no-emulation"
    docker("rmi", "torch-build-farm-test:no-emulation")


def test_an_engine_without_qemu_says_so_before_anything_is_built(contained: Farm, without_emulation: str) -> None:
    answer = contained("build", *ON_ARM64, "--base-image", without_emulation)
    assert (answer.code, answer.document["error"]["kind"]) == (18, "EngineError"), answer.err
    assert answer.document["error"]["what"] == (
        "the Docker engine runs no programs for arm64, which is not its own platform"
    )
    assert "exec format error" in answer.document["error"]["where"]
    assert without_emulation in answer.document["error"]["where"]
    assert "ci/qemu" in answer.document["error"]["next"]
    assert not list(contained.work.glob("jobs/*/raw"))


# In a user name space the kernel (6.7) has registrations of its own, none at first.
REGISTER = """
set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
cd /proc/sys/fs/binfmt_misc
"$1" && grep flags: qemu-aarch64
"$1"
echo -1 >qemu-aarch64
sed -n 's/:[A-Z]*$/:P/p' /usr/lib/binfmt.d/qemu-aarch64.conf >register
grep flags: qemu-aarch64 && "$1" && grep flags: qemu-aarch64
"""


def test_qemu_is_registered_once_and_so_that_containers_find_it(arm64_image: str) -> None:
    need(Path("/usr/lib/binfmt.d/qemu-aarch64.conf").exists(), "needs Debian's qemu-user-static: ci/qemu")
    sandbox = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    trial = subprocess.run([*sandbox, "mount -t binfmt_misc none /mnt"], capture_output=True, check=False)
    need(trial.returncode == 0, "needs Linux 6.7, where a user name space has registrations of its own")
    script = CHECKOUT / "ci" / "qemu"
    done = subprocess.run([*sandbox, REGISTER, "bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, flags, again, without, anew, flags_anew = done.stdout.splitlines()
    assert first == anew == "qemu: programs for aarch64 run"
    assert again == "qemu: programs for aarch64 run already"
    assert without == "flags: P"
    assert "F" in flags.removeprefix("flags: ")
    assert "F" in flags_anew.removeprefix("flags: ")
