"""The hash tables that a loader finds a library's symbols in: proof that names were read right.

DT_GNU_HASH has 31 bits of each symbol's hash, in the order of .dynsym, and all 32 bits modulo the number of buckets.
Its layout is binutils' (bfd/elflink.c) and glibc's (elf/dl-lookup.c); DT_HASH is System V's (gABI, "Hash Table").
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import mul

_MASK = 0xFFFFFFFF
_LONGEST = 16384  # bytes of a name for which powers are kept; torch's longest is some 6000
_POWERS = [1]
while len(_POWERS) <= _LONGEST:
    _POWERS.append(_POWERS[-1] * 33 & _MASK)
_POWERS.reverse()


@lru_cache(maxsize=1 << 18)  # a release has 120,000 names, and a stub's are hashed twice
def gnu_hash(name: bytes) -> int:
    """dl_new_hash of glibc: h = 5381, then h * 33 + byte for each, modulo 2**32."""
    size = len(name)
    if size > _LONGEST:
        value = 5381
        for byte in name:
            value = value * 33 + byte & _MASK
        return value
    # The same as a sum of products, which runs in C: names of one release are 10 million bytes.
    total: int = 5381 * _POWERS[_LONGEST - size] + sum(map(mul, name, _POWERS[_LONGEST + 1 - size :]))
    return total & _MASK


def sysv_hash(name: bytes) -> int:
    """The ELF hash of gABI."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high & _MASK
    return value


@dataclass(frozen=True)
class HashTable:
    """What a table says of the symbols from number `first` on: `matches` compares it with the name of one of them."""

    first: int
    matches: Callable[[int, bytes], bool]
    count: int  # of symbols in .dynsym; 0 where there are none to be found
    mixed: bool = False  # has symbols too that are not exported


def gnu_table(read: Callable[[int, int], bytes], offset: int) -> HashTable:
    """The DT_GNU_HASH table at `offset` of a file, of which `read` gives bytes by offset and size.

    Raises ValueError where it contradicts itself: every symbol stands in exactly one bucket's chain.
    """
    buckets, first, bloom, _ = struct.unpack("<4I", read(offset, 16))
    at = offset + 16 + 8 * bloom
    heads = struct.unpack(f"<{buckets}I", read(at, 4 * buckets))
    at += 4 * buckets
    starts = {head: bucket for bucket, head in enumerate(heads) if head}
    if not starts:
        return HashTable(first, lambda _index, _name: False, 0)
    if len(starts) != sum(map(bool, heads)) or min(starts) != first:
        raise ValueError("the buckets of .gnu.hash contradict each other")
    last = max(starts)
    chain = list(struct.unpack(f"<{last - first + 1}I", read(at, 4 * (last - first + 1))))
    while not chain[-1] & 1:
        chain += struct.unpack("<I", read(at + 4 * len(chain), 4))
    bucket_of, bucket, new = [], -1, True
    for index, value in enumerate(chain, first):
        if (index in starts) != new:
            raise ValueError("the chains of .gnu.hash and its buckets contradict each other")
        bucket = starts.get(index, bucket)
        bucket_of.append(bucket)
        new = bool(value & 1)

    def matches(index: int, name: bytes) -> bool:
        value = gnu_hash(name)
        return (value | 1, value % buckets) == (chain[index] | 1, bucket_of[index])

    return HashTable(first, matches, first + len(chain))


def sysv_table(read: Callable[[int, int], bytes], offset: int) -> HashTable:
    """The DT_HASH table at `offset`. It has no hashes, only which bucket a symbol is in. Raises ValueError likewise."""
    buckets, count = struct.unpack("<2I", read(offset, 8))
    words = struct.unpack(f"<{buckets + count}I", read(offset + 8, 4 * (buckets + count)))
    bucket_of: dict[int, int] = {}
    for bucket, head in enumerate(words[:buckets]):
        index = head
        while index:
            if index >= count or index in bucket_of:
                raise ValueError("the chains of .hash contradict each other")
            bucket_of[index] = bucket
            index = words[buckets + index]

    def matches(index: int, name: bytes) -> bool:
        return index + 1 in bucket_of and sysv_hash(name) % buckets == bucket_of[index + 1]

    return HashTable(1, matches, count, mixed=True)
