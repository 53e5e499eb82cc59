"""cuda-arch-list against what torch reads and what each torch's toolkit compiles for."""

from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.cli import main
from torch_build_farm.core.errors import ConfigError
from torch_build_farm.core.machine import MACHINES
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.cuda_architectures import Refused, architectures, normalised, of_gencode, refused
from torch_build_farm.project.plan import Job, check_architectures
from torch_build_farm.project.settings import load

PROJECT = '[project]\nname = "demo"\nversion = "1"\n[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'


@pytest.mark.parametrize(
    ("items", "names"),
    [
        (["8.0", "9.0"], ("8.0", "9.0")),
        (["8.0;9.0+PTX"], ("8.0", "9.0+PTX")),
        ([" 8.0 8.6;", "9.0a"], ("8.0", "8.6", "9.0a")),
        (["Ampere", "8.0", "Hopper"], ("8.0", "8.6+PTX", "9.0+PTX")),
        ([], ()),
        (["torch", "10.3"], ("torch", "10.3")),
    ],
)
def test_what_torch_reads_is_taken_and_made_one_form(items: list[str], names: tuple[str, ...]) -> None:
    assert normalised(items) == names


@pytest.mark.parametrize(
    ("item", "hint"),
    [
        ("banana", "is no CUDA architecture that torch reads"),
        ("hopper", "did you mean 'Hopper'?"),
        ("sm_90", "did you mean '9.0'?"),
        ("compute_120a", "did you mean '12.0a'?"),
        ("90-real", "did you mean '9.0'?"),
        ("8.8", "the nearest is '8.7'"),
        ("10.0f", "the nearest is '10.0'"),
        ("native", "is no CUDA architecture that torch reads"),
        ("9.0+ptx", "did you mean '9.0'?"),
        ("", "is no CUDA architecture that torch reads"),
    ],
)
def test_what_torch_does_not_read_fails_where_it_is_written(tmp_path: Path, item: str, hint: str) -> None:
    (tmp_path / "pyproject.toml").write_text(f'{PROJECT}cuda-arch-list = ["8.0", "{item}"]\n')
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, CHECKOUT)
    assert "cuda-arch-list" in caught.value.what
    assert hint in caught.value.what


def test_what_a_toolkit_compiles_for() -> None:
    nothing = Refused({}, {})
    assert refused(["7.0", "9.0a", "10.1", "12.0+PTX"], "12.8", Minor(2, 8)) == nothing
    by_toolkit = {"7.0": "7.5", "10.1+PTX": "10.0"}
    assert refused(["7.0", "8.9", "10.1+PTX", "11.0"], "13.0", Minor(2, 13)) == Refused({}, by_toolkit)
    assert refused(["10.3", "12.1+PTX"], "12.8", Minor(2, 8)) == Refused({}, {"10.3": "10.1", "12.1+PTX": "12.0"})
    assert refused(["7.0"], "13.9", Minor(2, 13)) == Refused({}, {"7.0": "7.5"}), "as the release before it"
    assert refused(["7.0"], "99.0", Minor(2, 13)) == nothing, "nothing is known of it"


@pytest.mark.parametrize(
    ("name", "minor", "cuda", "nearest"),
    [("10.1", (2, 9), "12.8", "10.0"), ("10.1a+PTX", (2, 10), "12.8", "10.0"), ("11.0", (2, 8), "13.0", "10.3")],
)
def test_what_a_torch_does_not_read(name: str, minor: tuple[int, int], cuda: str, nearest: str) -> None:
    """Some architectures were renamed: a torch reads the name that its own time had for them."""
    assert refused([name, "9.0"], cuda, Minor(*minor)) == Refused({name: nearest}, {})


def test_every_torch_that_the_farm_knows_has_its_toolkit() -> None:
    for variant in load(CHECKOUT, CHECKOUT).variants.values():
        assert architectures().of_toolkit(variant.cuda), variant.cuda


def test_the_plan_names_the_minors_whose_torch_does_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text(f'{PROJECT}cuda-arch-list = ["9.0", "10.1"]\n')
    words = ["plan", "--project", str(tmp_path), "--engine", "local", "--torch", "2.8", "2.9", "2.10"]
    assert main.main(words) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert "cuda-arch-list: torch 2.9, 2.10 does not read 10.1; it takes 5.0, " in said
    assert "10.1," not in said.partition("it takes")[2]
    assert main.main(words[:-2]) == 0


