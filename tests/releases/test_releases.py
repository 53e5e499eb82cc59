"""What an index lists of torch, beside variants: pure, on listings made here; and facts, read from a server on loopback."""

from __future__ import annotations

import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from pypi_simple import DistributionPackage

from tests.made_up import Front
from torch_build_farm.core.errors import ConfigError, PackageIndexError, UnknownTorchError
from torch_build_farm.core.machine import ARM64
from torch_build_farm.core.package_index import PackageIndex
from torch_build_farm.core.versions import Minor
from torch_build_farm.project.tables import read_table
from torch_build_farm.project.variant import Variant
from torch_build_farm.releases import discovery, facts, variant_file
from torch_build_farm.releases.discovery import Status
from torch_build_farm.releases.listing import Listing, flavours

LINUX = "manylinux_2_28_x86_64"
# As in libtorch_python.so of 2.8: a text that ends without NUL before the list, and an error message with one word.
LIBRARY = b"\x7fELF\0no kernel for sm_90\0std::string ipc_hsm_70 sm_75 sm_90a compute_90 sm_120\0/pytorch/torch\0"


def file(name: str, *, yanked: bool = False) -> DistributionPackage:
    return DistributionPackage(
        filename=name, project="torch", version=None, package_type=None, url=f"https://example.org/{name}", digests={},
        requires_python=None, has_sig=None, is_yanked=yanked,
    )  # fmt: skip


def torch(release: str, *tags: str, platform: str = LINUX, build: str = "") -> list[DistributionPackage]:
    return [file(f"torch-{release}{build}-{tag.removesuffix('t')}-{tag}-{platform}.whl") for tag in tags]


def variant(
    minor: str = "2.16", releases: tuple[str, ...] = ("2.16.0",), tags: tuple[str, ...] = ("cp311", "cp312")
) -> Variant:
    text = Path(f"{__file__}/../../../variants/torch215.toml").resolve().read_text()
    text = text.replace("2.15", minor).replace("2.15.0", releases[0])
    one = tomllib.loads(text) | {"releases": list(releases), "release": releases[0], "cpython": list(tags)}
    problems: list[str] = []
    made = read_table(Variant, one, "here", problems)
    assert made is not None, problems
    return made


def status(
    files: list[DistributionPackage], *known: Variant, pre: bool = False, **names: str
) -> dict[str, tuple[Status, str]]:
    learnt = {"2.16.0": names}
    found = discovery.compare(Listing.of(files), {one.torch: one for one in known}, learnt, pre=pre)
    return {str(one.minor): (one.status, "; ".join(one.news)) for one in found}


def test_the_flavours_of_an_index() -> None:
    """Each is a listing of its own: releases, minors and CPythons are those of one flavour alone."""
    files = [
        *torch("2.9.0+cu126", "cp311"), *torch("2.9.1+cu126", "cp311", "cp312"), *torch("2.9.1+cu130", "cp312"),
        *torch("2.9.1+cpu", "cp312"), *torch("2.9.1+rocm6.4", "cp312"), *torch("2.9.1", "cp312"), file("torch-x.whl"),
    ]  # fmt: skip
    assert flavours(files) == ["cu126", "cu130"]
    listing = Listing.of(files, "cu126")
    assert [release.name for release in listing.releases] == ["2.9.0+cu126", "2.9.1+cu126"]
    assert list(listing.by_minor) == [Minor(2, 9, "cu126")]
    assert [str(minor) for minor in Listing.of(files).by_minor] == ["2.9"]
    found = discovery.compare(listing, {}, {}, oldest=Minor(2, 8))
    assert [(str(one.minor), one.status, one.news) for one in found] == [
        ("2.9:cu126", Status.MISSING, ("no variant: add 2.9:cu126",))
    ]


