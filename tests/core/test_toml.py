"""TOML of strangers and of projects: one kind of error with one line, and limits."""

from pathlib import Path

import pytest

from torch_build_farm.core import regex, toml

BAD = [
    "a = " + "[" * 3000 + "]" * 3000,
    "a = " + "[" * 60 + "]" * 60,
    "a = " + "{b = " * 60 + "1" + "}" * 60,
    "a" + ".a" * 60_000 + " = 1",
    "a" + " . 'a' . \"a\"" * 30 + " = 1",
    "[a" + ".a" * 60 + "]",
    "x = {a" + ".a" * 60 + " = 1}",
    "a = 0x" + "f" * 5000,
    "a = 9223372036854775808",
    "a = -9223372036854775809",
    "a = " + "9" * 5000,
    "a = '" + "x" * (1 << 20) + "'",
    "a = 1\n\na = 2",
    "a = \x00",
    "\ud800",
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_refused(text: str) -> None:
    for read in (toml.loads, toml.editable):
        with pytest.raises(toml.TomlError) as caught:
            read(text)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text", ["a" + ".a" * 50 + " = 1", "[a" + " . 'a'" * 50 + "]", 'x = {a."b"' + ".a" * 50 + " = 1}"]
)
def test_a_long_key_is_refused_before_it_is_parsed(text: str) -> None:
    """tomllib's time grows with the square of its parts."""
    with pytest.raises(toml.TomlError, match="a key has more than 50 parts"):
        toml.loads(text)


@pytest.mark.parametrize(
    "text",
    ["", "a = 9223372036854775807", "a.b.c.'d' = 1", "# " + "a.b " * 100 + "\n", f"a = '{'.'.join('a' * 40)}'", "a = true"],
)  # fmt: skip
def test_what_is_read(text: str) -> None:
    assert toml.editable(text).unwrap() == toml.loads(text)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(toml.TomlError, match="not UTF-8"):
        toml.load(path)
    path.write_bytes(b"a = 1\r\n")
    assert toml.load(path) == {"a": 1}
    path.write_bytes(b"#" * (1 << 20))
    with pytest.raises(OSError, match="larger than"):
        toml.load(path)
    with pytest.raises(OSError, match="No such file"):
        toml.load(tmp_path / "b.toml")


def test_expressions() -> None:
    assert regex.find(r"^v(?P<version>[\d.]+)(\+.*)?$", "v1.2+cu", "version", at_start=True) == ("1.2", "+cu")
    assert regex.find(r"(\d)", "abc7def", "version") == ("7", "")
    assert regex.find(r"(\d)", "abc7def", "version", at_start=True) is None
    assert regex.find(r"(\d)(\d)", "77", "version") is None
    assert regex.find(r"(?P<version>x?)y", "y", "version") is None
    for pattern in ("(", "(a+)+$", "(" * 5000):
        with pytest.raises(regex.RegexError) as caught:
            regex.find(pattern, "a" * 40 + "!", "version")
        assert "\n" not in str(caught.value)
