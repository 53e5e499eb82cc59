from dataclasses import replace

import pytest

from tests.conftest import CHECKOUT
from torch_build_farm.core.errors import NoPythonError, UnknownTorchError, UsageError
from torch_build_farm.core.machine import ARM64, X86_64, Machine
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.plan import Plan, Pythons, Selection, plan
from torch_build_farm.project.settings import Project, load

PROJECT = load(CHECKOUT, CHECKOUT)
HALF_WAY = replace(PROJECT, settings=replace(PROJECT.settings, stable_abi=Minor(2, 10)))
ENGINE = {CPython.parse(text): f"{text.rstrip('t')}.1" for text in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.13t")}
RUNNING = CPython(3, 11)


def planned(
    *torch: str,
    pythons: Pythons = "default",
    only: tuple[str, ...] = (),
    project: Project = PROJECT,
    **more: object,
) -> Plan:
    given = {"engine": lambda _: ENGINE, "running": RUNNING, "requires_python": ">=3.9", **more}
    return plan(project, Selection(torch, pythons, only), version="1.0", **given)  # type: ignore[arg-type]


def ids(found: Plan) -> list[str]:
    return [job.id.removeprefix("pymomentum-gpu-") for job in found.jobs]


def test_the_running_python_by_default_in_order_of_version() -> None:
    assert ids(planned("2.10", "2.8", "2.9", "2.9")) == ["torch28-cp311", "torch29-cp311", "torch210-cp311"]


def test_else_the_newest_that_variant_and_engine_have() -> None:
    assert ids(planned("2.8", "2.15", running=CPython(3, 14))) == ["torch28-cp313", "torch215-cp313"]


def test_all_pythons_are_the_intersection_without_free_threaded_ones() -> None:
    assert ids(planned("2.9", pythons="all", requires_python=">=3.11")) == [
        "torch29-cp311", "torch29-cp312", "torch29-cp313",
    ]  # fmt: skip


def test_free_threaded_when_named() -> None:
    assert ids(planned("2.9", pythons=(CPython(3, 13, True),))) == ["torch29-cp313t"]


def test_a_python_one_variant_lacks_is_noted() -> None:
    found = planned("2.8", "2.9", pythons=(CPython(3, 9), CPython(3, 12)))
    assert ids(found) == ["torch28-cp39", "torch28-cp312", "torch29-cp312"]
    assert found.notes == ("torch 2.9: no job for CPython 3.9, which torch 2.9 has no wheel for",)


def test_a_minor_that_one_platform_lacks_is_noted() -> None:
    """torch for arm64 may come later: what is there is built for each platform."""
    described = {platform: dict(minors) for platform, minors in PROJECT.by_platform.items()}
    del described[ARM64][Minor(2, 15)]
    project = replace(PROJECT, by_platform=described)

    def on(torch: tuple[str, ...], *platforms: Machine) -> Plan:
        given = {"engine": lambda _: ENGINE, "running": RUNNING, "requires_python": ">=3.9"}
        return plan(project, Selection(torch, platforms=platforms), version="1.0", **given)  # type: ignore[arg-type]

    both = on(("2.14", "2.15", "2.15"), X86_64, ARM64)
    assert ids(both) == ["torch214-cp311", "torch215-cp311", "torch214-cp311-aarch64"]
    assert both.notes == ("torch 2.15: no job for arm64, for which no variants file describes it",)
    assert on(("2.14", "all"), X86_64, ARM64).notes == ()
    with pytest.raises(UnknownTorchError, match=r"torch 2\.15 has no variant for arm64"):
        on(("2.15",), ARM64)
    with pytest.raises(UnknownTorchError, match=r"torch 2\.99 has no variant"):
        on(("2.14", "2.99"), X86_64, ARM64)


def test_requires_python_counts_patch_releases() -> None:
    with pytest.raises(NoPythonError):
        planned("2.9", pythons=(CPython(3, 11),), requires_python=">=3.11.2")


def test_no_python_names_all_three_sides() -> None:
    with pytest.raises(NoPythonError) as caught:
        planned("2.15", pythons=(CPython(3, 10),))
    assert "torch 2.15" in caught.value.what
    assert "3.11, 3.12" in caught.value.where
    assert "uv python install" in caught.value.next_step


def test_unknown_minor_lists_the_known() -> None:
    with pytest.raises(UnknownTorchError) as caught:
        planned("2.7")
    assert caught.value.where == "known minors: 2.8, 2.9, 2.10, 2.11, 2.12, 2.13, 2.14, 2.15"


def test_a_minor_written_as_its_tag_is_recognised() -> None:
    with pytest.raises(UnknownTorchError, match=r"did you mean 2\.10\?"):
        planned("210")


def test_a_variant_without_a_python_matters_only_if_it_is_meant() -> None:
    old = (CPython(3, 10),)
    assert ids(planned("2.8", "2.15", pythons=old, only=("*torch28*",))) == ["torch28-cp310"]
    with pytest.raises(NoPythonError):
        planned("2.8", "2.15", pythons=old, only=("*torch215*",))


def test_only_matches_ids() -> None:
    assert ids(planned("all", pythons="all", only=("*-torch210-cp31[23]",))) == ["torch210-cp312", "torch210-cp313"]
    with pytest.raises(UsageError, match="matches no job"):
        planned("2.8", only=("torch28",))


def test_matrix_is_what_ci_needs() -> None:
    assert planned("2.9").matrix(PROJECT) == {
        "include": [
            {
                "job": "pymomentum-gpu-torch29-cp311",
                "distribution": "pymomentum-gpu-torch29",
                "version": "1.0",
                "variant": "torch29",
                "torch": "2.9",
                "python": "3.11",
                "releases": "2.9.0 2.9.1",
                "cuda": "12.8",
                "image": "manylinux_2_28",
            }
        ]
    }


def test_one_machine_makes_a_wheel_for_several_cpythons() -> None:
    plan = planned("2.8", "2.9", pythons=(CPython(3, 12), CPython(3, 11)))
    alone = [entry["job"][-14:] for entry in plan.matrix(PROJECT)["include"]]
    assert alone == ["-torch28-cp311", "-torch28-cp312", "-torch29-cp311", "-torch29-cp312"]
    shared = plan.matrix(PROJECT, shared_wheels=True)["include"]
    assert [(entry["job"][-13:], entry["python"]) for entry in shared] == [
        ("torch28-cp311", "3.11 3.12"),
        ("torch29-cp311", "3.11 3.12"),
    ]


@pytest.mark.parametrize(
    ("torch", "jobs"),
    [
        (["all"], ["torch28-cp311", "torch29-cp311", "torch-stable-cp311"]),
        (["2.12"], ["torch-stable-cp311"]),
        (["2.9", "2.10", "2.15"], ["torch29-cp311", "torch-stable-cp311"]),
    ],
)
def test_one_job_for_all_minors_of_the_stable_abi(torch: list[str], jobs: list[str]) -> None:
    assert ids(planned(*torch, project=HALF_WAY)) == jobs


def test_a_wheel_of_the_stable_abi_has_a_job_for_each_python_that_it_is_tested_on() -> None:
    found = planned("all", project=HALF_WAY, pythons=(CPython(3, 10), CPython(3, 12), CPython(3, 13)))
    assert [job for job in ids(found) if "stable" in job] == ["torch-stable-cp312", "torch-stable-cp313"]
    assert found.notes == ("torch 2.10: no job for CPython 3.10, which torch 2.15 has no wheel for",)
    only = ("*-torch-stable-cp313",)
    assert ids(planned("all", project=HALF_WAY, pythons="all", only=only)) == ["torch-stable-cp313"]


def test_the_matrix_of_the_stable_abi_names_every_release() -> None:
    (combination,) = planned("2.12", project=HALF_WAY).matrix(HALF_WAY)["include"]
    assert combination["job"] == "pymomentum-gpu-torch-stable-cp311"
    assert (combination["torch"], combination["variant"]) == ("2.10", "torch-stable")
    assert combination["releases"] == "2.10.0 2.11.0 2.12.0 2.12.1 2.13.0 2.14.0 2.14.1 2.15.0"


def test_a_minor_that_is_unknown_in_stable_mode_lists_all_that_are_known() -> None:
    with pytest.raises(UnknownTorchError) as caught:
        planned("2.16", project=HALF_WAY)
    assert caught.value.where == "known minors: 2.8, 2.9, 2.10, 2.11, 2.12, 2.13, 2.14, 2.15"
