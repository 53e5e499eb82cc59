"""What smoke reads in METADATA, and whose torch it wants refused."""

from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.unit.test_repair import METADATA, wheel
from torch_build_farm.config import load
from torch_build_farm.names import CPython, Minor
from torch_build_farm.plan import Job
from torch_build_farm.smoke import metadata_problems, neighbour

PROJECT = load(CHECKOUT, CHECKOUT)
JOB = Job("demo-torch29", "1.0", PROJECT.variants[Minor(2, 9)], CPython(3, 11))
GOOD = METADATA.replace("Requires-Python: >=3.10", "Requires-Python: >=3.10,<3.15")


def problems(tmp_path: Path, metadata: str, version: str = "3.11.7") -> str:
    return "\n".join(metadata_problems(wheel(tmp_path, {}, metadata=metadata), JOB, version))


def test_as_it_should_be(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("demo-torch29", "demo", "Name is demo, not demo-torch29"),
        ("Version: 1.0", "Version: 1.1", "Version is 1.1, not 1.0"),
        ("==2.9.*", ">=2.9", "asks for torch>=2.9, not torch==2.9.*"),
        ("Requires-Dist: torch==2.9.*\n", "", "asks for nothing"),
        ("Requires-Dist: torch==2.9.*\n", "Requires-Dist: torch==2.9.*; extra == 'gpu'\n", "asks for nothing"),
        (">=3.10,<3.15", ">=3.12,<3.15", "leaves out 3.11.7"),
        (">=3.10,<3.15", ">=3.10", "admits CPythons that torch has no wheel for"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in problems(tmp_path, GOOD.replace(old, new))


def test_patch_releases_of_python_count(tmp_path: Path) -> None:
    exact = GOOD.replace(">=3.10,<3.15", ">=3.10,!=3.11.0,<3.15")
    assert problems(tmp_path, exact, "3.11.7") == ""
    assert "leaves out 3.11.0" in problems(tmp_path, exact, "3.11.0")


def test_the_next_minor_must_be_refused_or_the_one_before() -> None:
    for torch, other in (("2.8", "2.9"), ("2.9", "2.10"), ("2.15", "2.14")):
        found = neighbour(PROJECT, PROJECT.variants[Minor.parse(torch)])
        assert str(found.torch if found else None) == other
