"""What project() in a meson.build says, and what its other calls install at top level, read as data.

Own code: meson itself would have to be installed, and its parser is no public interface. project() has to be the first
statement of the file (Meson's manual, "project"), and only the words of calls are taken apart here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch_build_farm.project import source_files

# The words of the language (Meson's manual, "Syntax"); blanks and comments are between them. A text that does not end
# is one sign, or each escaped quote in it would begin a text to be read to the end.
_WORD = re.compile(
    r"""(?P<blank>(?:\s|\#[^\n]*|\\\n)+)|f?'''(?P<long>.*?)'''|f?'(?P<text>(?:[^'\\\n]|\\.)*+)'"""
    r"""|(?P<name>\w+)|(?P<sign>'(?:[^'\\\n]|\\.)*+|.)""",
    re.DOTALL,
)
_OPEN, _CLOSE = "([{", ")]}"
_MOST_FILES = 100


@dataclass(frozen=True)
class MesonProject:
    """Name and version by project(): the version as it stands there, or the file that has it, or an expression."""

    name: str = ""
    version: str = ""
    version_file: str = ""
    version_expression: str = ""


@dataclass(frozen=True)
class _Word:
    text: str
    quoted: bool


def project(root: Path) -> MesonProject:
    """The tree's project by its meson.build; empty where there is none, or one that begins with something else.

    Raises SourceError where the file cannot be read.
    """
    words = _words(source_files.text(root, "meson.build"))
    if [word.text for word in (next(words, None), next(words, None)) if word] != ["project", "("]:
        return MesonProject()
    arguments = _arguments(words)
    name = arguments.get("0", [])
    version = arguments.get("version", [])
    expression = " ".join(word.text for word in version)
    match version:
        case [_Word(text, quoted=True)]:
            return MesonProject(_only_text(name), version=text)
        case [_Word("files"), _Word("("), _Word(path, quoted=True), _Word(")")]:
            return MesonProject(_only_text(name), version_file=path)
    return MesonProject(_only_text(name), version_expression=expression)


def modules(root: Path) -> set[str]:
    """The modules that the tree's meson.build, and those below it by subdir(), install beside the packages.

    They are extension modules and files of Python without a `subdir` (Meson's manual, "Python module"), as far as they
    are plain text. Raises SourceError where a file cannot be read.
    """
    names: set[str] = set()
    folders = [PurePosixPath()]
    for folder in folders:
        for function, arguments in _calls(_words(source_files.text(root, str(folder / "meson.build")))):
            first = _only_text(arguments.get("0", []))
            if function == "subdir" and first and len(folders) < _MOST_FILES:
                folders.append(folder / first)
            elif function == "extension_module" and "install" in arguments and "subdir" not in arguments:
                names.add(first)
            elif function == "install_sources" and "subdir" not in arguments:
                names.update(word.text.removesuffix(".py") for word in arguments.get("0", ()) if word.quoted)
    return names


def _calls(words: Iterator[_Word]) -> Iterator[tuple[str, dict[str, list[_Word]]]]:
    """Each function that is called, but for those in arguments, with the words of its arguments."""
    previous = ""
    for word in words:
        if previous.isidentifier() and word == _Word("(", quoted=False):
            yield previous, _arguments(words)
        previous = "" if word.quoted else word.text


def _words(text: str) -> Iterator[_Word]:
    for match in _WORD.finditer(text):
        kind = match.lastgroup
        if kind in ("long", "text"):
            yield _Word(match[kind], quoted=True)
        elif kind != "blank":
            yield _Word(match[0], quoted=False)


def _arguments(words: Iterator[_Word]) -> dict[str, list[_Word]]:
    """The words of each argument of a call behind its bracket, by name; an argument without a name has its number.

    Empty for a call that does not end.
    """
    arguments: dict[str, list[_Word]] = {}
    current: list[_Word] = []
    name, deep = "", 0
    for word in words:
        sign = "" if word.quoted else word.text
        if sign == ":" and not deep and len(current) == 1:
            name = current.pop().text
            continue
        if not deep and sign in (",", ")"):
            arguments[name or str(len(arguments))] = current
            current, name = [], ""
            if sign == ")":
                return arguments
            continue
        if sign:
            deep += (sign in _OPEN) - (sign in _CLOSE)
        current.append(word)
    return {}


def _only_text(words: list[_Word]) -> str:
    return words[0].text if len(words) == 1 and words[0].quoted else ""
