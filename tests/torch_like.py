"""Synthetic ELF libraries, laid out as those of torch are, and zip files of any deflate stream."""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass, field

from torch_build_farm.wheels.elf.gnu_hash import gnu_hash, sysv_hash

_BASE = 0x10000  # addresses are this much more than offsets, but for the appended segment's
_APPENDED = 0x20000


def names(count: int, seed: int = 1) -> list[str]:
    """Names that resemble each other about as much as mangled ones do."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz_", k=rng.randint(4, 14))) for _ in range(2000)]
    made: set[str] = set()
    while len(made) < count:
        chosen = rng.choices(words, k=rng.randint(2, 5))
        made.add("_ZN2at" + "".join(f"{len(word)}{word}" for word in chosen) + f"E{rng.randint(0, 99)}v")
    return sorted(made)


@dataclass
class Library:
    """What goes into a library; `linker` is how many symbols .symtab has besides, which nobody reads.

    For `arm64`, the address of .dynamic is in .got, directly behind it. `moved`: the program headers are behind the
    code, where patchelf puts them if there is no room for another one.
    """

    exported: list[str]
    undefined: list[str] = field(default_factory=lambda: ["printf", "malloc"])
    hidden: list[str] = field(default_factory=list)
    needed: list[str] = field(default_factory=lambda: ["libc10.so", "libc.so.6"])
    soname: str = "libmade.so"
    text: int = 200_000
    linker: int = 0
    gnu: bool = True
    arm64: bool = False
    moved: bool = False

    def content(self) -> bytes:
        rng = random.Random(7)
        buckets = max(1, len(self.exported) // 2)
        ordered = sorted(self.exported, key=lambda name: gnu_hash(name.encode()) % buckets)
        table, places = bytearray(b"\0"), {}
        for name in [*self.undefined, *self.hidden, *ordered, *self.needed, self.soname]:
            places[name] = len(table)
            table += name.encode() + b"\0"
        first = 1 + len(self.undefined) + len(self.hidden)
        symbols = bytes(24)
        symbols += b"".join(struct.pack("<IBBHQQ", places[name], 0x12, 0, 0, 0, 0) for name in self.undefined)
        symbols += b"".join(struct.pack("<IBBHQQ", places[name], 0x12, 2, 5, 9, 9) for name in self.hidden)
        for index, name in enumerate(ordered):
            info = (0x11, 0x12, 0x22, 0xA1)[index % 4]
            symbols += struct.pack("<IBBHQQ", places[name], info, 3 * (index % 5 == 0), 5, 64 * index, index % 300)
        hashes = self._gnu(ordered, first, buckets) if self.gnu else self._sysv(ordered, first)
        code = bytes(rng.choices(range(256), weights=range(1, 257), k=self.text))
        rows, strings = bytearray(24), bytearray(b"\0")
        for name in names(self.linker, 3) if self.linker else ():
            rows += struct.pack("<IBBHQQ", len(strings), 2, 0, 5, rng.randint(0, 1 << 24), rng.randint(0, 4000))
            strings += name.encode() + b"\0"
        return self._assembled(symbols, code, bytes(rows + strings), hashes, bytes(table), places)

    def _assembled(
        self, symbols: bytes, code: bytes, linker: bytes, hashes: bytes, strings: bytes, places: dict[str, int]
    ) -> bytes:
        at_symbols = 64 + 56 * 3
        at_dynamic = -(-(at_symbols + len(symbols) + len(code)) // 8) * 8
        count = len(self.needed) + 8 + 3  # three spare ones, as linkers leave
        at_got = at_dynamic + 16 * count + 800
        at_linker = at_got + 8 * 64
        headers = -(-(at_linker + len(linker)) // 8) * 8
        appended = headers + 64 * 4
        address = appended + _APPENDED
        entries = [(1, places[name]) for name in self.needed]
        entries += [(14, places[self.soname]), (0x6FFFFEF5 if self.gnu else 4, address), (5, address + len(hashes))]
        entries += [(6, at_symbols + _BASE), (10, len(strings)), (11, 24), (3, at_got + _BASE), (0, 0)]
        dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries).ljust(16 * count, b"\0")
        own_address = struct.pack("<Q", at_dynamic + _BASE)
        got = bytes(24) if self.arm64 else own_address + bytes(16)
        got += b"".join(struct.pack("<Q", 0x5006 + 16 * index) for index in range(61))
        end = appended + len(hashes) + len(strings)
        content = bytearray(b"\x7fELF\2\1\1".ljust(16, b"\0"))
        at_segments = at_symbols + len(symbols) + len(code) // 2 if self.moved else 64
        machine = 183 if self.arm64 else 62
        content += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, at_segments, headers, 0, 64, 56, 3, 64, 4, 3)
        segments = b""
        for kind, start, size, where in (
            (1, 0, at_linker, _BASE),
            (2, at_dynamic, len(dynamic), at_dynamic + _BASE),
            (1, appended, end - appended, address),
        ):
            segments += struct.pack("<IIQQQQQQ", kind, 4, start, where, where, size, size, 4096)
        content = content.ljust(at_symbols, b"\0") + symbols + code
        content[at_segments : at_segments + len(segments)] = segments
        content = content.ljust(at_dynamic, b"\0") + dynamic + (own_address if self.arm64 else b"")
        content = content.ljust(at_got, b"\0") + got + linker
        return bytes(content.ljust(appended, b"\0") + hashes + strings)

    def _gnu(self, ordered: list[str], first: int, buckets: int) -> bytes:
        values = [gnu_hash(name.encode()) for name in ordered]
        heads = [0] * buckets
        for index in range(len(ordered) - 1, -1, -1):
            heads[values[index] % buckets] = first + index
        ends = [
            index + 1 == len(values) or values[index] % buckets != values[index + 1] % buckets
            for index in range(len(values))
        ]
        chain = [value & ~1 | end for value, end in zip(values, ends, strict=True)]
        return struct.pack(f"<4IQ{buckets}I{len(chain)}I", buckets, first, 1, 6, (1 << 64) - 1, *heads, *chain)

    def _sysv(self, ordered: list[str], first: int) -> bytes:
        count = first + len(ordered)
        heads, chain = [0] * 7, [0] * count
        for index, name in enumerate([*self.undefined, *self.hidden, *ordered], 1):
            bucket = sysv_hash(name.encode()) % 7
            chain[index], heads[bucket] = heads[bucket], index
        return struct.pack(f"<2I7I{count}I", 7, count, *heads, *chain)


def deflated(content: bytes, level: int = 6, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -15, 8, strategy)
    return packer.compress(content) + packer.flush()


def zipped(members: dict[str, tuple[bytes, int, bytes]], extra: bytes = b"") -> bytes:
    """A zip file of members: content, method, and the data as stored. `extra` goes into the local headers only."""
    out, directory = bytearray(), bytearray()
    for path, (content, method, data) in members.items():
        name, place = path.encode(), len(out)
        fields = struct.pack("<3H4xIII", 20, 0, method, zlib.crc32(content), len(data), len(content))
        out += b"PK\3\4" + fields + struct.pack("<HH", len(name), len(extra)) + name + extra + data
        directory += (
            b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, place)
        )
        directory += name
    count, start = len(members), len(out)
    return bytes(out + directory + b"PK\5\6" + struct.pack("<4H2IH", 0, 0, count, count, len(directory), start, 0))
