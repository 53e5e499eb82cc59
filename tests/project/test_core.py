"""A project with a core: its settings, its jobs, and what its source must be, before anything is built."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, PROJECTS, Farm, need
from tests.family import with_arm64
from torch_build_farm.cli.verify import selection_of
from torch_build_farm.core.errors import ConfigError, NoPythonError, SourceError, UsageError
from torch_build_farm.core.versions import CPython, Minor
from torch_build_farm.project.overrides import Override
from torch_build_farm.project.plan import Plan, Selection, jobs_of, plan
from torch_build_farm.project.settings import Project, load

PROJECT = load(PROJECTS / "addon", CHECKOUT)
RUNNING = CPython(3, 11)
ENGINE = {CPython(3, minor): f"3.{minor}.1" for minor in (11, 12, 13, 14)}


def planned(*torch: str, python: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Plan:
    return planned_by(Selection.parse(PROJECT, torch, python, only))


def planned_by(selection: Selection) -> Plan:
    return plan(
        PROJECT,
        selection,
        version="1.1",
        requires_python=">=3.9",
        engine=lambda _: ENGINE,
        running=RUNNING,
        core_version="1.0",
    )


def jobs(found: Plan) -> list[tuple[str, str]]:
    return [(job.id, job.version) for job in found.jobs]


def test_each_cpython_has_one_core_before_its_variants() -> None:
    assert jobs(planned("2.8", "2.9", python=("3.11", "3.12"))) == [
        ("acme-core-cp311", "1.0"),
        ("acme-core-cp312", "1.0"),
        ("acme-gpu-torch28-cp311", "1.1"),
        ("acme-gpu-torch28-cp312", "1.1"),
        ("acme-gpu-torch29-cp311", "1.1"),
        ("acme-gpu-torch29-cp312", "1.1"),
    ]


def test_a_selection_of_variants_takes_their_cores_along() -> None:
    found = planned("all", python=("all",), only=("*-torch29-cp312",))
    assert jobs(found) == [("acme-core-cp312", "1.0"), ("acme-gpu-torch29-cp312", "1.1")]


def test_a_core_may_be_built_alone() -> None:
    assert jobs(planned("2.8", python=("all",), only=("acme-core-cp31[12]",))) == [
        ("acme-core-cp311", "1.0"),
        ("acme-core-cp312", "1.0"),
    ]
    with pytest.raises(UsageError, match="acme-core-cp311"):
        planned("2.8", only=("acme-cor-cp311",))


def test_the_core_is_the_same_whichever_minors_are_asked_for() -> None:
    (first, *_), (second, *_) = planned("2.8").jobs, planned("2.15").jobs
    assert first == second
    restricted = replace(PROJECT, settings=replace(PROJECT.settings, torch=(Minor(2, 14), Minor(2, 13))))
    assert restricted.core
    assert restricted.core.torch == Minor(2, 13)


def test_a_project_has_the_jobs_of_its_core_too() -> None:
    by_id = jobs_of(PROJECT)
    assert {job for job in by_id if "core" in job} >= {"acme-core-cp39", "acme-core-cp313t", "acme-core-cp315"}


def test_a_machine_of_its_own_builds_a_core_that_the_oldest_torch_has_no_cpython_for() -> None:
    """A core belongs to no minor: 2.8, the oldest, has no wheels for 3.14."""
    (core, variant) = planned("2.10", python=("3.14",)).matrix(PROJECT)["include"]
    assert [core["job"], variant["job"]] == ["acme-core-cp314", "acme-gpu-torch210-cp314"]
    for entry in (core, variant):
        again = planned(entry["torch"], python=(entry["python"],), only=(entry["job"],))
        assert again.jobs[-1].id == entry["job"]


def test_verify_selects_any_job_of_the_project() -> None:
    """Each core alone, and each variant with its core."""
    cores = {job.id for job in planned("all", python=tuple(map(str, ENGINE)), only=("acme-core-*",)).jobs}
    assert cores == {"acme-core-cp311", "acme-core-cp312", "acme-core-cp313", "acme-core-cp314"}
    for job in (*cores, "acme-gpu-torch29-cp314"):
        *needed, selected = planned_by(selection_of(job, PROJECT)).jobs
        assert selected.id == job
        assert len(needed) == (0 if job in cores else 1)


def test_verify_selects_a_job_of_another_platform() -> None:
    project = with_arm64(PROJECT, "2.8", "2.9")
    for job in ("acme-gpu-torch29-cp312-aarch64", "acme-core-cp312-aarch64"):
        found = plan(
            project,
            selection_of(job, project),
            version="1.1",
            requires_python=">=3.9",
            engine=lambda _: ENGINE,
            running=RUNNING,
            core_version="1.0",
        )
        assert found.jobs[-1].id == job


def settings_of_core(project: Project) -> object:
    assert project.core
    return project.settings.for_job(project.core, RUNNING)


def test_the_settings_of_its_job() -> None:
    core = replace(PROJECT.settings.core, environment={"A": "core"}, cmake_defines={"ACME_TORCH": "OFF"})  # type: ignore[type-var]
    overrides = (
        Override(torch=">=2.8", environment={"A": "torch", "B": "torch"}),
        Override(cuda="==12.*", environment={"C": "cuda"}),
        Override(cpython=(RUNNING,), environment={"D": "python"}),
    )
    changed = replace(PROJECT.settings, core=core, overrides=overrides, environment={"A": "all", "E": "all"})
    settings = changed.for_job(PROJECT.core, RUNNING)  # type: ignore[arg-type]
    assert settings.environment == {"A": "core", "D": "python", "E": "all"}
    assert (settings.packages, settings.pyproject) == (("acme",), "pyproject-core.toml")
    variant = changed.for_job(PROJECT.variants[Minor(2, 9)], RUNNING)
    assert variant.environment["A"] == "torch"
    assert variant.packages == ("acme.solver",)


@pytest.fixture
def addon(make_farm: Callable[..., Farm]) -> Farm:
    return make_farm("addon")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "acme-core"', 'name = "Acme_GPU.torch29"', "core.name: Acme_GPU.torch29 is a distribution of the"),
        ('name = "acme-core"', 'name = "acme-gpu-select"', "core.name: acme-gpu-select is a distribution of the"),
        ('packages = ["acme"]', 'packages = ["acme", "acme.solver"]', "core.packages: acme.solver is a package of the"),
        ('packages = ["acme"]', "packages = []", "core.packages"),
        ('pyproject = "pyproject-core.toml"', 'pyproject = ""', "core.pyproject"),
        ('pyproject = "pyproject-core.toml"\n', "", "core.pyproject"),
        ('pyproject = "pyproject-core.toml"', 'pyproject = "pyproject-core.toml"\ntorch = ["2.8"]', "core.torch"),
    ],
)
def test_a_table_that_makes_no_sense(addon: Farm, old: str, new: str, words: str) -> None:
    addon.edit("pyproject.toml", old, new)
    with pytest.raises(ConfigError) as caught:
        load(addon.project, CHECKOUT)
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("path", "old", "new", "error", "words"),
    [
        ("pyproject-core.toml", '"acme-core"', '"acme-base"', SourceError, 'name = "acme-base" in [tool.torch-build-farm.core]'),
        ("pyproject-core.toml", '"pybind11"]', '"pybind11", "torch"]', SourceError, "the core requires torch"),
        ("pyproject-core.toml", "[project]", '[project]\ndependencies = ["Torch>=2"]', SourceError, "the core requires Torch>=2"),
        ("pyproject-core.toml", ">=3.9", ">=3.99", NoPythonError, "no CPython for torch 2.8"),
        ("pyproject.toml", "pyproject-core.toml", "pyproject-cor.toml", SourceError, "the source has no pyproject-cor.toml; did you mean 'pyproject-core.toml'?"),
        ("pyproject.toml", '"pybind11==3.0.1"', '"pybind11>=3"', ConfigError, "among torch's headers are 2.13.6 of torch 2.8; 3.0.1 of torch 2.9"),
        ("pyproject.toml", '"pybind11==3.0.1"', '"pybind11==3.*"', ConfigError, "nothing says which version"),
        ("pyproject-core.toml", '"pybind11"', '"pybind11==2.13.6"', ConfigError, "2.13.6 by the build requirements of acme-core ("),
    ],
)  # fmt: skip
def test_plan_refuses(addon: Farm, path: str, old: str, new: str, error: type[SourceError], words: str) -> None:
    addon.edit(path, old, new)
    answer = addon("plan", "--torch", "2.8", "2.9")
    assert answer.code == error.exit_code, answer.err
    assert words in answer.err


def test_one_pybind11_by_the_requirements_of_both(addon: Farm) -> None:
    addon.edit("pyproject.toml", 'build-constraints = ["pybind11==3.0.1"]\n', "")
    addon.edit("pyproject.toml", '"pybind11"', '"pybind11==3.0.1"')
    assert addon("plan", "--torch", "2.8", "2.9").code == ConfigError.exit_code
    addon.edit("pyproject-core.toml", '"pybind11"', '"pybind11==3.0.1"')
    answer = addon("plan", "--torch", "2.8", "2.9")
    assert answer.code == 0, answer.err


def test_two_versions_of_pybind11_are_named_with_their_places(addon: Farm) -> None:
    addon.edit("pyproject.toml", 'build-constraints = ["pybind11==3.0.1"]\n', "")
    addon.edit("pyproject.toml", '"pybind11"', '"pybind11==2.13.6"')
    addon.edit("pyproject-core.toml", '"pybind11"', '"pybind11==3.0.1"')
    answer = addon("plan", "--torch", "2.8", "2.9")
    assert answer.code == ConfigError.exit_code, answer.err
    assert "2.13.6 by the build requirements of acme-gpu-torch28 (" in answer.err
    assert "3.0.1 by the build requirements of acme-core (" in answer.err
    assert "pyproject-core.toml" in answer.err


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ('build-requires = ["pybind11"]', "nothing says which version"),
        ('build-requires = ["pybind11==3.0.1"]', ""),
        # One minor has another.
        ("""build-requires = ["pybind11==3.0.1"]
