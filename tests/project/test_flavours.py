"""Variants of a minor's flavours: files, settings and selection."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.made_up import Front
from torch_build_farm.cli import main
from torch_build_farm.core.errors import NEWS_EXIT_CODE, ConfigError, UsageError
from torch_build_farm.core.process import Runner, Shell
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.engines.base import BuildRequest
from torch_build_farm.engines.variables import Places, build_variables
from torch_build_farm.pipeline.smoke_test import neighbour
from torch_build_farm.project.plan import Job, choose_variants, jobs_of
from torch_build_farm.project.settings import Project, load

PROJECT = '[project]\nname = "demo"\nversion = "1"\n[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
FLAVOUR = (CHECKOUT / "variants" / "torch29.toml").read_text()
for old, new in (
    ('torch = "2.9"', 'torch = "2.9:cu126"\nindex = "https://example.org/whl/cu126"'),
    ('["2.9.0", "2.9.1"]', '["2.9.0+cu126", "2.9.1+cu126"]'),
    ('release = "2.9.0"', 'release = "2.9.0+cu126"'),
    ('cuda = "12.8"', 'cuda = "12.6"'),
    ("nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cuda-runtime-cu12==12.6.77"),
):
    assert old in FLAVOUR, old
    FLAVOUR = FLAVOUR.replace(old, new)


def loaded(folder: Path, lines: str = "", text: str = FLAVOUR) -> Project:
    (folder / "pyproject.toml").write_text(PROJECT + lines)
    (folder / "variants").mkdir(exist_ok=True)
    (folder / "variants" / "torch29-cu126.toml").write_text(text)
    return load(folder, CHECKOUT)


def test_a_flavour_is_a_variant_beside_its_minors(tmp_path: Path) -> None:
    project = loaded(tmp_path)
    flavour = Minor(2, 9, "cu126")
    variant = project.all_variants[flavour]
    assert list(project.all_variants)[1:3] == [Minor(2, 9), flavour]
    assert flavour not in project.variants
    assert (variant.tag, variant.pin, variant.build_pin) == ("torch29-cu126", "==2.9.*", "==2.9.0")
    assert variant.tested_with == ("2.9.1+cu126",)
    assert variant.public_releases == ("2.9.0", "2.9.1")
    assert variant.facts_of("2.9.1+cu126") is variant
    assert project.distribution(variant) == "demo-torch29-cu126"
    assert "demo-torch29-cu126-cp312" in jobs_of(project)
    assert [variant.tag for variant in choose_variants(project, ["2.9:cu126", "2.9"])] == ["torch29", "torch29-cu126"]
    assert [str(minor) for minor in loaded(tmp_path, 'torch = ["2.8", "2.9:cu126"]\n').settings.torch] == [
        "2.8",
        "2.9:cu126",
    ]


def test_without_a_file_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    assert load(tmp_path, CHECKOUT).flavours == {}
    code = main.main(["plan", "--project", str(tmp_path), "--engine", "local", "--torch", "2.9:cu126"])
    said = capsys.readouterr().err
    assert code != 0
    assert "torch 2.9:cu126 has no variant" in said
    assert "`add 2.9:cu126 --index URL`" in said


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ('torch = ["2.9"]', True),
        ('torch = ["2.9:cu126"]', True),
        ('torch = ["2.8"]', False),
        ('torch = "<2.10"', True),
        ('cuda = "==12.6"', True),
        ('cuda = "==12.8"', False),
    ],
)
def test_overrides_select_it_by_minor_flavour_and_cuda(tmp_path: Path, selector: str, selected: bool) -> None:
    project = loaded(tmp_path, f'[[tool.torch-build-farm.overrides]]\n{selector}\ncmake-defines = {{ CUDA = "126" }}\n')
    variant = project.flavours[Minor(2, 9, "cu126")]
    assert bool(project.settings.for_job(variant, CPython(3, 12)).cmake_defines) == selected


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('index = "https://example.org/whl/cu126"\n', "", "index: missing key"),
        ("https://example.org/whl/cu126", "example.org", "is not the URL of a package index"),
        ("https://example.org", "https://me:secret@example.org", "has a name or password in it"),
        ("https://example.org/whl/cu126", "https://a.example https://b.example", "is not one URL"),
        ('cuda = "12.6"', 'cuda = "12.8"', "cuda: 12.8 contradicts torch = '2.9:cu126'"),
        ("2.9.1+cu126", "2.9.1", "releases: 2.9.1 is not of torch 2.9:cu126, which is 2.9.1+cu126"),
        ("2.9.1+cu126", "2.9.1+cu130", "releases: 2.9.1+cu130 is not of torch 2.9:cu126"),
        ("2.9:cu126", "2.9:rocm6", "is not a torch minor such as 2.8 or 2.10, nor one's flavour"),
        ("2.9:cu126", "2.10:cu126", "torch: 2.10:cu126 belongs in torch210-cu126.toml"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in FLAVOUR
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text=FLAVOUR.replace(old, new))
    assert problem in caught.value.what
    assert "secret" not in caught.value.what


def test_the_minor_of_the_default_index_has_no_index(tmp_path: Path) -> None:
    text = (CHECKOUT / "variants" / "torch29.toml").read_text() + 'index = "https://example.org/whl"\n'
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "torch29.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"index: torch 2\.9 is that of uv's own index"):
        loaded(tmp_path)


def test_what_the_stable_abi_serves_has_no_flavours(tmp_path: Path) -> None:
    assert loaded(tmp_path, 'stable-abi = "2.10"\n').flavours
    with pytest.raises(ConfigError, match=r"its wheel serves torch 2\.9:cu126 too"):
        loaded(tmp_path, 'stable-abi = "2.9"\n')


def test_what_the_stable_abi_serves_has_no_flavours_for_arm64_either(tmp_path: Path) -> None:
    path = tmp_path / "variants" / "torch29-cu126-aarch64.toml"
    path.parent.mkdir()
    path.write_text(f'platform = "aarch64"\n{FLAVOUR}')
    (tmp_path / "pyproject.toml").write_text(f'{PROJECT}stable-abi = "2.9"\n')
    with pytest.raises(ConfigError, match=r"2\.9:cu126 too; remove variants/torch29-cu126-aarch64\.toml"):
        load(tmp_path, CHECKOUT)


def test_the_workflows_have_its_jobs(tmp_path: Path) -> None:
    """GitHub knows a job's outputs by the names in the file alone."""
    loaded(tmp_path, '[tool.torch-build-farm.ci]\npython = ["3.12"]\n')
    assert main.main(["ci", "github", "--project", str(tmp_path)]) == 0
    workflow = (tmp_path / ".github" / "workflows" / "torch-wheels.yml").read_text()
    for job in ("demo-torch29-cp312", "demo-torch29-cu126-cp312", "demo-torch216-cp312"):
        assert f'"{job}": ${{{{ matrix.job' in workflow


