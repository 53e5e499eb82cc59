"""C++-only projects need no CUDA toolkit, and none that happens to lie on the machine breaks them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Farm
from torch_build_farm.wheels.wheel import read_wheel

pytestmark = pytest.mark.torch

# In a mount name space of its own: an empty folder over every CUDA installation, a text file over every nvcc.
HIDE = """
set -e
for folder in /usr/local/cuda*; do [ -d "$folder" ] && mount -t tmpfs none "$(readlink -f "$folder")"; done
for nvcc in $(which -a nvcc || true); do mount --bind /etc/hostname "$(readlink -f "$nvcc")"; done
if nvcc --version; then exit 91; fi
for name in nvcc libcudart.so libnvrtc.so cuda_runtime.h; do
  if find /usr /opt -name "$name" -size +1 2>/dev/null | grep .; then exit 92; fi
done
exec "$@"
"""


def needed(farm: Farm) -> set[str]:
    wheels = [read_wheel(path) for path in farm.work.glob("dist/*.whl")]
    return {name for wheel in wheels for library in wheel.libraries for name in library.needed}


def test_where_no_toolkit_is(make_farm: Callable[..., Farm], root: None) -> None:
    farm = make_farm("probe")
    command = ["unshare", "-m", "bash", "-c", HIDE, "bash", *farm.command("build", "--torch", "2.9")]
    done = subprocess.run(command, capture_output=True, text=True, env=farm.environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("torch", ["2.8", "2.15"])
def test_where_a_toolkit_is_or_pretends_to_be(make_farm: Callable[..., Farm], tmp_path: Path, torch: str) -> None:
    """A CUDA_HOME of nonsense, and an nvcc first on PATH that fails: neither is asked."""
    fake = tmp_path / "cuda"
    (fake / "bin").mkdir(parents=True)
    (fake / "bin" / "nvcc").write_text("#!/bin/sh\necho broken toolkit >&2\nexit 1\n")
    (fake / "bin" / "nvcc").chmod(0o755)
    path = f"{fake / 'bin'}{os.pathsep}{os.environ['PATH']}"
    farm = make_farm("probe", CUDA_HOME=str(fake), CUDA_PATH=str(fake), CUDACXX=str(fake / "bin" / "nvcc"), PATH=path)
    answer = farm("build", "--torch", torch)
    assert answer.code == 0, answer.err + answer.out
    (log,) = farm.work.glob("logs/*.log")
    assert "broken toolkit" not in log.read_text()


def test_a_setup_py_that_looks_for_nvcc(make_farm: Callable[..., Farm], tmp_path: Path) -> None:
    """It would compile device code wherever it finds one, so that the wheel depended on the machine."""
    (tmp_path / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "nvcc").chmod(0o755)
    farm = make_farm("scripted", PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    farm.edit("setup.py", "# imports of a test", "import shutil\nassert not shutil.which('nvcc'), shutil.which('nvcc')")
    answer = farm("build", "--torch", "2.9", "--json")
    assert answer.code == 0, answer.err


def test_torch_libraries_tie_a_wheel_to_a_cuda_torch(make_farm: Callable[..., Farm]) -> None:
    """Plain ${TORCH_LIBRARIES} needs a CUDA torch; where "any" torch is promised, find_package(Torch) offers no CUDA."""
    farm = make_farm("probe")
    answer = farm("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    assert "libtorch_cuda.so" in needed(farm)
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\ntorch-flavours = "any"')
    check = 'if("${TORCH_LIBRARIES}" MATCHES "cuda")\n  message(FATAL_ERROR "${TORCH_LIBRARIES}")\nendif()\n'
    farm.edit("CMakeLists.txt", "install(", f"{check}install(")
    answer = farm("build", "--torch", "2.8", "2.15", "--json")
    assert answer.code == 0, answer.err
    assert {"libtorch_cuda.so", "libc10_cuda.so"}.isdisjoint(needed(farm))
    assert "libtorch_cpu.so" in needed(farm)

    # What asks for it by itself is refused.
    own = (
        "find_library(OWN torch_cuda PATHS ${TORCH_INSTALL_PREFIX}/lib REQUIRED)\n"
        "target_link_libraries(_core PRIVATE -Wl,--no-as-needed ${OWN})\n"
    )
    farm.edit("CMakeLists.txt", "install(", f"{own}install(")
    answer = farm("build", "--torch", "2.8", "--json")
    assert answer.code == 16
    assert "needs libtorch_cuda.so, which a CPU torch does not have" in answer.err


def test_cuda_sources_want_the_toolkit_of_torchs_major(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm("probe")
    farm.edit("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\ncuda-arch-list = ["8.0", "9.0"]')
    bin_folder = Path(farm.project) / "bin"
    bin_folder.mkdir()
    nvcc = bin_folder / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    farm.env |= {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    farm.env["CUDA_HOME"] = ""
    answer = farm("build", "--torch", "2.8")
    assert answer.code == 20
    assert "need a toolkit of torch's CUDA 12" in answer.err
    assert "nvcc is CUDA 11" in answer.err
