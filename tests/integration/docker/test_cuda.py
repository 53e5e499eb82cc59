"""Projects with CUDA sources, in an image that has no CUDA toolkit of its own."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tests.conftest import Farm
from tests.integration.docker.conftest import STAND_IN, Docker
from torch_build_farm.wheels.wheel import read_wheel


def test_a_kernel_for_cuda_13(make_farm: Callable[..., Farm], docker: Docker) -> None:
    """The toolkit comes as wheels of torch's own CUDA release; the wheel carries device code and no CUDA library."""
    farm = make_farm("cuda")
    farm.engine = "docker"
    answer = farm("run", "--torch", "2.13", "--json")
    assert answer.code == 0, answer.err
    details = answer.document["jobs"][0]["stages"][-1]["details"]
    assert "the kernel computes on" in details["script"] or "loads with CUDA 13" in details["script"]
    (path,) = farm.work.glob("dist/*.whl")
    wheel = read_wheel(path)
    (library,) = wheel.libraries
    with zipfile.ZipFile(path) as archive:
        sections = {section.name for section in ELFFile(io.BytesIO(archive.read(library.path))).iter_sections()}
    assert ".nv_fatbin" in sections
    assert not [member for member in wheel.members if "cudart" in member]
    assert not [path for path in library.run_paths if not path.startswith("$ORIGIN")]


SETUP = """
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CUDAExtension
setup(name="cuda-probe", version="1.0", packages=["cuda_probe"], package_dir={"": "src"},
      ext_modules=[CUDAExtension("cuda_probe._C", ["src/module.cpp", "src/scale.cu"], libraries=["cuda"])],
      cmdclass={"build_ext": BuildExtension})
"""


def test_setup_py_compiles_with_the_nvcc_of_an_image(make_farm: Callable[..., Farm], builder_image: str) -> None:
    """torch.utils.cpp_extension calls nvcc through the farm's launcher, which takes a thread for each architecture."""
    farm = make_farm("cuda")
    farm.engine = "docker"
    settings = farm.project / "pyproject.toml"
    settings.write_text("[tool.torch-build-farm]" + settings.read_text().partition("[tool.torch-build-farm]")[2])
    (farm.project / "setup.py").write_text(SETUP.replace(', libraries=["cuda"]', ""))
    answer = farm("run", "--torch", "2.8", "--base-image", builder_image, "--json")
    assert answer.code == 0, answer.err
    stages = {stage["stage"]: stage["details"] for stage in answer.document["jobs"][0]["stages"]}
    assert {"sm_80", "sm_90"} <= set(stages["repair"]["device-code"].split())
    (log,) = farm.work.glob("logs/*torch28*.log")
    assert "/.torch-build-farm/nvcc-with-tokens.sh " in log.read_text()


def test_a_kernel_that_setup_py_compiles(make_farm: Callable[..., Farm], docker: Docker) -> None:
    """torch.utils.cpp_extension finds the toolkit wheels in CUDA_HOME, with the names that it links by."""
    farm = make_farm("cuda")
    farm.engine = "docker"
    settings = farm.project / "pyproject.toml"
    settings.write_text("[tool.torch-build-farm]" + settings.read_text().partition("[tool.torch-build-farm]")[2])
    farm.edit("pyproject.toml", '["8.0", "9.0"]', '["9.0"]')  # each takes its time
    (farm.project / "setup.py").write_text(SETUP)
    # It calls the driver too, which the image does not have.
    farm.edit("src/module.cpp", "#include <cuda_runtime_api.h>", "#include <cuda.h>\n#include <cuda_runtime_api.h>")
    farm.edit("src/module.cpp", "  int version = 0;", "  int version = 0;\n  (void)cuDriverGetVersion(&version);")
    answer = farm("run", "--torch", "2.13", "--json")
    assert answer.code == 0, answer.err
    stages = {stage["stage"]: stage["details"] for stage in answer.document["jobs"][0]["stages"]}
    assert "sm_90" in stages["repair"]["device-code"].split()
    details = stages["smoke"]
    assert "the kernel computes on" in details["script"] or "loads with CUDA 13" in details["script"]
    assert "libcuda.so.1" in {name for path in farm.work.glob("dist/*.whl") for name in _needed(path)}
    assert ("stubs" in details) == ("loads with CUDA 13" in details["script"])
    if "stubs" in details:
        assert details["stubs"] == "libcuda.so.1"


def _needed(path: Path) -> set[str]:
    return {name for library in read_wheel(path).libraries for name in library.needed}


def test_cuda_12_without_an_nvcc_stops_before_anything_starts(make_farm: Callable[..., Farm], docker: Docker) -> None:
    farm = make_farm("cuda")
    farm.engine = "docker"
    answer = farm("run", "--torch", "2.8", "2.13", "--base-image", STAND_IN, "--json")
    assert (answer.code, answer.document["error"]["kind"]) == (20, "CudaToolkitError"), answer.err
    assert answer.document["error"]["what"].startswith("cuda-probe-torch28-")
    assert "need a toolkit of torch's CUDA 12" in answer.err
    assert "has no nvcc" in answer.err
    assert "--base-image" in answer.err
    assert not (farm.work / "jobs").exists()