def test_neighbours_of_a_flavour_are_other_minors(tmp_path: Path) -> None:
    """Also where the minor itself has no variant."""
    project = loaded(tmp_path)
    flavour = project.flavours[Minor(2, 9, "cu126")]

    def beside(*minors: Minor) -> str:
        left = replace(project, torch_minors={minor: project.torch_minors[minor] for minor in minors})
        found = neighbour(left, flavour)
        return str(found.torch) if found else ""

    assert beside(Minor(2, 8), Minor(2, 9), Minor(2, 10)) == "2.10"
    assert beside(Minor(2, 8), Minor(2, 10)) == "2.10"
    assert beside(Minor(2, 8), Minor(2, 9)) == "2.8"
    assert beside(Minor(2, 9)) == ""


def test_its_index_stays_first_in_the_builds_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = loaded(tmp_path)
    job = Job("demo-torch29-cu126", "1", project.flavours[Minor(2, 9, "cu126")], CPython(3, 12))
    shell = Shell(Runner(), {}, tmp_path, tmp_path / "log", lambda _: None)
    request = BuildRequest(job, tmp_path, tmp_path, tmp_path, "", 1, 0, False, shell)
    places = Places(None, Path("/p"), Path("/b"), {})
    first = "https://example.org/whl/cu126"
    monkeypatch.setenv("UV_INDEX", "https://ours.example")
    assert build_variables(project.settings, request, places)["UV_INDEX"] == f"{first} https://ours.example"
    settings = replace(project.settings, environment={"UV_INDEX": "https://theirs.example"})
    assert build_variables(settings, request, places)["UV_INDEX"] == f"{first} https://theirs.example"


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main.main(list(words))
    said = capsys.readouterr()
    return code, said.out + said.err


def test_what_add_and_discover_say_of_an_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    wheel = tmp_path / "torch.whl"
    wheel.write_bytes(b"")
    names = [f"torch-2.9.0+{flavour}-cp312-cp312-manylinux_2_28_x86_64.whl" for flavour in ("cu126", "cu130", "cpu")]
    front = Front(dict.fromkeys(names, wheel), real="(?!)")
    try:
        words = ("--project", str(tmp_path), "--index", front.url)
        code, said = call(capsys, "add", "2.9:cu126", *words)
        assert code == UsageError.exit_code
        assert "the index has torch 2.9 of other flavours too (+cpu, +cu130): resolvers take any of them" in said

        # A password in the URL is nobody else's.
        url = front.url.replace("http://", "http://me:secret@")
        code, said = call(capsys, "discover", "--project", str(tmp_path), "--index", url)
        assert code == NEWS_EXIT_CODE
        assert f"add 2.9:cu126 2.9:cu130 --index {front.url}" in said
        assert "secret" not in said

        # The wheel of the stable ABI serves every flavour of its minors.
        (tmp_path / "pyproject.toml").write_text(f'{PROJECT}stable-abi = "2.9"\n')
        code, said = call(capsys, "add", "2.9:cu126", *words)
        assert code == UsageError.exit_code
        assert "the wheel of stable-abi = '2.9' serves torch 2.9:cu126 too" in said
        code, said = call(capsys, "discover", *words)
        assert (code, "nothing to do" in said) == (0, True)
    finally:
        front.close()
