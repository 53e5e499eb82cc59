import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from torch_build_farm.core.versions import CPython, Minor

numbers = st.integers(min_value=0, max_value=99)


@given(numbers, numbers)
def test_minor_reads_what_it_writes(major: int, minor: int) -> None:
    one = Minor(major, minor)
    assert Minor.parse(str(one)) == one


@given(st.lists(st.tuples(numbers, numbers)))
def test_minors_sort_as_versions(pairs: list[tuple[int, int]]) -> None:
    minors = sorted(Minor(*pair) for pair in pairs)
    assert minors == sorted(minors, key=lambda minor: Version(str(minor)))


def test_tags() -> None:
    assert [Minor.parse(text).tag for text in ("2.8", "2.10", "3.0")] == ["torch28", "torch210", "torch30"]


@pytest.mark.parametrize("text", ["2", "2.8.0", "2.08", "v2.8", "", "2.8 "])
def test_no_minor(text: str) -> None:
    with pytest.raises(ValueError, match="not a torch minor"):
        Minor.parse(text)


@given(st.integers(min_value=2, max_value=4), numbers, st.booleans())
def test_cpython_reads_both_spellings(major: int, minor: int, free_threaded: bool) -> None:
    python = CPython(major, minor, free_threaded)
    assert CPython.parse(str(python)) == python == CPython.parse(python.tag)


def test_cpythons_sort_as_versions() -> None:
    texts = ["3.9", "3.10", "3.13", "3.13t", "3.14"]
    assert [str(python) for python in sorted(map(CPython.parse, reversed(texts)))] == texts
