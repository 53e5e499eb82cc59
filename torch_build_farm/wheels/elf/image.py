"""A 64-bit little-endian ELF library that is there as a whole, with its dynamic table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from mmap import mmap

from torch_build_farm.wheels.elf.headers import ElfError, Headers, Tag, entries, read_headers

Buffer = bytes | mmap

_NAMES_PER_BYTE = 2  # bytes of all names together for a byte of the file: linkers store each name about once
_NAMES_OF_SMALL = 1 << 20  # bytes of names that any file may have


@dataclass(frozen=True)
class Image:
    """The file's bytes, and where the loader finds what in them. `dynamic` are the tags and values in their order."""

    content: Buffer
    headers: Headers
    dynamic: tuple[tuple[int, int], ...]
    _names_read: list[int] = field(default_factory=lambda: [0])  # bytes, of all strings so far

    @cached_property
    def tags(self) -> Mapping[int, int]:
        """The values by tag; of a repeated tag the last."""
        return dict(self.dynamic)

    def values(self, *tags: Tag) -> list[int]:
        """The values of all entries with one of the tags, in their order."""
        return [value for tag, value in self.dynamic if tag in tags]

    def read(self, offset: int, size: int) -> bytes:
        """Raises ElfError where the bytes are not all in the file."""
        return _read(self.content, offset, size)

    def offset(self, tag: Tag, size: int = 1) -> int:
        """Where in the file the table of a tag begins. Raises ElfError unless `size` bytes from there on are loaded."""
        if tag not in self.tags:
            raise ElfError(f"its dynamic table lacks DT_{tag.name}")
        return self.headers.offset(self.tags[tag], size)

    @cached_property
    def _strings(self) -> tuple[int, int]:
        """Offset and size of DT_STRTAB."""
        size = self.tags.get(Tag.STRSZ, 0)
        return self.offset(Tag.STRTAB, size), size

    def string(self, position: int) -> bytes:
        """The string at a position of DT_STRTAB. Raises ElfError unless it ends within the table.

        All strings together may be so long as the file suggests: a thousand names may be the ends of one long string.
        """
        start, size = self._strings
        end = self.content.find(b"\0", start + position, start + size)
        if position >= size or end < 0:
            raise ElfError("a name leads out of the string table")
        self._names_read[0] += end - start - position
        if self._names_read[0] > _NAMES_OF_SMALL + _NAMES_PER_BYTE * len(self.content):
            raise ElfError("its names together are much longer than the file")
        return self.content[start + position : end]


def _read(content: Buffer, offset: int, size: int) -> bytes:
    if offset + size > len(content):
        raise ElfError("the file is cut off")
    return content[offset : offset + size]


def read_image(content: Buffer) -> Image:
    """Raises ElfError for a damaged file, and for anything but a 64-bit little-endian ELF file.

    A file without a dynamic segment, such as an object file, has an empty dynamic table.
    """
    headers = read_headers(lambda offset, size: _read(content, offset, size), len(content))
    # Section headers are not read, but mostly the last part of a file: a file without its end lacks them.
    ends = [segment.offset + segment.size for segment in headers.loaded]
    if max(ends, default=0) > len(content) or headers.section_headers_end > len(content):
        raise ElfError("the file is cut off")
    if not headers.is_dynamic:
        return Image(content, headers, ())
    table = _read(content, headers.dynamic.offset, headers.dynamic.size)
    dynamic = tuple(entries(table))
    # Only an entry DT_NULL ends the table: without it, entries were lost.
    if len(dynamic) == len(table) // 16:
        raise ElfError("its dynamic table does not end")
    return Image(content, headers, dynamic)
