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
_MOST_ENDINGS = 3  # of the process, after which the names that are left stay mangled

_known: dict[str, str] = {}


def _is_mangled(name: str) -> bool:
    return name.startswith("_Z") and len(name) < _NAME_LIMIT and name.isascii() and name.isprintable()


def prepare(names: Iterable[str]) -> None:
    """Demangle these names at once: a process for each of them would take 20 ms."""
    left = [name for name in dict.fromkeys(names) if name not in _known and _is_mangled(name)]
    for _ in range(_MOST_ENDINGS):
        if not left:
            return
        lines = answers([sys.executable, "-I", "-S", str(_DEMANGLER)], left)
        _known.update(zip(left, lines, strict=False))
        # The process ended at the name after the last answer.
        left = left[len(lines) :]
        if left:
            _known[left[0]] = left.pop(0)
    _known.update(zip(left, left, strict=True))


def demangled(name: str) -> str:
    """A C++ name as people write it; unchanged if it is not mangled, costs too much, or no C++ library is there."""
    prepare([name])
    return _known.get(name, name)
