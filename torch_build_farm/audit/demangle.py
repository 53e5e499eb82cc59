"""C++ names as people write them, demangled where a name can do no harm.

The C++ library's own demangler is the right one, and its time and memory are bounded by nothing: 1,100 characters in
which each part refers to the one before it twice become 2**100. So it runs in a process of its own with limits
(`demangler.py`), once for many names. A name that costs too much ends that process, and stays mangled.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from torch_build_farm.core.process import answers

_DEMANGLER = Path(__file__).with_name("demangler.py")
_NAME_LIMIT = 4096  # characters of a name that is worth demangling
_MOST_ENDINGS = 3  # of the process; then all names stay mangled that are not demangled yet

_known: dict[str, str] = {}
_costly: set[str] = set()


def _is_mangled(name: str) -> bool:
    return name.startswith("_Z") and len(name) < _NAME_LIMIT and name.isascii() and name.isprintable()


def prepare(names: Iterable[str]) -> None:
    """Demangle these names at once: a process for each of them would take 20 ms."""
    left = [name for name in dict.fromkeys(names) if _is_mangled(name) and name not in _known and name not in _costly]
    while left and len(_costly) < _MOST_ENDINGS:
        lines = answers([sys.executable, "-I", "-S", str(_DEMANGLER)], left)
        _known.update(zip(left, lines, strict=False))
        left = left[len(lines) :]
        # The process ended at the name after the last answer.
        _costly.update(left[:1])
        left = left[1:]


def demangled(name: str) -> str:
    """A C++ name as people write it; unchanged if it is not mangled, costs too much, or no C++ library is there."""
    prepare([name])
    return _known.get(name, name)  # what is costly, and all that was left after it, stays
