"""`add` and `discover` for several platforms, on an index where one of them is behind."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.made_up import Front, pure
from tests.stated_torch import of_size, torch_wheel
from torch_build_farm.cli import main
from torch_build_farm.core.errors import NEWS_EXIT_CODE, PackageIndexError, UnknownTorchError, UsageError
from torch_build_farm.core.machine import ARM64, X86_64

SETTINGS = '[project]\nname = "demo"\nversion = "1"\n[tool.torch-build-farm]\nname = "demo"\npackages = ["demo"]\n'
BOTH = 'platforms = ["x86_64", "aarch64"]\n'
# The audit knows releases up to 2.15.0, from files of these names: nothing is left to learn of them.
RELEASES = {X86_64: ("2.14.0", "2.15.0", "2.16.0"), ARM64: ("2.14.0", "2.15.0", "2.15.1")}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("wheels")
    python = "cuda: Optional[str] = '13.2'\n"
    requires = "Requires-Dist: cuda-toolkit[cudart]==13.2.2; platform_system == 'Linux'\n"
    toolkit = "Provides-Extra: cudart\nRequires-Dist: nvidia-cuda-cudart==13.2.2; extra == 'cudart'\n"
    wheels = [
        pure(folder, "cuda-toolkit", "13.2.2", f"Metadata-Version: 2.1\nName: cuda-toolkit\nVersion: 13.2.2\n{toolkit}")
    ]
    for machine, releases in RELEASES.items():
        wheels += [torch_wheel(folder, release, machine, python, requires) for release in releases]
        name = f"nvidia_cuda_cudart-13.2.2-py3-none-manylinux2014_{machine.name}.whl"
        wheels.append(of_size(folder, name, 100_000_000))
    front = Front({path.name: path for path in wheels}, real="(?!)")
    yield front
    front.close()


@pytest.fixture
def project(tmp_path: Path, index: Front, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without variants files of its own; the farm's are those up to 2.15."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], project: Path, *words: str) -> tuple[int, str]:
    code = main.main([*words, "--project", str(project)])
    said = capsys.readouterr()
    return code, said.out + said.err


def document(capsys: pytest.CaptureFixture[str], project: Path, *words: str) -> Any:
    assert main.main([*words, "--project", str(project), "--json"]) in (0, NEWS_EXIT_CODE)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("settings", "words", "platforms"),
    [
        ("", (), ["x86_64"]),
        (BOTH, (), ["x86_64", "aarch64"]),
        (BOTH, ("--platform", "aarch64"), ["aarch64"]),
        ("", ("--platform", "all"), ["x86_64", "aarch64"]),
        ("", ("--platform", "aarch64", "aarch64"), ["aarch64"]),
    ],
    ids=["none named", "the settings'", "one of the settings'", "all", "one twice"],
)
def test_add_writes_a_file_for_each_platform(
    project: Path, capsys: pytest.CaptureFixture[str], settings: str, words: tuple[str, ...], platforms: list[str]
) -> None:
    (project / "pyproject.toml").write_text(SETTINGS + settings)
    (project / "variants").mkdir()
    answer = document(capsys, project, "add", "2.14", *words)
    files = {"x86_64": "torch214.toml", "aarch64": "torch214-aarch64.toml"}
    assert [row["platform"] for row in answer["variants"]] == platforms
    assert answer["notes"] == []
    assert {path.name for path in (project / "variants").iterdir()} == {files[platform] for platform in platforms}
    for row in answer["variants"]:
        assert Path(row["file"]).name == files[row["platform"]]
        table = tomllib.loads(Path(row["file"]).read_text())
        assert table.get("platform", "x86_64") == row["platform"]
        assert row["changes"]["to"] == "2.14.0", "the audit of that platform knows it"


def test_the_audit_learns_the_releases_of_the_platform(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2.15.1 is there for arm64 alone; the wheel here is not one that names can be read from."""
    (project / "variants").mkdir()
    assert call(capsys, project, "add", "2.15")[0] == 0
    code, said = call(capsys, project, "add", "2.15", "--platform", "aarch64")
    assert code == PackageIndexError.exit_code
    assert "downloading all of torch-2.15.1-cp312-cp312-manylinux_2_28_aarch64.whl" in said.replace("\n", " ")


def test_a_platform_without_that_minor_does_not_hold_up_the_others(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = document(capsys, project, "add", "2.16", "--platform", "all", "--dry-run")
    assert [row["platform"] for row in answer["variants"]] == ["x86_64"]
    (note,) = answer["notes"]
    assert note.startswith("left out for arm64: torch 2.16 cannot be served: no wheel for arm64 Linux")
    code, said = call(capsys, project, "add", "2.16", "--platform", "all", "--dry-run")
    assert (code, note in said.replace("\n", " ")) == (0, True)


def test_a_minor_that_no_platform_has_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = call(capsys, project, "add", "2.16", "--platform", "aarch64", "--dry-run")
    assert code == UnknownTorchError.exit_code
    assert "no wheel for arm64 Linux, only manylinux_2_28_x86_64" in said
    code, said = call(capsys, project, "add", "2.15", "2.17", "--platform", "all")
    assert code == UnknownTorchError.exit_code
    assert "the index has no release of it" in said
    assert not (project / "variants").exists()


def test_the_newest_minor_is_that_of_all_platforms(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = document(capsys, project, "add", "--latest", "--platform", "aarch64", "--dry-run")
    assert [(row["torch"], row["platform"]) for row in answer["variants"]] == [("2.15", "aarch64")]
    answer = document(capsys, project, "add", "--latest", "--platform", "all", "--dry-run")
    assert [(row["torch"], row["platform"]) for row in answer["variants"]] == [("2.16", "x86_64")]
    assert len(answer["notes"]) == 1


def test_a_word_that_is_no_platform(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["add", "2.15"], ["discover"]):
        code, said = call(capsys, project, *command, "--platform", "arch64")
        assert code == UsageError.exit_code
        assert "did you mean 'aarch64'?" in said


def test_discover_compares_each_platform_with_its_own_files(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*words: str) -> dict[tuple[str, str], tuple[str, list[str]]]:
        minors = document(capsys, project, "discover", *words)["minors"]
        return {
            (row["torch"], row["platform"]): (row["status"], row["news"]) for row in minors if row["torch"] > "2.14"
        }

    x86_64 = rows()
    assert {platform for _, platform in x86_64} == {"x86_64"}
    (project / "pyproject.toml").write_text(SETTINGS + BOTH)
    both = rows()
    assert {key: row for key, row in both.items() if key[1] == "x86_64"} == x86_64
    assert both["2.16", "x86_64"] == ("missing", ["no variant: add 2.16"])
    assert both["2.16", "aarch64"][0] == "waiting"
    status, news = both["2.15", "aarch64"]
    assert (status, news[0]) == ("changed", "new release 2.15.1")
    assert rows("--platform", "aarch64") == {key: row for key, row in both.items() if key[1] == "aarch64"}


def test_discover_says_which_command_is_next(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`add` takes the platforms of the settings, too; and a minor that both lack is named once."""
    (project / "pyproject.toml").write_text(SETTINGS + BOTH)
    code, said = call(capsys, project, "discover")
    assert code == NEWS_EXIT_CODE
    assert said.count("2.15 for arm64") == 1
    (next_line,) = [line for line in said.splitlines() if line.startswith("next: ")]
    words = next_line.split(" add ")[1].split()
    assert len(set(words)) == len(words)
    assert {"2.15", "2.16"} <= set(words)
    code, said = call(capsys, project, "discover", "--platform", "aarch64")
    assert " 2.15 --platform aarch64" in said
