"""The CUDA kernel of the embedded project, in the images that its variants' CUDA takes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, Farm, need
from tests.integration.docker.conftest import Docker, PrivateEngine, Registry
from torch_build_farm.wheels.wheel import read_wheel

SETTINGS = """
[tool.torch-build-farm]
name = "pymomentum-gpu"
packages = ["pymomentum"]
imports = ["pymomentum", "pymomentum.geometry", "pymomentum.solver"]
smoke-script = "smoke.py"
torch-flavours = "cuda"
cuda-arch-list = ["8.0", "9.0+PTX"]
cmake-defines = { PYMOMENTUM_CUDA = "ON" }
"""


@pytest.fixture
def with_kernel(tmp_path: Path, docker: Docker) -> Farm:
    """The embedded project, with what its README says switches the kernel on."""
    farm = Farm(tmp_path / "project", tmp_path / "work", engine="docker")
    shutil.copytree(CHECKOUT / "examples" / "pymomentum", farm.project)
    with (farm.project / "pyproject.toml").open("a") as settings:
        settings.write(SETTINGS)
    return farm


def stages_of(farm: Farm, *words: str) -> dict[str, Any]:
    """The details of each stage of the one job that a run has."""
    answer = farm("run", *words, "--json", timeout=1800)
    assert answer.code == 0, answer.err
    (job,) = answer.document["jobs"]
    return {stage["stage"]: stage["details"] for stage in job["stages"]}


def check_kernel(farm: Farm, stages: dict[str, Any]) -> None:
    """The wheel has the kernel for the architectures of the list, in the library that uses it, and no CUDA library."""
    assert stages["repair"]["device-code"] == "compute_90 sm_80 sm_90"
    assert "values and gradients agree on cpu" in stages["smoke"]["script"]
    ran = "with the CUDA kernel", "no GPU is here, so the CUDA kernel did not run"
    assert stages["smoke"]["script"].endswith(ran)
    (path,) = farm.work.glob("dist/*.whl")
    wheel = read_wheel(path)
    needed = {Path(library.path).name.partition(".")[0]: set(library.needed) for library in wheel.libraries}
    assert "libc10_cuda.so" in needed["geometry"]
    assert "libc10_cuda.so" not in needed["solver"]
    assert not [member for member in wheel.members if "cudart" in member or ".libs/" in member]
    assert not [path for library in wheel.libraries for path in library.run_paths if not path.startswith("$ORIGIN")]


def test_the_kernel_for_cuda_13(with_kernel: Farm) -> None:
    check_kernel(with_kernel, stages_of(with_kernel, "--torch", "2.15"))


# At the end of the project's CMakeLists.txt and of its smoke test.
IN_BUILD = """
foreach(name uv cmake ninja python3 nvcc c++)
  find_program(found_${name} ${name} NO_PACKAGE_ROOT_PATH NO_CMAKE_PATH)
  message(STATUS "found ${name} at ${found_${name}}")
endforeach()
message(STATUS "runs ${CMAKE_COMMAND}, ${CMAKE_CXX_COMPILER}, ${CMAKE_CUDA_COMPILER}, ${Python_EXECUTABLE}")
"""
IN_SMOKE_TEST = """
with open("/proc/self/maps") as lines:
    mapped = {line.split()[-1] for line in lines}
