"""Inflate a deflate stream (RFC 1951) from somewhere in its middle.

A compressed member of a wheel can be read from any byte on, but deflate has no marks to start at: blocks begin at any
bit, and copy from the 32 KiB before them. So the search for a block's header goes bit by bit. To detect what is copied
from bytes before the stretch, which are unknown, the stretch is inflated twice, each time with another 32 KiB in their
place: a byte that comes out alike both times does not depend on them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

_WINDOW = 32768  # bytes that deflate can reach back
_WINDOWS = (bytes(_WINDOW), b"\xff" * _WINDOW)  # differ everywhere, so that every byte copied from them differs too
_MOST = 128 << 20  # bytes out of one stretch; torch's libraries give some 5 to 90 million

_CHUNK = 8192  # bytes searched at once; a block of zlib's is some 5 to 40 KB
_AHEAD = 10  # bytes of a header that are examined: 17 bits and at most 19 code lengths of 3 bits
_TRIAL = 4096  # bytes that weed out nearly every false start
# Of a stretch of torch's libraries 105 starts are tried at most, and the first that stands the trial is right. A stream
# can be made in which there are millions of both.
_MOST_TRIALS = 50_000
_MOST_STARTS = 8

# A block that is not the last (bit 0), with dynamic codes (bits 1-2: 2), HLIT and HDIST of at most 29. The search skips
# the last block and the other two kinds: they are inflated when they come after.
_FIRST_BYTES = bytes(byte for byte in range(256) if byte & 7 == 4 and byte >> 3 <= 29)
_SECOND_BYTES = bytes(byte for byte in range(256) if byte & 31 <= 29)
_HEADER = re.compile(b"(?=[%s][%s])" % (re.escape(_FIRST_BYTES), re.escape(_SECOND_BYTES)))


def _kraft(bits: int) -> int:
    """The sum of 2**(7 - length) over the four code lengths, of three bits each, in 12 bits; 0 means no code."""
    total = 0
    for shift in (0, 3, 6, 9):
        length = bits >> shift & 7
        if length:
            total += 128 >> length
    return total


_KRAFT = [_kraft(bits) for bits in range(4096)]


def _complete(header: bytes) -> bool:
    """Whether the code for code lengths is complete, as zlib demands of a dynamic block's header (RFC 1951, 3.2.7)."""
    bits = int.from_bytes(header, "little") >> 13  # from HCLEN on
    length_count = (bits & 15) + 4
    lengths = bits >> 4 & (1 << 3 * length_count) - 1
    # Kraft's equality, for four lengths at once: every ninth bit of the data is a candidate.
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
    for chunk_start in range(0, len(data), _CHUNK):
        chunk = data[chunk_start : chunk_start + _CHUNK + _AHEAD]
        bits = []
        # A regular expression finds bytes, so the chunk is searched once for each position of a bit in its byte.
        for shift in range(8):
            shifted = _shifted(chunk, shift)
            for match in _HEADER.finditer(shifted, 0, min(len(shifted), _CHUNK + 1)):
                position = match.start()
                if position < _CHUNK and _complete(shifted[position : position + _AHEAD]):
                    bits.append((chunk_start + position) * 8 + shift)
        yield from sorted(bits)


def _placed(data: bytes, bit: int, literal: int) -> tuple[bytes, int]:
    """`data` from bit `bit` on, as a stream of its own; and how many bytes are inflated before them, `literal` each.

    Stored blocks begin at a byte boundary, so no bit may move within its byte. Blocks with fixed codes fill the bits
    before: an empty block has 10 bits, a block with one literal from 144 on has 19 (RFC 1951, 3.2.6).
    """
    skipped = bit % 8
    prefix, size = 0, 0  # of the blocks with fixed codes, in bits
    # Blocks of 10 bits alone only reach even positions.
    literals = skipped % 2
    if literals:
        code = int(f"{0b110010000 + literal - 144:09b}"[::-1], 2)  # a code's bits are stored in reverse
        prefix, size = 2 | code << 3, 19
    while size % 8 != skipped:
        prefix |= 2 << size
        size += 10
    rest = memoryview(data)[bit // 8 :]
    moved = int.from_bytes(rest, "little") >> skipped << size | prefix
    return moved.to_bytes(len(rest) + (size - skipped) // 8, "little"), literals


@dataclass(frozen=True)
class Inflated:
    """A stretch of a stream, inflated twice: `data` and `other` differ where a byte is not known.

    An unknown byte is zero in `data`, unless it is a copy of one certain byte of the 32 KiB before the stretch.
    """

    data: bytes
    other: bytes


def _inflated(data: bytes, bit: int, window: bytes) -> tuple[bytes, bool] | None:
    """What `data` inflates to, and whether the stream ends there; None if it is damaged, or ends before that."""
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
    """Inflate `data`, a stretch of a stream, from the first block that starts in it; None if no block does.

    `to_end`: the stretch reaches to the stream's end, so a start is right only if the stream ends exactly there;
    otherwise it must not end. `whole`: it is the stream from its first bit on.
    """
    attempts = 0
    for bit in [0] if whole else islice(_starts(data), _MOST_TRIALS):
        # Most starts are false, and a few bytes show it.
        trial = zlib.decompressobj(-15, zdict=_WINDOWS[0])
        stream, _ = _placed(data[bit // 8 : bit // 8 + _TRIAL], bit % 8, 144)
        try:
            trial.decompress(stream, 1 << 16)
        except zlib.error:
            continue
        attempts += 1
        if attempts > _MOST_STARTS:
            return None
        inflated = _inflated(data, bit, _WINDOWS[0])
        if inflated is None:
            continue
        content, ends = inflated
        if ends != to_end:
            continue
        again = _inflated(data, bit, _WINDOWS[1])
        if again:
            return Inflated(content, again[0])
    return None
