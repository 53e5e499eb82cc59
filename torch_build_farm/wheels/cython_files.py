"""The note in Cython's output on how to compile it, in the build environment of the machine at hand.

setuptools takes the output of Cython for data of the package where it lies beside the .pyx file, so that it is in many
wheels. For an extension of torch the note has the folder of torch's headers.
"""

from __future__ import annotations

from collections.abc import Iterable

SUFFIXES = (".c", ".cpp")
_BEGIN, _END = b"/* BEGIN: Cython Metadata\n", b"END: Cython Metadata */\n"
_HEAD = 200  # bytes before the note: Cython's version


def without_note(content: bytes, builders: Iterable[str]) -> bytes:
    """The output of Cython without its note, if that names one of the folders `builders`; any other file as it is."""
    start = content.find(_BEGIN, 0, _HEAD)
    end = content.find(_END, start)
    if start < 0 or end < 0:
        return content
    end += len(_END)
    if not any(folder.encode() in content[start:end] for folder in builders):
        return content
    return content[:start] + content[end:]
