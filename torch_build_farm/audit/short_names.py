"""Demangled C++ names in the room of a line: what tells least goes first.

A name of torch with its template arguments has hundreds of characters, and those that matter stand in front.
"""

from __future__ import annotations

import re

_STRING = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >"
# The last argument of containers, which is the default one nearly always.
_ALLOCATOR = re.compile(r", std::allocator<[^<>]*> ?(?=>)")
_OPERATOR = re.compile(r"operator(?:<<=?|>>=?|<=>?|>=?|<|->\*?|\(\))")
_LONGEST = 4096  # characters that are looked at
_LEAST = 20  # characters that a shortened name keeps


def shortened(name: str, room: int) -> str:
    """A demangled name in at most `room` characters (but no fewer than 20).

    std::string has its usual name. If that is not enough, template arguments become "...", then function parameters;
    the end is cut off last.
    """
    name = _ALLOCATOR.sub("", name[:_LONGEST].replace(_STRING, "std::string"))
    if len(name) > room:
        name = _without_inner(name, "<", ">")
    if len(name) > room:
        name = _without_inner(name, "(", ")")
    if len(name) > room:
        name = f"{name[: max(_LEAST, room) - 3]}..."
    return name


def shortened_list(names: list[str], count: int, room: int) -> str:
    """The first names, as many as fit `room` characters, and how many more there are; `count` is their number.

    There is at least one name, itself shortened if need be. `names` are the first of them.
    """
    text = ""
    shown = 0
    for name in names:
        more = count - shown - 1
        ending = f" and {more} more" if more else ""
        beginning = f"{text}, " if text else ""
        left = room - len(beginning) - len(ending)
        short = shortened(name, left if not text else len(name))
        if text and len(short) > left:
            break
        text = beginning + short
        shown += 1
    return text if shown == count else f"{text} and {count - shown} more"


def _without_inner(name: str, opening: str, closing: str) -> str:
    """The name with what stands between outermost brackets as "..."; operators' names are no brackets."""
    parts = []
    depth = position = 0
    while position < len(name):
        operator = _OPERATOR.match(name, position)
        if operator:
            if not depth:
                parts.append(operator[0])
            position = operator.end()
            continue
        character = name[position]
        if character == closing and depth:
            depth -= 1
        if not depth:
            parts.append(character)
        if character == opening:
            parts += ["..."] if not depth and name[position + 1 : position + 2] != closing else []
            depth += 1
        position += 1
    return "".join(parts)
