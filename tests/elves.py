"""Small ELF libraries for tests, written here: what they need, ask for and export, with a GNU hash table."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from torch_build_farm.wheels.elf.gnu_hash import gnu_hash

_BASE = 64 + 3 * 56  # ELF header, three program headers


class _Strings:
    def __init__(self) -> None:
        self.content, self.places = bytearray(b"\0"), {"": 0}

    def place(self, text: str) -> int:
        if text not in self.places:
            self.places[text] = len(self.content)
            self.content += text.encode() + b"\0"
        return self.places[text]


def _hash_table(names: Sequence[str], first: int) -> bytes:
    """One bucket, so that the symbols may stand in any order."""
    hashes = [gnu_hash(name.encode()) & ~1 for name in names]
    chain = [value | (number == len(hashes) - 1) for number, value in enumerate(hashes)]
    head = struct.pack("<4IQI", 1, first, 1, 0, 2**64 - 1, first if names else 0)
    return head + struct.pack(f"<{len(chain)}I", *chain)


def _versions(wanted: Sequence[tuple[str, str]], strings: _Strings) -> tuple[bytes, dict[tuple[str, str], int]]:
    """DT_VERNEED, and the index of each (file, version)."""
    out, indexes = b"", {}
    for number, (file, version) in enumerate(wanted):
        indexes[file, version] = number + 2
        following = 32 if number < len(wanted) - 1 else 0
        out += struct.pack("<HHIII", 1, 1, strings.place(file), 16, following)
        out += struct.pack("<IHHII", 0, 0, number + 2, strings.place(version), 0)
    return out, indexes


def library(
    undefined: Sequence[str] = (),
    exported: Sequence[str] = (),
    needed: Sequence[str] = ("libc.so.6",),
    *,
    weak: Sequence[str] = (),
    versioned: Mapping[str, tuple[str, str]] | None = None,
    soname: str = "",
    run_path: str = "",
    more: bytes = b"",
    machine: int = 62,
) -> bytes:
    """A library; `versioned` are undefined names with the (file, version) that they are asked of."""
    strings, versioned = _Strings(), dict(versioned or {})
    asked = [*undefined, *weak, *versioned]
    first = len(asked) + 1
    symbols = bytes(24)
    for name in asked:
        symbols += struct.pack("<IBBHQQ", strings.place(name), (2 if name in weak else 1) << 4 | 2, 0, 0, 0, 0)
    for name in exported:
        symbols += struct.pack("<IBBHQQ", strings.place(name), 1 << 4 | 2, 0, 7, 0x1000, 8)
    relocations = b"".join(struct.pack("<QQq", 0x2000 + 8 * n, (n + 1) << 32 | 6, 0) for n in range(len(asked)))
    verneed, indexes = _versions(sorted(set(versioned.values())), strings)
    numbers = [0, *(indexes.get(versioned.get(name, ("", "")), 1) for name in asked), *(1 for _ in exported)]
    tags = [(1, strings.place(name)) for name in needed]
    tags += [(14, strings.place(soname))] if soname else []
    tags += [(29, strings.place(run_path))] if run_path else []
    tables = {
        6: symbols, 0x6FFFFEF5: _hash_table(exported, first), 7: relocations, 5: bytes(strings.content),
        0x6FFFFFF0: struct.pack(f"<{len(numbers)}H", *numbers), 0x6FFFFFFE: verneed,
    }  # fmt: skip
    body, places = b"", {}
    for tag, table in tables.items():
        places[tag] = _BASE + len(body)
        body += table + bytes(-len(table) % 8)
    tags += [(tag, place) for tag, place in places.items() if verneed or tag != 0x6FFFFFFE]
    tags += [(10, len(strings.content)), (11, 24), (8, len(relocations)), (9, 24)]
    tags += [(0x6FFFFFFF, len(set(versioned.values())))] if verneed else []
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in [*tags, (0, 0)])
    start, end = _BASE + len(body), _BASE + len(body) + len(dynamic) + len(more)
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, end, end, 0x1000)
    dyn = struct.pack("<IIQQQQQQ", 2, 6, start, start, start, len(dynamic), len(dynamic), 8)
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    return header + load + dyn + stack + body + dynamic + more
