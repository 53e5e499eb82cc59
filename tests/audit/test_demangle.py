"""C++ names: as people write them, or as they are where demangling costs too much."""

from __future__ import annotations

import string

import pytest

from torch_build_farm.audit import demangle
from torch_build_farm.audit.demangle import demangled, prepare

SYM_NE = "_ZNK3c106SymInt6sym_neERKS0_"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demangle, "_known", {})
    monkeypatch.setattr(demangle, "_costly", set())


def nested(depth: int) -> str:
    """A function whose parameters each consist of the one before twice: 2**depth parameters as text."""
    digits = string.digits + string.ascii_uppercase
    name, last = "_Z1f1AIiiE", "S0_"  # S_ is the template A, S0_ the type A<int, int>
    for number in range(depth):
        name += f"S_I{last}{last}E"
        last = f"S{digits[number + 1]}_" if number + 1 < len(digits) else f"S1{digits[number + 1 - len(digits)]}_"
    return name


def test_a_name_as_people_write_it() -> None:
    assert demangled(SYM_NE) == "c10::SymInt::sym_ne(c10::SymInt const&) const"
    assert demangled("_ZN1a1bE") == "a::b"
    for plain in ("PyInit__core", "", "_Z", "_Zoops", "_ZN1a\n1bE", "_ZN1a1\N{SNOWMAN}E", "_Z" + "1a" * 3000):
        assert demangled(plain) == plain


def test_what_is_no_name_of_cpp_stays() -> None:
    """The C++ library knows types too, and takes any bytes."""
    for name in ("i", "Pc", "_Z3\N{SNOWMAN}v"):
        assert demangled(name) == name


def test_a_name_that_would_be_long_stays() -> None:
    bomb = nested(60)
    assert len(bomb) < 1100
    deep = "_Z1f" + "P" * 4000 + "i"
    conversions = "_Z" + "cv" * 1500 + "i"
    prepare([SYM_NE, bomb, "_ZN1c1dE", nested(61), deep, conversions, "_ZN1e1fE"])
    assert demangled(bomb) == bomb
    assert [demangled(name) for name in (SYM_NE, "_ZN1c1dE", "_ZN1e1fE")] == [
        "c10::SymInt::sym_ne(c10::SymInt const&) const", "c::d", "e::f",
    ]  # fmt: skip


def test_bombs_end_it_a_few_times_only() -> None:
    bombs = [nested(depth) for depth in range(40, 66)]
    prepare(bombs)
    assert [demangled(bomb) for bomb in bombs] == bombs
