"""Variants of another platform than x86-64: files, settings, selection, and what a job of one is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import ConfigError, NoPythonError, UnknownTorchError, UsageError
from torch_build_farm.core.machine import ARM64, X86_64, running
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.pipeline.shared_wheels import earlier_jobs
from torch_build_farm.pipeline.smoke_test import neighbour
from torch_build_farm.project.plan import Plan, Selection, check_architectures, jobs_of, plan
from torch_build_farm.project.settings import Project, load

TABLE = '[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
ENTRY = "[[tool.torch-build-farm.overrides]]\n"
CP311, CP312 = CPython(3, 11), CPython(3, 12)
BOTH = (X86_64, ARM64)
ARM_29 = (CHECKOUT / "variants" / "torch29-aarch64.toml").read_text()


def loaded(folder: Path, lines: str = "", files: dict[str, str] | None = None) -> Project:
    (folder / "pyproject.toml").write_text(TABLE + lines)
    (folder / "variants").mkdir(exist_ok=True)
    for name, text in (files or {}).items():
        (folder / "variants" / name).write_text(text)
    return load(folder, CHECKOUT)


def planned(project: Project, selection: Selection, *, core: str = "") -> Plan:
    return plan(
        project,
        selection,
        version="1",
        requires_python="",
        engine=lambda _: {CP311: "3.11.9", CP312: "3.12.9"},
        running=CP311,
        core_version=core,
    )


def test_a_job_of_each_platform_with_its_own_facts(tmp_path: Path) -> None:
    project = loaded(tmp_path)
    jobs = planned(project, Selection(("2.9", "2.13"), platforms=BOTH)).jobs
    assert [job.id for job in jobs] == [
        "demo-torch29-cp311", "demo-torch213-cp311", "demo-torch29-cp311-aarch64", "demo-torch213-cp311-aarch64",
    ]  # fmt: skip
    # torch's wheels for arm64 are for CPUs alone up to 2.10.
    assert [job.variant.cuda for job in jobs] == ["12.8", "13.0", "", "13.0"]
    assert [job.distribution for job in jobs] == ["demo-torch29", "demo-torch213"] * 2
    known = jobs_of(project)
    for job in jobs:
        assert known[job.id] == (job.variant, job.python)


def test_the_matrix_has_an_entry_for_each_platform_of_a_shared_wheel(tmp_path: Path) -> None:
    project = loaded(tmp_path)
    selection = Selection(("2.9",), pythons=(CP311, CP312), platforms=BOTH)
    matrix = planned(project, selection).matrix(project, shared_wheels=True)["include"]
    assert [(entry["job"], entry["platform"], entry["python"]) for entry in matrix] == [
        ("demo-torch29-cp311", "x86_64", "3.11 3.12"),
        ("demo-torch29-cp311-aarch64", "aarch64", "3.11 3.12"),
    ]


def test_a_wheel_is_shared_by_jobs_of_its_own_platform(tmp_path: Path) -> None:
    selection = Selection(("2.9",), pythons=(CP311, CP312), platforms=BOTH)
    jobs = {job.id: job for job in planned(loaded(tmp_path), selection).jobs}
    earlier = earlier_jobs(jobs.values(), jobs["demo-torch29-cp312-aarch64"])
    assert [job.id for job in earlier] == ["demo-torch29-cp311-aarch64"]


def test_each_platform_has_a_core_of_its_own(tmp_path: Path) -> None:
    project = loaded(
        tmp_path,
        '[tool.torch-build-farm.core]\nname = "demo-core"\npackages = ["demo_core"]\npyproject = "core.toml"\n',
    )
    selection = Selection(("2.9",), platforms=BOTH)
    assert [job.id for job in planned(project, selection, core="1").jobs] == [
        "demo-core-cp311", "demo-core-cp311-aarch64", "demo-torch29-cp311", "demo-torch29-cp311-aarch64",
    ]  # fmt: skip
    # A variant's job takes the core of its platform along, and no other.
    named = replace(selection, only=("demo-torch29-cp311-aarch64",))
    assert [job.id for job in planned(project, named, core="1").jobs] == [
        "demo-core-cp311-aarch64", "demo-torch29-cp311-aarch64",
    ]  # fmt: skip


def test_the_command_line_wins_over_the_settings_and_these_over_the_machine(tmp_path: Path) -> None:
    project = loaded(tmp_path)
    assert Selection.parse(project, ["2.9"]).platforms == (running(),)
    both = loaded(tmp_path, 'platforms = ["x86_64", "aarch64"]\n')
    assert Selection.parse(both, ["2.9"]).platforms == BOTH
    assert Selection.parse(both, ["2.9"], platform=["aarch64", "aarch64"]).platforms == (ARM64,)
    assert Selection.parse(project, ["2.9"], platform=["all"]).platforms == BOTH


@pytest.mark.parametrize("word", ["arm64", "x86-64", "aarch46", ""])
def test_another_word_is_answered_with_the_nearest_platform(word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        Selection.parse(loaded(tmp_path), ["2.9"], platform=["all", word])
    assert "aarch64" in raised.value.next_step
    with pytest.raises(ConfigError, match="platforms"):
        loaded(tmp_path, f'platforms = ["{word}"]\n')


def test_a_minor_without_a_file_for_the_platform_has_no_jobs(tmp_path: Path) -> None:
    project = loaded(tmp_path)
    by_platform = {**project.by_platform, ARM64: {Minor(2, 9): project.by_platform[ARM64][Minor(2, 9)]}}
    lacking = replace(project, by_platform=by_platform)
    with pytest.raises(UnknownTorchError) as raised:
        planned(lacking, Selection(("2.13",), platforms=(ARM64,)))
    assert raised.value.what == "torch 2.13 has no variant for arm64"
    assert "`add 2.13 --platform aarch64`" in raised.value.next_step
    assert [job.id for job in planned(lacking, Selection(("all",), platforms=(ARM64,))).jobs] == [
        "demo-torch29-cp311-aarch64"
    ]
    assert neighbour(lacking, by_platform[ARM64][Minor(2, 9)]) is None


def test_a_sysroot_without_headers_has_no_cpython_to_build_for(tmp_path: Path) -> None:
    other = X86_64 if running() == ARM64 else ARM64
    with pytest.raises(NoPythonError) as raised:
        plan(
            loaded(tmp_path),
            Selection(("2.9",), platforms=(other,)),
            version="1",
            requires_python="",
            engine=lambda _: {},
            running=CP311,
        )
    assert "headers" in raised.value.next_step


def test_the_stable_variant_serves_what_its_platform_has(tmp_path: Path) -> None:
    project = loaded(tmp_path, 'stable-abi = "2.10"\n')
    by_platform = {**project.by_platform, ARM64: {Minor(2, 9): project.by_platform[ARM64][Minor(2, 9)]}}
    assert [str(minor) for minor in replace(project, by_platform=by_platform).on(ARM64).variants] == ["2.9"]
    (job,) = planned(project, Selection(("2.10",), platforms=(ARM64,))).jobs
    assert (job.id, job.platform) == ("demo-torch-stable-cp311-aarch64", ARM64)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "torch29-aarch64.toml",
            ARM_29.replace('platform = "aarch64"', ""),
            'platform: torch29-aarch64.toml is for arm64: it needs platform = "aarch64", or the name torch29.toml',
        ),
        ("torch299.toml", ARM_29, "torch: 2.9 for arm64 belongs in torch29-aarch64.toml"),
        ("torch29-aarch64.toml", ARM_29.replace('"aarch64"', '"arm64"'), "platform: 'arm64' is no platform"),
        ("torch29-aarch64.toml", ARM_29.replace('cuda-runtime = ""', 'cuda-runtime = "x==1"'), "cuda-runtime"),
        ("torch29.toml", (CHECKOUT / "variants" / "torch29.toml").read_text().replace('"12.8"', '""'), "contradicts"),
    ],
)
def test_contradictions_of_a_file(name: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, files={name: text})
    assert says in raised.value.what


def test_cuda_sources_for_a_torch_without_cuda_are_refused_unless_an_entry_leaves_them_out(tmp_path: Path) -> None:
    selection = Selection(("2.9", "2.13"), platforms=BOTH)
    project = loaded(tmp_path, 'cuda-arch-list = ["9.0"]\n')
    with pytest.raises(ConfigError) as raised:
        check_architectures(project, planned(project, selection).jobs)
    assert raised.value.what == "cuda-arch-list: torch 2.9 for arm64 is built without CUDA"
    entry = f'{ENTRY}torch = "<2.11"\nplatform = "aarch64"\ncuda-arch-list = []\n'
    mended = loaded(tmp_path, f'cuda-arch-list = ["9.0"]\n{entry}')
    jobs = planned(mended, selection).jobs
    check_architectures(mended, jobs)
    lists = [mended.settings.for_job(job.variant, job.python).cuda_arch_list for job in jobs]
    assert lists == [("9.0",), ("9.0",), (), ("9.0",)]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ('platform = "aarch64"\ncuda = "==12.*"\nbuild-requires = []\n', "admits no CUDA"),
        ('platform = "aarch64"\ncpython = ["3.9"]\ntorch = "2.13"\nbuild-requires = []\n', "overrides[0]"),
        ("build-requires = []\n", "name torch, cpython, cuda or platform"),
    ],
)
def test_an_entry_that_selects_nothing(entry: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, ENTRY + entry)
    assert says in raised.value.what


def test_an_entry_for_a_minor_that_another_platform_has_alone(tmp_path: Path) -> None:
    """Flavours, too, may exist for one platform."""
    entry = f'{ENTRY}torch = ["2.7"]\nbuild-requires = ["x"]\n'
    project = loaded(tmp_path, entry, {"torch27-aarch64.toml": ARM_29.replace("2.9", "2.7")})
    (job,) = planned(project, Selection(("2.7",), platforms=(ARM64,))).jobs
    assert project.settings.for_job(job.variant, job.python).build_requires == ("x",)