def test_the_plan_names_the_minors_whose_toolkit_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one minor takes another does not; an override gives each its own list."""
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(f'{PROJECT}cuda-arch-list = ["7.0", "9.0"]\n')
    words = ["plan", "--project", str(tmp_path), "--engine", "local", "--torch", "2.10", "2.11", "2.13"]
    assert main.main(words) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert "cuda-arch-list: CUDA 13.0 of torch 2.11, 2.13 does not compile for 7.0" in said
    assert "it takes 7.5, 8.0, 8.6, 8.7, 8.9, 9.0" in said
    assert "did you mean '7.5'?" in said
    assert "[[tool.torch-build-farm.overrides]]" in said

    pyproject.write_text(
        f'{pyproject.read_text()}[[tool.torch-build-farm.overrides]]\ncuda = ">=13"\ncuda-arch-list = ["7.5;Hopper"]\n'
    )
    assert main.main(words) == 0
    project = load(tmp_path, CHECKOUT)
    found = project.settings.for_job(project.variants[Minor(2, 13)], CPython(3, 12))
    assert found.cuda_arch_list == ("7.5", "9.0+PTX")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (["sm_70", "sm_90", "sm_120"], ("7.0", "9.0", "12.0+PTX")),
        (["sm_90", "sm_90a"], ("9.0+PTX", "9.0a")),
        (["sm_80", "compute_80", "sm_100f"], ("8.0+PTX", "10.0f+PTX")),
        (["sm_120", "sm_75"], ("12.0+PTX", "7.5")),
        ([], ()),
    ],
)
def test_names_of_nvcc_as_torch_has_them(code: list[str], names: tuple[str, ...]) -> None:
    """The newest gets PTX, and of one with and without a letter that without: PTX of 9.0a runs on no later GPU."""
    assert of_gencode(code) == names


def test_torchs_own_architectures(tmp_path: Path) -> None:
    """Each minor has its own, written as a text or in a list with others; an override may have a list instead."""
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(f'{PROJECT}cuda-arch-list = "torch"\n')

    def of(minor: Minor) -> tuple[str, ...]:
        project = load(tmp_path, CHECKOUT)
        return project.settings.for_job(project.variants[minor], CPython(3, 12)).cuda_arch_list

    assert of(Minor(2, 8)) == ("7.0", "7.5", "8.0", "8.6", "9.0", "10.0", "12.0+PTX")
    assert of(Minor(2, 15)) == ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0+PTX")
    pyproject.write_text(
        f'{PROJECT}cuda-arch-list = ["8.9", "torch"]\n'
        '[[tool.torch-build-farm.overrides]]\ncuda = ">=13"\ncuda-arch-list = "8.0;9.0a"\n'
    )
    assert of(Minor(2, 8))[:3] == ("8.9", "7.0", "7.5")
    assert of(Minor(2, 15)) == ("8.0", "9.0a")


def test_every_torchs_own_architectures_can_be_compiled() -> None:
    described = load(CHECKOUT, CHECKOUT).by_platform
    with_cuda = [variant for of_platform in described.values() for variant in of_platform.values() if variant.cuda]
    assert {variant.platform for variant in with_cuda} == set(MACHINES)
    for variant in with_cuda:
        assert variant.cuda_architectures[-1].endswith("+PTX")
        assert refused(variant.cuda_architectures, variant.cuda, variant.torch) == Refused({}, {})


def test_a_torch_whose_architectures_are_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A project's own variants file, from before the key was there."""
    (tmp_path / "pyproject.toml").write_text(f'{PROJECT}cuda-arch-list = "torch"\n')
    own = tmp_path / "variants" / "torch29.toml"
    own.parent.mkdir()
    lines = (CHECKOUT / "variants" / "torch29.toml").read_text().splitlines(keepends=True)
    own.write_text("".join(line for line in lines if not line.startswith("cuda-architectures")))
    words = ["plan", "--project", str(tmp_path), "--engine", "local", "--torch"]
    assert main.main([*words, "2.8", "2.9"]) == ConfigError.exit_code
    said = capsys.readouterr().err
    assert "variants/torch29.toml lacks" in said
    assert "`add 2.9` writes the key" in said
    assert main.main([*words, "2.8"]) == 0
    for_arm64 = own.with_name("torch211-aarch64.toml")
    lines = (CHECKOUT / "variants" / for_arm64.name).read_text().splitlines(keepends=True)
    for_arm64.write_text("".join(line for line in lines if not line.startswith("cuda-architectures")))
    project = load(tmp_path, CHECKOUT)
    jobs = [Job("demo", "1", project.on(platform).variants[Minor(2, 11)], CPython(3, 12)) for platform in MACHINES]
    with pytest.raises(ConfigError, match=r"variants/torch211-aarch64\.toml lacks") as caught:
        check_architectures(project, jobs)
    assert "`add 2.11 --platform aarch64` writes the key" in str(caught.value)

    own.write_text('cuda-architectures = ["torch"]\n' + own.read_text())
    assert main.main([*words, "2.8"]) == ConfigError.exit_code
    assert "cuda-architectures: 'torch' stands for this list" in capsys.readouterr().err


def test_the_image_with_nvcc_is_taken_where_nothing_else_brings_it(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"

    def image(minor: Minor) -> str:
        project = load(tmp_path, CHECKOUT)
        return project.image(project.variants[minor])

    pyproject.write_text(PROJECT)
    assert image(Minor(2, 8)) == "manylinux_2_28", "no CUDA sources"
    pyproject.write_text(f'{PROJECT}cuda-arch-list = ["9.0"]\n')
    assert image(Minor(2, 8)) == "pytorch/manylinux2_28-builder:cuda12.8"
    assert image(Minor(2, 13)) == "manylinux_2_28", "wheels bring the toolkit of CUDA 13"
    pyproject.write_text(
        f'{PROJECT}[[tool.torch-build-farm.overrides]]\ncpython = ["3.12"]\ncuda-arch-list = "torch"\n'
    )
    assert image(Minor(2, 9)) == "pytorch/manylinux2_28-builder:cuda12.8", "one of its jobs has some"

    # A project's own file, from before the key was there, names the image with nvcc as `image`.
    own = tmp_path / "variants" / "torch29.toml"
    own.parent.mkdir()
    text = (CHECKOUT / "variants" / "torch29.toml").read_text().replace('"manylinux_2_28"', '"ours:cuda12"')
    own.write_text("".join(line for line in text.splitlines(keepends=True) if not line.startswith("cuda-image")))
    assert image(Minor(2, 9)) == "ours:cuda12"
