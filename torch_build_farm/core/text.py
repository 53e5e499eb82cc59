"""Text of strangers, made fit for people: for a terminal or a log (`printable`), and for Markdown (`markdown`).

A stranger chooses the names in a wheel, the lines of a compiler and the words of an index. Their control characters
would move a terminal's cursor, their Markdown would become links, images and mentions of a pull request, and a line of
theirs could be a command to a CI system. The console (cli/console.py) sends all that it prints through this module, and
whatever writes Markdown does the same; JSON documents and logs hold the exact text.

Own code: rich and click remove a few control characters and keep the rest, and `html.escape` knows no Markdown.
"""

from __future__ import annotations

import re
import unicodedata

LIMIT = 4096  # characters of one text, which is as long as a path can be (PATH_MAX)
_NAMES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_LINE_LIMIT = 10_000  # characters of a line of the farm's own message, which may list some names
_LINES_LIMIT = 5_000


def printable(text: str, limit: int = LIMIT) -> str:
    """The text on one line, with each character that has no picture as its Python escape; at most `limit` of it.

    Such are control characters (C0, C1, DEL, ESC), line and paragraph separators, format characters (zero width,
    bidirectional overrides) and lone surrogates, which stand for bytes of names that are not UTF-8. What is cut is
    counted.
    """
    return _escaped(_shortened(text, limit), keep="")


def printable_lines(text: str) -> str:
    """Like `printable`, for a message of several lines: its line feeds and tabs stay; lines are cut, and counted."""
    lines = text.split("\n", _LINES_LIMIT)
    if len(lines) > _LINES_LIMIT:
        lines[_LINES_LIMIT] = f"... ({lines[_LINES_LIMIT].count(chr(10)) + 1} more lines)"
    return "\n".join(_escaped(_shortened(line, _LINE_LIMIT), keep="\t") for line in lines)


def is_utf8(text: str) -> bool:
    """Whether a name is text: one of other bytes has lone surrogates in their place (PEP 383)."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text) - limit} more characters)"


def _escaped(text: str, keep: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        # `isprintable` refuses every space but the ASCII one; the others (Zs) have a width, and nothing else.
        character
        if character.isprintable() or character in keep or unicodedata.category(character) == "Zs"
        else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    number = ord(character)
    if character in _NAMES:
        return _NAMES[character]
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


# A CI system reads commands out of what a step prints. GitHub's runner takes a line that begins with `::`, blanks
# aside, and one with `##[` anywhere; Azure's and TeamCity's are `##vso[` and `##teamcity[`.
_CI_COMMAND = re.compile(r"^(?P<blanks>\s*)::|##(?=[a-z]*\[)", re.MULTILINE)


def without_ci_commands(text: str) -> str:
    """The text with nothing in it that a CI system takes for a command; the start of such a command is escaped."""
    return _CI_COMMAND.sub(lambda match: r"#\x23" if match["blanks"] is None else rf"{match['blanks']}\x3a:", text)


class Markdown(str):
    """Text that is Markdown already: `markdown` leaves it as it is."""

    __slots__ = ()


# What is Markdown or HTML where it stands. Underscores inside a word, `<` before a number and `&` before a blank are
# not, and stay readable.
_ACTIVE = re.compile(
    r"""[\\`*\[\]|~$]"""
    r"""|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])"""
    r"""|(?<![0-9A-Za-z])_+|_+(?![0-9A-Za-z])"""
    r"""|^(?:[#>=]|[+-](?=\s)|-(?=-)|\d{1,9}(?=[.)]\s))"""
)
# What code hosts turn into links and mentions after they have read the Markdown, where a backslash is gone already. A
# character of no width in the middle prevents it (other bots do the same).
_LINKED = re.compile(r"@(?=\w)|#(?=\d)|(?<=\bGH-)(?=\d)|:(?=//)|(?<=\bwww)(?=\.)", re.IGNORECASE)
_NO_WIDTH = "&#8203;"


def markdown(text: str) -> Markdown:
    """The text for a table's cell or a sentence of Markdown, on one line: it shows as it is, and does nothing.

    Nothing of it becomes a column, code, emphasis, a link, an image, a mention, a formula or HTML.
    """
    if isinstance(text, Markdown):
        return text
    visible = _ACTIVE.sub(lambda match: re.sub(r"(\W|_)", r"\\\1", match[0]), printable(text).strip())
    visible = re.sub(r"^\d{1,9}(?=[.)]\s)", lambda match: f"{match[0]}\\", visible)
    return Markdown(_LINKED.sub(lambda match: f"{match[0]}{_NO_WIDTH}", visible))


def code(text: str) -> Markdown:
    """The text as code inside a line of Markdown or a table's cell."""
    visible = printable(text)
    if re.search(r"[`|]|^\s|\s$|^$", visible):  # a span in backticks has no escapes
        return Markdown(f"<code>{markdown(visible)}</code>")
    return Markdown(f"`{visible}`")


def fenced(text: str, language: str = "") -> Markdown:
    """Lines as a block of code, which nothing in the text can end."""
    visible = printable_lines(text)
    longest = max(map(len, re.findall("`+", visible)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{visible}\n{fence}")