of_image = [path for path in mapped if path.startswith(("/usr/local/cuda", "/opt/rh", "/opt/conda", "/opt/_internal/tools"))]
assert not of_image, of_image
"""


def test_the_kernel_in_a_builder_image(with_kernel: Farm, builder_image: str) -> None:
    """The image's nvcc and compiler build the wheel, and nothing else of the image comes near it."""
    with (with_kernel.project / "CMakeLists.txt").open("a") as script:
        script.write(IN_BUILD)
    with_kernel.edit("smoke.py", 'if __name__ == "__main__":', f'{IN_SMOKE_TEST}\nif __name__ == "__main__":')
    check_kernel(with_kernel, stages_of(with_kernel, "--torch", "2.8", "--base-image", builder_image))

    log = with_kernel.log("pymomentum-gpu-torch28-cp311")
    for name in ("uv", "cmake", "ninja"):
        assert f"found {name} at /opt/torch-build-farm/bin/{name}\n" in log
    assert "found nvcc at /usr/local/cuda/bin/nvcc\n" in log
    assert "found c++ at /opt/rh/gcc-toolset-13/root/usr/bin/c++\n" in log
    (programs,) = [line for line in log.splitlines() if line.startswith("-- runs ")]
    cmake, compiler, nvcc, python = programs.removeprefix("-- runs ").split(", ")
    assert cmake == "/opt/torch-build-farm/bin/cmake"
    assert compiler == "/opt/rh/gcc-toolset-13/root/usr/bin/g++"
    assert nvcc == "/usr/local/cuda/bin/nvcc"
    assert python.endswith("-build/env/bin/python")
    # What installs has the caller's certificates, not the image's.
    assert "--env=SSL_CERT_FILE=/etc/torch-build-farm/certificates.pem" in log


BY_DEFAULT = "pytorch/manylinux2_28-builder:cuda12.8"
# For an engine that reaches the registry of the test alone, also where the public one answers.
NOWHERE_ELSE = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}


def test_the_default_image_of_cuda_12_is_pulled_by_its_name(
    make_farm: Callable[..., Farm],
    builder_image: str,
    docker: Docker,
    registry: Registry,
    private_engine: PrivateEngine,
) -> None:
    """Nothing is configured. Where no registry has the image, the error names it; where one has, the wheel is built."""
    farm = make_farm("cuda")
    farm.engine = "docker"
    farm.edit("pyproject.toml", '["8.0", "9.0"]', '["9.0"]')
    private_engine.start("--registry-mirror", f"http://{registry.address}", env=NOWHERE_ELSE)
    farm.env["DOCKER_HOST"] = private_engine.host

    answer = farm("build", "--torch", "2.8", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (19, "ImageError"), answer.err
    assert f"the image {BY_DEFAULT} cannot be pulled" in answer.document["error"]["what"]

    registry.take(docker, builder_image, BY_DEFAULT)
    # `add` learns from that registry, by the engine, which image the tag means now.
    added = farm("add", "2.8", "--dry-run")
    assert added.code == 0, added.err
    assert f'+cuda-image = "{BY_DEFAULT}@sha256:' in added.out
    answer = farm("build", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    assert f"pulling {BY_DEFAULT}" in answer.err
    (job,) = answer.document["jobs"]
    stages = {stage["stage"]: stage["details"] for stage in job["stages"]}
    assert stages["repair"]["device-code"] == "sm_90"
    pulled = private_engine.docker("images", "--no-trunc", "--quiet", BY_DEFAULT)
    assert pulled == docker("images", "--no-trunc", "--quiet", builder_image)
    layers = private_engine.docker("images", "--quiet", "torch-build-farm").split()
    private_engine.docker("rmi", "--force", *layers, BY_DEFAULT)  # gigabytes


def test_the_image_made_here_stands_in_where_no_registry_answers(
    make_farm: Callable[..., Farm], builder_image: str, docker: Docker
) -> None:
    """As that of ci/base-image does for the pinned ones; what it cannot compile for is refused before the build."""
    need(not docker("images", "--quiet", BY_DEFAULT), f"needs an engine without {BY_DEFAULT} itself")
    farm = make_farm("cuda")
    farm.engine = "docker"
    farm.edit("pyproject.toml", '["8.0", "9.0"]', '"torch"')
    answer = farm("build", "--torch", "2.8", "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (20, "CudaToolkitError"), answer.err
    assert "nvcc 12.4 does not compile for 10.0, 12.0+PTX of cuda-arch-list" in answer.err
    assert builder_image in answer.err
