"""The embedded project's CUDA kernel on a machine without a GPU: its source, compiled as C++, run one thread after another.

What CUDA brings is replaced by the few lines of SHIM; indices, sums, shapes and autograd are the kernel's own. That it
compiles as CUDA is for the tests of containers (tests/integration/docker/test_cuda.py), and how it runs on a GPU for the
project's smoke test.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm

pytestmark = pytest.mark.torch

SHIM = """
#define __global__
#define __device__
#define C10_CUDA_KERNEL_LAUNCH_CHECK()

namespace c10::cuda {
struct CUDAGuard {
  explicit CUDAGuard(Device) {}
};
int getCurrentCUDAStream() {
  return 0;
}
} // namespace c10::cuda

struct Index {
  int64_t x;
};
Index blockIdx, blockDim, threadIdx, gridDim;

template <typename scalar_t>
void gpuAtomicAddNoReturn(scalar_t* to, scalar_t value) {
  *to += value;
}

template <typename Kernel, typename... Arguments>
void run_each_thread(int64_t blocks, int64_t threads, Kernel kernel, const Arguments&... arguments) {
  gridDim.x = blocks;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) {
      kernel(arguments...);
    }
  }
}
"""

SETTINGS = """
[tool.torch-build-farm]
name = "pymomentum-gpu"
packages = ["pymomentum"]
imports = ["pymomentum.geometry"]
smoke-script = "smoke.py"
"""


def as_cpp(source: str) -> str:
    """The kernel's source, with launches that run each thread."""
    source = re.sub(r"#include <(ATen/cuda|c10/cuda)/.*>\n", "", source)
    source = source.replace("\nnamespace momentum {", f"{SHIM}\nnamespace momentum {{", 1)
    launch = r"(\w+<scalar_t>)<<<(.*), kThreads, 0, stream>>>\("
    source, launches = re.subn(launch, r"run_each_thread(\2, kThreads, \1,", source)
    assert launches == 3
    # 32 threads in all, each of which takes several of the smoke test's items.
    for cuda, plain in (("skin.is_cuda()", "skin.is_cpu()"), ("kThreads = 256", "kThreads = 16"), ("65536", "2")):
        assert cuda in source
        source = source.replace(cuda, plain)
    return source


def test_the_kernel_computes_what_torchs_operators_do(tmp_path: Path) -> None:
    farm = Farm(tmp_path / "project", tmp_path / "work")
    shutil.copytree(CHECKOUT / "examples" / "pymomentum", farm.project)
    with (farm.project / "pyproject.toml").open("a") as settings:
        settings.write(SETTINGS)
    kernel = farm.project / "cpp" / "skinning.cu"
    kernel.with_name("kernel.cpp").write_text(as_cpp(kernel.read_text()))
    farm.edit("CMakeLists.txt", "cpp/skinning.cpp cpp/ik.cpp)", "cpp/skinning.cpp cpp/kernel.cpp cpp/ik.cpp)")
    farm.edit("CMakeLists.txt", "PUBLIC AT_PER_OPERATOR_HEADERS", "PUBLIC AT_PER_OPERATOR_HEADERS PYMOMENTUM_CUDA")
    # Some of its names are those of skinning.cpp.
    alone = "set_source_files_properties(cpp/kernel.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)"
    farm.edit("CMakeLists.txt", "foreach(module", f"{alone}\nforeach(module")
    farm.edit("cpp/skinning.cpp", "skin.is_cuda()", "skin.is_cpu()")
    farm.edit("smoke.py", 'geometry.has_cuda and device.type == "cuda"', "geometry.has_cuda")
    answer = farm("run", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err
    details = answer.document["jobs"][0]["stages"][-1]["details"]
    assert "no GPU is here, so the CUDA kernel did not run" in details["script"]