overrides = [{ torch = "==2.8", build-requires = ["pybind11==2.13.6"] }]""", "2.13.6 by build-requires of"),
        # A CPython has a core of its own.
        ("""build-requires = ["pybind11==3.0.1; python_version >= '3.12'", "pybind11==2.13.6; python_version < '3.12'"]""", ""),
    ],
)  # fmt: skip
def test_one_pybind11_where_the_settings_require_it(addon: Farm, added: str, words: str) -> None:
    addon.edit("pyproject.toml", 'build-constraints = ["pybind11==3.0.1"]', added)
    addon.edit("pyproject.toml", '"pybind11", ', "")
    addon.edit("pyproject-core.toml", ', "pybind11"', "")
    answer = addon("plan", "--torch", "2.8", "2.9")
    assert answer.code == (ConfigError.exit_code if words else 0), answer.err
    assert words in answer.err


def test_one_machine_does_what_may_share_a_wheel_of_the_core_alone(addon: Farm) -> None:
    """Its build files announce it, and those of the variants do not."""
    words = ("plan", "--torch", "2.9", "--python", "all", "--only", "acme-core-*", "--json")
    apart = addon(*words).document["include"]
    need(len(apart) > 1, "needs several CPythons")
    addon.edit("pyproject-core.toml", "[tool.scikit-build]", '[tool.scikit-build]\nwheel.py-api = "cp39"')
    (together,) = addon(*words).document["include"]
    assert together["python"] == " ".join(entry["python"] for entry in apart)


def test_its_tree_has_nothing_of_torch(addon: Farm) -> None:
    answer = addon("render", "--torch", "2.8", "2.9", "--json")
    assert answer.code == 0, answer.err
    core, old, new = (addon.work / "jobs" / job["job"] / "source" for job in answer.document["jobs"])
    assert core.parent.name.startswith("acme-core-")
    text = (core / "pyproject.toml").read_text()
    assert 'name = "acme-core"' in text
    assert "torch" not in text.split("\n", 1)[1]
    assert (core / ".torch-build-farm" / "constraints.txt").read_text().splitlines()[1:] == [
        "torch<0",
        "pybind11==3.0.1",
    ]
    # The bundled versions differ, and none of them counts beside a core.
    for tree in (old, new):
        lines = (tree / ".torch-build-farm" / "constraints.txt").read_text().splitlines()
        assert lines[2:] == ["pybind11==3.0.1"]


def test_without_the_table_nothing_is_different(addon: Farm, tmp_path: Path) -> None:
    text = (addon.project / "pyproject.toml").read_text()
    (addon.project / "pyproject.toml").write_text(text.partition("[tool.torch-build-farm.core]")[0])
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    answer = addon("plan", "--torch", "2.8", "--json")
    assert [job["job"].rpartition("-")[0] for job in answer.document["include"]] == ["acme-gpu-torch28"]
