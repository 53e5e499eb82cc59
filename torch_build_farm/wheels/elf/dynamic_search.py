"""Find .dynamic in the middle of a compressed library, of which neither end is near.

It holds DT_NEEDED, and nothing says where in the compressed bytes it is. After it come .got and .data, which are small,
and then .symtab and .strtab, which are big and easily told from everything before. So the start of .symtab is searched
for by halves, with small stretches, and then .dynamic a little before it.

Measured on the wheels of torch 2.12.0, 2.12.1, 2.13.0, 2.14.0, 2.14.1 and 2.15.0 for CPython 3.12: two libraries of
each need the search, and it finds .dynamic in all twelve. In libtorch_cpu.so it takes 1 to 7 requests, 0.1 to 0.9 MB
and 0.03 to 0.4 s; in libtorch_cuda.so 9 to 17 requests, 0.7 to 4.4 MB and 0.8 to 3.1 s. Without it both would be read
whole: 445 to 484 MB a release in place of the 11 to 16 MB that all libraries take now.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch_build_farm.wheels.elf.deflate import Inflated, resync
from torch_build_farm.wheels.elf.partial import Segment, entries

_PLTGOT = 3  # a tag of .dynamic
_SYMENT = struct.pack("<2Q", 11, 24)  # an entry of every .dynamic: tag, and the size of a symbol
_PROBE = 80 << 10  # compressed bytes that surely hold the start of a block, and some of what follows
_CLOSE = 128 << 10  # compressed bytes between two probes that need no further one
_STEP = 1 << 20
_MARGIN = 256 << 10  # compressed bytes by which the start of .symtab may be missed
_BACK = (
    1 << 18,
    *range(1 << 19, (1 << 22) + 1, 1 << 19),
)  # compressed bytes before .symtab that are searched in the end
_SAMPLE = 24 * 800  # inflated bytes by which a stretch is judged
_RATIO = 0.125  # compressed bytes per byte of .symtab and .strtab: 0.124 to 0.126 in torch 2.6 and 2.8, 0.06 in 2.15

_OF_NAMES = b"_.$@" + bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123))
_NO_NAMES = bytes(set(range(256)) - set(_OF_NAMES))


def _is_names(known: bytes) -> bool:
    """A stretch of .strtab, of which these bytes are known: names, and the zeros between them.

    Names repeat each other so much that four of five bytes are copied from what is not known.
    """
    other = len(known.translate(None, _OF_NAMES + b"\0"))
    return len(known) > 500 and other * 100 < len(known) < 2 * len(known.translate(None, _NO_NAMES))


def _rising(mixed: Sequence[int], phase: int) -> float:
    """How many of the 32-bit numbers that stand every 24 bytes are a little more than the one before; -1 is unknown."""
    triples = zip(*(mixed[phase + place :: 24] for place in range(3)), strict=False)
    numbers = [-1 if min(triple) < 0 else triple[0] + (triple[1] << 8) + (triple[2] << 16) for triple in triples]
    steps = [second - first for first, second in pairwise(numbers) if first >= 0 and second >= 0]
    return sum(0 < step < 8192 for step in steps) / len(steps) if len(steps) > 40 else 0


def _is_symbols(sample: bytes, other: bytes) -> bool:
    """A stretch of .symtab: 24 bytes each, which begin with the place of a name in .strtab, where they are in order.

    Addresses follow, sometimes in order too, and sizes, which never are. Of most other tables (.data.rel.ro) less
    is known, and in those whose numbers rise (.got.plt, .eh_frame_hdr) they do so every 8 bytes.
    """
    mixed = [first if first == second else -1 for first, second in zip(sample, other, strict=True)]
    if mixed.count(-1) > len(mixed) * 3 // 4:
        return False
    rising = [_rising(mixed, phase) for phase in range(24)]
    return any(share > 0.6 and rising[(phase + 16) % 24] < 0.2 for phase, share in enumerate(rising))


@dataclass(frozen=True)
class DynamicSearch:
    """`read` gives compressed bytes; `dynamic` is PT_DYNAMIC."""

    read: Callable[[int, int], bytes]
    dynamic: Segment

    def find(self, low: int, high: int, between: int) -> bytes | None:
        """The bytes of PT_DYNAMIC, which is between the compressed bytes `low` and `high`; None where it stays hidden.

        `between`: bytes (inflated) of .symtab and .strtab, which end near `high`. What is found agrees with .got.plt
        about its own place.
        """
        at = high - int(between * _RATIO)
        step, known = _STEP, False
        while high - low > _CLOSE + (0 if known else _PROBE):
            at = max(low, min(at, high - _CLOSE // 2))
            stretch = resync(self.read(at, at + _PROBE), to_end=False)
            if stretch and (found := self._within(stretch)):
                return found
            if stretch and self._after(stretch):
                high, at = at, at - step
            else:
                low, at, known = at, at + step, True
            step *= 2
            if known and not low < at < high - _CLOSE // 2:
                at = (low + high) // 2
        return self._before(high + _MARGIN)

    def _before(self, end: int) -> bytes | None:
        data, first = b"", end  # which may lie behind the member's own end
        for size in _BACK:
            start = max(0, end - size)
            if start == first:
                break
            data, first = self.read(start, first) + data, start
            stretch = resync(data, to_end=False)
            if stretch and (found := self._within(stretch)):
                return found
        return None

    def _after(self, stretch: Inflated) -> bool:
        """Whether the end of a stretch, where most is known, is of a section after .dynamic."""
        sample, other = stretch.data[-_SAMPLE:], stretch.other[-_SAMPLE:]
        known = bytes(byte for byte, second in zip(sample, other, strict=True) if byte == second)
        return len(sample) == _SAMPLE and (_is_names(known) or _is_symbols(sample, other))

    def _within(self, stretch: Inflated) -> bytes | None:
        """PT_DYNAMIC, if it is in the stretch.

        It names the address of .got.plt, whose first word is the address of .dynamic (psABI of x86-64, 5.2): so of the
        places where it may start only one is right.
        """
        data, own = stretch.data, struct.pack("<Q", self.dynamic.address)
        for match in re.finditer(re.escape(_SYMENT), data):
            for start in range(match.start(), match.start() - self.dynamic.size, -16):
                table = data[start : start + self.dynamic.size]
                got = dict(entries(table)).get(_PLTGOT, 0) - self.dynamic.address + start
                if start < 0 or stretch.other[start : start + len(table)] != table:
                    break
                if got > start and data[got : got + 8] == own:
                    return table
        return None