@given(st.sets(st.tuples(st.integers(2, 9), st.integers(0, 30), st.integers(0, 3)), min_size=1))
def test_releases_sort_as_versions_whatever_their_digits(numbers: set[tuple[int, int, int]]) -> None:
    names = [".".join(map(str, one)) for one in numbers]
    listing = Listing.of([one for name in names for one in torch(name, "cp312")])
    assert [one.name for one in listing.releases] == sorted(names, key=Version)
    assert list(listing.by_minor) == sorted(listing.by_minor)
    assert len({minor.tag for minor in listing.by_minor}) == len(listing.by_minor)
    assert facts.newest_usable_minor([listing]) == max(Minor(major, minor) for major, minor, _ in numbers)


def test_the_highest_build_counts_and_nothing_that_is_yanked() -> None:
    files = torch("2.16.0", "cp312") + torch("2.16.0", "cp312", build="-10") + torch("2.16.0", "cp312", build="-9")
    gone = [file(f"torch-2.16.1-cp312-cp312-{LINUX}.whl", yanked=True)]
    old, new = Listing.of(files + gone).releases
    assert "-10-" in old.wheels["cp312"].filename
    assert (new.usable, new.yanked) == (False, True)
    assert [one.name for one in Listing.of(files + gone).usable(Minor(2, 16))] == ["2.16.0"]


def test_each_machine_has_its_own_wheels() -> None:
    files = torch("2.16.0", "cp312", "cp313") + torch("2.16.0", "cp312", platform="manylinux_2_28_aarch64")
    files += torch("2.17.0", "cp312")
    arm64 = Listing.of(files, machine=ARM64)
    assert [release.tags for release in arm64.releases] == [("cp312",), ()]
    assert arm64.release("2.16.0").wheels["cp312"].filename.endswith("_aarch64.whl")
    with pytest.raises(UnknownTorchError, match=r"no torch 2\.17\.0 for arm64 Linux"):
        arm64.release("2.17.0")
    with pytest.raises(UnknownTorchError, match="no wheel for arm64 Linux, only manylinux_2_28_x86_64"):
        arm64.usable(Minor(2, 17))
    assert [release.tags for release in Listing.of(files).releases] == [("cp312", "cp313"), ("cp312",)]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ([], "the index has no release of it"),
        ([file("torch-2.16.0.tar.gz")], "no wheel for x86-64 Linux, only sdist"),
        (torch("2.16.0", "cp312", platform="macosx_11_0_arm64"), "only macosx_11_0_arm64"),
        (torch("2.16.0", "cp312", platform="manylinux_2_28_aarch64"), "only manylinux_2_28_aarch64"),
        (torch("2.16.0rc1", "cp312"), "no final release yet, only 2.16.0rc1"),
        ([file(f"torch-2.16.0-cp312-cp312-{LINUX}.whl", yanked=True)], "every release is yanked: 2.16.0"),
        (torch("2.16.0+cpu", "cp312"), "the index has no release of it"),
    ],
)
def test_a_minor_that_cannot_be_served(files: list[DistributionPackage], why: str) -> None:
    with pytest.raises(UnknownTorchError, match="cannot be served") as caught:
        Listing.of([*torch("2.15.0", "cp312"), *files]).usable(Minor(2, 16))
    assert why in caught.value.what


def test_candidates_count_only_when_asked_for_and_until_there_is_a_final() -> None:
    files = torch("2.16.0rc1", "cp312") + torch("2.16.0rc2", "cp312") + torch("2.16.0.dev1", "cp312")
    names = [one.name for one in Listing.of(files).usable(Minor(2, 16), pre=True)]
    assert names == ["2.16.0rc1", "2.16.0rc2"]
    final = Listing.of(files + torch("2.16.0", "cp312"))
    assert [one.name for one in final.usable(Minor(2, 16), pre=True)] == ["2.16.0"]


