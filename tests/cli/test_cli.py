"""Command lines that end before anything is built."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, Farm, need
from torch_build_farm.cli.main import main


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--torch", "2.7"], 4, "torch 2.7 has no variant"),
        (["plan"], 2, "--torch 2.8 2.9"),
        (["--torch", "2.8", "--python", "3.x"], 2, "'3.x' is not a CPython"),
        (["--torch", "2.8", "--python", "3.99"], 5, "no CPython for torch 2.8"),
        (["--torch", "2.8", "--only", "nothing"], 2, "matches no job"),
        (["--torch", "2.8", "--forse"], 2, "did you mean '--force'?"),
        (["--torch", "2.8", "--jobs", "0"], 2, "is not a positive integer"),
        (["--torch", "2.8", "--engine", "podman"], 2, "podman"),
        (["paln", "--torch", "2.8"], 2, "did you mean 'plan'?"),
        (["--torch", "2.8,2.9"], 4, "separate minors with spaces"),
        (["--torch", "2.8.0"], 4, "did you mean 2.8?"),
        (["smoke", "--torch", "2.8", "--smoke", "none"], 2, "nothing to do"),
        (["sdk", "../../2.9"], 2, "is not a version"),
    ],
)
def test_bad_calls(tiny: Farm, words: list[str], code: int, said: str) -> None:
    answer = tiny(*words)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not tiny.work.exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "said"),
    [
        ("pyproject.toml", 'name = "tiny"\npackages', 'nmae = "tiny"\npackages', 3, "did you mean 'name'?"),
        ("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\nsource = "src"', 6, "does not exist"),
        ("pyproject.toml", 'version = "1.0"', 'dynamic = ["version"]', 7, "does not state its version"),
        ("pyproject.toml", "[tool.torch-build-farm]", '[tool.torch-build-farm]\nsmoke-script = "x.py"', 6, "x.py"),
        ("pyproject.toml", '"torch>=2.8"', '"torch>=2.8 oops"', 12, "not a valid requirement"),
    ],
)
def test_bad_projects(tiny: Farm, file: str, old: str, new: str, code: int, said: str) -> None:
    tiny.edit(file, old, new)
    answer = tiny("render", "--torch", "2.8", "--json")
    assert answer.code == code, answer.err
    assert said in answer.err
    problem = answer.document.get("error") or answer.document["jobs"][0]["error"]
    assert problem["exit_code"] == code
    assert not list(tiny.work.glob("jobs/*/source"))


def test_bad_places(tiny: Farm, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for work, said in (
        (file, "the work folder is a file"),
        (tmp_path / "with space", "a path with a space"),
        (tiny.project, "the work folder holds the source tree"),
        (tmp_path, "the work folder holds the source tree"),
    ):
        tiny.work = work
        answer = tiny("render", "--torch", "2.8")
        assert answer.code == 2, answer.err
        assert said in answer.err
    tiny.env["SOURCE_DATE_EPOCH"] = "yesterday"
    tiny.work = tmp_path / "work"
    answer = tiny("render", "--torch", "2.8")
    assert answer.code == 2, answer.err
    assert "SOURCE_DATE_EPOCH=yesterday" in answer.err


def test_a_store_that_cannot_be_written(tiny: Farm, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tiny.env["TORCH_BUILD_FARM_STORE"] = str(tmp_path / "file" / "store")
    answer = tiny("sdk", "2.9.0")
    assert answer.code == 9, answer.err
    assert "Not a directory\n  where: " in answer.err
    assert "Traceback" not in answer.err


def test_clean_touches_no_folder_that_is_not_ours(tiny: Farm, tmp_path: Path) -> None:
    (tmp_path / "precious" / "dist").mkdir(parents=True)
    tiny.work = tmp_path / "precious"
    answer = tiny("clean", "--all")
    assert answer.code == 2, answer.err
    assert "not a work folder of the farm" in answer.err
    assert (tmp_path / "precious" / "dist").is_dir()


def test_a_variants_file_with_mistakes(tiny: Farm) -> None:
    (tiny.project / "variants").mkdir()
    text = (CHECKOUT / "variants" / "torch29.toml").read_text()
    wrong = text.replace("releases", "relaeses")
    (tiny.project / "variants" / "torch29.toml").write_text(wrong)
    answer = tiny("plan", "--torch", "2.8")
    assert answer.code == 3
    assert "torch29.toml: relaeses: unknown key; did you mean 'releases'?" in answer.err


# As sitecustomize, it interrupts the process when it begins to import the module that INTERRUPT_AT names.
INTERRUPTER = """
import os, signal, sys

