"""Wheels with a library for some torches: whether the others need one is for the wheel's Python code to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.test_audit import SINGLETON, TORCH, audit
from tests.elves import library
from torch_build_farm.audit.lines import lines
from torch_build_farm.audit.optional_loads import optional_load
from torch_build_farm.audit.verdict import Verdict
from torch_build_farm.audit.wheel_report import WheelReport

# Torch 2.10 has of its own what the library adds to older ones.
EARLY_RETURN = """
import ctypes
import torch
def load():
    if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        return None
    path = folder / f"libaddon_torch{version.major}{version.minor}.so"
    if not path.exists():
        raise ImportError("no library")
    return ctypes.CDLL(str(path))
load()
"""
IF_IT_IS_THERE = """
import pathlib, torch
for path in pathlib.Path(__file__).parent.glob(f"libaddon_torch{short}.so"):
    if path.is_file():
        torch.ops.load_library(path)
"""
WHATEVER_HAPPENS = """
import ctypes
try:
    library = ctypes.CDLL(name)
except OSError:
    library = None
"""
BY_VERSION = """
import torch
if Version(torch.__version__) < Version("2.10"):
    torch.classes.load_library(name)
"""
ALWAYS = """
import ctypes
library = ctypes.CDLL(f"libaddon_torch{short}.so")
"""
RAISES_ANYWAY = """
import ctypes
try:
    library = ctypes.CDLL(name)
except OSError as error:
    raise ImportError("no library for this torch") from error
"""
IF_IT_IS_THERE_ELSE_RAISES = """
import torch
if path.exists():
    torch.ops.load_library(path)
else:
    raise ImportError("no library for this torch")
"""
BY_PLATFORM = """
import ctypes, sys
def load():
    if sys.platform == "darwin":
        return None
    return ctypes.CDLL(name)
"""
ALSO_ANOTHER = ALWAYS + WHATEVER_HAPPENS
OF_THE_SYSTEM_TOO = WHATEVER_HAPPENS + '\nlibc = ctypes.CDLL("libc.so.6")\n'


def of_two_torches(folder: Path, code: str, *fields: str) -> WheelReport:
    files = {f"demo/libaddon_torch{short}.so": library([SINGLETON], [], TORCH) for short in ("28", "29")}
    return audit(folder, files | {"demo/__init__.py": code.encode()}, *fields, tag="py3-none-linux_x86_64")


@pytest.mark.parametrize("code", [IF_IT_IS_THERE, WHATEVER_HAPPENS, BY_VERSION, OF_THE_SYSTEM_TOO])
def test_a_torch_that_needs_no_library(tmp_path: Path, code: str) -> None:
    report = of_two_torches(tmp_path, code, "Requires-Dist: torch")
    assert report.releases["2.10.0"].verdict is Verdict.OK
    assert report.claim == "true"
    older, newer = [line for line in lines(report) if "no library of the wheel is for it, and demo/__init__.py" in line]
    assert older.startswith("torch 2.6.0 to 2.7.1: OK: ")
    assert newer.startswith("torch 2.10.0 to 2.15.0: OK: ")


@pytest.mark.parametrize(
    "code",
    [ALWAYS, RAISES_ANYWAY, IF_IT_IS_THERE_ELSE_RAISES, BY_PLATFORM, ALSO_ANOTHER, "def f(:\n", "", "(" * 5000],
)
def test_a_torch_that_lacks_its_library(tmp_path: Path, code: str) -> None:
    report = of_two_torches(tmp_path, code, "Requires-Dist: torch")
    finding = report.releases["2.10.0"]
    assert (finding.verdict, finding.note) == (Verdict.BROKEN, "it only has libraries for torch 2.8, 2.9")


def test_metadata_says_that_others_do_not_work(tmp_path: Path) -> None:
    report = of_two_torches(tmp_path, WHATEVER_HAPPENS, "Requires-Dist: torch>=2.8,<2.10")
    assert report.releases["2.10.0"].verdict is Verdict.BROKEN


def test_deep_code_is_given_up_on() -> None:
    assert optional_load({"demo/a.py": b"x = " + b"-" * 200_000 + b"1\nCDLL(name)"}).place == ""


def test_a_torch_is_asked_for_what_it_may_not_have(tmp_path: Path) -> None:
    """torch-c-dlpack-ext 0.1.2 asks for a name that no torch has, and its import fails with 2.10; 0.1.5 does not."""
    report = of_two_torches(tmp_path, EARLY_RETURN, "Requires-Dist: torch")
    assert {release for release in report.releases if report.works(release)} >= {"2.10.0", "2.15.0"}
    assert report.releases["2.7.1"].note == "it only has libraries for torch 2.8, 2.9"
    other = EARLY_RETURN.replace("__dlpack_c_exchange_api__", "__c_dlpack_exchange_api__")
    unheard_of = of_two_torches(tmp_path / "other", other, "Requires-Dist: torch")
    assert unheard_of.releases["2.10.0"].verdict is Verdict.BROKEN
    either = EARLY_RETURN.replace(
        'hasattr(torch.Tensor, "__dlpack_c_exchange_api__")',
        'hasattr(torch.Tensor, "__dlpack_c_exchange_api__") or hasattr(torch.Tensor, "__c_dlpack_exchange_api__")',
    )
    assert of_two_torches(tmp_path / "either", either, "Requires-Dist: torch").works("2.10.0")