def test_what_is_missing_and_what_is_new() -> None:
    served = torch("2.16.0", "cp311", "cp312")
    older = torch("2.4.0", "cp311")
    assert status(older + served, variant()) == {"2.16": (Status.SERVED, "")}
    assert status(served + torch("3.0.0", "cp312"), variant())["3.0"] == (Status.MISSING, "no variant: add 3.0")
    assert status(served + torch("2.16.1", "cp311"), variant())["2.16"] == (Status.CHANGED, "new release 2.16.1")
    more = served + torch("2.16.1", "cp311", "cp313t")
    assert status(more, variant())["2.16"][1] == "new release 2.16.1; new CPython 3.13t"
    again = status(served + torch("2.16.0", "cp312", build="-1"), variant(), cp312=served[1].filename)
    assert again["2.16"] == (Status.CHANGED, f"2.16.0 was uploaded again: torch-2.16.0-1-cp312-cp312-{LINUX}.whl")
    assert status(served[:1], variant())["2.16"] == (Status.CHANGED, "no wheel for CPython 3.12 any more")
    patched = variant(releases=("2.16.0", "2.16.1"))
    assert status(served, patched)["2.16"] == (Status.YANKED, "2.16.1 is yanked or gone")
    assert status(torch("2.17.0rc1", "cp312") + served, variant())["2.17"][0] == Status.WAITING
    assert status(torch("2.17.0rc1", "cp312") + served, variant(), pre=True)["2.17"][0] == Status.MISSING
    taken_out = status(served + torch("2.16.0", "cp310"), variant())
    assert taken_out["2.16"] == (Status.SERVED, ""), "a CPython that a known release has was left out by hand"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """An index that answers in HTML alone, with a torch for three CPythons."""
    folder = tmp_path_factory.mktemp("wheels")
    files = {}
    for tag in ("cp312", "cp313", "cp314"):
        path = folder / f"torch-2.16.0-{tag}-{tag}-{LINUX}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("torch/version.py", "cuda: Optional[str] = '12.8'\n")
            archive.writestr(
                "torch/share/cmake/Torch/TorchConfig.cmake", "set_target_properties(torch CXX_STANDARD 17)"
            )
            archive.writestr("torch/include/ATen/ATen.h", "")
            guard = "    __GNUC__ < 9\n#error too old\n"
            archive.writestr("torch/include/c10/util/C++17.h", guard)
            numbers = {"MAJOR": "3", "MINOR": "0", "MICRO": "1", "PATCH": "1"}
            lines = [f"#define PYBIND11_VERSION_{part} {number}\n" for part, number in numbers.items()]
            archive.writestr("torch/include/pybind11/detail/common.h", "#pragma once\n" + "".join(lines))
            requires = 'Requires-Dist: nvidia-cuda-runtime-cu12==12.8.90; platform_system == "Linux"\n'
            archive.writestr(
                "torch-2.16.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: 2.16.0\n{requires}"
            )
            archive.writestr("torch/lib/libtorch_python.so", LIBRARY)
        files[path.name] = path
    runtime = folder / "nvidia_cuda_runtime_cu12-12.8.90-py3-none-manylinux2014_x86_64.whl"
    with zipfile.ZipFile(runtime, "w") as archive:
        archive.writestr("nvidia/cuda_runtime/lib/libcudart.so.12", bytes(60_000_000))
    files[runtime.name] = runtime
    front = Front(files, real="(?!)", html=True)
    yield front
    front.close()


def test_facts_of_an_index_in_html_with_a_missing_file(server: Front) -> None:
    index = PackageIndex(server.url)
    server.without = {f"torch-2.16.0-cp314-cp314-{LINUX}.whl", f"torch-2.16.0-cp311-cp311-{LINUX}.whl"}
    listing = Listing.read(index)
    read = facts.read(Minor(2, 16), listing, index, sizes=False)
    assert read.wheel.startswith(("torch-2.16.0-cp313", "torch-2.16.0-cp312"))
    values = {key: fact.value for key, fact in read.facts.items()}
    assert (values["cuda"], values["cxx-standard"], values["gcc"]) == ("12.8", 17, 9)
    assert values["cuda-runtime"] == "nvidia-cuda-runtime-cu12==12.8.90"
    assert values["pybind11"] == "3.0.1"
    server.without = set(server.files)
    with pytest.raises(PackageIndexError, match="404"):
        facts.read(Minor(2, 16), listing, index, sizes=False)


