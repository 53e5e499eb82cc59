"""The facts of torch for arm64, of which up to 2.10 there are CPU builds: wheels made here, on a server on loopback."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.made_up import Front, pure
from tests.stated_torch import of_size, torch_wheel
from torch_build_farm.core.errors import PackageIndexError, UnknownTorchError
from torch_build_farm.core.machine import ARM64, X86_64, Machine
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.project.variant import file_name, read_variants
from torch_build_farm.releases import facts, variant_file
from torch_build_farm.releases.listing import Listing

ONLY_X86_64 = 'platform_system == "Linux" and platform_machine == "x86_64"'
CUDA_12 = f"Requires-Dist: nvidia-cuda-runtime-cu12==12.8.90; {ONLY_X86_64}\n"
CUDA_14 = "Requires-Dist: cuda-toolkit[cudart]==14.0.1; platform_system == 'Linux'\nRequires-Dist: triton==4.0.0\n"
TOOLKIT = "".join(
    f"Provides-Extra: {extra}\nRequires-Dist: nvidia-cuda-{extra}==14.0.1; extra == '{extra}'\n"
    for extra in ("nvcc", "crt", "nvvm", "cccl", "cudart")
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageIndex]:
    """torch 2.16 for CPUs and 2.17 for CUDA on arm64, both for CUDA on x86-64; 2.18 for ROCm, 2.19 with a CUDA unknown."""
    folder = tmp_path_factory.mktemp("wheels")
    cpu, cuda_12, cuda_14 = (f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = None\n" for cuda in
                             ("None", "'12.8'", "'14.0'"))  # fmt: skip
    rocm = "cuda: Optional[str] = None\nhip: Optional[str] = '7.0'\n"
    wheels = [
        torch_wheel(folder, "2.16.0", ARM64, cpu, CUDA_12),
        torch_wheel(folder, "2.16.0", X86_64, cuda_12, CUDA_12),
        torch_wheel(folder, "2.17.0", ARM64, cuda_14, CUDA_14),
        torch_wheel(folder, "2.17.0", X86_64, cuda_14, CUDA_14),
        torch_wheel(folder, "2.18.0", ARM64, rocm, ""),
        torch_wheel(folder, "2.18.0", X86_64, cpu, ""),
        torch_wheel(folder, "2.19.0", ARM64, cuda_14, CUDA_12),
        pure(
            folder, "cuda-toolkit", "14.0.1", f"Metadata-Version: 2.1\nName: cuda-toolkit\nVersion: 14.0.1\n{TOOLKIT}"
        ),
        of_size(folder, "nvidia_cuda_cudart-14.0.1-py3-none-manylinux2014_x86_64.whl", 300_000_000),
        of_size(folder, "nvidia_cuda_cudart-14.0.1-py3-none-manylinux2014_aarch64.whl", 200_000_000),
        of_size(folder, "nvidia_cuda_cudart-14.0.1-py3-none-win_arm64.whl", 900_000_000),
        of_size(folder, "triton-4.0.0-cp312-cp312-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", 500_000_000),
    ]
    front = Front({path.name: path for path in wheels}, real="(?!)")
    yield PackageIndex(front.url)
    front.close()


def read(index: PackageIndex, minor: str, machine: Machine, *, sizes: bool = True) -> facts.Facts:
    return facts.read(Minor.parse(minor), Listing.read(index, machine=machine), index, sizes=sizes)


def values(read: facts.Facts) -> Mapping[str, Any]:
    return {key: fact.value for key, fact in read.facts.items()}


def test_a_torch_for_cpus_has_no_cuda_at_all(index: PackageIndex) -> None:
    stated = values(read(index, "2.16", ARM64))
    assert stated["platform"] == "aarch64"
    assert (stated["cuda"], stated["cuda-runtime"], stated["cuda-toolkit"]) == ("", "", ())
    assert (stated["torch-gb"], stated["cuda-runtime-gb"]) == (0.4, 0)
    assert not {"cuda-image", "cuda-architectures"} & set(stated)
    assert stated["image"] == "manylinux_2_28"


def test_a_torch_for_cuda_states_what_its_own_machine_gets(index: PackageIndex) -> None:
    stated = values(read(index, "2.17", ARM64))
    assert (stated["cuda"], stated["cuda-runtime"]) == ("14.0", "cuda-toolkit==14.0.1")
    assert stated["cuda-toolkit"] == ("cuda-toolkit[nvcc,crt,nvvm,cccl,cudart]==14.0.1",)
    assert stated["cuda-image"] == "pytorch/manylinuxaarch64-builder:cuda14.0"
    assert stated["cuda-architectures"] == ("8.0", "9.0", "11.0", "12.0+PTX")
    assert (stated["torch-gb"], stated["cuda-runtime-gb"]) == (0.9, 0.2)
    with pytest.raises(PackageIndexError, match=r"triton==4\.0\.0, of which the index has no wheel for x86-64 Linux"):
        read(index, "2.17", X86_64)


def test_the_facts_for_x86_64_beside_it_are_as_before(index: PackageIndex) -> None:
    stated = values(read(index, "2.16", X86_64, sizes=False))
    assert "platform" not in stated
    assert (stated["cuda"], stated["cuda-runtime"]) == ("12.8", "nvidia-cuda-runtime-cu12==12.8.90")
    assert stated["cuda-image"] == "pytorch/manylinux2_28-builder:cuda12.8"


@pytest.mark.parametrize(
    ("minor", "machine", "why"),
    [
        ("2.18", ARM64, "it is built without CUDA"),  # for ROCm
        ("2.18", X86_64, "it is built without CUDA"),
        ("2.19", ARM64, "requires no CUDA runtime for CUDA 14.0"),
    ],
)
def test_another_kind_of_torch_is_refused(index: PackageIndex, minor: str, machine: Machine, why: str) -> None:
    with pytest.raises(UnknownTorchError, match=why):
        read(index, minor, machine, sizes=False)


def test_an_index_without_torch_for_the_machine(index: PackageIndex) -> None:
    files = [file for file in index.files("torch") if not file.filename.endswith("_aarch64.whl")]
    with pytest.raises(UnknownTorchError, match="no torch for arm64 Linux"):
        facts.newest_usable_minor([Listing.of(files, machine=ARM64)])


@pytest.mark.parametrize("minor", ["2.16", "2.17"])
def test_the_file_that_is_written_is_a_variant_for_arm64(index: PackageIndex, minor: str, tmp_path: Path) -> None:
    listing = Listing.read(index, machine=ARM64)
    minor_facts = read(index, minor, ARM64)
    path = tmp_path / file_name(minor_facts.minor, ARM64)
    variant_file.edit(path, minor_facts, listing, "2026-12-01").write()
    text = path.read_text()
    assert text.startswith(f"# torch {minor} on arm64 Linux, ")
    assert all("#" in line for line in text.splitlines() if not line.startswith("torch ="))
    assert tomllib.loads(text)["platform"] == "aarch64"
    assert read_variants([tmp_path]) == {}, "it is none for x86-64"
    assert not variant_file.edit(path, minor_facts, listing, "2027-01-01").diff
