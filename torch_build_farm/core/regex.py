"""The one place that uses a regular expression which others wrote.

`re` backtracks: a short expression and a short text can take it years, and a nested repetition all memory while it is
compiled. A thread cannot be stopped, so the search has a process of its own, with limits that the kernel keeps. The
engines that need no limits (RE2) do not know all of `re`, and a project's expression means what `re` makes of it.
"""

from __future__ import annotations

import json
import sys

from torch_build_farm.core.process import capture

_SECONDS = 1  # of processor time, starting Python included; a search that ends takes a thousandth
_WALL_S = 30.0  # on a machine that does much else
_PROGRAM = f"""
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
pattern, text, group, flags, at_start = json.load(sys.stdin)
compiled = re.compile(pattern, flags)
match = compiled.match(text) if at_start else compiled.search(text)
key = 1 if compiled.groups == 1 else group
known = key == 1 or group in compiled.groupindex
value = match.group(key) if match and known else None
print(json.dumps([value, match.group(0)[match.end(key) - match.start():]] if value else None))
"""


class RegexError(ValueError):
    """An expression is not valid, or takes too long or too much; its message is one line."""


def find(pattern: str, text: str, group: str, *, flags: int = 0, at_start: bool = False) -> tuple[str, str] | None:
    """The text of `group` in the first match, or of the only group there is, and the rest of the match behind it.

    `at_start` means that the match begins where the text does. None where nothing matches, or the group is empty.
    Raises RegexError.
    """
    request = json.dumps([pattern, text, group, flags, at_start])
    done = capture([sys.executable, "-I", "-S", "-c", _PROGRAM], env={}, stdin=request, timeout_s=_WALL_S)
    if not done.ok:
        # Its own message where `re` refused it; killed by the kernel there is none.
        reason = done.last_line if done.returncode == 1 else f"it takes more than {_SECONDS} s, or too much memory"
        raise RegexError(reason[:200])
    answer = json.loads(done.last_line)
    return (str(answer[0]), str(answer[1])) if answer else None
