"""Find .dynamic in the middle of a compressed library, far from both ends.

It holds DT_NEEDED, and nothing states where in the compressed bytes it is. After it come .got and .data, which are
small, and then .symtab and .strtab, which are big and easy to distinguish from everything before. So the search finds
the start of .symtab first, by bisection with small stretches, and then .dynamic a little before it.

Measured on the wheels of torch 2.12.0, 2.12.1, 2.13.0, 2.14.0, 2.14.1 and 2.15.0 for CPython 3.12: two libraries of
each need the search, and it finds .dynamic in all twelve. In libtorch_cpu.so it takes 1 to 7 requests, 0.1 to 0.9 MB
and 0.03 to 0.4 s; in libtorch_cuda.so 9 to 17 requests, 0.7 to 4.4 MB and 0.8 to 3.1 s. Without it both would be read
whole: 445 to 484 MB a release in place of the 11 to 16 MB that all libraries take now.
"""

from __future__ import annotations

import re
import string
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch_build_farm.wheels.elf.deflate import Inflated, resync
from torch_build_farm.wheels.elf.headers import Segment, Tag, entries

_SYMENT = struct.pack("<2Q", Tag.SYMENT, 24)  # an entry of every .dynamic: tag, and the size of a symbol
_PROBE = 80 << 10  # compressed bytes that surely hold the start of a block, and some of what follows
_CLOSE = 128 << 10  # compressed bytes between two probes that need no further probe
_STEP = 1 << 20  # compressed bytes from the first probe to the second
_MARGIN = 256 << 10  # compressed bytes by which the start of .symtab may be missed
# Compressed bytes before .symtab that are searched in the end, fewest first.
_BACK = (1 << 18, *range(1 << 19, (1 << 22) + 1, 1 << 19))
_SAMPLE = 24 * 800  # inflated bytes by which a stretch is judged
_RATIO = 0.125  # compressed bytes per byte of .symtab and .strtab: 0.124 to 0.126 in torch 2.6 and 2.8, 0.06 in 2.15

_NAME_CHARACTERS = (string.ascii_letters + string.digits + "_.$@").encode()
_OTHER_CHARACTERS = bytes(set(range(256)) - set(_NAME_CHARACTERS))
_UNKNOWN = -1  # in place of a byte


def _is_names(known: bytes) -> bool:
    """Whether a stretch with these known bytes is of .strtab: names, and the zeros between them.

    Names repeat each other so much that four of five bytes are copies of bytes before the stretch, and not known.
    """
    if len(known) <= 500:
        return False
    neither_name_nor_zero = len(known.translate(None, _NAME_CHARACTERS + b"\0"))
    in_names = len(known.translate(None, _OTHER_CHARACTERS))
    return neither_name_nor_zero * 100 < len(known) < 2 * in_names


def _rising_share(mixed: Sequence[int], phase: int) -> float:
    """The share of numbers that are a little more than the one before, of those that begin every 24 bytes at `phase`.

    Three bytes of each 32-bit number are enough to see that. 0 where too few are known.
    """
    steps = 0
    rising = 0
    previous = _UNKNOWN
    for low, middle, high in zip(mixed[phase::24], mixed[phase + 1 :: 24], mixed[phase + 2 :: 24], strict=False):
        known = _UNKNOWN not in (low, middle, high)
        number = low + (middle << 8) + (high << 16) if known else _UNKNOWN
        if known and previous != _UNKNOWN:
            steps += 1
            rising += 0 < number - previous < 8192
        previous = number
    return rising / steps if steps > 40 else 0


