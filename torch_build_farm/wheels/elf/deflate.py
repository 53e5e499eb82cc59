"""Inflate a deflate stream (RFC 1951) from somewhere in its middle.

A compressed member of a wheel can be read from any byte on, but deflate has no marks to start at: blocks begin at any
bit, and copy from the 32 KiB before them. So a block's header is looked for bit by bit, and what is copied from bytes
that nobody has is told apart by inflating twice, each time with another 32 KiB in their place: a byte that comes out
alike both times does not depend on them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_WINDOW = 32768  # bytes that deflate can reach back
_WINDOWS = (bytes(_WINDOW), b"\xff" * _WINDOW)  # differ everywhere, so that every byte copied from them differs too
_MOST = 128 << 20  # bytes out of one stretch; of torch's they are some 5 to 90 million

_CHUNK = 8192  # bytes searched at once; a block of zlib's is some 5 to 40 KB
_AHEAD = 10  # bytes of a header that are looked at: 17 bits and at most 19 code lengths of 3 bits
_TRIAL = 4096  # bytes that weed out nearly every false start

# A block that is not the last (bit 0), with dynamic codes (bits 1-2: 2), HLIT and HDIST of at most 29. The last block
# and the other two kinds are never looked for: they are inflated when they come after.
_HEADER = re.compile(
    b"(?=[%s][%s])"
    % (
        b"".join(b"\\x%02x" % byte for byte in range(256) if byte & 7 == 4 and byte >> 3 <= 29),
        b"".join(b"\\x%02x" % byte for byte in range(256) if byte & 31 <= 29),
    )
)


def _kraft(bits: int) -> int:
    """The sum of 2**(7 - length) over the four code lengths, of three bits each, in 12 bits; 0 is no code."""
    return sum(128 >> length for length in (bits >> shift & 7 for shift in (0, 3, 6, 9)) if length)


_KRAFT = [_kraft(bits) for bits in range(4096)]


def _complete(header: bytes) -> bool:
    """Whether the code for code lengths is a complete one, as zlib demands of a dynamic block's header."""
    bits = int.from_bytes(header, "little") >> 13
    lengths = bits >> 4 & (1 << 3 * ((bits & 15) + 4)) - 1
    total = 0
    while lengths:
        total += _KRAFT[lengths & 4095]
        lengths >>= 12
    return total == 128


def _shifted(data: bytes, bit: int) -> bytes:
    """`data` from bit `bit` on, moved to byte boundaries."""
    rest = memoryview(data)[bit // 8 :]
    return (int.from_bytes(rest, "little") >> bit % 8).to_bytes(len(rest), "little")


def _starts(data: bytes) -> Iterator[int]:
    """The bits at which a dynamic block may start, in order."""
    for at in range(0, len(data), _CHUNK):
        chunk = data[at : at + _CHUNK + _AHEAD]
        found = []
        for shift in range(8):
            moved = _shifted(chunk, shift)
            for match in _HEADER.finditer(moved, 0, min(len(moved), _CHUNK + 1)):
                place = match.start()
                if place < _CHUNK and _complete(moved[place : place + _AHEAD]):
                    found.append((at + place) * 8 + shift)
        yield from sorted(found)


def _placed(data: bytes, bit: int, literal: int) -> tuple[bytes, int]:
    """`data` from bit `bit` on, as a stream of its own; and how many bytes are inflated before them, `literal` each.

    Stored blocks begin at a byte boundary, so no bit may move within its byte. Blocks with fixed codes fill the bits
    before: of 10 bits an empty one, of 19 bits one with a literal from 144 on (RFC 1951, 3.2.6).
    """
    skipped, prefix, size = bit % 8, 0, 0
    if skipped % 2:
        code = int(f"{0b110010000 + literal - 144:09b}"[::-1], 2)  # codes stand there the other way round
        prefix, size = 2 | code << 3, 19
    while size % 8 != skipped:
        prefix, size = prefix | 2 << size, size + 10
    rest = memoryview(data)[bit // 8 :]
    moved = int.from_bytes(rest, "little") >> skipped << size | prefix
    return moved.to_bytes(len(rest) + (size - skipped) // 8, "little"), skipped % 2


@dataclass(frozen=True)
class Inflated:
    """What came out of a stretch of a stream, twice: `data` and `other` differ where a byte is not known.

    What is not known is zero in `data`, but for one byte at most of the 32 KiB before the stretch.
    """

    data: bytes
    other: bytes


def _inflated(data: bytes, bit: int, window: bytes) -> tuple[bytes, bool] | None:
    """What `data` inflates to, and whether the stream ends there; None where it is damaged, or ends before that."""
    stream, before = _placed(data, bit, max(144, window[0]))
    inflater = zlib.decompressobj(-15, zdict=window)
    try:
        out = inflater.decompress(stream, _MOST)
    except zlib.error:
        return None
    if inflater.unconsumed_tail or inflater.unused_data:
        return None
    return out[before:], inflater.eof


def resync(data: bytes, *, to_end: bool, whole: bool = False) -> Inflated | None:
    """Inflate `data`, a stretch of a stream, from the first block that starts in it; None where none does.

    `to_end`: the stretch reaches to the stream's end, and only what ends just there is right; otherwise only what does
    not end. `whole`: it is the stream from its first bit on.
    """
    for bit in [0] if whole else _starts(data):
        trial = zlib.decompressobj(-15, zdict=_WINDOWS[0])
        try:
            trial.decompress(_placed(data[bit // 8 : bit // 8 + _TRIAL], bit % 8, 144)[0], 1 << 16)
        except zlib.error:
            continue
        first = _inflated(data, bit, _WINDOWS[0])
        if first and first[1] == to_end and (second := _inflated(data, bit, _WINDOWS[1])):
            return Inflated(first[0], second[0])
    return None