class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupter())
"""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("torch_build_farm", ""),  # before the farm has its own handlers
        ("rich.console", ""),
        ("torch_build_farm.cli.run", "run the same command again to go on"),
        ("pydantic", "run the same command again to go on"),
        ("torch_build_farm.pipeline.run", "run the same command again to go on"),
    ],
)
def test_interrupted_before_the_stages(tiny: Farm, tmp_path: Path, module: str, message: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTER)
    tiny.env |= {"PYTHONPATH": str(tmp_path), "INTERRUPT_AT": module}
    answer = tiny("render", "--torch", "2.8")
    assert answer.code == 130, answer.out + answer.err
    assert message in answer.err
    assert "Traceback" not in answer.out + answer.err


def test_a_project_that_is_not_there(make_farm: Callable[..., Farm]) -> None:
    farm = make_farm("tiny")
    farm.project = farm.project / "gone"
    answer = farm("plan", "--torch", "2.8")
    assert answer.code == 3
    assert "holds no pyproject.toml" in answer.err


def test_the_command_comes_first(tiny: Farm) -> None:
    words = [sys.executable, str(CHECKOUT / "build_farm.py"), "--torch", "2.8", "plan"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the command comes first: plan --torch 2.8" in done.stderr


@pytest.mark.parametrize("words", [["--torch", "2.8", "2.9"], ["--torch", "2.8", "--torch", "2.9"]])
def test_plan_as_a_matrix(tiny: Farm, words: list[str]) -> None:
    answer = tiny("plan", *words, "--json")
    assert answer.code == 0, answer.err
    assert [job["torch"] for job in answer.document["include"]] == ["2.8", "2.9"]


def test_cpythons_that_share_a_wheel_are_one_entry_of_the_matrix(tiny: Farm) -> None:
    """As build files announce it: one machine builds the wheel and tests it on each."""
    words = ("plan", "--torch", "2.9", "--python", "all", "--json")
    apart = [(job["job"], job["python"]) for job in tiny(*words).document["include"]]
    need(len(apart) > 1, "needs several CPythons")
    table = "[tool.torch-build-farm]"
    tiny.edit("pyproject.toml", table, f'[tool.scikit-build]\nwheel.py-api = "py3"\n\n{table}')
    (together,) = tiny(*words).document["include"]
    assert (together["job"], together["python"]) == (apart[0][0], " ".join(python for _, python in apart))


def test_a_python_without_the_farm() -> None:
    done = subprocess.run(
        [sys.executable, "-S", CHECKOUT / "build_farm.py", "plan"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 8
    assert "-m pip install" in done.stderr


def test_render_again_does_nothing(tiny: Farm) -> None:
    assert tiny("render", "--torch", "2.8").code == 0
    again = tiny("render", "--torch", "2.8")
    assert again.code == 0
    assert "nothing to do" in again.out


@pytest.mark.parametrize("words", [["plan", "--torch", "2.8"], ["index", "list"], ["index", "list", "--json"]])
def test_a_reader_that_goes_away(tiny: Farm, words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    farm: list[str | Path] = [sys.executable, CHECKOUT / "build_farm.py", *words, "--project", tiny.project]
    done = subprocess.run(farm, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_connection_that_breaks_does_not_end_the_process(tiny: Farm) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["plan", "--torch", "2.8", "--project", str(tiny.project)]) == 0
        assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_umask_that_lets_everybody_write(tiny: Farm) -> None:
    """The farm refuses a work folder that everybody may write, so it makes none."""
    before = os.umask(0)
    try:
        for _ in range(2):
            assert tiny("render", "--torch", "2.8").code == 0
    finally:
        os.umask(before)
    assert not tiny.work.stat().st_mode & 0o002
