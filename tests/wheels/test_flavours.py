"""Variants for torch of another CUDA than the default index has: extras of their own, and the dispatcher's choice."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from tests import elves
from tests.family import family, project, variant
from tests.wheels.test_dispatcher import CUDA_128, CUDA_130, FILES, NO_CUDA, Site, version_file
from torch_build_farm.core.errors import PublishError
from torch_build_farm.publish.upload_plan import require_extras
from torch_build_farm.wheels import one_name

CUDA_126 = "cuda: Optional[str] = '12.6'"
NEEDS = {"2.9": "12", "2.9:cu126": "12", "2.9:cu130": "13"}


def with_variants(tmp_path: Path, *minors: str) -> Site:
    """The plain wheel that knows 2.8, 2.9 and both flavours of it, and the variants for `minors`, each for its CUDA."""
    site = Site(tmp_path)
    for minor in minors:
        files: dict[str, str | bytes] = {
            **FILES,
            "demo/_gpu.so": elves.library(needed=[f"libcudart.so.{NEEDS.get(minor, '12')}"]),
        }
        site.variants(files, minor, known=("2.8", *NEEDS))
    site.torch("2.9.1")
    return site


@pytest.mark.parametrize(
    ("torch", "line", "chosen"),
    [
        ("2.9.1+cu126", CUDA_126, "2.9:cu126"),
        ("2.9.1+cu128", CUDA_128, "2.9"),
        ("2.9.1", CUDA_128, "2.9"),
        ("2.9.1+cu130", CUDA_130, "2.9:cu130"),
        ("2.9.1+cu126", "", "2.9:cu126"),
        ("2.9.1", "cuda: Optional[str] = '12.9'", "2.9"),  # none is for it: the default index's of the major version
        ("2.9.1", "cuda: Optional[str] = '13.2'", "2.9:cu130"),
        ("2.9.1", "", "2.9"),  # not to be told
    ],
)
def test_of_several_that_are_installed_the_one_for_torchs_cuda(
    tmp_path: Path, torch: str, line: str, chosen: str
) -> None:
    site = with_variants(tmp_path, *NEEDS)
    (site.folder / "torch" / "version.py").write_text(version_file(torch, line))
    assert site.says("import demo; print(demo.VALUE)") == f"of {chosen}"


@pytest.mark.parametrize("installed", ["2.9", "2.9:cu126"])
def test_one_of_torchs_cuda_major_is_good_enough(tmp_path: Path, installed: str) -> None:
    site = with_variants(tmp_path, installed)
    for torch, line in (("2.9.1+cu126", CUDA_126), ("2.9.1+cu128", CUDA_128)):
        (site.folder / "torch" / "version.py").write_text(version_file(torch, line))
        assert site.says("import demo; print(demo.VALUE)") == f"of {installed}"


@pytest.mark.parametrize(
    ("installed", "torch", "line", "says", "extra"),
    [
        ("2.9", "2.9.1+cu130", CUDA_130, "needs a torch with CUDA 12, and torch 2.9.1+cu130 has CUDA 13.0", "torch29-cu130"),
        ("2.9:cu130", "2.9.1+cu128", CUDA_128, "needs a torch with CUDA 13, and torch 2.9.1+cu128 has CUDA 12.8", "torch29"),
        ("2.9:cu130", "2.9.1+cu126", CUDA_126, "needs a torch with CUDA 13, and torch 2.9.1+cu126 has CUDA 12.6", "torch29-cu126"),
        ("2.8", "2.9.1+cu130", CUDA_130, "has no variant for torch 2.9.1+cu130 here", "torch29-cu130"),
        ("2.8", "2.9.1+cu128", CUDA_128, "has no variant for torch 2.9.1+cu128 here", "torch29"),
        ("2.8", "2.9.1+cpu", NO_CUDA, "has no variant for torch 2.9.1+cpu here", "torch29"),
    ],
)  # fmt: skip
def test_the_guard_names_the_extra(
    tmp_path: Path, installed: str, torch: str, line: str, says: str, extra: str
) -> None:
    site = with_variants(tmp_path, installed)
    (site.folder / "torch" / "version.py").write_text(version_file(torch, line))
    done = site.run("import demo")
    assert done.returncode == 1
    assert says in done.stderr
    assert f'with pip:  pip install "demo[{extra}]"' in done.stderr
    assert f'with uv:   uv pip install "demo[{extra}]"' in done.stderr


def test_a_cpu_torch_is_told_which_torch_to_install(tmp_path: Path) -> None:
    site = with_variants(tmp_path, *NEEDS)
    (site.folder / "torch" / "version.py").write_text(version_file("2.9.1+cpu", NO_CUDA))
    done = site.run("import demo")
    assert "needs a torch with CUDA 12, and torch 2.9.1+cpu has none" in done.stderr
    assert 'pip install --force-reinstall "torch==2.9.*"' in done.stderr


def test_what_is_installed_and_known_is_listed(tmp_path: Path) -> None:
    site = with_variants(tmp_path, "2.9:cu126")
    site.torch("2.8.0")
    done = site.run("import demo")
    assert "variants installed: torch 2.9:cu126\n" in done.stderr
    assert "variants known to demo 1.0: torch 2.8, 2.9, 2.9:cu126, 2.9:cu130\n" in done.stderr


def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        return archive.read(name).decode()


def test_a_flavour_has_an_extra_and_a_rung_below_all_others(tmp_path: Path) -> None:
    own = project()
    model = variant(tmp_path, own, "2.9:cu126", "1.0", FILES)
    assert model.name.startswith("demo_torch29_cu126-1.0-")
    wheels = one_name.write(family(own, model, dict.fromkeys(("2.8", "2.9", "2.9:cu126", "2.10"), "1.0")), tmp_path)
    rungs = [path.name.split("-")[1] for path in wheels if "select" in path.name]
    assert rungs == ["1.0.0.0.0.208", "1.0.0.0.0.209", "1.0.0.0.0.0.209.126", "1.0.0.0.0.210"]
    assert min(rungs, key=Version) == "1.0.0.0.0.0.209.126"
    of_flavour = metadata(wheels[2])
    assert "Requires-Dist: torch==2.9.*\nRequires-Dist: demo-torch29-cu126==1.0\n" in of_flavour
    plain = metadata(wheels[-1])
    assert "Provides-Extra: torch29-cu126\n" in plain
    assert 'Requires-Dist: torch==2.9.* ; extra == "torch29-cu126"\n' in plain
    assert 'Requires-Dist: demo-torch29-cu126==1.0 ; extra == "torch29-cu126"\n' in plain
    assert 'Requires-Dist: demo-select==1.0.0.0.0.0.209.126 ; extra == "torch29-cu126"\n' in plain
    with zipfile.ZipFile(wheels[-1]) as archive:
        assert "demo/sub/deep.pyi" in archive.namelist(), "stubs of what lies in _torch29_cu126"


def test_a_version_without_rungs_has_the_extra_alone(tmp_path: Path) -> None:
    own = project()
    made = family(own, variant(tmp_path, own, "2.9:cu126", "1.0rc1", FILES), {"2.9:cu126": "1.0rc1"})
    (plain,) = one_name.write(made, tmp_path)
    assert 'Requires-Dist: demo-torch29-cu126==1.0rc1 ; extra == "torch29-cu126"\n' in metadata(plain)
    assert "demo-select" not in metadata(plain)
    assert 'pip install "demo[torch29-cu126]==1.0rc1"' in one_name.without_rungs(made)


def test_without_flavours_nothing_differs(tmp_path: Path) -> None:
    own = project()
    made = family(own, variant(tmp_path, own, "2.9", "1.0", FILES), {"2.9": "1.0", "2.10": "1.0"})
    with zipfile.ZipFile(one_name.write_plain(made, tmp_path)) as archive:
        assert archive.read("demo/__init__.py").decode().rstrip().endswith('"demo", ((2, 9), (2, 10)), (), None)')


@pytest.mark.parametrize(
    ("first", "second", "line", "chosen"),
    [
        # Each in order of time: what is left of the first version is not what the second brings.
        (("2.9:cu126", "1.0"), ("2.9", "2.0"), CUDA_126, "2.9 2.0"),
        (("2.9", "1.0"), ("2.9:cu126", "2.0"), CUDA_128, "2.9:cu126 2.0"),
        (("2.9:cu126", "2.0"), ("2.9", "1.0"), CUDA_126, "2.9 1.0"),
        # What does not agree with torch's CUDA is no way out.
        (("2.9", "1.0"), ("2.9:cu130", "2.0"), CUDA_128, "2.9 1.0"),
    ],
)
def test_a_variant_of_another_version_is_not_taken(
    tmp_path: Path, first: tuple[str, str], second: tuple[str, str], line: str, chosen: str
) -> None:
    """pip and uv leave the variant of another flavour behind where a user changes both version and flavour."""
    site = Site(tmp_path)
    site.torch("2.9.1")
    (site.folder / "torch" / "version.py").write_text(version_file("2.9.1", line))
    for minor, version in (first, second):
        files: dict[str, str | bytes] = {
            "demo/__init__.py": f"VALUE = '{minor} {version}'\n",
            "demo/_gpu.so": elves.library(needed=[f"libcudart.so.{NEEDS[minor]}"]),
        }
        made = variant(site.made, site.project, minor, version, files)
        site.unpack(made, one_name.write_plain(family(site.project, made, dict.fromkeys(NEEDS, version)), site.made))
    assert site.says("import demo; print(demo.VALUE)") == chosen


def test_of_a_minor_that_has_flavours_alone(tmp_path: Path) -> None:
    """The default index's torch would be installed in vain, and 2.9 has no extra of its own."""
    site = Site(tmp_path)
    files: dict[str, str | bytes] = {**FILES, "demo/_gpu.so": elves.library(needed=["libcudart.so.13"])}
    site.variants(files, "2.9:cu130")
    site.torch("2.9.1")
    for torch, line in (("2.9.1", CUDA_128), ("2.9.1+cpu", NO_CUDA)):
        (site.folder / "torch" / "version.py").write_text(version_file(torch, line))
        said = site.run("import demo").stderr
        assert "It is made for torch 2.9 of CUDA 13.0, which another package index has" in said
        assert "--force-reinstall" not in said
    (site.folder / "torch" / "version.py").write_text(version_file("2.7.0", CUDA_128))
    assert '"demo[torch29-cu130]"' in site.run("import demo").stderr


def test_a_flavour_takes_a_new_version() -> None:
    published = ["Name: demo", "Provides-Extra: torch29", "Provides-Extra: torch29-cu126"]
    require_extras("demo-1.0-py3-none-any.whl", published, {"torch29-cu126": "demo-torch29-cu126"})
    require_extras("demo_auto-1.0-py3-none-any.whl", ["Name: demo-auto"], {"torch29-cu130": "demo-torch29-cu130"})
    with pytest.raises(PublishError, match="without the extra that leads to demo-torch29-cu130"):
        require_extras("demo-1.0-py3-none-any.whl", published, {"torch29-cu130": "demo-torch29-cu130"})
