"""An extension with OpenMP: its runtime is grafted with leave, or left to torch's own."""

import pytest

from tests.conftest import Farm

pytestmark = pytest.mark.torch

SCRIPT = """
import torch

import tiny._core

runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "/libgomp" in line}
assert len(runtimes) == 1, runtimes
print(tiny._core.answer(), runtimes.pop().rpartition("site-packages/")[2])
"""


def test_openmp_is_left_to_torch(tiny: Farm) -> None:
    """The loader takes the libgomp that torch has loaded: they have the same SONAME."""
    tiny.edit(
        "CMakeLists.txt",
        "install(",
        "find_package(OpenMP REQUIRED)\ntarget_link_options(_core PRIVATE -Wl,--no-as-needed)\n"
        "target_link_libraries(_core PRIVATE OpenMP::OpenMP_CXX)\ninstall(",
    )
    (tiny.project / "smoke.py").write_text(SCRIPT)
    table = "[tool.torch-build-farm]"
    tiny.edit("pyproject.toml", table, f'{table}\nsmoke-script = "smoke.py"')
    refused = tiny("run", "--torch", "2.8", "--json")
    assert refused.code == 16, refused.err
    assert 'external-libraries = { "libgomp.so.1" = "torch" }' in refused.document["jobs"][0]["error"]["what"]

    tiny.edit("pyproject.toml", table, f'{table}\nexternal-libraries = {{ "libgomp.so.1" = "torch" }}')
    answer = tiny("run", "--torch", "2.8", "--json")
    assert answer.code == 0, answer.err
    (smoke,) = [stage for stage in answer.document["jobs"][0]["stages"] if stage["stage"] == "smoke"]
    assert "torch/lib/libgomp.so.1" in str(smoke)
