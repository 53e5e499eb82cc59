"""What others write in METADATA: what is read, and what would take long."""

import pytest
from packaging.requirements import InvalidRequirement
from packaging.specifiers import InvalidSpecifier
from packaging.utils import InvalidName
from packaging.version import InvalidVersion

from torch_build_farm.core import requirements


def test_what_is_read() -> None:
    assert str(requirements.read_version("1.0.post1")) == "1.0.post1"
    assert str(requirements.read_requirement("a[b]>=1")) == "a[b]>=1"
    assert str(requirements.read_specifiers(">=3.9,<4")) == "<4,>=3.9"
    assert requirements.parse_metadata("Name: demo\n\n" + "text\n" * 50_000)["Name"] == "demo"


def test_what_is_too_long() -> None:
    with pytest.raises(InvalidVersion, match="a version has 5000 characters"):
        requirements.read_version("1" * 5000)
    with pytest.raises(InvalidRequirement, match="a requirement has 5000 characters"):
        requirements.read_requirement("a" * 5000)
    with pytest.raises(InvalidRequirement):
        requirements.read_requirement(f"a; {'(' * 1900}python_version>'3'{')' * 1900}")
    requirements.check_name("a" * 128)
    with pytest.raises(InvalidName, match="a name has 129 characters"):
        requirements.check_name("a" * 129)
    with pytest.raises(InvalidSpecifier, match="specifiers have 6000 characters"):
        requirements.read_specifiers(">=1.0," * 1000)
    for text in ("Requires-Dist: a\n" * 20_002, "Requires-Dist: a\r\n" * 20_002):
        with pytest.raises(ValueError, match="more than 20000 lines"):
            requirements.parse_metadata(text)
    with pytest.raises(ValueError, match="4194305 characters"):
        requirements.parse_metadata("x" * (4 << 20) + "x")
