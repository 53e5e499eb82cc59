"""Text of strangers, for terminals, CI systems and Markdown."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from torch_build_farm.core.text import (
    Markdown,
    code,
    fenced,
    is_utf8,
    markdown,
    printable,
    printable_lines,
    without_ci_commands,
)

HOSTILE = {
    "escape": "\x1b[2J\x1b]0;title\x07",
    "c1": "\x9b31m",
    "delete": "\x7f\x08",
    "carriage return": "ok\rFAILED",
    "line feed": "a\nb",
    "bidi": "a\u202egnp.exe\u202c\u2066x\u2069",
    "zero width": "a\u200bb\u200d\ufeff",
    "separators": "a\u2028b\u2029c\x85d",
    "surrogate": "caf\udce9",
    "tags": "a\U000e0041b",
    "null": "a\0b",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_is_visible(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\\" in shown
    shown.encode("utf-8")


def test_an_escape_names_its_character() -> None:
    assert printable("\x1b[31m\n\u202e\udcff\U000e0041") == r"\x1b[31m\n\u202e\udcff\U000e0041"


@pytest.mark.parametrize("text", ["", "a.cpp", "größer.h", "漢字", "🙂"])
def test_names_of_any_script_are_text(text: str) -> None:
    assert is_utf8(text)
    assert not is_utf8(f"{text}\udce9")


def test_ordinary_text_stays() -> None:
    for text in ("std::vector<int>", "größer, 漢字\u3000x\xa0y", r"C:\new", "emoji 🙂"):
        assert printable(text) == text
    assert printable_lines("a\n\tb\n") == "a\n\tb\n"


def test_a_text_is_bounded() -> None:
    assert printable("x" * 10, limit=4) == "xxxx... (6 more characters)"
    assert len(printable("\x1b" * 10**7)) < 4 * 4096 + 100
    assert len(printable_lines("y" * 10**7)) < 11_000
    assert printable_lines("z\n" * 10**6).endswith("more lines)")


@given(st.text())
def test_nothing_but_pictures_is_left(text: str) -> None:
    for character in printable(text):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert "\x1b" not in printable_lines(text)
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    "line",
    [
        "::error file=a::b", "  ::add-mask::x", "\t::stop-commands::t", "said\n::set-output name=a::b",
        "x ##[group]y", "##vso[task.setvariable]", "##teamcity[x]",
    ],
)  # fmt: skip
def test_a_line_is_no_command_to_ci(line: str) -> None:
    for shown in without_ci_commands(line).split("\n"):
        assert not shown.lstrip().startswith("::")
        assert not re.search(r"##[a-z]*\[", shown)


def test_what_is_no_command_stays() -> None:
    for line in ("at::Tensor", "a: ::b", "## heading", "#[x]"):
        assert without_ci_commands(line) == line


MARKDOWN = {
    "a|b": r"a\|b",
    "`x`": r"\`x\`",
    "<img src=x>": r"\<img src=x>",
    "</td>": r"\</td>",
    "[a](http://b)": r"\[a\](http:&#8203;//b)",
    "![a](b)": r"!\[a\](b)",
    "@maintainer": "@&#8203;maintainer",
    "#12": r"\#&#8203;12",
    "fixes x#12": "fixes x#&#8203;12",
    "www.a.b": "www&#8203;.a.b",
    "a\n# b": r"a\\n# b",
    "**bold** _it_ ~~no~~": r"\*\*bold\*\* \_it\_ \~\~no\~\~",
    "&lt;b&gt;": r"\&lt;b\&gt;",
    "$x$": r"\$x\$",
    "- x": r"\- x",
    "1. x": r"1\. x",
    "\x1b[2J": r"\\x1b\[2J",
    # What stays readable.
    "1.0": "1.0",
    "-": "-",
    "--x": r"\--x",
    ">=2.8,<2.10": r"\>=2.8,<2.10",
    "true: >=2.8,<2.10": "true: >=2.8,<2.10",
    "c10::SymInt::sym_ne(c10::SymInt const&) const": "c10::SymInt::sym_ne(c10::SymInt const&) const",
    "demo_x-1.0-cp311-abi3-linux_x86_64.whl": "demo_x-1.0-cp311-abi3-linux_x86_64.whl",
}


@pytest.mark.parametrize(("text", "expected"), MARKDOWN.items())
def test_markdown_shows_and_does_nothing(text: str, expected: str) -> None:
    assert markdown(text) == expected
    assert markdown(markdown(text)) == expected


def test_code_cannot_be_left() -> None:
    assert code("a_b<c>") == "`a_b<c>`"
    assert code("a`|<b>") == r"<code>a\`\|\<b></code>"
    assert code("a\n```\nb") == r"<code>a\\n\`\`\`\\nb</code>"
    assert fenced("a\n```\n# b", "diff") == "````diff\na\n```\n# b\n````"
    assert isinstance(fenced(""), Markdown)


@given(st.text(alphabet="|`<>@#[]()!*_~\\\n-+=1. aw:/$&;"))
@example("@a @b")
def test_a_cell_is_one_cell(text: str) -> None:
    cell = markdown(text)
    assert "\n" not in cell
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`\[\]*]", re.sub(r"\\[\\|`\[\]*]", ".", cell))
    assert not re.search(r"@\w|(?<!\\)<[A-Za-z/!?]|://", re.sub(r"\\[\\<]", ".", cell))
