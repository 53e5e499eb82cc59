"""Text of strangers: what a terminal, a CI system and Markdown make of it, in names, lines and messages."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

from torch_build_farm.cli.console import People
from torch_build_farm.core.errors import FarmError
from torch_build_farm.core.text import code, fenced, markdown, printable, printable_lines, without_ci_commands

_PARTS = [
    "\x1b[2J", "\x1b]0;t\x07", "\x9b31m", "\x00", "\x7f", "\r", "\n", "\t", "\x85", "\u2028", "\u202e", "\u2066", "\u200b",
    "\ufeff", "\udcff", "\U000e0041", "::error::", "::add-mask::", "##[group]", "##vso[x]", "|", "`", "```", "~~~", "<img src=x>",
    "</td>", "[a](b)", "![a](b)", "@maintainer", "#1", "http://a", "www.a.b", "&lt;", "$x$", "**", "__", "- ", "1. ", "# ", "> ",
    "\\", "[red]", "[/]", ":bomb:", "demo/_core.so", "error: expected ';'", " ", "    ", "\u0301" * 50, "\U0001f9ff\u200d" * 20,
]  # fmt: skip


def examples(seed: int) -> str:
    """A text of a few parts, sometimes of very many."""
    chance = random.Random(seed)
    count = chance.choice([1, 3, 8, 8, 8, 30, 30, 2_000])
    return "".join(chance.choice(_PARTS) for _ in range(count))


def check(data: str, _: Path) -> None:
    """Nothing of it is left but pictures, and no line of it is a command."""
    assert printable(data).isprintable()
    stream = io.StringIO()
    people = People(stream, width=200)
    people.say(data)
    people.say(str(FarmError(data, where=data, next_step=data)))
    shown = without_ci_commands(stream.getvalue())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\u200b\ufeff\ud800-\udfff]", shown)
    assert not re.search(r"^\s*::|##[a-z]*\[", shown, re.MULTILINE)
    assert printable_lines(data).count("\n") <= data.count("\n")
    for text in (markdown(data), code(data)):
        assert "\n" not in text
        if text.startswith("`"):  # a span of code, where a backslash is one
            assert not re.search("[`|]", text[1:-1])
            continue
        unescaped = re.sub(r"\\[^\w\s]", ".", text).replace("<code>", "").replace("</code>", "")
        assert not re.search(r"[|`]|@\w|<[A-Za-z/!?]|://|\]\(", unescaped), unescaped
    lines = fenced(data).split("\n")
    assert lines[-1] not in lines[1:-1]
