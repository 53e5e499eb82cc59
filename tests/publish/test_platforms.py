"""Wheels for x86-64 and arm64 of one release: what is published in which order, and what is missing on one platform."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Answer
from tests.family import describe_arm64, make_wheel, project, variant, with_arm64
from tests.index import Index
from tests.proofs import prove
from tests.release import Release, with_members
from torch_build_farm.core import machine
from torch_build_farm.core.errors import PublishError, UsageError
from torch_build_farm.core.versions import CPython
from torch_build_farm.publish import inventory, served_platforms

Call = Callable[..., Answer]
X86_64, ARM64 = "manylinux_2_28_x86_64", "manylinux_2_28_aarch64"


def tag(python: str, platform: str) -> str:
    return f"{python}-{python}-{platform}"


def built(release: Release, torch: str, *tags: str) -> None:
    """Proven wheels of a variant."""
    for each in tags:
        release.proven(release.variant(torch, tag=each))


@pytest.fixture(autouse=True)
def _described(release: Release) -> None:
    describe_arm64(release.project.root, "torch28", "torch29")


def dry_run(call: Call, index: Index) -> Answer:
    answer = call("publish", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    return answer


def warnings(answer: Answer) -> list[str]:
    return [warning for warning in answer.document["warnings"] if "no wheel" in warning]


def test_wheels_of_both_platforms_go_before_what_leads_to_them(release: Release, call: Call, index: Index) -> None:
    built(release, "2.8", tag("cp312", X86_64), tag("cp312", ARM64))
    built(release, "2.9", tag("cp312", X86_64), tag("cp312", ARM64))
    answer = dry_run(call, index)
    names = [Path(file["path"]).name for file in answer.document["files"]]
    assert names[:4] == [
        f"demo_torch{minor}-1.0-cp312-cp312-{platform}.whl" for minor in (28, 29) for platform in (ARM64, X86_64)
    ]
    assert [name.split("-")[0] for name in names[4:]] == ["demo_select", "demo_select", "demo_auto", "demo"]
    assert warnings(answer) == []


def test_a_wheel_of_one_platform_proves_nothing_of_the_other(release: Release, call: Call, index: Index) -> None:
    built(release, "2.9", tag("cp312", X86_64))
    release.variant("2.9", tag=tag("cp312", ARM64))
    answer = call("publish", index.url, "--index-url", index.url)
    assert answer.code != 0
    assert f"demo_torch29-1.0-{tag('cp312', ARM64)}.whl: no record has its SHA-256" in answer.err
    assert X86_64 not in answer.err


def test_what_one_platform_lacks(release: Release, call: Call, index: Index) -> None:
    built(release, "2.8", tag("cp312", X86_64))
    built(release, "2.9", tag("cp312", X86_64), tag("cp313", X86_64), tag("cp312", ARM64))
    expected = [
        "demo-torch28 1.0 has no wheel for arm64: there it installs without a variant, and its import says so",
        "demo-torch29 1.0 has no wheel of CPython 3.13 for arm64, as it has for other platforms: there nobody can install it",
    ]
    assert warnings(dry_run(call, index)) == expected
    answer = call("meta", "--offline")
    assert answer.code == 0, answer.err
    assert all(sentence in answer.out for sentence in expected)


def test_a_wheel_for_later_cpythons_too_lacks_none(release: Release, call: Call, index: Index) -> None:
    built(release, "2.9", tag("cp312", X86_64), tag("cp313", X86_64), f"cp311-abi3-{ARM64}")
    (warning,) = warnings(dry_run(call, index))
    assert warning.startswith("demo-torch29 1.0 has no wheel of CPython 3.11, 3.14 for x86-64,")


def test_a_platform_that_the_settings_name(release: Release, call: Call, index: Index) -> None:
    built(release, "2.9", tag("cp312", X86_64))
    assert warnings(dry_run(call, index)) == [], "a project for x86-64 alone"
    path = release.project.root / "pyproject.toml"
    path.write_text(path.read_text() + 'platforms = ["x86_64", "aarch64"]\n')
    (warning,) = warnings(dry_run(call, index))
    assert warning.startswith("demo-torch29 1.0 has no wheel for arm64:")


def test_a_minor_that_torch_has_for_one_platform_alone() -> None:
    own = with_arm64(project("demo"), "2.9")
    wheels = [f"demo_torch28-1.0-{tag('cp312', X86_64)}.whl"]
    wheels += [f"demo_torch29-1.0-{tag('cp312', platform)}.whl" for platform in (X86_64, ARM64)]
    assert served_platforms.missing(own, wheels, "1.0") == []


def test_each_platform_has_cores_of_its_own(release: Release, call: Call, index: Index) -> None:
    """A variant for x86-64 brings no core for arm64 along."""
    path = release.project.root / "pyproject.toml"
    table = '[tool.torch-build-farm.core]\nname = "demo-core"\npyproject = "core.toml"\npackages = ["base"]\n'
    path.write_text(f"{path.read_text()}\n{table}")
    release.dist.mkdir(parents=True)
    cores = {}
    for platform in (X86_64, ARM64):
        for python in ("cp311", "cp312"):
            cores[python, platform] = core = make_wheel(
                release.dist, "demo-core", "1.0", {"base/__init__.py": ""}, tag=tag(python, platform)
            )
            prove(core, release.folder / "work", core.name)
    wheel = release.variant("2.9", tag=f"cp311-abi3-{X86_64}")
    prove(wheel, release.folder / "work", wheel.name, core=cores["cp311", X86_64])
    names = [file["path"] for file in dry_run(call, index).document["files"] if file["name"] == "demo-core"]
    assert [Path(name) for name in names] == [cores[python, X86_64] for python in ("cp311", "cp312")]


def test_the_table_has_a_row_for_each_platform(release: Release, call: Call) -> None:
    path = release.project.root / "variants" / "torch28-aarch64.toml"
    facts = [line for line in path.read_text().splitlines() if not line.startswith("cuda")]
    facts += ['cuda = ""', 'cuda-runtime = ""', "cuda-toolkit = []", "cuda-runtime-gb = 0"]
    path.write_text("\n".join(facts))
    built(release, "2.8", tag("cp312", X86_64), tag("cp311", ARM64))
    built(release, "2.9", tag("cp312", X86_64))
    assert call("meta", "--offline").code == 0
    rows = (release.folder / "work" / "COMPATIBILITY.md").read_text().splitlines()
    assert rows[4] == (
        "| torch | platform | distribution | version | CPython | CUDA of its torch | with a CPU torch | install |"
    )
    assert [row.split(" | ")[:6] for row in rows[6:]] == [
        ["| 2.9", "x86-64", "demo-torch29", "1.0", "3.12", "12.8"],
        ["| 2.8", "x86-64", "demo-torch28", "1.0", "3.12", "12.8"],
        ["| 2.8", "arm64", "demo-torch28", "1.0", "3.11", "none"],
    ]


def test_a_minor_that_torch_has_for_arm64_alone(release: Release, call: Call, index: Index) -> None:
    """It is a variant like any other: its names, its rung, and its row of the table."""
    facts = (CHECKOUT / "variants" / "torch215.toml").read_text().replace("2.15", "2.16")
    path = release.project.root / "variants" / "torch216-aarch64.toml"
    path.write_text(f'platform = "aarch64"\n{facts}')
    assert "demo-torch216" in inventory.all_names(release.project)
    release.proven(release.variant("2.16", tag=tag("cp312", ARM64)))
    built(release, "2.9", tag("cp312", X86_64))
    names = [file["name"] for file in dry_run(call, index).document["files"]]
    assert names == ["demo-torch216", "demo-torch29", "demo-select", "demo-select", "demo-auto", "demo"]
    assert call("meta", "--offline").code == 0
    rows = (release.folder / "work" / "COMPATIBILITY.md").read_text().splitlines()[6:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| 2.16", "arm64", "demo-torch216"],
        ["| 2.9", "x86-64", "demo-torch29"],
    ]


def test_the_stable_abi_on_both_platforms(tmp_path: Path) -> None:
    own = with_arm64(project("demo", stable_abi="2.10"), "2.9", "2.10", "2.11")
    for platform in (X86_64, ARM64):
        variant(tmp_path, own, "2.10", "1.0", {"demo/__init__.py": ""}, tag=tag("cp312", platform))
    variant(tmp_path, own, "2.9", "1.0", {"demo/__init__.py": ""}, tag=tag("cp312", X86_64))
    family = inventory.family(own, inventory.built(own, tmp_path), ())
    both = [family.variant_requirement(minor) for minor in family.minors if minor.number in ("2.10", "2.11")]
    assert len(both) == 2
    assert all(text.startswith("demo-torch-stable==1.0 ; (") and "aarch64" in text for text in both)
    text = inventory.compatibility(family, inventory.built(own, tmp_path))
    assert "| 2.11 and later | arm64 | demo-torch-stable |" in text, "the newest that is described for arm64"
    assert "| 2.10 | x86-64 | demo-torch-stable |" in text
    assert "| 2.9 | arm64 |" not in text


def test_what_is_for_another_machine_is_downloaded_and_not_imported(release: Release, index: Index) -> None:
    here, elsewhere = (X86_64, ARM64) if machine.running() == machine.X86_64 else (ARM64, X86_64)
    words = {X86_64: "x86-64", ARM64: "arm64"}
    python = CPython.running()
    fatal = {"demo/__init__.py": "raise SystemExit('it ran')\n"}
    wheels = [
        release.variant("2.9", tag=tag(python.tag, here)),
        release.variant("2.9", tag=tag(python.tag, elsewhere), files=fatal),
        release.variant("2.8", tag=tag(python.tag, elsewhere), files=fatal),
    ]
    release.published(index, *wheels)
    check = ("check", index.url, "--index-url", index.url, "--json")
    answer = release.farm()(*check)
    assert answer.code == 0, answer.err
    suffix = f" for {words[elsewhere]}"
    assert answer.document["installed"] == {"demo[torch29]==1.0": str(python)}
    assert answer.document["downloaded"] == {
        f"demo[torch28]==1.0{suffix}": str(python),
        f"demo[torch29]==1.0{suffix}": str(python),
    }
    assert f"demo[torch29]==1.0{suffix}, not imported: this machine is {words[here]}" in answer.err
    platform = machine.running().name
    assert release.farm()(*check, "--platform", platform).document["downloaded"] == {}

    # Another file under the same name is found there too.
    (index.folder / "demo-torch28" / wheels[2].name).write_bytes(
        with_members(wheels[2], {"demo/x.py": ""}).read_bytes()
    )
    index.digests = False
    index._list("demo-torch28")
    answer = release.farm()(*check)
    assert answer.code == PublishError.exit_code
    assert f"demo[torch28]==1.0{suffix} cannot be downloaded" in answer.err


def test_a_wheel_for_every_machine_is_checked_once(release: Release, index: Index) -> None:
    release.published(index, release.variant("2.9"))
    answer = release.farm()("check", index.url, "--index-url", index.url, "--json")
    assert answer.code == 0, answer.err
    assert len(answer.document["installed"]) == 1
    assert answer.document["downloaded"] == {}


def test_a_platform_that_a_release_has_nothing_for_is_named(release: Release, index: Index, call: Call) -> None:
    release.published(index, release.variant("2.9", tag=tag("cp312", X86_64)))
    answer = call("check", index.url, "--index-url", index.url, "--platform", "aarch64")
    assert answer.code == UsageError.exit_code
    assert f"no variant of demo 1.0 for arm64 was published to {index.url}" in answer.err