def _is_symbols(sample: bytes, other: bytes) -> bool:
    """Whether a stretch is of .symtab: 24 bytes each, which begin with the position of a name in .strtab, in order.

    Addresses follow, sometimes in order too, and sizes, which never are. Of most other tables (.data.rel.ro) less
    is known, and in those whose numbers rise (.got.plt, .eh_frame_hdr) they do so every 8 bytes.
    """
    mixed = [byte if byte == second else _UNKNOWN for byte, second in zip(sample, other, strict=True)]
    if mixed.count(_UNKNOWN) > len(mixed) * 3 // 4:
        return False
    shares = [_rising_share(mixed, phase) for phase in range(24)]
    for phase, share in enumerate(shares):
        size_share = shares[(phase + 16) % 24]  # st_size is 16 bytes after st_name
        if share > 0.6 and size_share < 0.2:
            return True
    return False


@dataclass(frozen=True)
class DynamicSearch:
    """`read` gives the compressed bytes from one offset to before another; `dynamic` is PT_DYNAMIC."""

    read: Callable[[int, int], bytes]
    dynamic: Segment

    def find(self, low: int, high: int, between: int) -> bytes | None:
        """The bytes of PT_DYNAMIC, which is between the compressed bytes `low` and `high`; None if it stays hidden.

        `between`: bytes (inflated) of .symtab and .strtab, which end near `high`. The result agrees with .got.plt
        about its own address.
        """
        position = high - int(between * _RATIO)
        step = _STEP
        low_is_before = False  # whether a probe confirmed that `low` is before .symtab
        # Invariant: the start of .symtab is between `low` and `high`.
        while high - low > _CLOSE + (0 if low_is_before else _PROBE):
            position = max(low, min(position, high - _CLOSE // 2))
            stretch = resync(self.read(position, position + _PROBE), to_end=False)
            if stretch:
                table = self._within(stretch)
                if table:
                    return table
            if stretch and self._is_after_dynamic(stretch):
                high = position
                position -= step
            else:
                low = position
                low_is_before = True
                position += step
            # The first guess is near, so the steps grow, until one leaves the interval; from then on it is halved.
            step *= 2
            if low_is_before and not low < position < high - _CLOSE // 2:
                position = (low + high) // 2
        return self._before(high + _MARGIN)

    def _before(self, end: int) -> bytes | None:
        """PT_DYNAMIC if it is a little before `end`, which may be behind the member's own end."""
        data, data_start = b"", end
        for size in _BACK:
            start = max(0, end - size)
            if start == data_start:
                break
            data = self.read(start, data_start) + data
            data_start = start
            stretch = resync(data, to_end=False)
            if stretch:
                table = self._within(stretch)
                if table:
                    return table
        return None

    def _is_after_dynamic(self, stretch: Inflated) -> bool:
        """Whether the end of a stretch, where most is known, is of a section after .dynamic."""
        sample, other = stretch.data[-_SAMPLE:], stretch.other[-_SAMPLE:]
        if len(sample) < _SAMPLE:
            return False
        known = bytes(byte for byte, second in zip(sample, other, strict=True) if byte == second)
        return _is_names(known) or _is_symbols(sample, other)

    def _within(self, stretch: Inflated) -> bytes | None:
        """PT_DYNAMIC if it is in the stretch.

        The linker leaves the address of .dynamic in memory: on x86-64 in the first word of .got.plt, which .dynamic
        names (its psABI, 5.2), on arm64 in that of .got (its psABI, "Global Offset Table"), which binutils put directly
        behind .dynamic. So of the positions where it may start only one is right.
        """
        data = stretch.data
        dynamic_address = struct.pack("<Q", self.dynamic.address)
        for match in re.finditer(re.escape(_SYMENT), data):
            # Any entry of the table may be its first, so the table may start anywhere before, by whole entries.
            for start in range(match.start(), max(-1, match.start() - self.dynamic.size), -16):
                table = data[start : start + self.dynamic.size]
                all_known = stretch.other[start : start + len(table)] == table
                if not all_known:
                    break
                got_address = dict(entries(table)).get(Tag.PLTGOT, 0)
                got = start + got_address - self.dynamic.address  # its position in the stretch
                behind = start + self.dynamic.size
                if got > start and dynamic_address in (data[got : got + 8], data[behind : behind + 8]):
                    return table
        return None
