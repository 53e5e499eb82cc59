"""A symbol index in terms of another one: that of torch for arm64, most of whose names torch for x86-64 exports too.

Each name of the other table has the number of its mask here, 0 for a name that no unit here exports, and only what the
other table lacks is spelled out. The 116,612 names of the releases 2.6.0 to 2.15.0 for arm64, of which torch for x86-64
exports 99,175, take 53 kB this way, and 527 kB as a table of their own; as further units of the table for x86-64, which
everybody reads, they would add 117 kB to it.

The file is LZMA-compressed: two 32-bit numbers, which are the header's size in bytes and the count of the other table's
names; the header in JSON, with the releases, the units and the masks; the names' numbers, all low bytes first, then all
high bytes; then the blocks of the table's other names, as symbol_table has them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch_build_farm.releases.symbol_table import FILTER, StoredTable, SymbolTable

_SCHEMA = 1
_SIZES = struct.Struct("<2I")  # of the header in bytes, of the other table's names
_MOST_MASKS = (1 << 16) - 1  # two bytes for each number, and 0 is no mask's


def _names(table: StoredTable) -> Iterator[str]:
    """The names of a table in its own order."""
    for block in table.blocks:
        yield from block.split("\n")[1:]


def to_bytes(table: SymbolTable, other_content: bytes) -> bytes:
    """The content of the file for a table; `other_content` is the file of the other one.

    The same bytes for the same arguments. Raises ValueError for a table with more masks than there are numbers.
    """
    if len(table.groups) > _MOST_MASKS:
        raise ValueError(f"{len(table.groups)} masks, and numbers for {_MOST_MASKS}")
    number_of_name: dict[str, int] = {}
    for number, names in enumerate(table.groups.values(), 1):
        number_of_name |= dict.fromkeys(names, number)
    numbers = []
    for name in _names(StoredTable.from_bytes(other_content)):
        # What is left over is what the other table lacks.
        numbers.append(number_of_name.pop(name, 0))

    blocks = []
    for mask, names in table.groups.items():
        own_names = [name for name in names if name in number_of_name]
        if own_names:
            blocks.append("\n".join([f"{mask:x}", *own_names]))
    header = {
        "schema": _SCHEMA,
        "of": hashlib.sha256(other_content).hexdigest(),
        **table.header,
        "masks": [f"{mask:x}" for mask in table.groups],
    }
    header_text = json.dumps(header, sort_keys=True).encode()
    content = _SIZES.pack(len(header_text), len(numbers)) + header_text
    for shift in (0, 8):
        content += bytes(number >> shift & 255 for number in numbers)
    content += "\n\n".join(blocks).encode()
    return lzma.compress(content, format=lzma.FORMAT_XZ, check=lzma.CHECK_SHA256, filters=FILTER)


def from_bytes(content: bytes, other_content: bytes) -> StoredTable:
    """The table in a file's content; `other_content` is the file of the other one.

    Raises ValueError where the two do not belong together, KeyError, struct.error or lzma.LZMAError for content of
    another kind.
    """
    data = lzma.decompress(content)
    header_size, count = _SIZES.unpack_from(data)
    start = _SIZES.size + header_size
    header: dict[str, Any] = json.loads(data[_SIZES.size : start])
    if header["schema"] != _SCHEMA or header["of"] != hashlib.sha256(other_content).hexdigest():
        raise ValueError("the names are not told by those of this table")
    low_bytes = data[start : start + count]
    high_bytes = data[start + count : start + 2 * count]
    own_blocks = data[start + 2 * count :].decode()

    names_by_mask: defaultdict[str, list[str]] = defaultdict(list)
    for block in filter(None, own_blocks.split("\n\n")):
        mask, *names = block.split("\n")
        names_by_mask[mask] = names
    for name, low, high in zip(_names(StoredTable.from_bytes(other_content)), low_bytes, high_bytes, strict=True):
        number = low | high << 8
        if number:
            names_by_mask[header["masks"][number - 1]].append(name)
    blocks = ["\n".join([mask, *names]) for mask, names in names_by_mask.items()]
    return StoredTable.of_header(header, blocks)
