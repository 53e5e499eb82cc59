"""The Python API: plan, run and audit_wheel, as docs/reference/api.md has them."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import torch_build_farm as farm
from tests.conftest import CHECKOUT, PROJECTS
from tests.elves import library
from tests.family import make_wheel
from torch_build_farm.audit.verdict import Verdict
from torch_build_farm.core.errors import AuditError, ConfigError, DiskError, UnknownTorchError, UsageError
from torch_build_farm.core.versions import CPython

PAGE = CHECKOUT / "docs" / "reference" / "api.md"
TINY = PROJECTS / "tiny"
SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"  # left torch with 2.9


def examples() -> list[str]:
    """The blocks of Python of the page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_plan_of_the_embedded_project(capfd: pytest.CaptureFixture[str]) -> None:
    plan = farm.plan(CHECKOUT, torch=["2.9", "2.8"], engine="local")
    tag = CPython.running().tag
    assert [job.id for job in plan.jobs] == [f"pymomentum-gpu-torch28-{tag}", f"pymomentum-gpu-torch29-{tag}"]
    assert [job.variant.pin for job in plan.jobs] == ["==2.8.*", "==2.9.*"]
    assert capfd.readouterr() == ("", "")


def test_the_examples_of_the_page_that_build_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others need wheels that are built."""
    monkeypatch.chdir(CHECKOUT)
    plan, *_, error = examples()
    exec(plan, {})
    exec(error, {"farm": farm})
    printed = capsys.readouterr().out
    assert "torch29-" in printed
    assert "requires torch ==2.9.*" in printed
    assert "torch 1.13 has no variant - use one of these" in printed


def test_one_word_is_as_good_as_a_list() -> None:
    one = farm.plan(TINY, torch="2.8", python=str(CPython.running()), only="*torch28*", engine="local")
    assert one == farm.plan(TINY, torch=["2.8"], engine="local")
    of_x86_64 = [path for path in (CHECKOUT / "variants").iterdir() if not path.stem.endswith("-aarch64")]
    assert len(farm.plan(TINY, torch="all", platform="x86_64", engine="local").jobs) == len(of_x86_64)


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (UsageError, "torch: 2.1 is not text", {"torch": 2.10}),
        (UsageError, "torch: 2.8 is not text", {"torch": [2.8]}),
        (UsageError, "'3' is not a CPython", {"torch": "2.8", "python": "3"}),
        (UsageError, "engine='locl': did you mean 'local'", {"torch": "2.8", "engine": "locl"}),
        (UsageError, "no torch minor is named", {}),
        (UsageError, "matches no job", {"torch": "2.8", "only": "nothing"}),
        (UsageError, "--base-image is for containers", {"torch": "2.8", "base_image": "manylinux_2_28"}),
        (UnknownTorchError, "torch 2.8 2.9 has no variant", {"torch": "2.8 2.9"}),
        (ConfigError, "holds no pyproject.toml", {"project": TINY / "tiny"}),
        (UsageError, "the work folder is a file", {"torch": "2.8", "work": TINY / "core.cpp"}),
    ],
)
def test_bad_arguments_raise(error: type[farm.FarmError], words: str, arguments: dict[str, Any]) -> None:
    project = arguments.pop("project", TINY)
    with pytest.raises(error, match=re.escape(words)):
        farm.plan(project, **{"engine": "local", **arguments})


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("smoke='ful': did you mean 'full'", {"smoke": "ful"}),
        ("smoke=None: did you mean 'none'", {"smoke": None}),
        ("jobs=0: a run takes at least one build", {"jobs": 0}),
        ("jobs='2': a run takes at least one build", {"jobs": "2"}),
    ],
)
def test_bad_arguments_of_a_run_raise_before_it_starts(tmp_path: Path, words: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        farm.run(TINY, torch="2.8", engine="local", work=tmp_path / "work", **arguments)
    assert not (tmp_path / "work").exists()


def test_a_work_folder_that_cannot_be_made_is_an_error_of_the_farm(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="Not a directory"):
        farm.run(TINY, torch="2.8", engine="local", smoke="none", work=tmp_path / "file" / "work")


def test_audit_wheel(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    core = library([SYM_NE], ["PyInit__core"], ["libtorch_cpu.so", "libc10.so", "libc.so.6"])
    files = {"demo/_core.cpython-312-x86_64-linux-gnu.so": core}
    wheel = make_wheel(tmp_path, "demo", "1.0", files, "Requires-Dist: torch>=2.8,<2.10")
    wheel = wheel.rename(tmp_path / "demo-1.0-cp312-cp312-linux_x86_64.whl")
    report = farm.audit_wheel(str(wheel), torch=["2.8.0", "2.9"])
    assert {release: finding.verdict for release, finding in report.releases.items()} == {
        "2.8.0": Verdict.OK,
        "2.9.0": Verdict.BROKEN,
        "2.9.1": Verdict.BROKEN,
    }
    assert not report.ok
    assert capfd.readouterr() == ("", "")

    with pytest.raises(UnknownTorchError, match=r"nothing is known of torch 1\.0"):
        farm.audit_wheel(wheel, torch="1.0")
    with pytest.raises(AuditError):
        farm.audit_wheel(TINY / "core.cpp")
    with pytest.raises(AuditError):
        farm.audit_wheel(tmp_path / "missing.whl")


@pytest.mark.parametrize("name", ["plan", "run", "audit_wheel"])
def test_the_page_has_every_argument_and_its_default(name: str) -> None:
    (section,) = re.findall(rf"^## {name}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.+?)`)? *\|", section, re.MULTILINE)
    parameters = inspect.signature(getattr(farm, name)).parameters.values()
    expected = []
    for parameter in parameters:
        default = "" if parameter.default is parameter.empty else repr(parameter.default).replace("'", '"')
        expected.append((parameter.name, default))
    assert rows == expected


def test_the_package_imports_the_api_when_it_is_needed() -> None:
    code = """
import sys
import torch_build_farm
print([name for name in sys.modules if name.startswith("torch_build_farm")])
from torch_build_farm import *
print(run.__module__)
try:
    torch_build_farm.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout.splitlines() == [
        "['torch_build_farm']",
        "torch_build_farm.api",
        "module 'torch_build_farm' has no attribute 'nothing'",
    ]
