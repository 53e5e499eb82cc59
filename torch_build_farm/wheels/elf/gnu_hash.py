"""The hash tables by which a loader finds a library's symbols: proof that their names were read correctly.

DT_GNU_HASH has 31 bits of each symbol's hash, in the order of .dynsym, and all 32 bits modulo the number of buckets.
Its layout is binutils' (bfd/elflink.c) and glibc's (elf/dl-lookup.c); DT_HASH is System V's (gABI, "Hash Table").
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import mul

_MASK = 0xFFFFFFFF
_LONGEST_CACHED = 1024  # bytes of a name whose hash is kept
_LONGEST = 16384  # bytes of a name for which powers are at hand; torch's longest name has some 6000
_POWERS = [1]  # of 33, the highest first in the end
while len(_POWERS) <= _LONGEST:
    _POWERS.append(_POWERS[-1] * 33 & _MASK)
_POWERS.reverse()


def gnu_hash(name: bytes) -> int:
    """dl_new_hash of glibc: h = 5381, then h * 33 + byte for each byte, modulo 2**32."""
    # A release has 120,000 names, and a stub's are hashed twice. Long ones would stay in memory for little.
    return _cached_gnu_hash(name) if len(name) <= _LONGEST_CACHED else _gnu_hash(name)


def _gnu_hash(name: bytes) -> int:
    size = len(name)
    if size > _LONGEST:
        value = 5381
        for byte in name:
            value = value * 33 + byte & _MASK
        return value
    # The same as a sum of products, which runs in C: the names of one release have 10 million bytes.
    total: int = 5381 * _POWERS[_LONGEST - size] + sum(map(mul, name, _POWERS[_LONGEST + 1 - size :]))
    return total & _MASK


_cached_gnu_hash = lru_cache(maxsize=1 << 18)(_gnu_hash)


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
    """What a table knows about the symbols from number `first` on.

    `matches` compares it with the name of one of them, whose number counts from `first`.
    """

    first: int
    matches: Callable[[int, bytes], bool]
    count: int  # of symbols in .dynsym; 0 if the table has none
    mixed: bool = False  # whether it also has symbols that are not exported


def _words(content: bytes) -> array[int]:
    """32-bit numbers; a list of them would take nine times the file's bytes."""
    words = array("I")
    words.frombytes(content)
    return words


def gnu_table(read: Callable[[int, int], bytes], offset: int, most: int) -> HashTable:
    """The DT_GNU_HASH table at `offset` of a file, of which `read` gives bytes by offset and size.

    Raises ValueError for a table that contradicts itself: every symbol must be in exactly one bucket's chain, and
    there are at most `most` of them.
    """
    bucket_count, first, bloom_words, _bloom_shift = struct.unpack("<4I", read(offset, 16))
    buckets_offset = offset + 16 + 8 * bloom_words
    chain_offset = buckets_offset + 4 * bucket_count
    # Each bucket has the number of its first symbol, 0 if it has none.
    heads = _words(read(buckets_offset, 4 * bucket_count))
    bucket_by_head = {head: bucket for bucket, head in enumerate(heads) if head}
    if not bucket_by_head:
        return HashTable(first, lambda _index, _name: False, 0)
    if len(bucket_by_head) != len(heads) - heads.count(0) or min(bucket_by_head) != first:
        raise ValueError("the buckets of .gnu.hash contradict each other")
    # The table does not state its length: the last bucket's chain ends at the first value with its lowest bit set.
    last = max(bucket_by_head)
    if last >= most:
        raise ValueError(".gnu.hash has more symbols than the file")
    chain = _words(read(chain_offset, 4 * (last - first + 1)))
    while not chain[-1] & 1:
        if first + len(chain) > most:
            raise ValueError(".gnu.hash has more symbols than the file")
        chain += _words(read(chain_offset + 4 * len(chain), 4))
    bucket_of = array("I")
    bucket = 0
    starts_bucket = True
    for number, value in enumerate(chain, first):
        if (number in bucket_by_head) != starts_bucket:
            raise ValueError("the chains of .gnu.hash and its buckets contradict each other")
        bucket = bucket_by_head.get(number, bucket)
        bucket_of.append(bucket)
        starts_bucket = bool(value & 1)

    def matches(index: int, name: bytes) -> bool:
        value = gnu_hash(name)
        # The lowest bit of the hash makes room for the mark of a chain's end.
        return (value | 1, value % bucket_count) == (chain[index] | 1, bucket_of[index])

    return HashTable(first, matches, first + len(chain))


def sysv_table(read: Callable[[int, int], bytes], offset: int, most: int) -> HashTable:
    """The DT_HASH table at `offset`: it has no hashes, only the bucket of each symbol. Raises ValueError likewise."""
    bucket_count, count = struct.unpack("<2I", read(offset, 8))
    if count > most:
        raise ValueError(".hash has more symbols than the file")
    words = _words(read(offset + 8, 4 * (bucket_count + count)))
    heads, next_in_chain = words[:bucket_count], words[bucket_count:]
    bucket_of: dict[int, int] = {}
    for bucket, head in enumerate(heads):
        number = head
        while number:
            # A symbol in two chains, or twice in one: a chain that goes in circles would never end.
            if number >= count or number in bucket_of:
                raise ValueError("the chains of .hash contradict each other")
            bucket_of[number] = bucket
            number = next_in_chain[number]

    def matches(index: int, name: bytes) -> bool:
        return index + 1 in bucket_of and sysv_hash(name) % bucket_count == bucket_of[index + 1]

    return HashTable(1, matches, count, mixed=True)