def test_what_torch_is_compiled_for_and_the_image_with_nvcc(server: Front) -> None:
    server.without = set()
    index = PackageIndex(server.url)
    read = facts.read(Minor(2, 16), Listing.read(index), index)
    assert read["cuda-architectures"].value == ("7.0", "7.5", "9.0a", "9.0+PTX", "12.0+PTX")
    assert read["cuda-image"].value == "pytorch/manylinux2_28-builder:cuda12.8"
    assert read["cuda-runtime-gb"].value == 0.1


def test_an_images_digest_stays_until_the_registry_has_another(tmp_path: Path, server: Front) -> None:
    path, read, listing = written(tmp_path, server)
    name = str(read["cuda-image"].value)
    first, second = (facts.Fact(f"{name}@sha256:{digit * 64}", "asked") for digit in "12")
    path.write_text(path.read_text().replace(name, str(first.value)))
    assert variant_file.edit(path, read, listing, "2027-01-01").kept == (), "no registry answered"
    assert variant_file.edit(path, read.with_fact("cuda-image", first), listing, "2027-01-01").kept == ()
    (line,) = variant_file.edit(path, read.with_fact("cuda-image", second), listing, "2027-01-01").kept
    assert line.startswith(f"cuda-image stays '{first.value}'")


def test_a_digest_is_added_to_the_tag_in_a_file(tmp_path: Path, server: Front) -> None:
    path, read, listing = written(tmp_path, server)
    name = str(read["cuda-image"].value)
    digest = facts.Fact(f"{name}@sha256:{'1' * 64}", "asked")
    edit = variant_file.edit(path, read.with_fact("cuda-image", digest), listing, "2027-01-01")
    assert str(digest.value) in edit.after
    assert edit.kept == ()


def written(tmp_path: Path, server: Front) -> tuple[Path, facts.Facts, Listing]:
    server.without = set()
    index = PackageIndex(server.url)
    listing = Listing.read(index)
    read = facts.read(Minor(2, 16), listing, index, sizes=False)
    sizes = {"torch-gb": facts.Fact(2.0, "here"), "cuda-runtime-gb": facts.Fact(3.0, "here")}
    read = replace(read, facts={**read.facts, **sizes})
    path = tmp_path / "torch216.toml"
    edit = variant_file.edit(path, read, listing, "2026-12-01")
    assert edit.diff.startswith("--- nothing")
    edit.write()
    return path, read, listing


def test_what_people_wrote_is_kept(tmp_path: Path, server: Front) -> None:
    path, read, listing = written(tmp_path, server)
    assert not variant_file.edit(path, read, listing, "2027-01-01").diff
    text = path.read_text().replace("cxx-standard = 17", "# ours needs 20\ncxx-standard = 20").replace('"cp312", ', "")
    path.write_text(text.replace("releases = [", "releases = [ # see the ticket\n  "))
    edit = variant_file.edit(path, read, listing, "2027-01-01")
    assert not edit.diff, "cp312 was taken out by hand, and stays out"
    assert edit.kept == (
        "cxx-standard stays 20; the index has 17 (torch/share/cmake/Torch/TorchConfig.cmake, CXX_STANDARD)",
    )
    files = [
        *(one for release in listing.releases for one in release.wheels.values()),
        *torch("2.16.1", "cp312", "cp315"),
    ]
    later = Listing.of(files)
    more = read.with_fact("releases", facts.Fact(("2.16.0", "2.16.1"), ""))
    edit = variant_file.edit(path, more, later, "2027-01-01")
    table = tomllib.loads(edit.after)
    assert table["releases"] == ["2.16.0", "2.16.1"]
    assert table["cpython"] == ["cp313", "cp314", "cp315"]
    assert "# ours needs 20" in edit.after


def test_a_file_that_is_no_toml_or_would_be_wrong(tmp_path: Path, server: Front) -> None:
    path, read, listing = written(tmp_path, server)
    path.write_text("torch = ")
    with pytest.raises(ConfigError, match="torch216"):
        variant_file.edit(path, read, listing, "2027-01-01")
    path.write_text('torch = "2.17"\n')
    with pytest.raises(ConfigError, match=str(path)):
        variant_file.edit(path, read, listing, "2027-01-01")
    assert path.read_text() == 'torch = "2.17"\n'
